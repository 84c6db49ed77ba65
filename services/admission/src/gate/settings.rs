use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::adaptive::AdaptiveConfig;
use crate::priority::Priority;
use crate::problem::Problem;

/// How many requests may be in progress at a time, and who may wait for a place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GateConfig {
    /// Requests in progress at a time; without it there is no limit, unless it adapts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// Requests that may wait for a place; one more is refused at once. 0 for no waiting.
    pub queue: u32,
    /// Requests of one key that may wait, by priority class; without it a quarter of `queue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_per_key: Option<u32>,
    /// Longest wait for a place, in milliseconds; a request's own deadline may end it earlier.
    pub max_wait_ms: u64,
    /// How places are shared among the priority classes that wait.
    pub weights: Weights,
    /// Lets the limit follow what is measured, up to `concurrent` where that is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveConfig>,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            concurrent: None,
            queue: 100,
            queue_per_key: None,
            max_wait_ms: 10_000,
            weights: Weights::default(),
            adaptive: None,
        }
    }
}

impl GateConfig {
    /// Whether nothing is limited.
    pub fn is_open(&self) -> bool {
        self.concurrent.is_none() && self.adaptive.is_none()
    }

    /// All that is wrong with the settings.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.concurrent == Some(0) {
            problems.push(Problem::at("concurrent", "must be above 0; leave it out for no limit"));
        }
        if self.queue > MAX_QUEUE {
            problems.push(Problem::at("queue", format!("must be at most {MAX_QUEUE}")));
        }
        if self.queue_per_key == Some(0) {
            problems.push(Problem::at("queue_per_key", "must be above 0; set `queue` to 0 for no waiting"));
        }
        if !(1..=MAX_WAIT_MS).contains(&self.max_wait_ms) {
            let message = format!("must lie in 1..={MAX_WAIT_MS}; set `queue` to 0 for no waiting");
            problems.push(Problem::at("max_wait_ms", message));
        }
        problems.extend(self.weights.problems().into_iter().map(|problem| problem.below("weights")));
        if let Some(adaptive) = &self.adaptive {
            problems.extend(adaptive.problems().into_iter().map(|problem| problem.below("adaptive")));
        }
        problems
    }

    /// Longest wait.
    pub(super) fn max_wait(&self) -> Duration {
        Duration::from_millis(self.max_wait_ms.min(MAX_WAIT_MS))
    }

    /// How many requests of one key may wait.
    pub(super) fn queue_per_flow(&self) -> u32 {
        self.queue_per_key.unwrap_or_else(|| self.queue.div_ceil(4))
    }
}

/// Longest queue that makes sense: what waits holds a connection and a body in memory.
const MAX_QUEUE: u32 = 1_000_000;

/// Longest wait that a client could outlast: an hour.
const MAX_WAIT_MS: u64 = 3_600_000;

/// Shares of the places for which several priority classes wait, each in 1 to 1000.
///
/// A class that waits is granted a place at the latest after `(total - own) + higher` places of others, where
/// `total` is the sum of the weights, `own` its own and `higher` the sum of those of more urgent classes: with
/// the defaults after 5 for interactive, 33 for standard and 40 for batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Of requests that a person waits for.
    pub interactive: u32,
    /// Of the usual requests.
    pub standard: u32,
    /// Of requests that nobody waits for.
    pub batch: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { interactive: 16, standard: 4, batch: 1 }
    }
}

impl Weights {
    /// The weight of a class.
    pub fn of(&self, class: Priority) -> u32 {
        match class {
            Priority::Interactive => self.interactive,
            Priority::Standard => self.standard,
            Priority::Batch => self.batch,
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let wrong = Priority::ALL.into_iter().filter(|class| !(1..=1000).contains(&self.of(*class)));
        wrong.map(|class| Problem::at(class.name(), "must lie in 1..=1000")).collect()
    }
}
