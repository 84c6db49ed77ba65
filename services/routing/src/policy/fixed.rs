//! Policy `static`: the prompt is not looked at.
//!
//! With `order` the experts are tried in that order. With weights the leading expert is drawn: each gets
//! the key `-ln(u_e) / weight_e` with `u_e` in (0,1) hashed from the seed and its id, and the smallest key
//! leads (Efraimidis and Spirakis 2006). Every expert then leads with probability weight / sum of weights,
//! and a change of one expert's weight moves only the requests that it gains or loses.

use serde::{Deserialize, Serialize};

use super::{Policy, PolicyError, hold_session, obstacle};
use crate::Request;
use crate::chance::unit;
use crate::features::Reads;
use crate::fleet::Fleet;
use crate::id::ExpertId;
use crate::plan::{Basis, Candidate, Obstacle, Plan, Reason, Rejected};

/// Settings of policy `static`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StaticConfig {
    /// The experts, first choice first. Where any of them has a weight, the order is drawn by weight and
    /// experts without one come last, in the order given.
    pub order: Vec<Share>,
}

/// One expert of a static route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Who.
    pub expert: ExpertId,
    /// Its share of the requests relative to the others' weights; above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
}

/// Policy `static`, see the module's description.
#[derive(Clone, Debug)]
pub struct Static {
    config: StaticConfig,
}

impl Static {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PolicyError`] when no expert is named, one is named twice, or a weight is not a number above 0.
    pub fn new(config: StaticConfig) -> Result<Self, PolicyError> {
        if config.order.is_empty() {
            return Err(PolicyError { field: "order", problem: "must name at least one expert".into() });
        }
        for (i, share) in config.order.iter().enumerate() {
            if config.order[..i].iter().any(|s| s.expert == share.expert) {
                let problem = format!("names expert `{}` twice", share.expert);
                return Err(PolicyError { field: "order", problem });
            }
            if share.weight.is_some_and(|w| !(w.is_finite() && w > 0.0)) {
                let problem = format!("the weight of expert `{}` must be a number above 0", share.expert);
                return Err(PolicyError { field: "order", problem });
            }
        }
        Ok(Self { config })
    }
}

impl Policy for Static {
    fn plan(&self, request: &Request, fleet: &Fleet, seed: u64) -> Plan {
        let mut plan = Plan {
            candidates: Vec::with_capacity(self.config.order.len()),
            rejected: Vec::new(),
            basis: Basis::Fixed,
            changed_by: Vec::new(),
        };
        // (key, position, candidate): drawn experts by key, then listed ones by position.
        let mut keyed = Vec::with_capacity(self.config.order.len());
        for (at, share) in self.config.order.iter().enumerate() {
            let blocked = match fleet.get(share.expert.as_str()) {
                None => Some(Obstacle::Missing),
                Some(facts) => obstacle(facts, request.needs),
            };
            if let Some(obstacle) = blocked {
                plan.rejected.push(Rejected { expert: share.expert.clone(), obstacle });
                continue;
            }
            let (key, score, reason) = match share.weight {
                Some(w) => (-unit(seed, share.expert.as_str()).ln() / f64::from(w), w, Reason::Weight),
                None => (f64::INFINITY, 0.0, Reason::Listed),
            };
            keyed.push((
                key,
                at,
                Candidate { expert: share.expert.clone(), score, reason, propensity: None },
            ));
        }
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        plan.candidates.extend(keyed.into_iter().map(|(_, _, candidate)| candidate));
        let sum: f32 = plan.candidates.iter().filter(|c| c.reason == Reason::Weight).map(|c| c.score).sum();
        if sum > 0.0 {
            for candidate in &mut plan.candidates {
                let weight = if candidate.reason == Reason::Weight { candidate.score } else { 0.0 };
                candidate.propensity = Some(weight / sum);
            }
        }
        hold_session(&mut plan, request, fleet);
        plan
    }

    fn reads(&self) -> Reads {
        Reads::Nothing
    }

    fn ranks_by_score(&self) -> bool {
        false
    }

    fn named_experts(&self) -> Vec<&ExpertId> {
        self.config.order.iter().map(|s| &s.expert).collect()
    }
}
