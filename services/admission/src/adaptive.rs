//! A concurrency limit that follows what is measured.
//!
//! Two rules, both from Netflix's concurrency-limits (<https://github.com/Netflix/concurrency-limits>, described in
//! "Performance Under Load", 2018): `Gradient2Limit` compares recent with long-term latency, `AIMDLimit`
//! reacts to refusals and to a latency threshold; the latter is TCP's rule, shown to converge to fair shares by
//! Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance" (1989).
//!
//! Both judge windows of at least a second and ten samples, by the mean latency, so that one slow answer
//! moves nothing. A limit that is not used is not raised: when fewer than half of the places were taken,
//! nothing was learned about the rest.

mod settings;

pub use settings::{AdaptiveConfig, AimdConfig, GradientConfig};

use std::time::Duration;

/// Shortest window, in microseconds.
const WINDOW_US: u64 = 1_000_000;

/// Fewest samples of a window.
const WINDOW_SAMPLES: u32 = 10;

/// Over how many first windows the long-term latency is their plain mean.
const WARMUP: u32 = 10;

/// How a request went, for the limit to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How long it took. What is measured is the caller's choice, as long as it is always the same: the time
    /// to the first byte says more about a streaming expert's load than the time to the last.
    pub latency: Duration,
    /// Whether it was served.
    pub outcome: Outcome,
}

/// Whether a request was served or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Served; its latency counts.
    Success,
    /// Refused for overload, or timed out; its latency does not count.
    Overload,
}

/// The state of an adaptive limit. Pure: time is a parameter.
#[derive(Clone, Debug)]
pub struct Adaptive {
    config: AdaptiveConfig,
    /// The highest limit now.
    most: u32,
    limit: f64,
    long: LongTerm,
    window: Window,
}

/// The long-term latency: a plain mean of the first windows, then exponentially smoothed.
#[derive(Clone, Copy, Debug, Default)]
struct LongTerm {
    mean_us: f64,
    windows: u32,
}

impl LongTerm {
    fn add(&mut self, latency_us: f64, memory: u32) -> f64 {
        self.windows = self.windows.saturating_add(1);
        let weight = if self.windows <= WARMUP {
            1.0 / f64::from(self.windows)
        } else {
            2.0 / (f64::from(memory) + 1.0)
        };
        self.mean_us += (latency_us - self.mean_us) * weight;
        self.mean_us
    }
}

/// The samples since the last change.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// When its first sample came.
    since_us: Option<u64>,
    served: u32,
    refused: u32,
    latency_us: u64,
    /// Most requests in progress at a time.
    in_flight: u32,
}

impl Adaptive {
    /// A limit that starts where the settings say, and never exceeds `ceiling`.
    pub fn new(config: AdaptiveConfig, ceiling: Option<u32>) -> Self {
        let limit = f64::from(config.initial());
        let most = config.max();
        let mut adaptive = Self { config, most, limit, long: LongTerm::default(), window: Window::default() };
        adaptive.set_ceiling(ceiling);
        adaptive
    }

    /// Bounds the limit from now on, beside its own settings.
    pub fn set_ceiling(&mut self, ceiling: Option<u32>) {
        self.most = self.config.max().min(ceiling.unwrap_or(u32::MAX));
        self.set_limit(self.limit);
    }

    fn set_limit(&mut self, limit: f64) {
        // The ceiling holds also where it lies below the lower bound.
        self.limit = limit.max(f64::from(self.config.min())).min(f64::from(self.most));
    }

    /// The settings that it was made with.
    pub fn config(&self) -> &AdaptiveConfig {
        &self.config
    }

    /// The limit now.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Takes a sample in. `in_flight` counts the requests in progress, this one included.
    pub fn sample(&mut self, sample: Sample, in_flight: u32, now_us: u64) {
        let window = &mut self.window;
        let since = *window.since_us.get_or_insert(now_us);
        window.in_flight = window.in_flight.max(in_flight);
        match sample.outcome {
            Outcome::Success => {
                window.served = window.served.saturating_add(1);
                let latency_us = u64::try_from(sample.latency.as_micros()).unwrap_or(u64::MAX);
                window.latency_us = window.latency_us.saturating_add(latency_us);
            }
            Outcome::Overload => window.refused = window.refused.saturating_add(1),
        }
        let samples = window.served.saturating_add(window.refused);
        if samples >= WINDOW_SAMPLES && now_us.saturating_sub(since) >= WINDOW_US {
            let window = std::mem::take(window);
            let limit = match &self.config {
                AdaptiveConfig::Gradient(config) => gradient(self.limit, &window, &mut self.long, config),
                AdaptiveConfig::Aimd(config) => aimd(self.limit, &window, config),
            };
            self.set_limit(limit);
        }
    }
}

impl Window {
    fn mean_us(&self) -> Option<f64> {
        (self.served > 0).then(|| (self.latency_us as f64 / f64::from(self.served)).max(1.0))
    }

    fn tests(&self, limit: f64) -> bool {
        f64::from(self.in_flight) >= limit / 2.0
    }
}

/// `Gradient2Limit`: `g = clamp(tolerance * long / short, 0.5, 1)`, then
/// `limit += smoothing * (g * limit + queue - limit)`; `long` decays by a tenth while it is over twice `short`,
/// which brings it down after a long overload. That a window with refusals counts as `g = 0.5` is ours.
fn gradient(limit: f64, window: &Window, long: &mut LongTerm, config: &GradientConfig) -> f64 {
    let slope = window.mean_us().map(|short_us| {
        let long_us = long.add(short_us, config.long_window);
        if long_us > 2.0 * short_us {
            long.mean_us *= 0.9;
        }
        (config.tolerance * long_us / short_us).clamp(0.5, 1.0)
    });
    let slope = if window.refused > 0 { 0.5 } else { slope.unwrap_or(1.0) };
    if window.refused == 0 && !window.tests(limit) {
        return limit;
    }
    limit + config.smoothing * (slope * limit + f64::from(config.queue) - limit)
}

/// `AIMDLimit`: one more while all goes well, a share less after a refusal or a mean latency over the
/// threshold.
fn aimd(limit: f64, window: &Window, config: &AimdConfig) -> f64 {
    let threshold_us = config.latency_ms.map(|ms| ms as f64 * 1000.0);
    let slow = window.mean_us().zip(threshold_us).is_some_and(|(mean, threshold)| mean > threshold);
    if window.refused > 0 || slow {
        (limit * config.backoff).min(limit - 1.0)
    } else if window.tests(limit) {
        limit + 1.0
    } else {
        limit
    }
}

#[cfg(test)]
mod tests;
