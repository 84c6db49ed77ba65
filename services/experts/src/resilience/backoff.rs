use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use serde::{Deserialize, Serialize};

use super::budget::RetryBudget;
use super::check_ms;
use crate::spec::Report;

/// When a request that failed is sent again to the same expert. Only before the head of an answer has been
/// given on; what comes after the expert's last try (another expert) is the caller's business.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// Tries in all, the first one included. 1 turns retries off.
    #[schema(minimum = 1, maximum = 10)]
    pub max_attempts: u32,
    /// The wait before a retry. A retry at another endpoint happens at once when the first one could not be
    /// reached or asked to be left alone.
    pub backoff: Backoff,
    /// How many retries there may be in comparison to requests.
    pub budget: RetryBudget,
    /// The statuses of answers that are tried again.
    pub statuses: Vec<u16>,
    /// Whether a request that was sent, and to which no valid answer came, is sent again: the connection was
    /// reset, or the first byte was late. A completion has no effect upstream but its cost, so that nothing
    /// breaks; but it may be computed, and charged, twice.
    pub after_send: bool,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff: Backoff::default(),
            budget: RetryBudget::default(),
            statuses: vec![408, 429, 500, 502, 503, 504, 529],
            after_send: true,
        }
    }
}

/// Exponential back-off with full jitter, in milliseconds: the wait before retry `n` (from 0) is uniform in
/// `0..=min(max_ms, base_ms * 2^n)`.
///
/// Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The longest wait before the first retry.
    #[schema(minimum = 1)]
    pub base_ms: u64,
    /// The longest wait before any retry, and the longest `Retry-After` that is waited out.
    #[schema(minimum = 1)]
    pub max_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base_ms: 50, max_ms: 2_000 }
    }
}

impl Backoff {
    /// The wait before retry `retry`, counted from 0.
    pub(crate) fn delay(self, retry: u32, rng: &mut fastrand::Rng) -> Duration {
        let ceiling = self.base_ms.saturating_mul(1 << retry.min(32)).min(self.max_ms);
        Duration::from_micros(rng.u64(0..=ceiling.saturating_mul(1000)))
    }

    pub(crate) fn longest(self) -> Duration {
        Duration::from_millis(self.max_ms)
    }
}

impl Retries {
    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        if !(1..=10).contains(&self.max_attempts) {
            report.add("retries.max_attempts", format!("is {}; must be between 1 and 10", self.max_attempts));
        }
        check_ms(report, "retries.backoff.base_ms", self.backoff.base_ms);
        check_ms(report, "retries.backoff.max_ms", self.backoff.max_ms);
        self.budget.validate(report);
        for (at, status) in self.statuses.iter().enumerate() {
            if !(400..=599).contains(status) {
                let message = format!("is {status}; only errors, 400 to 599, are tried again");
                report.add(format_args!("retries.statuses[{at}]"), message);
            }
        }
    }
}

/// More than a day to wait is a mistake; sums with it do not overflow either.
const LONGEST_ASKED: Duration = Duration::from_hours(24);

/// How long an answer asks to be left alone: `retry-after-ms`, or `retry-after` in seconds or as a date. A day
/// at most; what is neither is as if nothing was asked.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let wait = |seconds: f64| Duration::from_secs_f64(seconds.min(LONGEST_ASKED.as_secs_f64()));
    if let Some(ms) = text("retry-after-ms").and_then(number) {
        return Some(wait(ms / 1000.0));
    }
    let text = text(RETRY_AFTER.as_str())?;
    if let Some(seconds) = number(text) {
        return Some(wait(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_below_its_ceiling(base_ms in 1u64..10_000, max_ms in 1u64..10_000, retry in 0u32..100, seed: u64) {
            let wait = Backoff { base_ms, max_ms }.delay(retry, &mut fastrand::Rng::with_seed(seed));
            let ceiling = (u128::from(base_ms) << retry.min(60)).min(u128::from(max_ms));
            prop_assert!(wait.as_micros() <= ceiling * 1000);
        }
    }

    #[test]
    fn waits_fill_the_whole_range() {
        let backoff = Backoff { base_ms: 100, max_ms: 1_000 };
        let mut rng = fastrand::Rng::with_seed(7);
        let waits: Vec<u128> = (0..10_000).map(|_| backoff.delay(2, &mut rng).as_millis()).collect();
        let mean = waits.iter().sum::<u128>() / 10_000;
        assert!((190..=210).contains(&mean), "{mean}");
        assert!(waits.iter().any(|w| *w < 10) && waits.iter().any(|w| *w > 390));
    }

    #[test]
    fn every_form_of_retry_after() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(of("retry-after", "3"), Some(Duration::from_secs(3)));
        assert_eq!(of("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(of("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(of("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(of("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO), "past");
        for long in ["1e300", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(of("retry-after", long), Some(LONGEST_ASKED), "{long}");
        }
        for bad in ["soon", "-1", "", "NaN", "inf"] {
            assert_eq!(of("retry-after", bad), None, "{bad}");
        }
    }
}
