//! Balance: a bias per expert that evens shares out, without a loss to train (arXiv 2408.15664; primal-dual).
//!
//! Candidates are ranked by `score + b_i`; the scores that are shown stay as they are. After every `window` decisions of
//! the route each bias takes a step of fixed size towards even shares:
//!
//! `b_i <- clamp(b_i + u sign(mean count - count_i), -max, max)`
//!
//! where `count_i` is how many of them expert i was to lead, and the mean is over the experts that were candidates of
//! any of them. The bias is bounded: what balancing may cost in score is at most `2 max`.
//!
//! The biases are state; [`Balance`] holds them. The caller keeps one for each route, hands its biases out in
//! [`crate::Live::bias`], where they are recorded with the request, and shows it the plans.
//!
//! Worked example with u = 0.01 and a window of 10: a led 8 and b 2, the mean is 5. Then `b_a` = -0.01, `b_b` = +0.01.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::ExpertId;
use crate::plan::Plan;
use crate::policy::PolicyError;

/// Settings of balance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BalanceConfig {
    /// u: the size of a step, in score points; above 0.
    pub rate: f32,
    /// The largest bias, in score points; above 0.
    pub max: f32,
    /// Decisions between two steps, 1 to 1,000,000.
    pub window: u32,
}

impl Default for BalanceConfig {
    fn default() -> Self {
        Self { rate: 0.001, max: 0.05, window: 100 }
    }
}

impl BalanceConfig {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        for (field, value) in [("balance.rate", self.rate), ("balance.max", self.max)] {
            if !(value.is_finite() && value > 0.0) {
                let problem = format!("must be a finite number above 0, not {value}");
                return Err(PolicyError { field, problem });
            }
        }
        if !(1..=1_000_000).contains(&self.window) {
            let problem = format!("must lie in 1..=1000000, not {}", self.window);
            return Err(PolicyError { field: "balance.window", problem });
        }
        Ok(())
    }
}

/// A route's biases, and what was decided since their last step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Balance {
    experts: BTreeMap<ExpertId, Share>,
    decided: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Share {
    bias: f32,
    /// Decisions of this window that it was to lead.
    led: u32,
    /// Whether it was a candidate in this window.
    stood: bool,
}

impl Balance {
    /// What is added to the expert's score.
    pub fn bias(&self, expert: &ExpertId) -> f32 {
        self.experts.get(expert).map_or(0.0, |share| share.bias)
    }

    /// Takes a decision in. One that was made by rule, for a tool loop or by the robust expert, does not count:
    /// no bias could have changed it.
    pub fn observe(&mut self, plan: &Plan, config: &BalanceConfig) {
        if plan.candidates.is_empty() || plan.pinned() > 0 {
            return;
        }
        for (place, candidate) in plan.candidates.iter().enumerate() {
            if !self.experts.contains_key(&candidate.expert) {
                self.experts.insert(candidate.expert.clone(), Share::default());
            }
            if let Some(share) = self.experts.get_mut(&candidate.expert) {
                share.stood = true;
                share.led += u32::from(place == 0);
            }
        }
        self.decided += 1;
        if self.decided >= config.window {
            self.step(config);
        }
    }

    fn step(&mut self, config: &BalanceConfig) {
        let standing = self.experts.values().filter(|share| share.stood).count();
        let mean = f64::from(self.decided) / standing.max(1) as f64;
        self.decided = 0;
        // Who was no candidate for a whole window is gone, or was never reached: its bias would be out of date.
        self.experts.retain(|_, share| share.stood);
        for share in self.experts.values_mut() {
            let short = mean - f64::from(share.led);
            let step = if short == 0.0 { 0.0 } else { config.rate * short.signum() as f32 };
            *share = Share { bias: (share.bias + step).clamp(-config.max, config.max), ..Share::default() };
        }
    }
}
