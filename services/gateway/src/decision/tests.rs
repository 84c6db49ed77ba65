use admission::Gates;
use proptest::prelude::*;
use routing::policy::{CoeConfig, Share, StaticConfig};
use routing::{Availability, Capabilities, ExpertFacts, Features, Fleet, Needs, PolicyConfig, Request};

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

fn name(at: usize) -> ExpertId {
    ExpertId::new(NAMES[at]).unwrap()
}

fn fleet() -> impl Strategy<Value = Fleet> {
    let weights = proptest::collection::vec(0.0f32..=1.0, CATEGORIES);
    let availability =
        prop_oneof![Just(Availability::Ready), Just(Availability::Draining), Just(Availability::Unhealthy)];
    let abilities = (any::<bool>(), any::<bool>());
    let facts = (weights, 0.0f32..10.0, abilities, 0u32..9_000, availability);
    proptest::collection::vec(facts, 0..=NAMES.len()).prop_map(|experts| Fleet {
        categories: ["x", "y", "z"].map(Arc::from).into(),
        experts: experts
            .into_iter()
            .enumerate()
            .map(|(at, (skills, cost, (tools, vision), context_tokens, availability))| ExpertFacts {
                id: name(at),
                skills,
                cost,
                capabilities: Capabilities { tools, vision, ..Capabilities::default() },
                context_tokens,
                availability,
            })
            .collect(),
    })
}

fn request() -> impl Strategy<Value = Request> {
    let features = proptest::collection::vec(0.01f32..1.0, CATEGORIES).prop_map(|weights| Features {
        embedding: Arc::new([]),
        probabilities: weights.iter().map(|w| w / weights.iter().sum::<f32>()).collect(),
        tokens: 8,
        truncated: false,
    });
    let needs = (any::<bool>(), any::<bool>(), 0u32..9_000).prop_map(|(tools, vision, context_tokens)| {
        Needs { tools, vision, context_tokens, ..Needs::default() }
    });
    let held_by = proptest::option::of((0..NAMES.len()).prop_map(name));
    let parts = (proptest::option::of(features), needs, held_by);
    parts.prop_map(|(features, needs, held_by)| Request { features, needs, held_by })
}

fn policy() -> impl Strategy<Value = PolicyConfig> {
    let coe = (0.0f32..0.5, any::<bool>())
        .prop_map(|(lambda, hard)| PolicyConfig::Coe(CoeConfig { lambda, hard, ..CoeConfig::default() }));
    let shares = proptest::collection::vec(0.1f32..5.0, 1..=NAMES.len()).prop_map(|weights| {
        let share = |(at, weight)| Share { expert: name(at), weight: Some(weight) };
        let order = weights.into_iter().enumerate().map(share).collect();
        PolicyConfig::Static(StaticConfig { order })
    });
    prop_oneof![coe, shares]
}

proptest! {
    /// What was decided can be computed again from its record, by the policy built anew from its settings.
    #[test]
    fn a_replayed_decision_has_the_same_plan(
        policy in policy(), request in request(), fleet in fleet(), seed: u64,
    ) {
        let spec = serde_json::json!({"id": "auto", "policy": policy});
        let spec: RouteSpec = serde_json::from_value(spec).unwrap();
        let route = |spec: &RouteSpec| Arc::new(Route::new(spec, &Gates::default()).unwrap());
        let planned = Planned::new(route(&spec), request, Arc::new(fleet), DecisionId(seed));
        let decision = Decision { planned: Some(Arc::new(planned)), ..Decision::example(DecisionId(seed)) };
        let recorded = decision.planned.as_ref().unwrap();
        let again = recorded.replay(route(&recorded.route.spec).policy.as_ref(), decision.id);
        prop_assert_eq!(&again, &recorded.plan);
    }
}
