use proptest::prelude::*;

use super::*;
use crate::policy::{CoeConfig, Share, StaticConfig, UncertaintyConfig};
use crate::tests::{any_fleet, any_policy, any_request, asking, facts, fleet, id, names};
use crate::{Obstacle, PolicyConfig, Reason};

fn coe(modifiers: &Modifiers) -> Box<dyn Policy> {
    modifiers.over(PolicyConfig::Coe(CoeConfig::default()).build().unwrap()).unwrap()
}

fn only_ties(within: f32, by: &[TieKey]) -> Modifiers {
    Modifiers { ties: Some(TiesConfig { within, by: by.to_vec() }), ..Modifiers::default() }
}

fn live_of(load: f32, latency_ms: Option<f32>, resident: Option<u8>) -> Live {
    Live { load, latency_ms, resident, wait_ms: resident.map(|tiers| f32::from(tiers) * 700.0), bias: 0.0 }
}

#[test]
fn the_worked_example_of_ties_holds() {
    let fleet = fleet(
        vec![
            facts("a", &[0.80], 0.0),
            facts("b", &[0.78], 2.0),
            facts("c", &[0.76], 1.0),
            facts("d", &[0.6], 0.0),
        ],
        1,
    );
    let live = [0.9, 0.2, 0.25, 0.0].map(|load| live_of(load, None, None));
    let request = Request { live: live.into(), ..asking(&[1.0]) };
    let plan = coe(&only_ties(0.05, &[TieKey::Load, TieKey::Price])).plan(&request, &fleet, 0);
    assert_eq!(names(&plan), ["c", "b", "a", "d"]);
    assert_eq!(plan.changed_by, [Modifier::Ties]);
    let none = coe(&only_ties(0.0, &[TieKey::Load])).plan(&request, &fleet, 0);
    assert_eq!((names(&none)[0], none.changed_by.len()), ("a", 0));
}

#[test]
fn what_is_not_known_has_its_place_in_a_tie() {
    let fleet = fleet(vec![facts("a", &[0.8], 0.0), facts("b", &[0.8], 0.0), facts("c", &[0.8], 0.0)], 1);
    let live =
        [live_of(0.0, None, None), live_of(0.0, Some(900.0), Some(2)), live_of(0.0, Some(90.0), Some(3))];
    let request = Request { live: live.into(), ..asking(&[1.0]) };
    let by = |key| names(&coe(&only_ties(0.0, &[key])).plan(&request, &fleet, 0)).join("");
    assert_eq!(by(TieKey::Latency), "cba");
    // What is in no pool is always there.
    assert_eq!(by(TieKey::Residency), "abc");
    assert_eq!(by(TieKey::Wait), "abc");
}

#[test]
fn the_worked_example_of_stickiness_holds() {
    let modifiers = Modifiers { stickiness: Some(StickinessConfig { rho: 0.3 }), ..Modifiers::default() };
    let plan = |b: f32| {
        let fleet = fleet(vec![facts("a", &[0.55], 0.0), facts("b", &[b], 0.0)], 1);
        let request = Request { previous: [(id("a"), 0.8), (id("b"), 0.5)].into(), ..asking(&[1.0]) };
        coe(&modifiers).plan(&request, &fleet, 0)
    };
    let stays = plan(0.6);
    assert_eq!((names(&stays), &*stays.changed_by), (vec!["a", "b"], &[Modifier::Stickiness][..]));
    assert!((stays.candidates[0].score - 0.55).abs() < 1e-6, "the score that is shown is the policy's");
    assert_eq!(names(&plan(0.75)), ["b", "a"]);
}

#[test]
fn the_worked_example_of_the_adaptive_number_holds() {
    let modifiers = Modifiers { adaptive: Some(AdaptiveConfig::default()), ..Modifiers::default() };
    let fleet = fleet(vec![facts("a", &[0.7], 0.0), facts("b", &[0.6], 0.0), facts("c", &[0.2], 0.0)], 1);
    let plan = coe(&modifiers).plan(&asking(&[1.0]), &fleet, 0);
    assert_eq!(names(&plan), ["a", "b"]);
    assert_eq!((plan.rejected[0].expert.as_str(), plan.rejected[0].obstacle), ("c", Obstacle::Improbable));
    assert_eq!(plan.changed_by, [Modifier::Adaptive]);
}

#[test]
fn each_probable_category_keeps_its_best_expert() {
    let config = AdaptiveConfig { mass: 0.8, by: Mass::Categories, ..AdaptiveConfig::default() };
    let modifiers = Modifiers { adaptive: Some(config), ..Modifiers::default() };
    let fleet = fleet(
        vec![
            facts("code", &[0.9, 0.1, 0.0], 0.0),
            facts("all", &[0.8, 0.8, 0.8], 0.0),
            facts("math", &[0.1, 0.9, 0.0], 0.0),
            facts("law", &[0.2, 0.2, 0.9], 0.0),
        ],
        3,
    );
    let plan = coe(&modifiers).plan(&asking(&[0.5, 0.35, 0.15]), &fleet, 0);
    assert_eq!(names(&plan), ["code", "math"], "the third category is not needed for 0.8");
    let sure = coe(&modifiers).plan(&asking(&[0.9, 0.05, 0.05]), &fleet, 0);
    assert_eq!(names(&sure), ["code"]);
}

#[test]
fn balance_moves_towards_equal_shares_and_no_further_than_it_may() {
    let config = BalanceConfig { rate: 0.01, max: 0.2, window: 50 };
    let modifiers = Modifiers { balance: Some(config.clone()), ..Modifiers::default() };
    let policy = coe(&modifiers);
    // What the experts are good at overlaps; left alone, the first leads nine times in ten.
    let fleet = fleet(
        vec![facts("a", &[0.8, 0.5], 0.0), facts("b", &[0.7, 0.6], 0.0), facts("c", &[0.66, 0.62], 0.0)],
        2,
    );
    let mut balance = Balance::default();
    let lead = |balance: &Balance, seed: u64| {
        let p = crate::chance::unit(seed, "prompt") as f32 * 0.5 + 0.5;
        let live = ["a", "b", "c"].map(|e| Live { bias: balance.bias(&id(e)), ..Live::default() });
        policy.plan(&Request { live: live.into(), ..asking(&[p, 1.0 - p]) }, &fleet, seed)
    };
    for seed in 0..20_000 {
        let plan = lead(&balance, seed);
        balance.observe(&plan, &config);
    }
    let mut counts = [0u32; 3];
    for seed in 20_000..26_000 {
        let plan = lead(&balance, seed);
        counts[["a", "b", "c"].iter().position(|e| *e == names(&plan)[0]).unwrap()] += 1;
        balance.observe(&plan, &config);
    }
    for count in counts {
        assert!((1_700..=2_300).contains(&count), "{counts:?}");
    }
    // A gap that no allowed bias closes stays.
    let narrow = BalanceConfig { max: 0.01, ..config };
    let mut balance = Balance::default();
    for seed in 0..2_000 {
        balance.observe(&lead(&balance, seed), &narrow);
    }
    assert!(["a", "b", "c"].iter().all(|e| balance.bias(&id(e)).abs() <= 0.01));
}

#[test]
fn decisions_by_rule_teach_balance_nothing() {
    let uncertain =
        UncertaintyConfig { measure: crate::Uncertainty::Confidence, threshold: 0.0, robust: id("a") };
    let config = CoeConfig { uncertain: Some(uncertain), ..CoeConfig::default() };
    let plan = PolicyConfig::Coe(config).build().unwrap().plan(
        &asking(&[0.5, 0.5]),
        &fleet(vec![facts("a", &[0.1, 0.1], 0.0), facts("b", &[0.9, 0.9], 0.0)], 2),
        0,
    );
    assert_eq!(names(&plan), ["a", "b"]);
    let mut balance = Balance::default();
    balance.observe(&plan, &BalanceConfig { window: 1, ..BalanceConfig::default() });
    assert_eq!(balance, Balance::default());
}

#[test]
fn exploration_leads_as_often_as_it_says() {
    let modifiers =
        Modifiers { explore: Some(ExploreConfig { share: 0.2, within: Some(0.3) }), ..Modifiers::default() };
    let fleet = fleet(
        vec![
            facts("a", &[0.8], 0.0),
            facts("b", &[0.7], 0.0),
            facts("c", &[0.6], 0.0),
            facts("far", &[0.1], 0.0),
        ],
        1,
    );
    let policy = coe(&modifiers);
    let mut led = std::collections::BTreeMap::new();
    for seed in 0..20_000 {
        let plan = policy.plan(&asking(&[1.0]), &fleet, seed);
        *led.entry(names(&plan)[0].to_owned()).or_insert(0u32) += 1;
        let sum: f32 = plan.candidates.iter().map(|c| c.propensity.unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        let expected = if names(&plan)[0] == "a" { 0.8 } else { 0.1 };
        assert!((plan.candidates[0].propensity.unwrap() - expected).abs() < 1e-6);
        assert_eq!(plan.changed_by.is_empty(), names(&plan)[0] == "a");
    }
    // Three standard errors of a binomial with n = 20,000: 170 at p = 0.8, 128 at p = 0.1.
    assert!((15_830..=16_170).contains(&led["a"]), "{led:?}");
    assert!((1_872..=2_128).contains(&led["b"]) && (1_872..=2_128).contains(&led["c"]), "{led:?}");
    assert!(!led.contains_key("far"));
}

#[test]
fn exploration_over_a_draw_tells_the_whole_probability() {
    let share = |e: &str, weight| Share { expert: id(e), weight: Some(weight) };
    let fixed = StaticConfig { order: vec![share("a", 3.0), share("b", 1.0)] };
    let modifiers =
        Modifiers { explore: Some(ExploreConfig { share: 0.2, within: None }), ..Modifiers::default() };
    let policy = modifiers.over(PolicyConfig::Static(fixed).build().unwrap()).unwrap();
    let fleet = fleet(vec![facts("a", &[], 0.0), facts("b", &[], 0.0)], 0);
    let mut a = 0;
    for seed in 0..20_000 {
        let plan = policy.plan(&Request::default(), &fleet, seed);
        let p = plan.candidates.iter().find(|c| c.expert == id("a")).unwrap().propensity.unwrap();
        // 0.8 x 0.75 + 0.2 x 0.25
        assert!((p - 0.65).abs() < 1e-6);
        a += u32::from(names(&plan)[0] == "a");
    }
    assert!((12_798..=13_202).contains(&a), "{a}");
}

#[test]
fn impossible_settings_and_modifiers_without_work_are_refused_by_name() {
    let refused = |modifiers: Modifiers, policy: PolicyConfig| {
        modifiers.over(policy.build().unwrap()).err().unwrap().field
    };
    let coe = || PolicyConfig::Coe(CoeConfig::default());
    assert_eq!(refused(only_ties(-1.0, &[TieKey::Load]), coe()), "ties.within");
    assert_eq!(refused(only_ties(0.1, &[]), coe()), "ties.by");
    let explore =
        |share| Modifiers { explore: Some(ExploreConfig { share, within: None }), ..Modifiers::default() };
    assert_eq!(refused(explore(0.0), coe()), "explore.share");
    let fixed = StaticConfig { order: vec![Share { expert: id("a"), weight: None }] };
    assert_eq!(refused(only_ties(0.1, &[TieKey::Load]), PolicyConfig::Static(fixed)), "ties");
}

fn any_modifiers() -> impl Strategy<Value = Modifiers> {
    let stickiness = (0.0..=1.0f32).prop_map(|rho| StickinessConfig { rho });
    let adaptive = (0.1..=1.0f32, any::<bool>(), 0.05..2.0f32).prop_map(|(mass, categories, temperature)| {
        let by = if categories { Mass::Categories } else { Mass::Scores };
        AdaptiveConfig { mass, by, temperature }
    });
    // Those that settings can name.
    let keys = vec![TieKey::Load, TieKey::Latency, TieKey::Price];
    let ties = (0.0..0.3f32, prop::sample::subsequence(keys, 1..=3))
        .prop_map(|(within, by)| TiesConfig { within, by });
    let explore = (0.01..=0.5f32, prop::option::of(0.0..0.5f32))
        .prop_map(|(share, within)| ExploreConfig { share, within });
    let balance = Just(BalanceConfig::default());
    (
        prop::option::of(stickiness),
        prop::option::of(balance),
        prop::option::of(adaptive),
        prop::option::of(ties),
        prop::option::of(explore),
    )
        .prop_map(|(stickiness, balance, adaptive, ties, explore)| Modifiers {
            stickiness,
            balance,
            adaptive,
            ties,
            explore,
        })
}

/// The modifiers that the policy takes.
fn fitting(modifiers: &Modifiers, policy: &PolicyConfig) -> Box<dyn Policy> {
    let built = policy.build().unwrap();
    let by_score = built.ranks_by_score();
    let modifiers = if by_score {
        modifiers.clone()
    } else {
        Modifiers { explore: modifiers.explore.clone(), ..Modifiers::default() }
    };
    modifiers.over(built).unwrap()
}

proptest! {
    #[test]
    fn modified_plans_are_sound(
        (config, modifiers, fleet, request, seed) in
            (any_policy(), any_modifiers(), any_fleet(), any_request(), any::<u64>())
    ) {
        let plain = config.build().unwrap().plan(&request, &fleet, seed);
        let policy = fitting(&modifiers, &config);
        let plan = policy.plan(&request, &fleet, seed);
        prop_assert_eq!(&plan, &policy.plan(&request, &fleet, seed), "the same input gives the same plan");
        // Modifiers reorder and cut: everybody keeps score and reason, and nobody comes in.
        for candidate in &plan.candidates {
            let before = plain.candidates.iter().find(|c| c.expert == candidate.expert);
            let before = before.ok_or_else(|| TestCaseError::fail("a modifier let somebody in"))?;
            prop_assert_eq!((candidate.score, candidate.reason), (before.score, before.reason));
        }
        prop_assert_eq!(plan.candidates.is_empty(), plain.candidates.is_empty(), "a modifier left nobody");
        let everybody = |plan: &Plan| {
            let mut all: Vec<_> = plan.candidates.iter().map(|c| c.expert.clone()).collect();
            all.extend(plan.rejected.iter().map(|r| r.expert.clone()));
            all.sort();
            all
        };
        prop_assert_eq!(everybody(&plan), everybody(&plain));
        // Who leads by rule goes on leading.
        if let Some(first) = plain.first().filter(|c| matches!(c.reason, Reason::HeldSession | Reason::Robust)) {
            prop_assert_eq!(&plan.candidates[0].expert, &first.expert);
        }
        if plan.changed_by.is_empty() {
            let order = |plan: &Plan| plan.candidates.iter().map(|c| c.expert.clone()).collect::<Vec<_>>();
            prop_assert_eq!(order(&plan), order(&plain), "a change that nobody owns up to");
        }
    }

    #[test]
    fn ties_cost_no_more_than_they_may(
        (config, fleet, request, within) in (any_policy(), any_fleet(), any_request(), 0.0..0.3f32)
    ) {
        prop_assume!(config.build().unwrap().ranks_by_score());
        let by = [TieKey::Load, TieKey::Latency, TieKey::Price, TieKey::Residency, TieKey::Wait];
        let plan = fitting(&only_ties(within, &by), &config).plan(&request, &fleet, 0);
        let free = &plan.candidates[plan.pinned()..];
        let best = free.iter().map(|c| c.score).fold(f32::NEG_INFINITY, f32::max);
        prop_assert!(free.first().is_none_or(|leader| leader.score >= best - within));
    }

    #[test]
    fn propensities_sum_to_one(
        (config, fleet, request, seed, share, within) in
            (any_policy(), any_fleet(), any_request(), any::<u64>(), 0.01..=0.5f32, prop::option::of(0.0..0.5f32))
    ) {
        let modifiers = Modifiers { explore: Some(ExploreConfig { share, within }), ..Modifiers::default() };
        let plan = fitting(&modifiers, &config).plan(&request, &fleet, seed);
        let sum: f32 = plan.candidates.iter().map(|c| c.propensity.unwrap()).sum();
        prop_assert!(plan.candidates.is_empty() || (sum - 1.0).abs() < 1e-5, "{sum}");
        prop_assert!(plan.first().is_none_or(|leader| leader.propensity.unwrap() > 0.0));
    }

    #[test]
    fn a_modified_plan_survives_its_record(
        (config, modifiers, fleet, request, seed) in
            (any_policy(), any_modifiers(), any_fleet(), any_request(), any::<u64>())
    ) {
        let plan = fitting(&modifiers, &config).plan(&request, &fleet, seed);
        let json = serde_json::to_string(&(&request, &fleet, &config, &modifiers, &plan)).unwrap();
        let (request, fleet, config, modifiers, logged): (Request, Fleet, PolicyConfig, Modifiers, Plan) =
            serde_json::from_str(&json).unwrap();
        prop_assert_eq!(fitting(&modifiers, &config).plan(&request, &fleet, seed), logged);
    }
}
