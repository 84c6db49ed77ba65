//! What a classifier's answers are worth.

use std::collections::BTreeMap;

use serde::Serialize;

/// Bins of equal width that calibration is measured in.
const BINS: usize = 15;

/// One answered row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Index of the right category.
    pub label: usize,
    /// Index of the category that the classifier found most probable.
    pub top: usize,
    /// Its probability.
    pub confidence: f32,
}

impl Answer {
    /// The answer that probabilities give; the lowest index wins a tie.
    pub(crate) fn of(label: usize, probabilities: &[f32]) -> Self {
        Self::best(label, probabilities)
    }

    /// The same of scores of any kind; the best score stands for the confidence.
    pub(crate) fn best(label: usize, scores: &[f32]) -> Self {
        let mut best = (usize::MAX, f32::NEG_INFINITY);
        for (index, &score) in scores.iter().enumerate() {
            if score > best.1 {
                best = (index, score);
            }
        }
        Self { label, top: best.0, confidence: best.1 }
    }

    pub(crate) fn right(&self) -> bool {
        self.label == self.top
    }
}

/// One row as both stages of a cascade answered it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Staged {
    pub first: Answer,
    pub second: Answer,
}

impl Staged {
    /// The cascade's answer: the first stage's from this confidence on, else the second's.
    pub(crate) fn at(&self, threshold: f32) -> Answer {
        if self.first.confidence >= threshold { self.first } else { self.second }
    }
}

/// How well one category is recognised.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CategoryEval {
    /// Rows with this label.
    pub rows: usize,
    /// Share of them that were recognised; nothing without rows.
    pub recall: Option<f64>,
    /// Share of the rows given this category that have it as label; nothing if none was given it.
    pub precision: Option<f64>,
}

/// Share of right answers; 0 without any.
pub(crate) fn accuracy(answers: &[Answer]) -> f64 {
    share(answers.iter().filter(|a| a.right()).count(), answers.len())
}

/// Recall and precision of every category, in the order of `names`.
pub(crate) fn per_category(answers: &[Answer], names: &[&str]) -> BTreeMap<String, CategoryEval> {
    let mut found = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        let rows = answers.iter().filter(|a| a.label == index).count();
        let given = answers.iter().filter(|a| a.top == index).count();
        let right = answers.iter().filter(|a| a.label == index && a.right()).count();
        let of = |whole: usize| (whole > 0).then(|| share(right, whole));
        found.insert((*name).to_owned(), CategoryEval { rows, recall: of(rows), precision: of(given) });
    }
    found
}

/// How well the rows of one source are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SourceEval {
    /// Rows of it.
    pub rows: usize,
    /// Share of them that were recognised.
    pub accuracy: f64,
}

/// A category that is taken for another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// The label.
    pub category: String,
    /// What was found most probable.
    pub taken_for: String,
    /// Rows of which that holds.
    pub rows: usize,
}

/// Accuracy by source; rows without one are left out.
pub(crate) fn per_source<'a>(
    answers: &[Answer],
    sources: impl Iterator<Item = Option<&'a str>>,
) -> BTreeMap<String, SourceEval> {
    let mut groups: BTreeMap<&str, Vec<Answer>> = BTreeMap::new();
    for (answer, source) in answers.iter().zip(sources) {
        if let Some(source) = source {
            groups.entry(source).or_default().push(*answer);
        }
    }
    let eval = |group: &[Answer]| SourceEval { rows: group.len(), accuracy: accuracy(group) };
    groups.iter().map(|(source, group)| ((*source).to_owned(), eval(group))).collect()
}

/// Which categories are taken for which others, most rows first.
pub(crate) fn confusions(answers: &[Answer], names: &[&str]) -> Vec<Confusion> {
    let mut pairs: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| !answer.right()) {
        *pairs.entry((answer.label, answer.top)).or_default() += 1;
    }
    let name = |index: usize| names.get(index).copied().unwrap_or("none").to_owned();
    let mut confusions: Vec<Confusion> = pairs
        .into_iter()
        .map(|((label, top), rows)| Confusion { category: name(label), taken_for: name(top), rows })
        .collect();
    confusions.sort_by_key(|confusion| std::cmp::Reverse(confusion.rows));
    confusions
}

/// Mean over the categories with rows of the harmonic mean of recall and precision.
pub(crate) fn macro_f1(categories: &BTreeMap<String, CategoryEval>) -> f64 {
    let scores: Vec<f64> = categories
        .values()
        .filter_map(|category| {
            let (recall, precision) = (category.recall?, category.precision.unwrap_or(0.0));
            Some(if recall + precision > 0.0 { 2.0 * recall * precision / (recall + precision) } else { 0.0 })
        })
        .collect();
    if scores.is_empty() { 0.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 }
}

/// Expected calibration error: mean distance of confidence and accuracy over bins of confidence, each
/// weighed by its rows.
pub(crate) fn calibration_error(answers: &[Answer]) -> f64 {
    let mut bins = [(0_usize, 0.0_f64, 0_usize); BINS];
    for answer in answers {
        let place = ((f64::from(answer.confidence) * BINS as f64) as usize).min(BINS - 1);
        let (rows, confidence, right) = &mut bins[place];
        *rows += 1;
        *confidence += f64::from(answer.confidence);
        *right += usize::from(answer.right());
    }
    let off: f64 = bins.iter().map(|(_, confidence, right)| (confidence - *right as f64).abs()).sum();
    if answers.is_empty() { 0.0 } else { off / answers.len() as f64 }
}

/// Accuracy on the given share of rows that the classifier is surest of.
pub(crate) fn selective(answers: &[Answer], coverage: f64) -> f64 {
    let mut order: Vec<&Answer> = answers.iter().collect();
    order.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let kept = ((answers.len() as f64 * coverage).ceil() as usize).min(order.len());
    share(order.iter().take(kept).filter(|a| a.right()).count(), kept)
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Vec<Answer> {
        [(0, 0, 0.9), (0, 1, 0.6), (1, 1, 0.8), (1, 1, 0.7)]
            .map(|(label, top, confidence)| Answer { label, top, confidence })
            .to_vec()
    }

    fn close(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() < 1e-6
    }

    #[test]
    fn a_case_worked_by_hand() {
        let answers = answers();
        assert!(close(accuracy(&answers), 0.75));
        let categories = per_category(&answers, &["a", "b", "never"]);
        assert_eq!(categories["a"], CategoryEval { rows: 2, recall: Some(0.5), precision: Some(1.0) });
        assert_eq!(categories["never"], CategoryEval { rows: 0, recall: None, precision: None });
        assert!(close(categories["b"].precision.unwrap(), 2.0 / 3.0));
        // F1: 2/3 for a, 4/5 for b; the category without rows does not count.
        assert!(close(macro_f1(&categories), f64::midpoint(2.0 / 3.0, 0.8)));
        // Each answer has a bin of its own: |0.9-1| + |0.6-0| + |0.8-1| + |0.7-1| over 4.
        assert!(close(calibration_error(&answers), 0.3));
        // The surest half is right, the surest 80 % are all four (rounded up).
        assert!(close(selective(&answers, 0.5), 1.0));
        assert!(close(selective(&answers, 0.8), 0.75));
    }

    #[test]
    fn sources_and_confusions_are_counted() {
        let answers = answers();
        let sources = [Some("x"), Some("x"), None, Some("y")];
        let found = per_source(&answers, sources.into_iter());
        assert_eq!(found.len(), 2);
        assert_eq!(found["x"], SourceEval { rows: 2, accuracy: 0.5 });
        let pairs = confusions(&answers, &["a", "b"]);
        assert_eq!(pairs, [Confusion { category: "a".to_owned(), taken_for: "b".to_owned(), rows: 1 }]);
    }

    #[test]
    fn answers_in_one_bin_are_averaged() {
        let bin = |top, confidence| Answer { label: 0, top, confidence };
        // Mean confidence 0.95, accuracy 0.5.
        assert!(close(calibration_error(&[bin(0, 0.94), bin(1, 0.96)]), 0.45));
        assert!(close(calibration_error(&[bin(0, 1.0)]), 0.0));
    }

    #[test]
    fn nothing_gives_zeros_and_not_nonsense() {
        assert!(close(accuracy(&[]), 0.0));
        assert!(close(calibration_error(&[]), 0.0));
        assert!(close(selective(&[], 0.5), 0.0));
        assert!(close(macro_f1(&per_category(&[], &["a"])), 0.0));
    }
}
