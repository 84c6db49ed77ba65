//! Which experts to keep together on a node.
//!
//! Where several nodes serve the same experts, loads are fewest when those asked for at the same time are not crowded
//! on one node while another has room. [`advise`] finds such a placement from recorded requests. It is pure; the same
//! requests give the same advice.

mod search;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// What a placement is for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// Nodes; at least 1.
    pub nodes: usize,
    /// Experts that fit on the accelerator of each node; at least 1.
    pub places: usize,
    /// By how much a node's share of the requests may exceed an equal one, as a part of that; 0.25 is a quarter.
    pub imbalance: f64,
}

/// Why there is no advice.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlacementError {
    /// The fleet makes no sense.
    #[error("{0} must be at least 1")]
    None(&'static str),
    /// The imbalance makes no sense.
    #[error("the imbalance is {0} and must be a number from 0")]
    Imbalance(f64),
    /// A request is for an expert that is not counted.
    #[error("request {request} is for expert {expert}, and there are {experts}")]
    Expert {
        /// Which request, from 0.
        request: usize,
        /// Its expert.
        expert: u32,
        /// How many there are.
        experts: usize,
    },
}

/// The nodes that serve each expert. Requests for one with several are dealt to them in turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    nodes: usize,
    /// By expert; never empty.
    homes: Vec<Vec<usize>>,
}

impl Placement {
    /// Experts are dealt to nodes in turn, in the order of their numbers.
    pub fn in_turn(experts: usize, nodes: usize) -> Self {
        Self { nodes, homes: (0..experts).map(|expert| vec![expert % nodes.max(1)]).collect() }
    }

    /// Experts go to nodes by a hash of their numbers.
    pub fn hashed(experts: usize, nodes: usize) -> Self {
        // Steele, Lea and Flood's mixing function, so that neighbours part.
        let mix = |number: u64| {
            let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let home = |expert: usize| (mix(expert as u64) % nodes.max(1) as u64) as usize;
        Self { nodes, homes: (0..experts).map(|expert| vec![home(expert)]).collect() }
    }

    /// Every node serves every expert.
    pub fn everywhere(experts: usize, nodes: usize) -> Self {
        Self { nodes, homes: vec![(0..nodes).collect(); experts] }
    }

    /// The nodes that serve an expert.
    pub fn homes(&self, expert: u32) -> &[usize] {
        self.homes.get(expert as usize).map_or(&[], Vec::as_slice)
    }

    /// The experts of each node, in the order of their numbers.
    pub fn by_node(&self) -> Vec<Vec<u32>> {
        let mut nodes = vec![Vec::new(); self.nodes];
        for (expert, homes) in (0..).zip(&self.homes) {
            for home in homes {
                nodes[*home].push(expert);
            }
        }
        nodes
    }

    /// The requests that each node gets.
    pub fn split(&self, requests: &[u32]) -> Vec<Vec<u32>> {
        let mut nodes = vec![Vec::new(); self.nodes];
        let mut turns = vec![0; self.homes.len()];
        for expert in requests {
            let (homes, turn) = (self.homes(*expert), &mut turns[*expert as usize]);
            nodes[homes[*turn % homes.len()]].push(*expert);
            *turn += 1;
        }
        nodes
    }
}

/// Finds a placement with few loads. Experts asked for more often than an equal share of the requests get several
/// nodes. The others go, most popular first, to where they are asked for least often together with those already
/// there, as far as the imbalance allows; then experts change nodes for as long as that makes loads fewer, where on
/// each node always the least recently used goes. A heuristic: at most a few thousand changes are tried, on the last
/// 20,000 requests.
///
/// # Errors
/// What makes no sense.
pub fn advise(requests: &[u32], experts: usize, fleet: &Fleet) -> Result<Placement, PlacementError> {
    for (count, what) in [(fleet.nodes, "nodes"), (fleet.places, "places")] {
        if count == 0 {
            return Err(PlacementError::None(what));
        }
    }
    if !fleet.imbalance.is_finite() || fleet.imbalance < 0.0 {
        return Err(PlacementError::Imbalance(fleet.imbalance));
    }
    let unknown = requests.iter().enumerate().find(|(_, expert)| **expert as usize >= experts);
    if let Some((request, expert)) = unknown {
        return Err(PlacementError::Expert { request, expert: *expert, experts });
    }
    Ok(search::Search::new(requests, experts, fleet).run())
}
