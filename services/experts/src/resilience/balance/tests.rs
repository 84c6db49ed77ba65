use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn candidate(at: usize, weight: f64) -> Candidate {
    Candidate { at, weight, outstanding: 0, latency: Some(0.1), key: key(&format!("http://host-{at}/v1")) }
}

fn fleet(weights: &[f64]) -> Vec<Candidate> {
    weights.iter().enumerate().map(|(at, weight)| candidate(at, *weight)).collect()
}

fn pick(how: Balancing, fleet: &[Candidate], affinity: Option<u64>, rng: &mut fastrand::Rng) -> usize {
    choose(how, &fleet.iter().copied(), affinity, rng).unwrap()
}

/// The share of each endpoint in `n` choices made one after the other, with nothing in progress.
fn shares(how: Balancing, fleet: &[Candidate], n: usize) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut counts = vec![0.0; fleet.len()];
    for request in 0..n {
        counts[pick(how, fleet, Some(mix(request as u64)), &mut rng)] += 1.0 / n as f64;
    }
    counts
}

/// The shares of the calls in progress after `n` of them have begun and none has ended.
fn held(how: Balancing, mut fleet: Vec<Candidate>, n: usize) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(2);
    for request in 0..n {
        let at = pick(how, &fleet, Some(mix(request as u64)), &mut rng);
        fleet[at].outstanding += 1;
    }
    fleet.iter().map(|c| c.outstanding as f64 / n as f64).collect()
}

fn near(found: &[f64], expected: &[f64]) -> bool {
    found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 0.03)
}

#[test]
fn every_way_respects_weights() {
    let weights = [1.0, 2.0, 5.0];
    let expected = [0.125, 0.25, 0.625];
    for how in [Balancing::Weighted, Balancing::P2c, Balancing::PrefixAffinity] {
        let shares = shares(how, &fleet(&weights), 20_000);
        assert!(near(&shares, &expected), "{how:?}: {shares:?}");
    }
    for how in [Balancing::LeastOutstanding, Balancing::P2c, Balancing::PrefixAffinity] {
        let held = held(how, fleet(&weights), 2_000);
        assert!(near(&held, &expected), "{how:?}: {held:?}");
    }
}

#[test]
fn equals_share() {
    for how in [Balancing::P2c, Balancing::LeastOutstanding, Balancing::Weighted, Balancing::PrefixAffinity] {
        let shares = shares(how, &fleet(&[1.0; 4]), 20_000);
        assert!(near(&shares, &[0.25; 4]), "{how:?}: {shares:?}");
    }
}

#[test]
fn two_choices_prefer_the_faster() {
    let mut fleet = fleet(&[1.0; 4]);
    fleet[2].latency = Some(0.5);
    let shares = shares(Balancing::P2c, &fleet, 20_000);
    assert!(shares[2] == 0.0, "{shares:?}: it loses against each of the others");
    fleet[2].latency = Some(0.105);
    let shares = self::shares(Balancing::P2c, &fleet, 20_000);
    assert!(near(&shares, &[0.25; 4]), "{shares:?}: noise is no reason");
    fleet[2].latency = None;
    assert!(near(&self::shares(Balancing::P2c, &fleet, 20_000), &[0.25; 4]), "a new one is tried");
    let held = held(Balancing::P2c, fleet, 1_000);
    assert!(near(&held, &[0.25; 4]), "{held:?}");
}

#[test]
fn no_candidate_or_one() {
    let mut rng = fastrand::Rng::with_seed(0);
    assert_eq!(choose(Balancing::P2c, &[].iter().copied(), None, &mut rng), None);
    for how in [Balancing::P2c, Balancing::PrefixAffinity] {
        assert_eq!(pick(how, &[candidate(7, 1.0)], Some(1), &mut rng), 7);
    }
    assert!(pick(Balancing::PrefixAffinity, &fleet(&[1.0, 1.0]), None, &mut rng) < 2);
}

proptest! {
    /// An endpoint that goes moves the keys that it had, and no other key.
    #[test]
    fn rendezvous_moves_as_few_keys_as_can_be(
        weights in prop::collection::vec(0.5f64..4.0, 2..12),
        gone in any::<prop::sample::Index>(),
        keys in prop::collection::vec(any::<u64>(), 200),
    ) {
        let all = fleet(&weights);
        let gone = gone.index(all.len());
        let rest: Vec<Candidate> = all.iter().copied().filter(|c| c.at != gone).collect();
        let mut rng = fastrand::Rng::with_seed(0);
        for affinity in keys {
            let before = pick(Balancing::PrefixAffinity, &all, Some(affinity), &mut rng);
            let after = pick(Balancing::PrefixAffinity, &rest, Some(affinity), &mut rng);
            prop_assert!(before == after || before == gone);
        }
    }

    /// Whatever the keys are, no endpoint gets more than a quarter over its share, rounded up.
    #[test]
    fn affinity_keeps_to_the_bound(
        weights in prop::collection::vec(0.5f64..4.0, 2..8),
        keys in prop::collection::vec(0u64..3, 1..300),
    ) {
        let mut fleet = fleet(&weights);
        let total: f64 = weights.iter().sum();
        let mut rng = fastrand::Rng::with_seed(0);
        for (calls, affinity) in keys.iter().enumerate() {
            let at = pick(Balancing::PrefixAffinity, &fleet, Some(mix(*affinity)), &mut rng);
            fleet[at].outstanding += 1;
            let bound = (BOUND * (calls + 1) as f64 * fleet[at].weight / total).ceil();
            prop_assert!(fleet[at].outstanding as f64 <= bound);
        }
    }

    #[test]
    fn the_least_loaded_is_the_least_loaded(
        loads in prop::collection::vec((0usize..20, 0.5f64..4.0), 1..10),
        seed: u64,
    ) {
        let fleet: Vec<Candidate> = loads
            .iter()
            .enumerate()
            .map(|(at, (outstanding, weight))| Candidate { outstanding: *outstanding, ..candidate(at, *weight) })
            .collect();
        let mut rng = fastrand::Rng::with_seed(seed);
        let at = pick(Balancing::LeastOutstanding, &fleet, None, &mut rng);
        prop_assert!(fleet.iter().all(|c| c.load() >= fleet[at].load()));
    }
}

#[test]
fn keys_stay_where_they_are_while_there_is_room() {
    let fleet = fleet(&[1.0; 5]);
    let mut rng = fastrand::Rng::with_seed(0);
    let mut homes = HashMap::new();
    for request in 0..1_000u64 {
        let affinity = mix(request % 50);
        let at = pick(Balancing::PrefixAffinity, &fleet, Some(affinity), &mut rng);
        assert_eq!(*homes.entry(affinity).or_insert(at), at);
    }
}
