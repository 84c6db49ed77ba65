use std::sync::atomic::{AtomicU64, Ordering};

/// How fast old latencies fade: to a third in this many seconds.
const DECAY_SECONDS: f64 = 10.0;
/// A latency beyond this says no more than this.
const LONGEST_SECONDS: f64 = 600.0;

/// A peak-sensitive moving average of latencies: it follows a rise at once and a fall slowly, and fades while
/// nothing is observed, so that an endpoint which was slow is tried again.
///
/// Source: Finagle's `Ewma` load metric, also Linkerd's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Latency {
    /// 0 when there is none.
    seconds: f64,
    /// When it was observed, in milliseconds.
    at_ms: u64,
}

impl Latency {
    /// Takes note of a time to the first byte.
    pub(crate) fn observe(&mut self, seconds: f64, now_ms: u64) {
        let seconds = seconds.clamp(1e-6, LONGEST_SECONDS);
        if seconds >= self.seconds {
            self.seconds = seconds;
        } else {
            let keep = self.keep(now_ms);
            self.seconds = self.seconds * keep + seconds * (1.0 - keep);
        }
        self.at_ms = now_ms;
    }

    /// Takes note of a failure after this time. A failure that comes fast does not make an endpoint fast; to
    /// leave it alone is the breaker's business.
    pub(crate) fn observe_failure(&mut self, seconds: f64, now_ms: u64) {
        if self.seconds > 0.0 {
            self.observe(seconds.max(self.seconds), now_ms);
        }
    }

    /// Takes note that an answer took longer than this, how long is not known.
    pub(crate) fn observe_at_least(&mut self, seconds: f64, now_ms: u64) {
        if seconds > self.seconds {
            self.observe(seconds, now_ms);
        }
    }

    /// Seconds to the first byte as of now; `None` when nothing is known.
    pub(crate) fn seconds(&self, now_ms: u64) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.seconds * self.keep(now_ms))
    }

    fn keep(&self, now_ms: u64) -> f64 {
        let elapsed = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        (-elapsed / DECAY_SECONDS).exp()
    }
}

/// A [`Latency`] for readers on other threads. The two halves may be of different observations, which are then
/// moments apart.
#[derive(Debug, Default)]
pub(crate) struct LatencyCell {
    seconds: AtomicU64,
    at_ms: AtomicU64,
}

impl LatencyCell {
    pub(crate) fn store(&self, latency: &Latency) {
        self.seconds.store(latency.seconds.to_bits(), Ordering::Relaxed);
        self.at_ms.store(latency.at_ms, Ordering::Relaxed);
    }

    pub(crate) fn load(&self) -> Latency {
        Latency {
            seconds: f64::from_bits(self.seconds.load(Ordering::Relaxed)),
            at_ms: self.at_ms.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let mut latency = Latency::default();
        assert_eq!(latency.seconds(0), None);
        latency.observe(0.1, 0);
        latency.observe(1.0, 10);
        assert_eq!(latency.seconds(10), Some(1.0));
        latency.observe(0.1, 1_010);
        let fallen = latency.seconds(1_010).unwrap();
        assert!((0.9..0.93).contains(&fallen), "{fallen}");
        let faded = latency.seconds(31_010).unwrap();
        assert!(faded < 0.05, "{faded}");
    }

    #[test]
    fn failures_are_not_fast() {
        let mut latency = Latency::default();
        latency.observe_failure(0.001, 0);
        assert_eq!(latency.seconds(0), None, "nothing is known of how fast it answers");
        latency.observe(0.2, 0);
        latency.observe_failure(0.001, 0);
        assert_eq!(latency.seconds(0), Some(0.2));
        latency.observe_failure(0.001, 5_000);
        assert_eq!(latency.seconds(5_000), Some(0.2), "it does not fade either");
        latency.observe_at_least(0.1, 5_000);
        assert_eq!(latency.seconds(5_000), Some(0.2));
        latency.observe_at_least(3.0, 5_000);
        let cell = LatencyCell::default();
        cell.store(&latency);
        assert_eq!(cell.load().seconds(5_000), Some(3.0));
    }
}
