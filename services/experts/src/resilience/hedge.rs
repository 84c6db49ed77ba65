use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::budget::Bucket;
use super::{check_ms, check_share};
use crate::spec::Report;

/// A second try at another endpoint while the first has not answered yet. The first usable head wins, and
/// the other try is cancelled.
///
/// Source: J. Dean and L. A. Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// How long the first try is waited for, in milliseconds. Give this or `after_percentile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub after_ms: Option<u64>,
    /// The share of recent first-byte times that must be over: 0.95 hedges the slowest twentieth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.5, exclusive_maximum = 1)]
    pub after_percentile: Option<f32>,
    /// Hedges for each request. Up to ten that are not used are saved.
    #[serde(default = "one_in_twenty")]
    #[schema(minimum = 0, maximum = 1)]
    pub budget: f32,
}

fn one_in_twenty() -> f32 {
    0.05
}

/// First-byte times that must have been seen before a percentile of them says something.
const ENOUGH: u32 = 20;
/// Hedges that are saved at most.
const BURST: f64 = 10.0;

impl Hedge {
    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        match (self.after_ms, self.after_percentile) {
            (Some(ms), None) => check_ms(report, "hedge.after_ms", ms),
            (None, Some(share)) if !(0.5..1.0).contains(&share) => {
                let message = format!("is {share}; must be at least 0.5 and below 1, such as 0.95");
                report.add("hedge.after_percentile", message);
            }
            (None, Some(_)) => {}
            _ => report.add("hedge", "needs either after_ms or after_percentile"),
        }
        check_share(report, "hedge.budget", self.budget);
    }
}

/// Decides when to hedge, from the settings and from what was seen.
#[derive(Debug)]
pub(crate) struct Hedging {
    settings: Hedge,
    times: Histogram,
    bucket: Bucket,
}

impl Hedging {
    pub(crate) fn new(settings: Hedge, now: Instant) -> Self {
        let bucket = Bucket::new(f64::from(settings.budget), 0.0, BURST, now);
        Self { settings, times: Histogram::default(), bucket }
    }

    /// Counts a request, and says how long its first try is to be waited for; `None` when it is not hedged.
    pub(crate) fn request(&mut self) -> Option<Duration> {
        self.bucket.request();
        match (self.settings.after_ms, self.settings.after_percentile) {
            (Some(ms), _) => Some(Duration::from_millis(ms)),
            (None, Some(share)) => self.times.percentile(share),
            (None, None) => None,
        }
    }

    /// Whether there is budget for one more, which is then spent.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.bucket.take(now)
    }

    /// Takes note of how long a first byte took.
    pub(crate) fn observe(&mut self, took: Duration) {
        if self.settings.after_percentile.is_some() {
            self.times.add(took);
        }
    }
}

/// Recent times on a logarithmic scale, eight steps to a factor of two, so that a percentile is right to
/// within a tenth. Old ones fade: all counts are halved every [`FADE`] times.
#[derive(Debug)]
struct Histogram {
    /// From a millisecond to about nine hours; what is outside counts as the first or last.
    counts: [u32; STEPS],
    total: u32,
}

const STEPS: usize = 200;
const FADE: u32 = 2048;

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; STEPS], total: 0 }
    }
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let step = (took.as_secs_f64() * 1000.0).max(1.0).log2() * 8.0;
        self.counts[(step as usize).min(STEPS - 1)] += 1;
        self.total += 1;
        if self.total >= FADE {
            self.total = 0;
            for count in &mut self.counts {
                *count /= 2;
                self.total += *count;
            }
        }
    }

    /// The upper end of the step in which the share is reached.
    fn percentile(&self, share: f32) -> Option<Duration> {
        if self.total < ENOUGH {
            return None;
        }
        let wanted = (f64::from(share) * f64::from(self.total)).ceil() as u32;
        let mut seen = 0;
        let step = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_secs_f64(((step + 1) as f64 / 8.0).exp2() / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_percentile_is_right_to_a_tenth(
            mut times in prop::collection::vec(1.0f64..100_000.0, 20..1_000),
            share in 0.5f32..0.999,
        ) {
            let mut histogram = Histogram::default();
            for ms in &times {
                histogram.add(Duration::from_secs_f64(ms / 1000.0));
            }
            times.sort_by(f64::total_cmp);
            let exact = times[((f64::from(share) * times.len() as f64).ceil() as usize - 1).min(times.len() - 1)];
            let found = histogram.percentile(share).unwrap().as_secs_f64() * 1000.0;
            prop_assert!(found >= exact * 0.999 && found <= exact * 1.1, "{found} for {exact}");
        }
    }

    #[test]
    fn it_forgets_what_was_long_ago() {
        let mut histogram = Histogram::default();
        for _ in 0..5_000 {
            histogram.add(Duration::from_secs(10));
        }
        for _ in 0..20_000 {
            histogram.add(Duration::from_millis(100));
        }
        let found = histogram.percentile(0.95).unwrap();
        assert!((100..=110).contains(&found.as_millis()), "{found:?}");
    }

    #[test]
    fn settings_and_budget() {
        let now = Instant::now();
        let settings = |ms, share| Hedge { after_ms: ms, after_percentile: share, budget: 0.05 };
        let mut fixed = Hedging::new(settings(Some(80), None), now);
        let mut hedged = 0;
        for _ in 0..1_000 {
            assert_eq!(fixed.request(), Some(Duration::from_millis(80)));
            hedged += usize::from(fixed.take(now));
        }
        assert_eq!(hedged, 59, "ten that were saved, and one in twenty");
        let mut learned = Hedging::new(settings(None, Some(0.95)), now);
        assert_eq!(learned.request(), None, "nothing is known yet");
        for ms in 1..=100 {
            learned.observe(Duration::from_millis(ms));
        }
        let after = learned.request().unwrap().as_millis();
        assert!((95..=104).contains(&after), "{after}");
    }
}
