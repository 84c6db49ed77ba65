use std::fmt;

use super::account::Rule;
use super::settings::Resource;

/// What is left of the tightest limits after a request was reserved, for the `x-ratelimit-*` headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Of requests: the limit with the fewest left among all accounts of the request.
    pub requests: Option<Quota>,
    /// Of tokens, prompt or answer or both: the limit with the fewest left.
    pub tokens: Option<Quota>,
}

/// One limit and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The limit.
    pub limit: u64,
    /// What is left.
    pub remaining: u64,
    /// Until all of it is there again, when nothing more is used.
    pub reset: ResetIn,
}

impl Headroom {
    /// Takes a rule in when it is tighter than what was seen before; `reset_ms` is only asked for then.
    pub fn consider(&mut self, rule: Rule, used: u64, reset_ms: impl FnOnce() -> u64) {
        let tightest = match rule.kind.resource() {
            Resource::Requests => &mut self.requests,
            Resource::InputTokens | Resource::OutputTokens | Resource::Tokens => &mut self.tokens,
            Resource::Cost => return,
        };
        let remaining = rule.limit.saturating_sub(used);
        if tightest.is_none_or(|tightest| remaining < tightest.remaining) {
            *tightest = Some(Quota { limit: rule.limit, remaining, reset: ResetIn(reset_ms()) });
        }
    }
}

/// A time in milliseconds, shown as `x-ratelimit-reset-*` has it: `20ms`, `1.5s`, `6m0s`, `23h59m59s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResetIn(pub u64);

impl fmt::Display for ResetIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ms) = *self;
        if (1..1000).contains(&ms) {
            return write!(f, "{ms}ms");
        }
        let (hours, minutes, seconds, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{seconds}")?;
        match rest {
            0 => {}
            _ if rest % 100 == 0 => write!(f, ".{}", rest / 100)?,
            _ if rest % 10 == 0 => write!(f, ".{:02}", rest / 10)?,
            _ => write!(f, ".{rest:03}")?,
        }
        f.write_str("s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_look_like_those_of_openai() {
        let cases = [
            (0, "0s"),
            (20, "20ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (7_660, "7.66s"),
            (1_005, "1.005s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
            (86_399_000, "23h59m59s"),
        ];
        for (ms, text) in cases {
            assert_eq!(ResetIn(ms).to_string(), text);
        }
    }
}
