use std::collections::{BTreeMap, VecDeque};

use crate::residency::expert::ExpertIndex;

/// Conversations in each of the two generations that are remembered.
const GENERATION: usize = 2_048;

/// The last turns that predictions look at.
const RECENT: usize = 256;

/// The weight of a new turn in means.
const WEIGHT: f64 = 0.02;

/// The last turn of a conversation.
#[derive(Clone, Copy, Debug)]
struct Turn {
    expert: ExpertIndex,
    at_us: u64,
}

/// Who answered which conversation last, and how faithful conversations are.
#[derive(Clone, Debug)]
pub(super) struct Conversations {
    /// When `young` is full it becomes `old`, and what was old is forgotten.
    young: BTreeMap<u64, Turn>,
    old: BTreeMap<u64, Turn>,
    recent: VecDeque<(u64, Turn)>,
    /// The share of requests that go on with a conversation that is remembered.
    returning: f64,
    /// The share of those that ask the same expert again.
    faithful: f64,
    /// The mean time between two turns, once there was one.
    gap_us: Option<f64>,
}

impl Conversations {
    pub(super) fn new() -> Self {
        Self {
            young: BTreeMap::new(),
            old: BTreeMap::new(),
            recent: VecDeque::with_capacity(RECENT),
            returning: 0.0,
            faithful: 0.5,
            gap_us: None,
        }
    }

    /// Takes a request in; who answered its conversation before.
    pub(super) fn requested(
        &mut self,
        now_us: u64,
        expert: ExpertIndex,
        session: Option<u64>,
    ) -> Option<ExpertIndex> {
        let before = session.and_then(|session| self.last(session));
        learn(&mut self.returning, f64::from(u8::from(before.is_some())));
        let session = session?;
        if let Some(before) = before {
            learn(&mut self.faithful, f64::from(u8::from(before.expert == expert)));
            let gap = now_us.saturating_sub(before.at_us) as f64;
            match &mut self.gap_us {
                Some(mean) => learn(mean, gap),
                None => self.gap_us = Some(gap),
            }
        }
        let turn = Turn { expert, at_us: now_us };
        self.old.remove(&session);
        self.young.insert(session, turn);
        if self.young.len() > GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((session, turn));
        before.map(|turn| turn.expert)
    }

    /// The share of requests that go on with a conversation that is remembered.
    pub(super) fn returning(&self) -> f64 {
        self.returning
    }

    /// The share of a conversation's turns that ask the expert of the turn before.
    pub(super) fn faithful(&self) -> f64 {
        self.faithful
    }

    /// Who answered the conversations that are likely to go on: shares that add up to 1, fading over the usual time
    /// between two turns.
    pub(super) fn recent(&self, now_us: u64) -> BTreeMap<ExpertIndex, f64> {
        let mut shares = BTreeMap::new();
        let Some(gap_us) = self.gap_us else { return shares };
        let mut all = 0.0;
        for (session, turn) in &self.recent {
            // A conversation counts once, with its last turn.
            if self.last(*session).is_some_and(|last| last.at_us == turn.at_us && last.expert == turn.expert)
            {
                let weight = (-(now_us.saturating_sub(turn.at_us) as f64) / gap_us.max(1.0)).exp();
                *shares.entry(turn.expert).or_insert(0.0) += weight;
                all += weight;
            }
        }
        if all > 0.0 {
            for share in shares.values_mut() {
                *share /= all;
            }
        }
        shares
    }

    fn last(&self, session: u64) -> Option<Turn> {
        self.young.get(&session).or_else(|| self.old.get(&session)).copied()
    }
}

fn learn(mean: &mut f64, value: f64) {
    *mean += (value - *mean) * WEIGHT;
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ExpertIndex = ExpertIndex(0);
    const B: ExpertIndex = ExpertIndex(1);

    #[test]
    fn a_conversation_counts_where_it_was_last() {
        let mut conversations = Conversations::new();
        for turn in 0..200 {
            conversations.requested(turn * 10, if turn % 2 == 0 { A } else { B }, Some(7));
        }
        assert!(conversations.returning() > 0.9 && conversations.faithful() < 0.1);
        assert_eq!(conversations.requested(2_000, A, Some(7)), Some(B));
        assert_eq!(conversations.recent(2_000), BTreeMap::from([(A, 1.0)]));
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let mut conversations = Conversations::new();
        for session in 0..20_000 {
            assert_eq!(conversations.requested(session, A, Some(session)), None);
        }
        assert!(conversations.young.len() + conversations.old.len() <= 2 * GENERATION + 1);
        assert!(conversations.recent.len() <= RECENT);
        assert_eq!(conversations.requested(20_000, B, Some(19_999)), Some(A));
        assert_eq!(conversations.requested(20_000, B, Some(1)), None);
    }
}
