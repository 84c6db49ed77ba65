//! Policy `gates`: one gate vector per expert, trained after the fact from that expert's own prompts alone.
//!
//! PHATGOOSE (arXiv 2402.05859) scores expert i at every token and module by `LN(v_i) . LN(u_t) / sqrt(d)`. A
//! gateway sees no activations of the model behind it; it has the token states `u_t` of its own encoder. The scores
//! of a request's tokens are averaged, and because the mean is linear the mean state suffices:
//!
//! `s_i = LN(v_i) . state / sqrt(d)` with `state = mean_t LN(u_t)`, and `p = softmax(s / temperature)` over the experts
//! with gates.
//!
//! It decides once per request, and so is another method than PHATGOOSE, with another name.
//!
//! Worked example, d = 4: state = (1, 1, -1, -1). Expert a has v = (2, 2, 0, 0), LN(v) = (1, 1, -1, -1), s = 4 / 2 = 2.
//! Expert b has v = (2, 0, 2, 0), LN(v) = (1, -1, 1, -1), s = 0. At temperature 1: p(a) = e^2 / (e^2 + 1) = 0.88.

use serde::{Deserialize, Serialize};

use super::{Policy, PolicyError, Ranking, RobustConfig, above_zero};
use crate::Request;
use crate::features::Reads;
use crate::fleet::Fleet;
use crate::id::ExpertId;
use crate::plan::{Obstacle, Plan, Reason};
use crate::vector::normed_dot;

/// Settings of policy `gates`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatesConfig {
    /// What the gates' scores are divided by before the softmax; above 0. The order does not feel it.
    pub temperature: f32,
    /// Who answers when no expert fits. `below` is compared with the best expert's s, before the softmax.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub robust: Option<RobustConfig>,
}

impl Default for GatesConfig {
    fn default() -> Self {
        Self { temperature: 1.0, robust: None }
    }
}

/// Policy `gates`, see the module's description.
#[derive(Clone, Debug)]
pub struct Gates {
    config: GatesConfig,
}

impl Gates {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PolicyError`] when the temperature is not above 0, or `robust.below` is not finite.
    pub fn new(config: GatesConfig) -> Result<Self, PolicyError> {
        above_zero("temperature", config.temperature)?;
        RobustConfig::check(config.robust.as_ref())?;
        Ok(Self { config })
    }
}

impl Policy for Gates {
    fn plan(&self, request: &Request, fleet: &Fleet, _seed: u64) -> Plan {
        let state = request.features.as_ref().map(|f| &*f.state).filter(|state| !state.is_empty());
        let mut ranking = Ranking::of(request, fleet, Obstacle::NoGate, |expert| {
            let score = local(expert.signals.gate.as_deref(), state.ok_or(Obstacle::Unread)?);
            score.map(|score| (score, Reason::Gate)).ok_or(Obstacle::NoGate)
        });
        let best = ranking.best();
        ranking.softmax(self.config.temperature);
        ranking.into_plan(best, self.config.robust.as_ref(), request, fleet)
    }

    fn reads(&self) -> Reads {
        Reads::Embedding
    }

    fn named_experts(&self) -> Vec<&ExpertId> {
        self.config.robust.iter().map(|robust| &robust.expert).collect()
    }
}

/// s = LN(v) . state / sqrt(d); `None` without a gate of the state's width.
pub(super) fn local(gate: Option<&[f32]>, state: &[f32]) -> Option<f32> {
    Some(normed_dot(gate?, state)? / (state.len() as f32).sqrt())
}
