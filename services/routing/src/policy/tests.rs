use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{Capabilities, Features};

fn id(name: &str) -> ExpertId {
    ExpertId::new(name).unwrap()
}

fn facts(name: &str, skills: &[f32], cost: f32) -> ExpertFacts {
    ExpertFacts {
        id: id(name),
        skills: skills.to_vec(),
        cost,
        capabilities: Capabilities::default(),
        context_tokens: 0,
        availability: Availability::Ready,
    }
}

fn fleet(mut experts: Vec<ExpertFacts>, categories: usize) -> Fleet {
    experts.sort_by(|a, b| a.id.cmp(&b.id));
    Fleet { categories: (0..categories).map(|i| Arc::from(format!("c{i}"))).collect(), experts }
}

fn asking(p: &[f32]) -> Request {
    let features = Features { embedding: Arc::new([]), probabilities: p.into(), tokens: 8, truncated: false };
    Request { features: Some(features), ..Request::default() }
}

fn coe(config: CoeConfig) -> Box<dyn Policy> {
    PolicyConfig::Coe(config).build().unwrap()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.candidates.iter().map(|c| c.expert.as_str()).collect()
}

#[test]
fn the_worked_example_of_the_soft_mapping_holds() {
    let fleet = fleet(vec![facts("a", &[0.9, 0.2], 0.0), facts("b", &[0.5, 0.8], 0.0)], 2);
    let plan = coe(CoeConfig::default()).plan(&asking(&[0.7, 0.3]), &fleet, 0);
    assert_eq!(names(&plan), ["a", "b"]);
    assert!((plan.candidates[0].score - 0.69).abs() < 1e-6);
    assert!((plan.candidates[1].score - 0.59).abs() < 1e-6);
    assert_eq!(names(&coe(CoeConfig::default()).plan(&asking(&[0.4, 0.6]), &fleet, 0)), ["b", "a"]);
}

#[test]
fn the_hard_mapping_looks_at_the_top_category_alone() {
    let fleet = fleet(vec![facts("a", &[0.6, 0.0, 0.0], 0.0), facts("b", &[0.5, 1.0, 1.0], 0.0)], 3);
    let request = asking(&[0.4, 0.3, 0.3]);
    assert_eq!(names(&coe(CoeConfig::default()).plan(&request, &fleet, 0)), ["b", "a"]);
    let plan = coe(CoeConfig { hard: true, ..CoeConfig::default() }).plan(&request, &fleet, 0);
    assert_eq!(names(&plan), ["a", "b"]);
    assert_eq!(plan.candidates[0].reason, Reason::CategorySkill);
}

#[test]
fn a_price_turns_the_order_once_lambda_outweighs_the_skill() {
    let fleet = fleet(vec![facts("big", &[0.9], 10.0), facts("small", &[0.8], 1.0)], 1);
    let with = |lambda| coe(CoeConfig { lambda, ..CoeConfig::default() }).plan(&asking(&[1.0]), &fleet, 0);
    assert_eq!(names(&with(0.01)), ["big", "small"]);
    assert_eq!(names(&with(0.02)), ["small", "big"]);
}

#[test]
fn doubt_puts_the_robust_expert_first_and_keeps_the_others_in_order() {
    let fleet = fleet(
        vec![facts("a", &[0.9, 0.2], 0.0), facts("b", &[0.5, 0.8], 0.0), facts("general", &[0.1, 0.1], 0.0)],
        2,
    );
    let policy = coe(CoeConfig {
        uncertain: Some(UncertaintyConfig {
            measure: crate::Uncertainty::Confidence,
            threshold: 0.4,
            robust: id("general"),
        }),
        ..CoeConfig::default()
    });
    let doubtful = policy.plan(&asking(&[0.55, 0.45]), &fleet, 0);
    assert_eq!(names(&doubtful), ["general", "b", "a"]);
    assert_eq!(doubtful.basis, Basis::Uncertain);
    let sure = policy.plan(&asking(&[0.9, 0.1]), &fleet, 0);
    assert_eq!(names(&sure), ["a", "b", "general"]);
    assert_eq!(sure.basis, Basis::Confident);
    let unread = policy.plan(&Request::default(), &fleet, 0);
    assert_eq!(names(&unread), ["general"]);
    assert_eq!(unread.basis, Basis::Unread);
}

#[test]
fn who_cannot_answer_is_rejected_with_the_reason_before_any_score() {
    let mut sees = facts("sees", &[0.1], 0.0);
    sees.capabilities.vision = true;
    let mut short = facts("short", &[0.9], 0.0);
    short.capabilities.vision = true;
    short.context_tokens = 100;
    let mut drained = facts("drained", &[1.0], 0.0);
    drained.availability = Availability::Draining;
    let fleet = fleet(vec![facts("blind", &[1.0], 0.0), sees, short, drained], 1);
    let mut request = asking(&[1.0]);
    request.needs = Needs { vision: true, context_tokens: 101, ..Needs::default() };
    let plan = coe(CoeConfig::default()).plan(&request, &fleet, 0);
    assert_eq!(names(&plan), ["sees"]);
    let against: Vec<_> = plan.rejected.iter().map(|r| (r.expert.as_str(), r.obstacle)).collect();
    let expected =
        [("blind", Obstacle::Vision), ("drained", Obstacle::Draining), ("short", Obstacle::Context)];
    assert_eq!(against, expected);
}

#[test]
fn a_tool_loop_stays_with_its_expert_even_while_it_drains() {
    let mut drained = facts("drained", &[0.1], 0.0);
    drained.availability = Availability::Draining;
    let fleet = fleet(vec![facts("better", &[0.9], 0.0), drained], 1);
    let mut request = asking(&[1.0]);
    request.held_by = Some(id("drained"));
    let plan = coe(CoeConfig::default()).plan(&request, &fleet, 0);
    assert_eq!(names(&plan), ["drained", "better"]);
    assert_eq!(plan.basis, Basis::Session);
    assert!(plan.rejected.is_empty());
}

#[test]
fn static_weights_are_shares() {
    let order = vec![
        Share { expert: id("a"), weight: Some(3.0) },
        Share { expert: id("b"), weight: Some(1.0) },
        Share { expert: id("spare"), weight: None },
    ];
    let policy = PolicyConfig::Static(StaticConfig { order }).build().unwrap();
    let fleet = fleet(vec![facts("a", &[], 0.0), facts("b", &[], 0.0), facts("spare", &[], 0.0)], 0);
    let mut a = 0;
    for seed in 0..20_000 {
        let plan = policy.plan(&Request::default(), &fleet, seed);
        a += usize::from(names(&plan)[0] == "a");
        assert_eq!(names(&plan)[2], "spare");
    }
    // Three standard errors of a binomial with p = 0.75 and n = 20,000 are 184.
    assert!((14_816..=15_184).contains(&a), "{a}");
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let lambda = PolicyConfig::Coe(CoeConfig { lambda: -1.0, ..CoeConfig::default() });
    assert_eq!(lambda.build().err().unwrap().field, "lambda");
    let empty = PolicyConfig::Static(StaticConfig::default());
    assert_eq!(empty.build().err().unwrap().field, "order");
    let share = |e: &str| Share { expert: id(e), weight: None };
    let twice = PolicyConfig::Static(StaticConfig { order: vec![share("a"), share("a")] });
    assert!(twice.build().err().unwrap().to_string().contains("`a` twice"));
}

prop_compose! {
    fn any_facts(categories: usize)(
        n in 0..1000u32,
        skills in prop::collection::vec(0.0..=1.0f32, categories),
        cost in 0.0..50.0f32,
        tools in any::<bool>(),
        vision in any::<bool>(),
        context_tokens in prop::sample::select(vec![0u32, 100, 4096]),
        availability in prop::sample::select(vec![
            Availability::Ready, Availability::Ready, Availability::Draining, Availability::Unhealthy,
        ]),
    ) -> ExpertFacts {
        ExpertFacts {
            id: id(&format!("e{n}")),
            skills,
            cost,
            capabilities: Capabilities { tools, vision, ..Capabilities::default() },
            context_tokens,
            availability,
        }
    }
}

prop_compose! {
    fn any_fleet()(mut experts in prop::collection::vec(any_facts(4), 0..12)) -> Fleet {
        experts.sort_by(|a, b| a.id.cmp(&b.id));
        experts.dedup_by(|a, b| a.id == b.id);
        fleet(experts, 4)
    }
}

prop_compose! {
    fn any_request()(
        logits in prop::option::of(prop::collection::vec(-5.0..5.0f32, 4)),
        tools in any::<bool>(),
        vision in any::<bool>(),
        context_tokens in 0..5000u32,
        held in prop::option::of(0..1000u32),
    ) -> Request {
        let features = logits.map(|l| {
            let sum: f32 = l.iter().map(|x| x.exp()).sum();
            let probabilities = l.iter().map(|x| x.exp() / sum).collect();
            Features { embedding: Arc::new([]), probabilities, tokens: 1, truncated: false }
        });
        let needs = Needs { tools, vision, context_tokens, ..Needs::default() };
        Request { features, needs, held_by: held.map(|n| id(&format!("e{n}"))) }
    }
}

/// Every kind of policy, with settings that name experts of [`any_fleet`].
fn any_policy() -> impl Strategy<Value = PolicyConfig> {
    let robust = (0..1000u32, 0.0..=1.0f32, any::<bool>()).prop_map(|(n, threshold, entropy)| {
        let measure = if entropy { crate::Uncertainty::Entropy } else { crate::Uncertainty::Confidence };
        UncertaintyConfig { measure, threshold, robust: id(&format!("e{n}")) }
    });
    let coe = (0.0..0.1f32, any::<bool>(), prop::option::of(robust))
        .prop_map(|(lambda, hard, uncertain)| PolicyConfig::Coe(CoeConfig { lambda, hard, uncertain }));
    let order = prop::collection::btree_map(0..1000u32, prop::option::of(0.1..10.0f32), 1..8);
    let fixed = order.prop_map(|shares| {
        let share = |(n, weight)| Share { expert: id(&format!("e{n}")), weight };
        PolicyConfig::Static(StaticConfig { order: shares.into_iter().map(share).collect() })
    });
    prop_oneof![coe, fixed]
}

proptest! {
    #[test]
    fn plans_are_sound((config, fleet, request, seed) in (any_policy(), any_fleet(), any_request(), any::<u64>())) {
        let policy = config.build().unwrap();
        let plan = policy.plan(&request, &fleet, seed);
        prop_assert_eq!(&plan, &policy.plan(&request, &fleet, seed), "the same input gives the same plan");
        for (at, candidate) in plan.candidates.iter().enumerate() {
            let facts = fleet.get(candidate.expert.as_str());
            let facts = facts.ok_or_else(|| TestCaseError::fail("a candidate is not in the fleet"))?;
            prop_assert!(request.needs.unmet_by(facts).is_none(), "a candidate cannot answer");
            prop_assert!(candidate.score.is_finite());
            let held = candidate.reason == Reason::HeldSession;
            prop_assert!(held || facts.availability == Availability::Ready);
            prop_assert!(!held || at == 0);
            let twice = plan.candidates[..at].iter().any(|c| c.expert == candidate.expert);
            prop_assert!(!twice, "an expert stands in the plan twice");
            let rejected = plan.rejected.iter().any(|r| r.expert == candidate.expert);
            prop_assert!(!rejected, "an expert is both candidate and rejected");
        }
    }

    #[test]
    fn an_expert_more_or_less_moves_only_decisions_that_name_it(
        (config, fleet, request, seed, pick) in
            (any_policy(), any_fleet(), any_request(), any::<u64>(), any::<prop::sample::Index>())
    ) {
        prop_assume!(!fleet.experts.is_empty());
        let gone = fleet.experts[pick.index(fleet.experts.len())].id.clone();
        let policy = config.build().unwrap();
        let with = policy.plan(&request, &fleet, seed);
        let mut smaller = fleet.clone();
        smaller.experts.retain(|e| e.id != gone);
        let without = policy.plan(&request, &smaller, seed);
        let rest: Vec<_> = with.candidates.iter().filter(|c| c.expert != gone).map(|c| &c.expert).collect();
        let same: Vec<_> = without.candidates.iter().map(|c| &c.expert).collect();
        prop_assert_eq!(rest, same);
    }

    #[test]
    fn a_plan_survives_its_record((config, fleet, request, seed) in (any_policy(), any_fleet(), any_request(), any::<u64>())) {
        let policy = config.build().unwrap();
        let plan = policy.plan(&request, &fleet, seed);
        let json = serde_json::to_string(&(&request, &fleet, &config, &plan)).unwrap();
        let (request, fleet, config, logged): (Request, Fleet, PolicyConfig, Plan) = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(config.build().unwrap().plan(&request, &fleet, seed), logged);
    }
}
