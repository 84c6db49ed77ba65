//! Modifiers: what changes a policy's plan by things that policies do not look at. One file each, listed here.
//!
//! A policy says how well each expert suits the prompt. The modifiers of a route say what else counts, always in
//! this order, whichever of them are on:
//!
//! 1. [`stickiness`] and [`balance`] move experts in the ranking; the scores that are shown stay the policy's.
//! 2. [`adaptive`] leaves out the candidates that are probably not needed.
//! 3. [`ties`] decides among experts that are as good as each other.
//! 4. [`explore`] now and then lets another one lead, and says how probable that was.
//!
//! What they look at is in the [`Request`], so that a policy under modifiers is a pure policy, and is replayed as one.
//! The expert of a tool loop and the robust expert of a doubtful prompt lead by rule: no modifier moves them.

pub mod adaptive;
pub mod balance;
pub mod explore;
pub mod stickiness;
pub mod ties;

use serde::{Deserialize, Serialize};

use crate::Request;
use crate::features::Reads;
use crate::fleet::{Fleet, Live};
use crate::id::ExpertId;
use crate::plan::{Modifier, Plan};
use crate::policy::{Policy, PolicyError, Wants};

pub use adaptive::{AdaptiveConfig, Mass};
pub use balance::{Balance, BalanceConfig};
pub use explore::ExploreConfig;
pub use stickiness::StickinessConfig;
pub use ties::{TieKey, TiesConfig};

/// The modifiers of a route; each is off when it is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Modifiers {
    /// Holds on to experts that suited the conversation's previous turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stickiness: Option<StickinessConfig>,
    /// Evens the experts' shares of the route's requests out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalanceConfig>,
    /// Takes only as many candidates as are probably needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveConfig>,
    /// Decides among experts that are as good as each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ties: Option<TiesConfig>,
    /// Lets another expert lead now and then, to learn how good it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explore: Option<ExploreConfig>,
}

impl Modifiers {
    /// The policy under these modifiers; the policy itself when there are none.
    ///
    /// # Errors
    /// [`PolicyError`] naming the setting that cannot be, or the modifier that the policy leaves nothing to do.
    pub fn over(&self, policy: Box<dyn Policy>) -> Result<Box<dyn Policy>, PolicyError> {
        let Self { stickiness, balance, adaptive, ties, explore } = self;
        stickiness.as_ref().map_or(Ok(()), StickinessConfig::check)?;
        balance.as_ref().map_or(Ok(()), BalanceConfig::check)?;
        adaptive.as_ref().map_or(Ok(()), AdaptiveConfig::check)?;
        ties.as_ref().map_or(Ok(()), TiesConfig::check)?;
        explore.as_ref().map_or(Ok(()), ExploreConfig::check)?;
        let by_score = [
            ("stickiness", stickiness.is_some()),
            ("balance", balance.is_some()),
            ("adaptive", adaptive.is_some()),
            ("ties", ties.is_some()),
        ];
        if let Some((field, _)) = by_score.into_iter().find(|(_, on)| *on && !policy.ranks_by_score()) {
            let problem = "works on scores, and the policy does not rank by any; leave it out".to_owned();
            return Err(PolicyError { field, problem });
        }
        if *self == Self::default() {
            return Ok(policy);
        }
        Ok(Box::new(Modified { policy, modifiers: self.clone() }))
    }
}

/// A policy under modifiers.
struct Modified {
    policy: Box<dyn Policy>,
    modifiers: Modifiers,
}

impl Policy for Modified {
    fn plan(&self, request: &Request, fleet: &Fleet, seed: u64) -> Plan {
        let mut plan = self.policy.plan(request, fleet, seed);
        let Modifiers { stickiness, balance, adaptive, ties, explore } = &self.modifiers;
        // What the candidates are ranked by, in their order.
        let mut ranks: Vec<f32> = plan.candidates.iter().map(|c| c.score).collect();
        if let Some(config) = stickiness {
            config.add(&plan, request, &mut ranks);
            rerank(&mut plan, &mut ranks, Modifier::Stickiness);
        }
        if balance.is_some() {
            for (rank, candidate) in ranks.iter_mut().zip(&plan.candidates) {
                *rank += live(request, fleet, &candidate.expert).bias;
            }
            rerank(&mut plan, &mut ranks, Modifier::Balance);
        }
        if let Some(config) = adaptive {
            config.cut(&mut plan, &mut ranks, request, fleet);
        }
        if let Some(config) = ties {
            config.settle(&mut plan, &ranks, request, fleet);
        }
        if let Some(config) = explore {
            config.draw(&mut plan, seed);
        }
        plan
    }

    fn reads(&self) -> Reads {
        let by_category = self.modifiers.adaptive.as_ref().is_some_and(|a| a.by == Mass::Categories);
        self.policy.reads().max(if by_category { Reads::Categories } else { Reads::Nothing })
    }

    fn wants(&self) -> Wants {
        let wants = self.policy.wants();
        let Modifiers { stickiness, balance, ties, .. } = &self.modifiers;
        Wants {
            live: wants.live || balance.is_some() || ties.as_ref().is_some_and(TiesConfig::looks_at_live),
            previous: wants.previous || stickiness.is_some(),
            ..wants
        }
    }

    fn ranks_by_score(&self) -> bool {
        self.policy.ranks_by_score()
    }

    fn named_experts(&self) -> Vec<&ExpertId> {
        self.policy.named_experts()
    }
}

/// How an expert is now; as if idle where that was not looked up.
fn live(request: &Request, fleet: &Fleet, expert: &ExpertId) -> Live {
    let place = fleet.position(expert.as_str());
    place.and_then(|place| request.live.get(place)).copied().unwrap_or_default()
}

/// Puts the candidates that are not there by rule in the order of their ranks. Equals stay as they were.
fn rerank(plan: &mut Plan, ranks: &mut [f32], modifier: Modifier) {
    let pinned = plan.pinned();
    let mut order: Vec<usize> = (pinned..ranks.len()).collect();
    order.sort_by(|a, b| ranks[*b].total_cmp(&ranks[*a]));
    if arrange(&mut plan.candidates[pinned..], &order, pinned) {
        arrange(&mut ranks[pinned..], &order, pinned);
        plan.changed_by.push(modifier);
    }
}

/// Brings items into an order of places, which count from `first`. Says whether that changed anything.
fn arrange<T: Clone>(items: &mut [T], order: &[usize], first: usize) -> bool {
    if order.is_sorted() {
        return false;
    }
    let before = items.to_vec();
    for (item, place) in items.iter_mut().zip(order) {
        item.clone_from(&before[place - first]);
    }
    true
}

#[cfg(test)]
mod tests;
