use std::collections::BTreeMap;

use crate::residency::expert::ExpertIndex;

/// Successors that are counted for each expert.
const SUCCESSORS: usize = 16;

/// Successions of an expert after which all of its counts are halved, so that what no longer holds is forgotten.
const MOST: f64 = 512.0;

/// How many successions within conversations outweigh those of all requests.
const BACK_OFF: f64 = 32.0;

/// Recent experts that lead fewer of the conversations than this are left out.
const LEAST_SHARE: f64 = 0.02;

/// Who came after an expert how often.
#[derive(Clone, Debug, Default)]
struct Row {
    all: f64,
    counts: Vec<(ExpertIndex, f64)>,
}

impl Row {
    fn add(&mut self, next: ExpertIndex) {
        self.all += 1.0;
        if let Some((_, count)) = self.counts.iter_mut().find(|(expert, _)| *expert == next) {
            *count += 1.0;
        } else if self.counts.len() < SUCCESSORS {
            self.counts.push((next, 1.0));
        } else if let Some(least) = self.counts.iter_mut().min_by(|a, b| a.1.total_cmp(&b.1)) {
            // The newcomer starts anew, so that no count is ever too high.
            *least = (next, 1.0);
        }
        if self.all > MOST {
            self.all /= 2.0;
            for (_, count) in &mut self.counts {
                *count /= 2.0;
            }
        }
    }
}

/// Which expert is asked after which: in the same conversation, and in the order of all requests.
#[derive(Clone, Debug)]
pub(super) struct Transitions {
    within: Vec<Row>,
    overall: Vec<Row>,
    last: Option<ExpertIndex>,
}

impl Transitions {
    pub(super) fn new(experts: usize) -> Self {
        Self { within: vec![Row::default(); experts], overall: vec![Row::default(); experts], last: None }
    }

    /// Takes a request in; `before` is who answered its conversation last.
    pub(super) fn requested(&mut self, expert: ExpertIndex, before: Option<ExpertIndex>) {
        if let Some(row) = before.and_then(|before| self.within.get_mut(before.at())) {
            row.add(expert);
        }
        if let Some(row) = self.last.and_then(|last| self.overall.get_mut(last.at())) {
            row.add(expert);
        }
        self.last = Some(expert);
    }

    /// How likely each expert is the next. `recent` says who answered the conversations that may go on, `returning`
    /// how likely one of them does.
    pub(super) fn chances(
        &self,
        recent: &BTreeMap<ExpertIndex, f64>,
        returning: f64,
    ) -> BTreeMap<ExpertIndex, f64> {
        let mut chances = BTreeMap::new();
        let mut overall = 1.0 - returning;
        for (expert, share) in recent.iter().filter(|(_, share)| **share >= LEAST_SHARE) {
            let Some(row) = self.within.get(expert.at()) else { continue };
            let each = returning * share / (row.all + BACK_OFF);
            for (next, count) in &row.counts {
                *chances.entry(*next).or_insert(0.0) += each * count;
            }
            overall += each * BACK_OFF;
        }
        if let Some(row) = self.last.and_then(|last| self.overall.get(last.at())) {
            for (next, count) in &row.counts {
                *chances.entry(*next).or_insert(0.0) += overall * count / (row.all + BACK_OFF);
            }
        }
        chances
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn e(i: u32) -> ExpertIndex {
        ExpertIndex(i)
    }

    #[test]
    fn what_follows_is_found_and_new_conversations_go_by_all_requests() {
        let mut transitions = Transitions::new(4);
        // In turns 0, 1, 2; within conversations 3 always follows on 0.
        for i in 0..3_000 {
            transitions.requested(e(i % 3), None);
        }
        for _ in 0..200 {
            transitions.within[0].add(e(3));
        }
        let fresh = transitions.chances(&BTreeMap::new(), 0.0);
        assert!(fresh[&e(0)] > 0.85 && fresh.len() == 1, "{fresh:?}");
        let going_on = transitions.chances(&BTreeMap::from([(e(0), 1.0)]), 1.0);
        assert!(going_on[&e(3)] > 0.8 && going_on[&e(0)] < 0.2, "{going_on:?}");
        let unknown = transitions.chances(&BTreeMap::from([(e(2), 1.0)]), 1.0);
        assert!(unknown[&e(0)] > 0.85, "backs off: {unknown:?}");
    }

    #[test]
    fn memory_is_bounded_and_chances_are_no_more_than_one() {
        let mut row = Row::default();
        for i in 0..100_000 {
            row.add(e(if i % 2 == 0 { 0 } else { i % 997 }));
        }
        assert!(row.counts.len() <= SUCCESSORS && row.all <= MOST);
        let of =
            |expert| row.counts.iter().find(|(other, _)| *other == expert).map_or(0.0, |(_, n)| n / row.all);
        assert!((of(e(0)) - 0.5).abs() < 0.02, "{}", of(e(0)));
        assert!(row.counts.iter().map(|(_, count)| count).sum::<f64>() <= row.all + 1e-9);
    }
}
