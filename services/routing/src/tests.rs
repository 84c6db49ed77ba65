//! What tests of policies and modifiers are made of.

use std::sync::Arc;

use proptest::prelude::*;

use crate::policy::{
    CoeConfig, CostQualityConfig, CostScale, GatesConfig, GliderConfig, KnnConfig, PairConfig, PilotPooling,
    RobustConfig, RouterRetrieverConfig, Share, StaticConfig, UncertaintyConfig,
};
use crate::{
    Availability, Capabilities, ExpertFacts, ExpertId, Features, Fleet, Live, Needs, Neighbour, Plan,
    PolicyConfig, Request, Scorer, Signals,
};

/// Width of all vectors.
pub(crate) const WIDTH: usize = 6;

pub(crate) fn id(name: &str) -> ExpertId {
    ExpertId::new(name).unwrap()
}

pub(crate) fn facts(name: &str, skills: &[f32], cost: f32) -> ExpertFacts {
    ExpertFacts { skills: skills.to_vec(), cost, ..ExpertFacts::new(id(name)) }
}

pub(crate) fn fleet(mut experts: Vec<ExpertFacts>, categories: usize) -> Fleet {
    experts.sort_by(|a, b| a.id.cmp(&b.id));
    Fleet { categories: (0..categories).map(|i| Arc::from(format!("c{i}"))).collect(), experts }
}

pub(crate) fn asking(p: &[f32]) -> Request {
    let features = Features { probabilities: p.into(), tokens: 8, ..Features::default() };
    Request { features: Some(features), ..Request::default() }
}

pub(crate) fn names(plan: &Plan) -> Vec<&str> {
    plan.candidates.iter().map(|c| c.expert.as_str()).collect()
}

fn any_id() -> impl Strategy<Value = ExpertId> {
    (0..40u32).prop_map(|n| id(&format!("e{n}")))
}

fn any_vector() -> impl Strategy<Value = Arc<[f32]>> {
    prop::collection::vec(-3.0..3.0f32, WIDTH).prop_map(Arc::from)
}

prop_compose! {
    fn any_signals()(
        gate in prop::option::weighted(0.8, any_vector()),
        pilots in prop::collection::vec(any_vector(), 0..3),
        description in prop::option::weighted(0.8, any_vector()),
        scorer in prop::option::of((any_vector(), -1.0..1.0f32, any::<bool>())),
        // Of another encoder: as good as none.
        odd in prop::bool::weighted(0.1),
    ) -> Signals {
        let narrow = |v: Arc<[f32]>| if odd { Arc::from(&v[1..]) } else { v };
        Signals {
            gate: gate.map(narrow),
            pilots: pilots.into_iter().map(narrow).collect(),
            description: description.map(narrow),
            scorer: scorer.map(|(weights, bias, over_mapping)| {
                Arc::new(Scorer { weights: narrow(weights), length: bias / 8.0, bias, over_mapping })
            }),
        }
    }
}

prop_compose! {
    fn any_facts(categories: usize)(
        id in any_id(),
        skills in prop::collection::vec(0.0..=1.0f32, categories),
        cost in 0.0..50.0f32,
        tools in any::<bool>(),
        vision in any::<bool>(),
        context_tokens in prop::sample::select(vec![0u32, 100, 4096]),
        availability in prop::sample::select(vec![
            Availability::Ready, Availability::Ready, Availability::Draining, Availability::Unhealthy,
        ]),
        signals in any_signals(),
    ) -> ExpertFacts {
        ExpertFacts {
            id,
            skills,
            cost,
            capabilities: Capabilities { tools, vision, ..Capabilities::default() },
            context_tokens,
            availability,
            signals: Arc::new(signals),
        }
    }
}

prop_compose! {
    pub(crate) fn any_fleet()(mut experts in prop::collection::vec(any_facts(4), 0..12)) -> Fleet {
        experts.sort_by(|a, b| a.id.cmp(&b.id));
        experts.dedup_by(|a, b| a.id == b.id);
        fleet(experts, 4)
    }
}

prop_compose! {
    fn any_features()(
        logits in prop::collection::vec(-5.0..5.0f32, 4),
        embedding in any_vector(),
        state in any_vector(),
        // A first stage gives categories alone.
        first in prop::bool::weighted(0.2),
    ) -> Features {
        let sum: f32 = logits.iter().map(|x| x.exp()).sum();
        let probabilities = logits.iter().map(|x| x.exp() / sum).collect();
        let (embedding, state) = if first { (Arc::from([]), Arc::from([])) } else { (embedding, state) };
        Features { embedding, probabilities, state, tokens: 1, truncated: false }
    }
}

fn any_neighbours() -> impl Strategy<Value = Arc<[Neighbour]>> {
    let outcomes = prop::collection::vec((any_id(), 0.0..=1.0f32), 0..6);
    let neighbour = (-1.0..=1.0f32, outcomes).prop_map(|(similarity, outcomes)| Neighbour {
        id: "n".into(),
        similarity,
        outcomes: outcomes.into(),
    });
    prop::collection::vec(neighbour, 0..6).prop_map(Arc::from)
}

fn any_live() -> impl Strategy<Value = Arc<[Live]>> {
    let resident = prop::option::of(0..4u8);
    let wait = prop::option::of(0.0..90_000.0f32);
    let one = (0.0..3.0f32, prop::option::of(1.0..9000.0f32), resident, wait, -0.1..0.1f32).prop_map(
        |(load, latency_ms, resident, wait_ms, bias)| Live { load, latency_ms, resident, wait_ms, bias },
    );
    prop::collection::vec(one, 0..12).prop_map(Arc::from)
}

prop_compose! {
    pub(crate) fn any_request()(
        features in prop::option::weighted(0.9, any_features()),
        (tools, vision) in (prop::bool::weighted(0.3), prop::bool::weighted(0.3)),
        context_tokens in prop::sample::select(vec![0u32, 50, 2000, 5000]),
        held_by in prop::option::weighted(0.2, any_id()),
        lambda in prop::option::weighted(0.2, 0.0..0.5f32),
        neighbours in any_neighbours(),
        live in any_live(),
        previous in prop::collection::vec((any_id(), 0.0..=1.0f32), 0..4),
    ) -> Request {
        let needs = Needs { tools, vision, context_tokens, ..Needs::default() };
        Request { features, needs, held_by, lambda, neighbours, live, previous: previous.into() }
    }
}

fn any_robust() -> impl Strategy<Value = Option<RobustConfig>> {
    let robust = (any_id(), prop::option::of(-1.0..1.0f32));
    prop::option::of(robust.prop_map(|(expert, below)| RobustConfig { expert, below }))
}

fn any_coe() -> impl Strategy<Value = PolicyConfig> {
    let robust = (any_id(), 0.0..=1.0f32, any::<bool>()).prop_map(|(robust, threshold, entropy)| {
        let measure = if entropy { crate::Uncertainty::Entropy } else { crate::Uncertainty::Confidence };
        UncertaintyConfig { measure, threshold, robust }
    });
    (0.0..0.1f32, any::<bool>(), prop::option::of(robust))
        .prop_map(|(lambda, hard, uncertain)| PolicyConfig::Coe(CoeConfig { lambda, hard, uncertain }))
}

fn any_cost_quality() -> impl Strategy<Value = PolicyConfig> {
    let pair = (any_id(), any_id(), -0.5..0.5f32)
        .prop_filter("two experts", |(strong, weak, _)| strong != weak)
        .prop_map(|(strong, weak, threshold)| PairConfig { strong, weak, threshold });
    let parts = (0.0..0.5f32, 0.0..=1.0f32, any::<bool>(), prop::option::weighted(0.3, pair));
    parts.prop_map(|(lambda, blend, relative, pair)| {
        let cost = if relative { CostScale::Relative } else { CostScale::Absolute };
        PolicyConfig::CostQuality(CostQualityConfig { lambda, blend, cost, pair })
    })
}

/// Every kind of policy, with settings that name experts of [`any_fleet`].
pub(crate) fn any_policy() -> impl Strategy<Value = PolicyConfig> {
    let gates = (0.1..5.0f32, any_robust())
        .prop_map(|(temperature, robust)| PolicyConfig::Gates(GatesConfig { temperature, robust }));
    let glider = (0.0..100.0f32, 0.0..5.0f32, -0.5..1.0f32, any_robust())
        .prop_map(|(gamma, beta, p, robust)| PolicyConfig::Glider(GliderConfig { gamma, beta, p, robust }));
    let pilots = (any::<bool>(), any_robust()).prop_map(|(max, robust)| {
        let pooling = if max { PilotPooling::Max } else { PilotPooling::Mean };
        PolicyConfig::RouterRetriever(RouterRetrieverConfig { pooling, robust })
    });
    let knn =
        (1..8usize, 0.01..2.0f32, 0.0..10.0f32, any_robust()).prop_map(|(k, tau, pseudo_counts, robust)| {
            PolicyConfig::Knn(KnnConfig { k, tau, pseudo_counts, robust })
        });
    let order = prop::collection::btree_map(0..40u32, prop::option::of(0.1..10.0f32), 1..8);
    let fixed = order.prop_map(|shares| {
        let share = |(n, weight)| Share { expert: id(&format!("e{n}")), weight };
        PolicyConfig::Static(StaticConfig { order: shares.into_iter().map(share).collect() })
    });
    prop_oneof![any_coe(), any_cost_quality(), gates, glider, knn, pilots, fixed]
}
