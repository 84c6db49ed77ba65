//! How a router model that reads beside the first compares with it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use routing::ExpertId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::decision::DecisionId;

/// Disagreements that are remembered.
const REMEMBERED: usize = 200;

/// What shadows count, for all of them together.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShadowMetrics {
    compared: Family<Compared, Counter>,
    dropped: Counter,
    failed: Counter,
}

/// What came of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Compared {
    category: &'static str,
    expert: &'static str,
}

impl ShadowMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        // What has not happened yet is 0, not absent: an increase from nothing is seen by nobody.
        for category in [true, false] {
            for expert in [true, false] {
                metrics.compared.get_or_create(&compared(category, expert)).inc_by(0);
            }
        }
        let own = registry.sub_registry_with_prefix("guildhall_shadow");
        let help = "Prompts that a second router model read as well, by whether it agreed";
        own.register("compared", help, metrics.compared.clone());
        let help = "Prompts that a second router model had no time for";
        own.register("dropped", help, metrics.dropped.clone());
        own.register("failed", "Prompts that a second router model failed to read", metrics.failed.clone());
        metrics
    }
}

fn compared(category: bool, expert: bool) -> Compared {
    let word = |same| if same { "same" } else { "different" };
    Compared { category: word(category), expert: word(expert) }
}

/// How two router models compare, as far as one has read beside the other.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Comparison {
    /// The bundle that reads beside the first.
    bundle: String,
    /// The bundle that decides.
    against: String,
    /// The share of the prompts that it is to read.
    sample: f64,
    /// When it began, in milliseconds since 1970 UTC.
    since_ms: u64,
    /// Whether it still goes on.
    running: bool,
    /// Prompts that both have read.
    compared: u64,
    /// Those of them of which both named the same category.
    same_category: u64,
    /// Those of them for which both plans began with the same expert.
    same_expert: u64,
    /// The share of the prompts with the same category; null while none has been compared.
    #[schema(required)]
    category_agreement: Option<f64>,
    /// The share of the prompts with the same first expert; null while none has been compared.
    #[schema(required)]
    expert_agreement: Option<f64>,
    /// Prompts that were to be read and were not, because too many waited.
    dropped: u64,
    /// Prompts that could not be read.
    failed: u64,
    /// The same by the category that the deciding model named.
    categories: BTreeMap<String, OfCategory>,
    /// The latest disagreements, newest first.
    disagreements: Vec<Disagreement>,
}

/// How often two models agreed on prompts of a category.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
struct OfCategory {
    /// Prompts that both have read.
    compared: u64,
    /// Those of them of which both named this category.
    same: u64,
}

/// A prompt on which two models did not agree.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Disagreement {
    /// The decision's id, for `GET /admin/v1/decisions/{id}`.
    #[schema(value_type = String)]
    decision: DecisionId,
    /// What the deciding model made of it.
    decided: Opinion,
    /// What the other one would have.
    shadow: Opinion,
}

/// What a model makes of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct Opinion {
    /// The most probable category.
    #[schema(value_type = String)]
    pub(super) category: Arc<str>,
    /// Its probability.
    pub(super) probability: f32,
    /// The first expert of the plan; null when there was none.
    #[schema(required)]
    pub(super) expert: Option<ExpertId>,
}

/// What has been counted so far.
pub(super) struct Tally {
    bundle: Arc<str>,
    against: Arc<str>,
    sample: f64,
    since_ms: u64,
    dropped: AtomicU64,
    metrics: ShadowMetrics,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    compared: u64,
    same_category: u64,
    same_expert: u64,
    failed: u64,
    categories: BTreeMap<Arc<str>, OfCategory>,
    disagreements: VecDeque<Disagreement>,
}

/// How a shadow is set up.
pub(super) struct Setup {
    /// The bundle that decides.
    pub(super) against: Arc<str>,
    /// The share of the prompts, 0 to 1.
    pub(super) sample: f64,
    pub(super) since_ms: u64,
    pub(super) metrics: ShadowMetrics,
}

impl Tally {
    /// Nothing has been compared yet.
    pub(super) fn new(bundle: Arc<str>, setup: Setup) -> Self {
        let Setup { against, sample, since_ms, metrics } = setup;
        let (dropped, counts) = (AtomicU64::new(0), Mutex::default());
        Self { bundle, against, sample, since_ms, dropped, metrics, counts }
    }

    /// Counts a prompt that there was no place for.
    pub(super) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.metrics.dropped.inc();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn compare(&self, decision: DecisionId, decided: Opinion, shadow: Opinion) {
        let same_category = decided.category == shadow.category;
        let same_expert = decided.expert == shadow.expert;
        self.metrics.compared.get_or_create(&compared(same_category, same_expert)).inc();
        let mut counts = self.lock();
        counts.compared += 1;
        counts.same_category += u64::from(same_category);
        counts.same_expert += u64::from(same_expert);
        let of = counts.categories.entry(decided.category.clone()).or_default();
        of.compared += 1;
        of.same += u64::from(same_category);
        if !(same_category && same_expert) {
            if counts.disagreements.len() == REMEMBERED {
                counts.disagreements.pop_front();
            }
            counts.disagreements.push_back(Disagreement { decision, decided, shadow });
        }
    }

    pub(super) fn fail(&self, error: &str) {
        self.metrics.failed.inc();
        let mut counts = self.lock();
        counts.failed += 1;
        if counts.failed == 1 {
            tracing::warn!(router.bundle = %self.bundle, %error, "a second router model failed to read a prompt");
        }
    }

    pub(super) fn bundle(&self) -> &str {
        &self.bundle
    }

    pub(super) fn comparison(&self, running: bool) -> Comparison {
        let counts = self.lock();
        let share = |n: u64| (counts.compared > 0).then(|| n as f64 / counts.compared as f64);
        Comparison {
            bundle: self.bundle.to_string(),
            against: self.against.to_string(),
            sample: self.sample,
            since_ms: self.since_ms,
            running,
            compared: counts.compared,
            same_category: counts.same_category,
            same_expert: counts.same_expert,
            category_agreement: share(counts.same_category),
            expert_agreement: share(counts.same_expert),
            dropped: self.dropped.load(Ordering::Relaxed),
            failed: counts.failed,
            categories: counts.categories.iter().map(|(name, of)| (name.to_string(), *of)).collect(),
            disagreements: counts.disagreements.iter().rev().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        let setup =
            Setup { against: "b@1".into(), sample: 1.0, since_ms: 5, metrics: ShadowMetrics::default() };
        Tally::new("b@2".into(), setup)
    }

    fn opinion(category: &str, expert: &str) -> Opinion {
        let expert = ExpertId::new(expert).unwrap();
        Opinion { category: category.into(), probability: 0.5, expert: Some(expert) }
    }

    #[test]
    fn agreement_is_counted_and_disagreements_are_listed_newest_first() {
        let tally = tally();
        assert_eq!(tally.comparison(true).category_agreement, None);
        tally.compare(DecisionId(1), opinion("code", "a"), opinion("code", "a"));
        tally.compare(DecisionId(2), opinion("code", "a"), opinion("math", "a"));
        tally.compare(DecisionId(3), opinion("math", "a"), opinion("code", "b"));
        tally.compare(DecisionId(4), opinion("math", "a"), opinion("math", "b"));
        let found = tally.comparison(true);
        assert_eq!((found.compared, found.same_category, found.same_expert), (4, 2, 2));
        assert_eq!((found.category_agreement, found.expert_agreement), (Some(0.5), Some(0.5)));
        assert_eq!((found.categories["code"].compared, found.categories["code"].same), (2, 1));
        let ids: Vec<u64> = found.disagreements.iter().map(|d| d.decision.0).collect();
        assert_eq!(ids, [4, 3, 2]);
        for n in 0..1000 {
            tally.compare(DecisionId(n), opinion("code", "a"), opinion("math", "a"));
        }
        assert_eq!(tally.comparison(true).disagreements.len(), REMEMBERED);
    }
}
