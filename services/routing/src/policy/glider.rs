//! Policy `glider`: gates, and how well the experts' descriptions fit (after GLIDER, arXiv 2410.07172).
//!
//! - Local: `s_i`, the gate's score as in policy `gates`.
//! - Global: `g_i = cos(description_i, embedding)`. The paper lets a language model describe the request first; here
//!   the request's own embedding stands for it, which costs nothing and needs no model.
//! - Together: `s'_i = s_i + alpha g_i`, then a softmax.
//! - `alpha = gamma [max_i g_i >= p] + beta`: a description that fits almost certainly decides, else it is a mild
//!   prior. That is the rule of the paper; its published code takes alpha as a constant per benchmark, and so has to
//!   know which one it is in. `gamma: 0` gives that constant, beta.
//!
//! Worked example with gamma = 100, beta = 3, p = 0.8: a has s = 1 and g = 0.5, b has s = 0 and g = 0.7. No
//! description is certain, alpha = 3: a = 2.5, b = 2.1, the gates decide. With g(b) = 0.85: alpha = 103, a = 52.5,
//! b = 87.55, the description decides.

use serde::{Deserialize, Serialize};

use super::gates::local;
use super::{Policy, PolicyError, Ranking, RobustConfig, Wants, not_finite, not_negative, obstacle};
use crate::Request;
use crate::features::Reads;
use crate::fleet::Fleet;
use crate::id::ExpertId;
use crate::plan::{Obstacle, Plan, Reason};
use crate::vector::cosine;

/// Settings of policy `glider`; the defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GliderConfig {
    /// The description's extra weight when some description fits almost certainly; at least 0.
    pub gamma: f32,
    /// The description's weight in any case; at least 0.
    pub beta: f32,
    /// The cosine from which on a description fits almost certainly. It depends on the encoder: measure it.
    pub p: f32,
    /// Who answers when no expert fits. `below` is compared with the best expert's s', before the softmax.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub robust: Option<RobustConfig>,
}

impl Default for GliderConfig {
    fn default() -> Self {
        Self { gamma: 100.0, beta: 3.0, p: 0.8, robust: None }
    }
}

/// Policy `glider`, see the module's description.
#[derive(Clone, Debug)]
pub struct Glider {
    config: GliderConfig,
}

impl Glider {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PolicyError`] when `gamma` or `beta` is negative, or a number is not finite.
    pub fn new(config: GliderConfig) -> Result<Self, PolicyError> {
        not_negative("gamma", config.gamma)?;
        not_negative("beta", config.beta)?;
        if !config.p.is_finite() {
            return Err(not_finite("p", config.p));
        }
        RobustConfig::check(config.robust.as_ref())?;
        Ok(Self { config })
    }
}

impl Policy for Glider {
    fn plan(&self, request: &Request, fleet: &Fleet, _seed: u64) -> Plan {
        let GliderConfig { gamma, beta, p, .. } = self.config;
        let features = request.features.as_ref().filter(|f| !f.state.is_empty());
        let global = |expert: &crate::ExpertFacts| {
            let description = expert.signals.description.as_ref().ok_or(Obstacle::NoDescription)?;
            cosine(description, &features.ok_or(Obstacle::Unread)?.embedding).ok_or(Obstacle::NoDescription)
        };
        // Over those that could answer: an expert that is away must not make the others' choice certain.
        let able = fleet.experts.iter().filter(|e| obstacle(e, request.needs).is_none());
        let certain = able.filter(|e| e.signals.gate.is_some()).any(|e| global(e).is_ok_and(|g| g >= p));
        let alpha = if certain { gamma + beta } else { beta };
        let reason = if certain { Reason::Description } else { Reason::GateAndDescription };
        let mut ranking = Ranking::of(request, fleet, Obstacle::NoGate, |expert| {
            let state = &features.ok_or(Obstacle::Unread)?.state;
            let score = local(expert.signals.gate.as_deref(), state).ok_or(Obstacle::NoGate)?;
            Ok((score + alpha * global(expert)?, reason))
        });
        let best = ranking.best();
        ranking.softmax(1.0);
        ranking.into_plan(best, self.config.robust.as_ref(), request, fleet)
    }

    fn reads(&self) -> Reads {
        Reads::Embedding
    }

    fn wants(&self) -> Wants {
        Wants { descriptions: true, ..Wants::default() }
    }

    fn named_experts(&self) -> Vec<&ExpertId> {
        self.config.robust.iter().map(|robust| &robust.expert).collect()
    }
}
