//! Names and seeds: unique within a process by a counter, across processes by a random start.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::decision::DecisionId;

/// Makes the ids of requests and decisions. The start is a parameter, so that a test gets the same ones.
pub struct Ids {
    start: u64,
    counter: AtomicU64,
}

impl Ids {
    /// Ids from a given start.
    pub fn new(start: u64) -> Self {
        Self { start, counter: AtomicU64::new(0) }
    }

    /// The next decision's id: `SplitMix64` of a counter, a bijection, so that no id comes twice.
    pub fn decision(&self) -> DecisionId {
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        DecisionId(mix(self.start.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    }
}

/// The finaliser of `SplitMix64` (Steele, Lea and Flood 2014): a bijection whose output bits all depend on
/// all input bits.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_comes_twice() {
        let ids = Ids::new(7);
        let mut seen: Vec<u64> = (0..10_000).map(|_| ids.decision().0).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10_000);
        assert_eq!(Ids::new(7).decision(), Ids::new(7).decision());
    }
}
