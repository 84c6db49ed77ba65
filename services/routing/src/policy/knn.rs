//! Policy `knn`: outcomes of the nearest remembered prompts ("kNN is enough", arXiv 2505.12601).
//!
//! Each of the k nearest prompts j has the weight `w_j = exp((sim_j - 1) / tau)`, which is 1 for the same prompt. With
//! y(j,e) the score that expert e had on j, and j running over the prompts that e has an outcome on:
//!
//! `score(e) = (sum_j w_j y(j,e) + m mu_e) / (sum_j w_j + m)`
//!
//! `mu_e` is the mean of the expert's skills and m the setting `pseudo_counts`: few or distant neighbours move the score
//! but little from what the expert does in general. Without skills m counts as 0.
//!
//! The neighbours are looked up before the policy runs and come with the request, so that it stays pure.
//!
//! Worked example with m = 1: expert a has skills (0.6, 0.4), mu = 0.5, and the outcome 1 on a neighbour of weight 1:
//! (1 + 0.5) / 2 = 0.75. On a neighbour of weight 0.25 it would be (0.25 + 0.5) / 1.25 = 0.6.

use serde::{Deserialize, Serialize};

use super::{Policy, PolicyError, Ranking, RobustConfig, Wants, above_zero, not_negative};
use crate::Request;
use crate::features::Reads;
use crate::fleet::{ExpertFacts, Fleet};
use crate::id::ExpertId;
use crate::plan::{Obstacle, Plan, Reason};
use crate::signals::Neighbour;

/// Settings of policy `knn`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KnnConfig {
    /// Neighbours that are looked at, 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    pub k: usize,
    /// How fast a neighbour's weight falls with its distance; above 0.
    pub tau: f32,
    /// How many neighbours the expert's general level counts for; at least 0.
    pub pseudo_counts: f32,
    /// Who answers when no expert has an outcome near the prompt. `below` is compared with the best score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub robust: Option<RobustConfig>,
}

impl Default for KnnConfig {
    fn default() -> Self {
        Self { k: 100, tau: 0.1, pseudo_counts: 5.0, robust: None }
    }
}

/// Policy `knn`, see the module's description.
#[derive(Clone, Debug)]
pub struct Knn {
    config: KnnConfig,
}

impl Knn {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PolicyError`] when `k` lies outside 1..=1000, `tau` is not above 0 or `pseudo_counts` is negative.
    pub fn new(config: KnnConfig) -> Result<Self, PolicyError> {
        if !(1..=1000).contains(&config.k) {
            return Err(PolicyError {
                field: "k",
                problem: format!("must lie in 1..=1000, not {}", config.k),
            });
        }
        above_zero("tau", config.tau)?;
        not_negative("pseudo_counts", config.pseudo_counts)?;
        RobustConfig::check(config.robust.as_ref())?;
        Ok(Self { config })
    }

    /// The expert's score; `None` when no neighbour has an outcome of it.
    fn score(&self, neighbours: &[Neighbour], expert: &ExpertFacts) -> Option<f32> {
        let (mut sum, mut weights) = (0.0, 0.0);
        for neighbour in neighbours.iter().take(self.config.k) {
            let outcome = neighbour.outcomes.iter().find(|(id, _)| *id == expert.id);
            let Some((_, outcome)) = outcome else { continue };
            let weight = ((neighbour.similarity.min(1.0) - 1.0) / self.config.tau).exp();
            sum += weight * outcome;
            weights += weight;
        }
        if weights <= 0.0 {
            return None;
        }
        let general: f32 = expert.skills.iter().sum();
        if general > 0.0 {
            sum += self.config.pseudo_counts * general / expert.skills.len() as f32;
            weights += self.config.pseudo_counts;
        }
        Some(sum / weights)
    }
}

impl Policy for Knn {
    fn plan(&self, request: &Request, fleet: &Fleet, _seed: u64) -> Plan {
        let ranking = Ranking::of(request, fleet, Obstacle::NoNeighbours, |expert| {
            if request.features.is_none() {
                return Err(Obstacle::Unread);
            }
            let score = self.score(&request.neighbours, expert);
            score.map(|score| (score, Reason::Neighbours)).ok_or(Obstacle::NoNeighbours)
        });
        let best = ranking.best();
        ranking.into_plan(best, self.config.robust.as_ref(), request, fleet)
    }

    fn reads(&self) -> Reads {
        Reads::Embedding
    }

    fn wants(&self) -> Wants {
        Wants { neighbours: self.config.k, ..Wants::default() }
    }

    fn named_experts(&self) -> Vec<&ExpertId> {
        self.config.robust.iter().map(|robust| &robust.expert).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{any_fleet, any_request, asking, facts, fleet, id, names};
    use proptest::prelude::*;

    #[test]
    fn few_and_distant_neighbours_move_a_score_little() {
        let fleet = fleet(vec![facts("a", &[0.6, 0.4], 0.0), facts("b", &[1.0, 1.0], 0.0)], 2);
        let score = |similarity| {
            let config = KnnConfig { tau: 0.5, pseudo_counts: 1.0, ..KnnConfig::default() };
            let neighbour = Neighbour { id: "n".into(), similarity, outcomes: [(id("a"), 1.0)].into() };
            let request = Request { neighbours: [neighbour].into(), ..asking(&[0.5, 0.5]) };
            let plan = Knn::new(config).unwrap().plan(&request, &fleet, 0);
            assert_eq!(
                (plan.rejected[0].expert.as_str(), plan.rejected[0].obstacle),
                ("b", Obstacle::NoNeighbours)
            );
            plan.candidates[0].score
        };
        assert!((score(1.0) - 0.75).abs() < 1e-6);
        // The similarity at which exp((sim - 1) / 0.5) is a quarter.
        assert!((score(1.0 + 0.5 * 0.25_f32.ln()) - 0.6).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn a_score_lies_between_the_outcomes_and_what_the_expert_does_in_general(
            (fleet, request, seed) in (any_fleet(), any_request(), any::<u64>())
        ) {
            let policy = Knn::new(KnnConfig::default()).unwrap();
            let plan = policy.plan(&request, &fleet, seed);
            prop_assert_eq!(&plan, &policy.plan(&request, &fleet, 0));
            for candidate in plan.candidates.iter().filter(|c| c.reason == Reason::Neighbours) {
                prop_assert!((0.0..=1.0 + 1e-6).contains(&candidate.score));
            }
            let mut turned = request.clone();
            turned.lambda = None;
            let other = policy.plan(&turned, &fleet, seed);
            prop_assert_eq!(names(&other), names(&plan));
        }
    }
}
