use admission::Gates;
use proptest::prelude::*;
use routing::{
    Availability, Capabilities, ExpertFacts, Features, Fleet, Live, Needs, Request, Scorer, Signals,
};

use super::*;
use crate::config::RouteSpec;

fn decision(id: u64) -> Arc<Decision> {
    Arc::new(Decision::example(DecisionId(id)))
}

#[test]
fn the_log_keeps_the_latest_and_no_more() {
    let log = DecisionLog::new(3);
    for id in 0..5 {
        log.push(decision(id));
    }
    let ids: Vec<u64> = log.recent(10, |_| true).iter().map(|d| d.id.0).collect();
    assert_eq!(ids, [4, 3, 2]);
    assert!(log.get(DecisionId(1)).is_none());
    assert!(log.get(DecisionId(2)).is_some());
    let none = DecisionLog::new(0);
    none.push(decision(1));
    assert!(none.recent(1, |_| true).is_empty());
}

#[test]
fn what_was_judged_is_remembered_longer() {
    let log = DecisionLog::new(3);
    let judged = decision(1);
    log.push(judged.clone());
    log.keep(&judged);
    log.keep(&judged);
    for id in 2..10 {
        log.push(decision(id));
    }
    assert!(log.get(DecisionId(1)).is_some() && log.get(DecisionId(2)).is_none());
    assert_eq!(log.recent(10, |_| true).len(), 3, "it is no recent one any more");
    for id in 10..13 {
        log.keep(&decision(id));
    }
    assert!(log.get(DecisionId(1)).is_none());
}

#[test]
fn ids_are_read_as_they_are_written() {
    let id = DecisionId(0x00ab);
    assert_eq!(id.to_string(), "d-00000000000000ab");
    assert_eq!(DecisionId::parse("d-00000000000000ab"), Some(id));
    for bad in ["", "d-", "d-xyz", "00000000000000ab", "d-00000000000000abc"] {
        assert_eq!(DecisionId::parse(bad), None);
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const CATEGORIES: usize = 3;
const WIDTH: usize = 5;

fn name(at: usize) -> ExpertId {
    ExpertId::new(NAMES[at]).unwrap()
}

fn vector() -> impl Strategy<Value = Arc<[f32]>> {
    proptest::collection::vec(-1.0f32..1.0, WIDTH).prop_map(Arc::from)
}

fn signals() -> impl Strategy<Value = Signals> {
    let one = || proptest::option::of(vector());
    (one(), one(), one(), one()).prop_map(|(gate, pilot, description, scorer)| Signals {
        gate,
        pilots: pilot.into_iter().collect(),
        description,
        scorer: scorer.map(|weights| Arc::new(Scorer { weights, bias: 0.5, ..Scorer::default() })),
    })
}

fn fleet() -> impl Strategy<Value = Fleet> {
    let weights = proptest::collection::vec(0.0f32..=1.0, CATEGORIES);
    let availability =
        prop_oneof![Just(Availability::Ready), Just(Availability::Draining), Just(Availability::Unhealthy)];
    let abilities = (any::<bool>(), any::<bool>());
    let facts = (weights, 0.0f32..10.0, abilities, 0u32..9_000, (availability, signals()));
    proptest::collection::vec(facts, 0..=NAMES.len()).prop_map(|experts| Fleet {
        categories: ["x", "y", "z"].map(Arc::from).into(),
        experts: experts
            .into_iter()
            .enumerate()
            .map(|(at, (skills, cost, (tools, vision), context_tokens, (availability, signals)))| {
                ExpertFacts {
                    skills,
                    cost,
                    capabilities: Capabilities { tools, vision, ..Capabilities::default() },
                    context_tokens,
                    availability,
                    signals: Arc::new(signals),
                    ..ExpertFacts::new(name(at))
                }
            })
            .collect(),
    })
}

fn request() -> impl Strategy<Value = Request> {
    let weights = proptest::collection::vec(0.01f32..1.0, CATEGORIES);
    let features = (weights, vector(), vector()).prop_map(|(weights, embedding, state)| Features {
        embedding,
        state,
        probabilities: weights.iter().map(|w| w / weights.iter().sum::<f32>()).collect(),
        tokens: 8,
        ..Features::default()
    });
    let live = (0.0f32..2.0, proptest::option::of(1.0f32..500.0), -0.1f32..0.1)
        .prop_map(|(load, latency_ms, bias)| Live { load, latency_ms, resident: None, wait_ms: None, bias });
    let live = proptest::collection::vec(live, NAMES.len()).prop_map(Arc::from);
    let previous = proptest::collection::vec(((0..NAMES.len()).prop_map(name), 0.0f32..1.0), 0..3);
    let needs = (any::<bool>(), any::<bool>(), 0u32..9_000).prop_map(|(tools, vision, context_tokens)| {
        Needs { tools, vision, context_tokens, ..Needs::default() }
    });
    let held_by = proptest::option::of((0..NAMES.len()).prop_map(name));
    let parts =
        (proptest::option::of(features), needs, held_by, proptest::option::of(0.0f32..1.0), live, previous);
    parts.prop_map(|(features, needs, held_by, lambda, live, previous)| Request {
        features,
        needs,
        held_by,
        lambda,
        live,
        previous: previous.into(),
        ..Request::default()
    })
}

/// Every kind of policy, each under modifiers that can work on it.
fn spec() -> impl Strategy<Value = RouteSpec> {
    let by_score = [
        serde_json::json!({"kind": "coe", "uncertain": {"threshold": 0.4, "robust": "b"}}),
        serde_json::json!({"kind": "coe", "hard": true, "lambda": 0.1}),
        serde_json::json!({"kind": "cost_quality", "lambda": 0.2}),
        serde_json::json!({"kind": "cost_quality", "pair": {"strong": "a", "weak": "c", "threshold": 0.1}}),
        serde_json::json!({"kind": "gates", "robust": {"expert": "d"}}),
        serde_json::json!({"kind": "glider", "p": 0.2}),
        serde_json::json!({"kind": "router_retriever", "pooling": "max"}),
    ];
    let modifiers = [
        serde_json::json!({}),
        serde_json::json!({"stickiness": {"rho": 0.5}, "balance": {}}),
        serde_json::json!({"ties": {"within": 0.2, "by": ["load", "latency", "price"]}}),
        serde_json::json!({"adaptive": {"mass": 0.5}, "explore": {"share": 0.5}}),
        serde_json::json!({"adaptive": {"mass": 0.5, "by": "categories"}, "explore": {"share": 0.5, "within": 0.1}}),
    ];
    let drawn = serde_json::json!({"kind": "static", "order": [
        {"expert": "a", "weight": 2.0}, {"expert": "b", "weight": 0.5}, {"expert": "c"},
    ]});
    let drawn = (Just(drawn), Just(serde_json::json!({"explore": {"share": 0.3}})));
    let parts = prop_oneof![
        7 => (proptest::sample::select(by_score.to_vec()), proptest::sample::select(modifiers.to_vec())),
        1 => drawn,
    ];
    parts.prop_map(|(policy, modifiers)| {
        let spec = serde_json::json!({"id": "auto", "policy": policy, "modifiers": modifiers});
        serde_json::from_value(spec).unwrap()
    })
}

proptest! {
    /// What was decided can be computed again from its record, by the policy built anew from its settings.
    #[test]
    fn a_replayed_decision_has_the_same_plan(
        spec in spec(), request in request(), fleet in fleet(), seed: u64,
    ) {
        let route = |spec: &RouteSpec| Arc::new(Route::new(spec, &Gates::default()).unwrap());
        let planned = Planned::new(route(&spec), request, Arc::new(fleet), DecisionId(seed));
        let decision = Decision { planned: Some(Arc::new(planned)), ..Decision::example(DecisionId(seed)) };
        let recorded = decision.planned.as_ref().unwrap();
        let again = recorded.replay(route(&recorded.route.spec).policy.as_ref(), decision.id);
        prop_assert_eq!(&again, &recorded.plan);
    }
}
