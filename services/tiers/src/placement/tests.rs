use proptest::prelude::*;

use super::*;
use crate::sim::{Contestant, Cost, Trace, loads_per_1000};

fn fleet(nodes: usize, places: usize) -> Fleet {
    Fleet { nodes, places, imbalance: 1.0 }
}

/// Loads of all nodes, as the simulator counts them.
fn loads(placement: &Placement, requests: &[u32], places: usize) -> u32 {
    let of = |share: Vec<u32>| {
        let count = share.len() as f64 / 1000.0;
        let trace = Trace::from_order("node", share);
        (loads_per_1000(&trace, Contestant::Lru, places, &Cost::default()).unwrap() * count).round() as u32
    };
    placement.split(requests).into_iter().filter(|share| !share.is_empty()).map(of).sum()
}

/// The fewest loads of any placement of experts that each have one node, within the imbalance.
fn fewest(requests: &[u32], experts: usize, fleet: &Fleet) -> u32 {
    let most = requests.len() as f64 / fleet.nodes as f64 * (1.0 + fleet.imbalance);
    let all = (0..fleet.nodes.pow(experts as u32)).map(|code| {
        let home = |expert: usize| vec![code / fleet.nodes.pow(expert as u32) % fleet.nodes];
        Placement { nodes: fleet.nodes, homes: (0..experts).map(home).collect() }
    });
    let fair =
        all.filter(|placement| placement.split(requests).iter().all(|share| share.len() as f64 <= most));
    fair.map(|placement| loads(&placement, requests, fleet.places)).min().unwrap_or(u32::MAX)
}

#[test]
fn what_comes_together_is_spread_over_the_nodes() {
    // Two sets of four, each in turns for a while: two places on each of two nodes hold either set, if it is halved.
    let set = |first: u32| (first..first + 4).collect::<Vec<_>>().repeat(50);
    let requests = [set(0), set(4)].concat().repeat(4);
    let placement = advise(&requests, 8, &fleet(2, 2)).unwrap();
    assert_eq!(loads(&placement, &requests, 2), 8 * 4, "{placement:?}");
    // Each set on a node of its own never fits.
    let crowded = Placement { nodes: 2, homes: (0..8).map(|expert| vec![expert / 4]).collect() };
    assert_eq!(loads(&crowded, &requests, 2), requests.len() as u32);
}

#[test]
fn the_hottest_get_several_nodes_and_no_node_too_much() {
    let requests: Vec<u32> =
        (0..4_000).map(|i| if i % 5 < 3 { 0 } else { 1 + (i / 5 * 2 + i % 5) % 20 }).collect();
    let fleet = Fleet { nodes: 4, places: 2, imbalance: 0.25 };
    let placement = advise(&requests, 21, &fleet).unwrap();
    assert_eq!(placement.homes(0).len(), 3, "three fifths are over two quarters");
    assert!((1..21).all(|expert| placement.homes(expert).len() == 1));
    for share in placement.split(&requests) {
        assert!(share.len() <= 1_250, "{}", share.len());
    }
    assert_eq!(placement.by_node().iter().map(Vec::len).sum::<usize>(), 23);
}

#[test]
fn every_expert_has_a_node_even_if_nobody_asked_for_it() {
    let placement = advise(&[0, 0, 1], 6, &fleet(3, 1)).unwrap();
    assert!((1..6).all(|expert| placement.homes(expert).len() == 1));
    assert!(placement.by_node().iter().all(|node| node.len() >= 2), "{placement:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let said = |requests: &[u32], fleet: Fleet| advise(requests, 2, &fleet).unwrap_err().to_string();
    assert_eq!(said(&[], fleet(0, 1)), "nodes must be at least 1");
    assert_eq!(said(&[], fleet(1, 0)), "places must be at least 1");
    assert_eq!(said(&[0, 1, 2], fleet(1, 1)), "request 2 is for expert 2, and there are 2");
    let broken = Fleet { imbalance: f64::NAN, ..fleet(1, 1) };
    assert!(said(&[], broken).contains("imbalance is NaN"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn loads_are_near_the_fewest_possible(
        requests in prop::collection::vec(0..6_u32, 60..200),
        places in 1..3_usize,
    ) {
        let fleet = fleet(2, places);
        let placement = advise(&requests, 6, &fleet).unwrap();
        let (ours, best) = (loads(&placement, &requests, places), fewest(&requests, 6, &fleet));
        prop_assert!(f64::from(ours) <= 1.25 * f64::from(best), "{ours} loads, {best} are possible");
    }

    #[test]
    fn every_request_has_one_node(requests in prop::collection::vec(0..9_u32, 0..200), nodes in 1..5_usize) {
        let fleet = fleet(nodes, 2);
        let advised = advise(&requests, 9, &fleet).unwrap();
        for placement in [advised, Placement::in_turn(9, nodes), Placement::hashed(9, nodes), Placement::everywhere(9, nodes)] {
            let split = placement.split(&requests);
            prop_assert_eq!(split.len(), nodes);
            let mut all: Vec<u32> = split.concat();
            let mut asked = requests.clone();
            all.sort_unstable();
            asked.sort_unstable();
            prop_assert_eq!(all, asked);
            for (node, share) in split.iter().enumerate() {
                prop_assert!(share.iter().all(|expert| placement.homes(*expert).contains(&node)));
            }
        }
    }
}
