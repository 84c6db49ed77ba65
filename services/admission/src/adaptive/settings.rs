use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;

/// How a concurrency limit adapts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "algorithm", rename_all = "snake_case")]
pub enum AdaptiveConfig {
    /// By recent against long-term latency.
    Gradient(GradientConfig),
    /// One more while all goes well, a share less when it does not.
    Aimd(AimdConfig),
}

/// Settings of the gradient rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GradientConfig {
    /// Never fewer places than this.
    pub min: u32,
    /// Never more places than this.
    pub max: u32,
    /// Places at the start.
    pub initial: u32,
    /// How far a window moves the limit towards the new estimate, in 0 to 1.
    pub smoothing: f64,
    /// How many times the long-term latency is still no sign of overload, at least 1.
    pub tolerance: f64,
    /// Requests that may wait inside the expert: how much the limit grows while latency is good.
    pub queue: u32,
    /// Windows of about a second over which the long-term latency is smoothed.
    pub long_window: u32,
}

impl Default for GradientConfig {
    fn default() -> Self {
        Self { min: 4, max: 200, initial: 20, smoothing: 0.2, tolerance: 1.5, queue: 4, long_window: 600 }
    }
}

/// Settings of additive increase, multiplicative decrease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AimdConfig {
    /// Never fewer places than this.
    pub min: u32,
    /// Never more places than this.
    pub max: u32,
    /// Places at the start.
    pub initial: u32,
    /// What is left of the limit after an overload, in 0.5 to 1.
    pub backoff: f64,
    /// A mean latency over this counts as overload, in milliseconds; without it only refusals do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
}

impl Default for AimdConfig {
    fn default() -> Self {
        Self { min: 4, max: 200, initial: 20, backoff: 0.9, latency_ms: None }
    }
}

impl AdaptiveConfig {
    /// The lower bound.
    pub fn min(&self) -> u32 {
        match self {
            Self::Gradient(config) => config.min,
            Self::Aimd(config) => config.min,
        }
    }

    /// The upper bound.
    pub fn max(&self) -> u32 {
        match self {
            Self::Gradient(config) => config.max,
            Self::Aimd(config) => config.max,
        }
    }

    /// The limit at the start.
    pub fn initial(&self) -> u32 {
        match self {
            Self::Gradient(config) => config.initial,
            Self::Aimd(config) => config.initial,
        }
    }

    /// All that is wrong with the settings.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.min() == 0 {
            problems.push(Problem::at("min", "must be above 0, or nothing would be left to learn from"));
        }
        if self.max() < self.min() {
            problems.push(Problem::at("max", "must be at least `min`"));
        } else if !(self.min()..=self.max()).contains(&self.initial()) {
            problems.push(Problem::at("initial", "must lie between `min` and `max`"));
        }
        match self {
            Self::Gradient(config) => {
                if !(config.smoothing > 0.0 && config.smoothing <= 1.0) {
                    problems.push(Problem::at("smoothing", "must be above 0 and at most 1"));
                }
                if !(1.0..=10.0).contains(&config.tolerance) {
                    problems.push(Problem::at("tolerance", "must lie in 1..=10"));
                }
                if config.long_window == 0 {
                    problems.push(Problem::at("long_window", "must be above 0"));
                }
            }
            Self::Aimd(config) => {
                if !(0.5..1.0).contains(&config.backoff) {
                    problems.push(Problem::at("backoff", "must be at least 0.5 and below 1"));
                }
                if config.latency_ms == Some(0) {
                    problems
                        .push(Problem::at("latency_ms", "must be above 0; leave it out for no threshold"));
                }
            }
        }
        problems
    }
}
