//! Ties: experts that are as good as each other, decided by load, latency, price and residency.
//!
//! Candidates whose rank lies within `within` of the best one's are put in the order of the listed keys; the others
//! stay where they are. So the leader's score is at most `within` below the best: the loss is declared.
//!
//! Keys are compared one after the other, as the list says. Loads that differ by less than a tenth of the capacity and
//! latencies of about the same size (within the same step of a factor 1.25) count as equal, so that noise does not
//! decide and the next key is asked. At the end the policy's order decides.
//!
//! Worked example with within = 0.05 and by = (load, price): a has 0.80, load 0.9; b has 0.78, load 0.2, price 2;
//! c has 0.76, load 0.2, price 1; d has 0.60, load 0. The tie is a, b, c; the order becomes c, b, a, d.

use serde::{Deserialize, Serialize};

use super::{arrange, live};
use crate::Request;
use crate::fleet::{Fleet, Live};
use crate::plan::{Modifier, Plan};
use crate::policy::PolicyError;

/// Settings of tie-breaking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TiesConfig {
    /// The score that may be given up, in score points; at least 0.
    pub within: f32,
    /// What decides, the most important first.
    pub by: Vec<TieKey>,
}

/// What decides between experts that are as good as each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TieKey {
    /// Requests in progress per unit of capacity; the least first.
    Load,
    /// The usual time to the first byte; the shortest first, unknown ones last.
    Latency,
    /// The blended price; the cheapest first.
    Price,
    /// How near the weights are; the nearest first. Experts of no pool count as near.
    Residency,
    /// How long a request waits until the weights are there, in steps of a factor 1.25; the shortest first. Experts of
    /// no pool count as there.
    Wait,
}

/// Loads are told apart in steps of this part of the capacity.
const LOAD_STEP: f32 = 0.1;
/// Latencies are told apart in steps of this factor.
const LATENCY_STEP: f32 = 1.25;

impl TiesConfig {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if !(self.within.is_finite() && self.within >= 0.0) {
            let problem = format!("must be a finite number of at least 0, not {}", self.within);
            return Err(PolicyError { field: "ties.within", problem });
        }
        if self.by.is_empty() {
            let problem = "must name at least one of load, latency, price, residency, wait".to_owned();
            return Err(PolicyError { field: "ties.by", problem });
        }
        Ok(())
    }

    pub(super) fn looks_at_live(&self) -> bool {
        self.by.iter().any(|key| *key != TieKey::Price)
    }

    /// Puts those that tie with the best in the order of the keys.
    pub(super) fn settle(&self, plan: &mut Plan, ranks: &[f32], request: &Request, fleet: &Fleet) {
        let pinned = plan.pinned();
        let free = &ranks[pinned.min(ranks.len())..];
        let Some(best) = free.first() else { return };
        let tied = free.iter().take_while(|rank| **rank >= best - self.within).count();
        let keys: Vec<Vec<i64>> = plan.candidates[pinned..pinned + tied]
            .iter()
            .map(|candidate| {
                let live = live(request, fleet, &candidate.expert);
                let price = fleet.get(candidate.expert.as_str()).map_or(0.0, |e| e.cost);
                self.by.iter().map(|key| key.of(&live, price)).collect()
            })
            .collect();
        let mut order: Vec<usize> = (0..tied).collect();
        order.sort_by(|a, b| keys[*a].cmp(&keys[*b]));
        if arrange(&mut plan.candidates[pinned..pinned + tied], &order, 0) {
            plan.changed_by.push(Modifier::Ties);
        }
    }
}

impl TieKey {
    /// A number that is smaller for who is to come first.
    fn of(self, live: &Live, price: f32) -> i64 {
        match self {
            Self::Load => (live.load / LOAD_STEP) as i64,
            Self::Latency => {
                live.latency_ms.map_or(i64::MAX, |ms| (ms.max(1.0).ln() / LATENCY_STEP.ln()) as i64)
            }
            // Prices are exact: a millionth of a dollar per million tokens is the unit.
            Self::Price => (f64::from(price) * 1e6) as i64,
            Self::Residency => live.resident.map_or(0, i64::from),
            Self::Wait => live.wait_ms.map_or(0, |ms| (ms.max(1.0).ln() / LATENCY_STEP.ln()) as i64),
        }
    }
}
