use serde::{Deserialize, Serialize};

use super::pool::PoolError;
use super::predict::Prediction;

/// Whether requests may overtake each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Requests whose expert is ready go first, within the bound.
    #[default]
    Free,
    /// Strictly in the order of their bounds.
    Kept,
}

/// What goes first, of what nobody waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Victims {
    /// What is worth least: its share of the requests to come, times what loading it again takes, by its bytes. Where
    /// that has loaded more than recency would have, recency rules until it is made good.
    #[default]
    Value,
    /// What was used longest ago.
    Recency,
}

/// How a pool is scheduled. The defaults are those of `docs/tiers.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Whether requests may overtake each other.
    pub order: Order,
    /// Whether experts are loaded while others answer. Without it a load starts only when nothing else can be done.
    pub prefetch: bool,
    /// What goes first, when something has to.
    pub victims: Victims,
    /// What may be loaded although nobody asks for it, where `prefetch` is on.
    pub prediction: Prediction,
    /// Most requests of a batch; at least 1. A batch ends with its last request. With 1 each request counts by itself,
    /// which is right for servers that batch by themselves.
    pub batch_max: u32,
    /// Batches that the pool computes at a time, all experts together; at least 1.
    pub executors: u32,
    /// How long a request may be overtaken, in microseconds from its arrival. Half of the time to its deadline,
    /// where that is shorter.
    pub bound_us: u64,
    /// Most requests that wait; one more is refused.
    pub queue_max: u32,
    /// How long a loaded expert stays at least, as a multiple of what loading it takes. A request whose bound is
    /// up does not wait for that.
    pub min_residency_loads: f64,
    /// Most loads a minute apart from those that a bound demands; 0 for no limit.
    pub loads_per_minute: u32,
    /// How much more loading, in seconds, a tenant may have caused of late than the tenant among those waiting that
    /// caused the least, before the others go first.
    pub tenant_allowance_s: f64,
}

impl Policy {
    /// Checks the ranges of all settings.
    ///
    /// # Errors
    /// [`PoolError::Policy`] for the first that is out of its range.
    pub fn check(&self) -> Result<(), PoolError> {
        let sound = |number: f64| number.is_finite() && number >= 0.0;
        let wrong = [
            ("batch_max", self.batch_max == 0, "at least 1"),
            ("executors", self.executors == 0, "at least 1"),
            ("queue_max", self.queue_max == 0, "at least 1"),
            ("min_residency_loads", !sound(self.min_residency_loads), "a number of at least 0"),
            ("tenant_allowance_s", !sound(self.tenant_allowance_s), "a number of at least 0"),
            ("prediction.ttl_us", self.prediction.ttl_us == 0, "at least 1"),
            ("prediction.waste_max", !(0.0..=1.0).contains(&self.prediction.waste_max), "from 0 to 1"),
        ];
        match wrong.into_iter().find(|(_, wrong, _)| *wrong) {
            Some((name, _, range)) => Err(PoolError::Policy { name, range }),
            None => Ok(()),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            order: Order::Free,
            prefetch: true,
            victims: Victims::Value,
            prediction: Prediction::default(),
            batch_max: 1,
            executors: 64,
            bound_us: 5_000_000,
            queue_max: 10_000,
            min_residency_loads: 1.0,
            loads_per_minute: 0,
            tenant_allowance_s: 10.0,
        }
    }
}
