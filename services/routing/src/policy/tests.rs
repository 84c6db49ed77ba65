use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::tests::{any_fleet, any_policy, any_request, asking, facts, fleet, id, names};
use crate::{Scorer, Signals};

fn coe(config: CoeConfig) -> Box<dyn Policy> {
    PolicyConfig::Coe(config).build().unwrap()
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

fn signalled(name: &str, signals: Signals) -> ExpertFacts {
    ExpertFacts { signals: signals.into(), ..facts(name, &[], 0.0) }
}

fn read(embedding: &[f32], state: &[f32]) -> Request {
    let features = Features {
        embedding: embedding.into(),
        state: state.into(),
        probabilities: [1.0].into(),
        ..Features::default()
    };
    Request { features: Some(features), ..Request::default() }
}

fn gate(v: &[f32]) -> Signals {
    Signals { gate: Some(v.into()), ..Signals::default() }
}

#[test]
fn the_worked_example_of_cost_quality_holds() {
    let scorer = Scorer { weights: [0.2, 0.0].into(), bias: 0.5, ..Scorer::default() };
    let mut big = facts("big", &[0.9], 10.0);
    big.signals = Signals { scorer: Some(scorer.into()), ..Signals::default() }.into();
    let fleet = fleet(vec![big, facts("small", &[0.7], 1.0), facts("none", &[0.0], 1.0)], 1);
    let at = |lambda| {
        let config = CostQualityConfig { lambda, ..CostQualityConfig::default() };
        PolicyConfig::CostQuality(config).build().unwrap()
    };
    let request = read(&[1.0, 0.0], &[]);
    let plan = at(0.1).plan(&request, &fleet, 0);
    assert_eq!(names(&plan), ["big", "small"]);
    assert!((plan.candidates[0].score - 0.7).abs() < 1e-6 && (plan.candidates[1].score - 0.69).abs() < 1e-6);
    assert_eq!((plan.rejected[0].expert.as_str(), plan.rejected[0].obstacle), ("none", Obstacle::NoEstimate));
    assert_eq!(names(&at(0.2).plan(&request, &fleet, 0)), ["small", "big"]);
    let wishing = Request { lambda: Some(0.2), ..request };
    assert_eq!(
        names(&at(0.1).plan(&wishing, &fleet, 0)),
        ["small", "big"],
        "the request's lambda goes first"
    );
}

#[test]
fn a_scorer_over_the_mapping_is_added_to_it_and_knows_the_length() {
    let signals = |length, over_mapping| {
        let scorer = Scorer { weights: [0.1, 0.0].into(), length, bias: -0.2, over_mapping };
        Signals { scorer: Some(scorer.into()), ..Signals::default() }
    };
    let with = |name, skill: &[f32], signals: Signals| ExpertFacts {
        signals: signals.into(),
        ..facts(name, skill, 0.0)
    };
    let fleet = fleet(
        vec![
            with("long", &[0.8], signals(0.1, true)),
            with("short", &[0.95], signals(-0.1, true)),
            with("unmapped", &[], signals(0.1, true)),
            with("beside", &[], signals(0.3, false)),
        ],
        1,
    );
    let policy = PolicyConfig::CostQuality(CostQualityConfig::default()).build().unwrap();
    let scores = |tokens| {
        let mut request = read(&[1.0, 0.0], &[]);
        request.features.as_mut().unwrap().tokens = tokens;
        let plan = policy.plan(&request, &fleet, 0);
        assert_eq!(plan.rejected.iter().map(|r| r.expert.as_str()).collect::<Vec<_>>(), ["unmapped"]);
        let score = |(name, score): (&str, f32)| (name.to_owned(), (score * 1e3).round() / 1e3);
        let candidates = plan.candidates.iter().map(|c| (c.expert.as_str(), c.score));
        candidates.map(score).collect::<Vec<_>>()
    };
    let wanted = |all: [(&str, f32); 3]| all.map(|(name, score)| (name.to_owned(), score));
    // 0.95 - 0.1 and 0.8 - 0.1; what stands alone is clamped: 0.1 - 0.2 < 0.
    assert_eq!(scores(0), wanted([("short", 0.85), ("long", 0.7), ("beside", 0.0)]));
    // ln(1 + 19) = 2.996; 0.3 ln 20 - 0.1 = 0.799.
    assert_eq!(scores(19), wanted([("long", 1.0), ("beside", 0.799), ("short", 0.55)]));
}

#[test]
fn of_a_pair_the_strong_one_leads_from_the_threshold_on() {
    let fleet =
        fleet(vec![facts("other", &[1.0], 0.0), facts("s", &[0.75], 3.0), facts("w", &[0.5], 1.0)], 1);
    let first = |threshold, lambda| {
        let pair = Some(PairConfig { strong: id("s"), weak: id("w"), threshold });
        let config = CostQualityConfig { pair, cost: CostScale::Absolute, ..CostQualityConfig::default() };
        let request = Request { lambda, ..asking(&[1.0]) };
        let plan = PolicyConfig::CostQuality(config).build().unwrap().plan(&request, &fleet, 0);
        assert_eq!(plan.rejected[0].obstacle, Obstacle::NotInPair);
        names(&plan)[0].to_owned()
    };
    assert_eq!(first(0.25, None), "s", "the threshold itself is enough");
    assert_eq!(first(0.26, None), "w");
    assert_eq!(first(0.0, Some(0.2)), "w", "a lambda of 0.2 asks for a gain of 0.2 (3 - 1) = 0.4");
    assert_eq!(first(0.9, Some(0.1)), "s");
}

#[test]
fn the_worked_example_of_gates_holds_and_who_has_none_is_told_so() {
    let narrow = gate(&[1.0]);
    let fleet = fleet(
        vec![
            signalled("a", gate(&[2.0, 2.0, 0.0, 0.0])),
            signalled("b", gate(&[2.0, 0.0, 2.0, 0.0])),
            signalled("bare", Signals::default()),
            signalled("narrow", narrow),
        ],
        1,
    );
    let policy = |robust| {
        let config = GatesConfig { robust, ..GatesConfig::default() };
        PolicyConfig::Gates(config).build().unwrap()
    };
    let request = read(&[], &[1.0, 1.0, -1.0, -1.0]);
    let plan = policy(None).plan(&request, &fleet, 0);
    assert_eq!(names(&plan), ["a", "b"]);
    assert!((plan.candidates[0].score - 0.880_8).abs() < 1e-3, "{}", plan.candidates[0].score);
    assert!(plan.rejected.iter().all(|r| r.obstacle == Obstacle::NoGate));
    assert_eq!(plan.rejected.len(), 2);

    let robust = |below| Some(RobustConfig { expert: id("bare"), below });
    assert_eq!(names(&policy(robust(None)).plan(&request, &fleet, 0)), ["a", "b"]);
    let doubtful = policy(robust(Some(2.1))).plan(&request, &fleet, 0);
    assert_eq!(names(&doubtful), ["bare", "a", "b"]);
    assert_eq!((doubtful.basis, doubtful.candidates[0].reason), (Basis::Uncertain, Reason::Robust));
    let unread = policy(robust(None)).plan(&read(&[], &[]), &fleet, 0);
    assert_eq!(names(&unread), ["bare"], "without a state nobody has a score");
    assert!(unread.rejected.iter().all(|r| r.obstacle == Obstacle::Unread));
}

#[test]
fn a_certain_description_outweighs_the_gates() {
    let with = |s: f32, g: f32| {
        // LN of (1, -1, 0, 0) is (r, -r, 0, 0) with r = sqrt(2); along the state it gives s.
        Signals {
            gate: Some([s, -s, 0.0, 0.0].into()),
            description: Some([g, (1.0 - g * g).sqrt()].into()),
            ..gate(&[])
        }
    };
    let plan = |g| {
        let fleet = fleet(vec![signalled("a", with(1.0, 0.5)), signalled("b", with(-1.0, g))], 1);
        let policy = PolicyConfig::Glider(GliderConfig::default()).build().unwrap();
        policy.plan(&read(&[1.0, 0.0], &[0.1, -0.1, 0.0, 0.0]), &fleet, 0)
    };
    let mild = plan(0.55);
    assert_eq!((names(&mild)[0], mild.candidates[0].reason), ("a", Reason::GateAndDescription));
    let certain = plan(0.85);
    assert_eq!((names(&certain)[0], certain.candidates[0].reason), ("b", Reason::Description));
}

#[test]
fn the_mean_and_the_best_of_the_pilots_differ() {
    let pilots = |all: &[[f32; 2]]| Signals {
        pilots: all.iter().map(|p| Arc::from(*p)).collect(),
        ..Signals::default()
    };
    let fleet = fleet(
        vec![
            signalled("a", pilots(&[[1.0, 0.0], [0.0, 1.0]])),
            signalled("b", pilots(&[[0.8, 0.6]])),
            signalled("c", pilots(&[])),
        ],
        1,
    );
    let plan = |pooling| {
        let config = RouterRetrieverConfig { pooling, ..RouterRetrieverConfig::default() };
        PolicyConfig::RouterRetriever(config).build().unwrap().plan(&read(&[1.0, 0.0], &[]), &fleet, 0)
    };
    let mean = plan(PilotPooling::Mean);
    assert_eq!(names(&mean), ["b", "a"]);
    assert!((mean.candidates[1].score - 0.5).abs() < 1e-6);
    assert_eq!(mean.rejected[0].obstacle, Obstacle::NoPilots);
    assert_eq!(names(&plan(PilotPooling::Max)), ["a", "b"]);
}

#[test]
fn drawn_experts_have_their_share_as_propensity() {
    let share = |e: &str, weight| Share { expert: id(e), weight };
    let order = vec![share("a", Some(3.0)), share("b", Some(1.0)), share("spare", None)];
    let policy = PolicyConfig::Static(StaticConfig { order }).build().unwrap();
    let fleet = fleet(vec![facts("a", &[], 0.0), facts("b", &[], 0.0), facts("spare", &[], 0.0)], 0);
    let plan = policy.plan(&Request::default(), &fleet, 5);
    let of = |e: &str| plan.candidates.iter().find(|c| c.expert.as_str() == e).unwrap().propensity;
    assert_eq!((of("a"), of("b"), of("spare")), (Some(0.75), Some(0.25), Some(0.0)));
}

/// Whether a decision names the expert: its score moves others by the policy's own rule.
fn names_expert(config: &PolicyConfig, fleet: &Fleet, gone: &ExpertId) -> bool {
    match config {
        // The dearest expert is the unit of cost.
        PolicyConfig::CostQuality(c) if c.cost == CostScale::Relative => {
            let dearest = fleet.experts.iter().map(|e| e.cost).fold(0.0, f32::max);
            fleet.get(gone.as_str()).is_some_and(|e| e.cost >= dearest)
        }
        _ => false,
    }
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
        prop_assume!(!names_expert(&config, &fleet, &gone));
        let policy = config.build().unwrap();
        // Live states stand in the order of the fleet, and no policy looks at them.
        let request = Request { live: Arc::default(), ..request };
        let with = policy.plan(&request, &fleet, seed);
        let mut smaller = fleet.clone();
        smaller.experts.retain(|e| e.id != gone);
        let without = policy.plan(&request, &smaller, seed);
        let reasons = |plan: &Plan| {
            let others = plan.candidates.iter().filter(|c| c.expert != gone);
            let mut all: Vec<_> = others.map(|c| (c.expert.clone(), c.reason)).collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        // Where the expert alone made another rule apply (a certain description, a score that is good enough), the
        // reasons of the others say so.
        prop_assume!(reasons(&with) == reasons(&without));
        let rest: Vec<_> = with.candidates.iter().filter(|c| c.expert != gone).map(|c| &c.expert).collect();
        let same: Vec<_> = without.candidates.iter().map(|c| &c.expert).collect();
        prop_assert_eq!(rest, same);
    }

    #[test]
    fn the_order_of_the_experts_is_irrelevant(
        (config, fleet, request, seed, turn) in
            (any_policy(), any_fleet(), any_request(), any::<u64>(), 0..12usize)
    ) {
        prop_assume!(config.build().unwrap().ranks_by_score() && !fleet.experts.is_empty());
        let policy = config.build().unwrap();
        let request = Request { held_by: None, ..request };
        let mut turned = fleet.clone();
        turned.experts.rotate_left(turn % fleet.experts.len());
        let (plan, other) = (policy.plan(&request, &fleet, seed), policy.plan(&request, &turned, seed));
        prop_assert_eq!(plan.candidates, other.candidates);
        prop_assert_eq!(plan.basis, other.basis);
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
