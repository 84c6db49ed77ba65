//! Which of the waiting prompts go into the next forward pass: a pure rule.
//!
//! 1. The oldest prompt leads; nothing overtakes it, so nothing starves.
//! 2. In the order of arrival, others join while the batch stays within its two limits and its longest
//!    prompt is at most a quarter longer than its shortest (or [`SLACK`] tokens): padding is computed
//!    like text, so prompts of unlike length do not share a pass.
//! 3. While there is spare capacity (an idle session) nothing waits. Otherwise a batch that could still
//!    take more waits until its oldest prompt has waited for the limit's time. In effect only a session that comes
//!    straight from a batch and finds others behind it ever waits.

use std::time::Duration;

/// Difference in tokens that is too small to be worth a pass of its own.
const SLACK: usize = 8;

/// The most that a batch may hold, and the longest that it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Prompts.
    pub rows: usize,
    /// Tokens, padding included. A prompt that is longer goes alone.
    pub tokens: usize,
    /// How long the oldest prompt may be kept waiting for company.
    pub wait: Duration,
}

/// A prompt in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Its length.
    pub tokens: usize,
    /// How long it has waited.
    pub age: Duration,
}

/// What a free session does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There is nothing to do.
    Sleep,
    /// Look again after this long, or when something arrives.
    Wait(Duration),
    /// Run these, by their place in the queue, ascending.
    Run(Vec<usize>),
}

/// The rule. `queue` is in the order of arrival; `spare` says that a session would be idle otherwise.
pub(crate) fn next(queue: impl IntoIterator<Item = Waiting>, limits: &Limits, spare: bool) -> Next {
    let mut queue = queue.into_iter().enumerate();
    let Some((_, leader)) = queue.next() else { return Next::Sleep };
    let mut chosen = vec![0];
    let (mut shortest, mut longest) = (leader.tokens, leader.tokens);
    for (place, waiting) in queue {
        if !has_room(chosen.len(), shortest, limits) {
            break;
        }
        let (low, high) = (shortest.min(waiting.tokens), longest.max(waiting.tokens));
        let alike = high - low <= SLACK.max(low / 4);
        if alike && (chosen.len() + 1).saturating_mul(high) <= limits.tokens {
            chosen.push(place);
            (shortest, longest) = (low, high);
        }
    }
    let patience = limits.wait.saturating_sub(leader.age);
    if spare || patience.is_zero() || !has_room(chosen.len(), longest, limits) {
        Next::Run(chosen)
    } else {
        Next::Wait(patience)
    }
}

/// Whether one more prompt of the given length could join.
fn has_room(rows: usize, tokens: usize, limits: &Limits) -> bool {
    rows < limits.rows && (rows + 1).saturating_mul(tokens) <= limits.tokens
}

#[cfg(test)]
mod tests;
