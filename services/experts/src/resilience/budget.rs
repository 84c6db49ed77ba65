use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::check_share;
use crate::spec::Report;

/// How many retries an expert may cause, so that a failing one is not buried under repetitions.
///
/// In any span of `t` seconds in which `n` requests begin, there are at most
/// `share * n + per_second * t + max(10 * per_second, 1)` retries: what is not used is saved, up to what ten
/// seconds of `per_second` give.
///
/// After Finagle's `RetryBudget`, as a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries for each request.
    #[schema(minimum = 0, maximum = 1)]
    pub share: f32,
    /// Retries in each second whatever the traffic is, so that quiet experts can retry too.
    #[schema(minimum = 0)]
    pub per_second: f32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { share: 0.2, per_second: 10.0 }
    }
}

impl RetryBudget {
    pub(super) fn validate(self, report: &mut Report<'_>) {
        check_share(report, "retries.budget.share", self.share);
        if !(0.0..=1e6).contains(&self.per_second) {
            let message = format!("is {}; must be a number between 0 and 1000000", self.per_second);
            report.add("retries.budget.per_second", message);
        }
    }

    pub(crate) fn bucket(self, now: Instant) -> Bucket {
        Bucket::new(f64::from(self.share), f64::from(self.per_second), 10.0 * f64::from(self.per_second), now)
    }
}

/// A token bucket that is filled by requests and by time.
///
/// In any span of `t` seconds in which [`Bucket::request`] is called `n` times, [`Bucket::take`] succeeds at
/// most `max(burst, 1) + share * n + per_second * t` times.
#[derive(Debug)]
pub(crate) struct Bucket {
    share: f64,
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(share: f64, per_second: f64, burst: f64, now: Instant) -> Self {
        Self { share, per_second, burst, tokens: burst, filled: now }
    }

    /// Counts a request.
    pub(crate) fn request(&mut self) {
        self.add(self.share);
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.add(self.per_second * elapsed.as_secs_f64());
        // A third of three thirds must be a whole.
        let taken = self.tokens >= 1.0 - 1e-9;
        if taken {
            self.tokens = (self.tokens - 1.0).max(0.0);
        }
        taken
    }

    fn add(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.burst.max(1.0));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Request,
        Take,
        Wait(u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            3 => Just(Event::Request),
            3 => Just(Event::Take),
            1 => (0u64..3_000).prop_map(Event::Wait),
        ];
        prop::collection::vec(event, 1..400)
    }

    proptest! {
        /// The bound holds over every span, not only over the whole history.
        #[test]
        fn never_more_than_the_share(
            events in events(),
            share in 0.0f64..1.0,
            per_second in 0.0f64..20.0,
            burst in 0.0f64..50.0,
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(share, per_second, burst, start);
            let mut now = start;
            // Time, requests and takes so far.
            let mut marks = vec![(0.0, 0.0, 0.0)];
            let (mut requests, mut taken) = (0.0, 0.0);
            for event in events {
                match event {
                    Event::Request => { bucket.request(); requests += 1.0; }
                    Event::Take => if bucket.take(now) { taken += 1.0; },
                    Event::Wait(ms) => now += Duration::from_millis(ms),
                }
                marks.push(((now - start).as_secs_f64(), requests, taken));
            }
            for (at, from) in marks.iter().enumerate() {
                for to in &marks[at..] {
                    let bound = burst.max(1.0) + share * (to.1 - from.1) + per_second * (to.0 - from.0);
                    prop_assert!(to.2 - from.2 <= bound + 1e-6, "{from:?} to {to:?}");
                }
            }
        }
    }

    #[test]
    fn the_share_is_reached_and_the_floor_is_there() {
        let now = Instant::now();
        let mut bucket = RetryBudget::default().bucket(now);
        let drained = std::iter::repeat_with(|| bucket.take(now)).take_while(|t| *t).count();
        assert_eq!(drained, 100, "ten seconds of the floor");
        let mut taken = 0;
        for _ in 0..1_000 {
            bucket.request();
            taken += usize::from(bucket.take(now));
        }
        assert_eq!(taken, 200);
        let later = now + Duration::from_secs(1);
        assert_eq!(std::iter::repeat_with(|| bucket.take(later)).take_while(|t| *t).count(), 10);
        let mut none = RetryBudget { share: 0.0, per_second: 0.0 }.bucket(now);
        none.request();
        assert!(!none.take(later));
    }
}
