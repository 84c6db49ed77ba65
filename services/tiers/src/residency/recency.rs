//! What the simplest policy would have done, to fall back on.

use super::expert::ExpertIndex;

/// No neighbour.
const NONE: u32 = u32::MAX;

/// How many times the bytes that recency would have loaded may be loaded, on top of half of all places.
const TOLERANCE: f64 = 1.02;

/// The experts that a tier would hold if always the least recently asked for went, and the bytes that this would
/// have loaded.
///
/// No prediction is right about every workload. Where following ours has loaded more than recency would have,
/// victims are chosen so that the tier comes to hold what it would hold under recency, until that is made good. So
/// the worst case is that of recency, a few percent and one and a half fillings of the tier on top.
#[derive(Clone, Debug)]
pub(super) struct Recency {
    nodes: Vec<Node>,
    /// The most and the least recently asked for.
    newest: u32,
    oldest: u32,
    held: u64,
    usable: u64,
    /// Bytes that this would have loaded, and that were.
    would: f64,
    did: f64,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    newer: u32,
    older: u32,
    bytes: u64,
    held: bool,
}

impl Recency {
    pub(super) fn new(experts: usize, usable: u64) -> Self {
        let node = Node { newer: NONE, older: NONE, bytes: 0, held: false };
        Self { nodes: vec![node; experts], newest: NONE, oldest: NONE, held: 0, usable, would: 0.0, did: 0.0 }
    }

    /// Takes a request for an expert of so many bytes in.
    pub(super) fn requested(&mut self, expert: ExpertIndex, bytes: u64) {
        let at = expert.0;
        if self.newest == at {
            return;
        }
        if self.nodes[expert.at()].held {
            self.unlink(at);
        } else {
            self.would += bytes as f64;
        }
        let newest = std::mem::replace(&mut self.newest, at);
        self.nodes[expert.at()] = Node { newer: NONE, older: newest, bytes, held: true };
        match self.nodes.get_mut(newest as usize) {
            Some(node) => node.newer = at,
            None => self.oldest = at,
        }
        self.held += bytes;
        while self.held > self.usable && self.oldest != at {
            self.unlink(self.oldest);
        }
    }

    /// Notes that bytes were loaded.
    pub(super) fn loaded(&mut self, bytes: u64) {
        self.did += bytes as f64;
    }

    /// Whether more was loaded than can be justified.
    pub(super) fn is_behind(&self) -> bool {
        self.did > self.would * TOLERANCE + 0.5 * self.usable as f64
    }

    /// Whether the tier would hold an expert.
    pub(super) fn holds(&self, expert: ExpertIndex) -> bool {
        self.nodes.get(expert.at()).is_some_and(|node| node.held)
    }

    fn unlink(&mut self, at: u32) {
        let Node { newer, older, bytes, .. } = self.nodes[at as usize];
        match self.nodes.get_mut(newer as usize) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
        match self.nodes.get_mut(older as usize) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
        self.nodes[at as usize].held = false;
        self.held -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_asked_for_last() {
        let mut recency = Recency::new(4, 30);
        let held = |recency: &Recency| (0..4).filter(|i| recency.holds(ExpertIndex(*i))).collect::<Vec<_>>();
        for expert in [0, 1, 2, 0, 3] {
            recency.requested(ExpertIndex(expert), 10);
        }
        assert_eq!(held(&recency), [0, 2, 3]);
        assert!((recency.would - 40.0).abs() < f64::EPSILON);
        recency.requested(ExpertIndex(1), 25);
        assert_eq!(held(&recency), [1], "a large one takes the places of many");
        recency.requested(ExpertIndex(2), 5);
        assert_eq!(held(&recency), [1, 2]);
        recency.loaded(60);
        assert!(!recency.is_behind());
        recency.loaded(30);
        assert!(recency.is_behind());
    }
}
