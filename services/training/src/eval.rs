//! Measuring a router bundle on labelled prompts, and routers on outcomes.

pub mod routing;

mod cost;
mod report;
mod stages;

use std::collections::BTreeMap;
use std::path::Path;

use ::routing::Features;
use encoder::{EncodeError, Encoder};
use fastrand::Rng;
use serde::Serialize;

use crate::data::{self, DataError, Row};
use crate::metrics::{self, Answer, CategoryEval, Confusion, SourceEval, Staged};
use crate::perturb::Noise;
use cost::Decider;
use stages::Costs;

pub use cost::Cost;
pub use stages::{CascadeEval, Point, StageEval, Stages};

/// How to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Seed of the choice of rows to perturb and of the perturbations.
    pub seed: u64,
    /// Rows that robustness is measured on, once for each kind of change; 0 leaves it unmeasured.
    pub perturbed_rows: usize,
    /// Rows that are decided one after the other to measure what a decision costs; 0 leaves it unmeasured.
    pub timed_rows: usize,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { seed: 1, perturbed_rows: 1000, timed_rows: 300 }
    }
}

/// The quality of a router bundle on a set of labelled prompts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouterEval {
    /// Rows of the set.
    pub rows: usize,
    /// Share of rows whose most probable category is their label.
    pub accuracy: f64,
    /// Mean F1 over the categories that the set has.
    pub macro_f1: f64,
    /// Expected calibration error over 15 bins of equal width.
    pub ece: f64,
    /// Accuracy on the surest part of the rows, by its share.
    pub selective: BTreeMap<&'static str, f64>,
    /// Share of perturbed prompts (typos, case, whitespace, templates) that keep their category, the mean of the
    /// kinds; nothing if it was not measured.
    pub robustness: Option<f64>,
    /// Each category by name.
    pub per_category: BTreeMap<String, CategoryEval>,
    /// The same by kind of change; `templates` are words of courtesy around the prompt.
    pub robustness_by_kind: BTreeMap<&'static str, f64>,
    /// Each source by name, where rows name theirs.
    pub per_source: BTreeMap<String, SourceEval>,
    /// Which categories are taken for which, most rows first.
    pub confusions: Vec<Confusion>,
    /// Each stage alone, and the cascade.
    pub stages: Stages,
    /// Rows that were perturbed.
    #[serde(skip)]
    pub perturbed_rows: usize,
}

/// Why a bundle was not measured.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A row has a label that the bundle does not know.
    #[error("row {row} has the category `{category}`, which the bundle does not have; it has: {}", .known.join(", "))]
    Category {
        /// Number of the row, from 1, blank lines not counted.
        row: usize,
        /// Its label.
        category: String,
        /// The bundle's categories.
        known: Vec<String>,
    },
    /// The encoder failed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Measures the bundle of an encoder on a file of labelled prompts. `progress` is told how many forward
/// passes are done, and of how many. Blocks; not to be called from an async context.
///
/// # Errors
/// [`EvalError`].
pub fn evaluate_router(
    encoder: &Encoder,
    file: &Path,
    options: &EvalOptions,
    progress: impl FnMut(usize, usize),
) -> Result<RouterEval, EvalError> {
    evaluate_rows(encoder, &data::read(file)?, options, progress)
}

/// [`evaluate_router`] for rows that were read already.
pub(crate) fn evaluate_rows(
    encoder: &Encoder,
    rows: &[Row],
    options: &EvalOptions,
    mut progress: impl FnMut(usize, usize),
) -> Result<RouterEval, EvalError> {
    let names: Vec<&str> = encoder.bundle().categories.iter().map(|c| c.name.as_str()).collect();
    let labels = labels(rows, &names)?;
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    let chosen: Vec<usize> = sample(rows.len(), options.seed, options.perturbed_rows).collect();
    let total = rows.len() + chosen.len() * Noise::ALL.len();

    let windows = texts.iter().map(|text| encoder.tokenize_window(text)).collect::<Result<Vec<_>, _>>()?;
    let plain = encoder.features_of_windows(&windows, |done| progress(done, total))?;
    let answers: Vec<Answer> = plain
        .iter()
        .zip(&labels)
        .map(|(features, &label)| Answer::of(label, &features.probabilities))
        .collect();

    let mut robustness_by_kind = BTreeMap::new();
    let mut done = rows.len();
    for noise in Noise::ALL {
        let mut rng = Rng::with_seed(options.seed ^ noise as u64);
        let changed: Vec<String> = chosen.iter().map(|&row| noise.apply(texts[row], &mut rng)).collect();
        let features = encoder.features_batch(&changed, |part| progress(done + part, total))?;
        done += changed.len();
        let top = |f: &Features| f.top().map_or(usize::MAX, |(index, _)| index);
        let same = chosen.iter().zip(&features).filter(|(row, f)| top(f) == answers[**row].top).count();
        if !chosen.is_empty() {
            robustness_by_kind.insert(noise.name(), same as f64 / chosen.len() as f64);
        }
    }
    let timed: Vec<&str> =
        sample(rows.len(), options.seed, options.timed_rows).map(|row| texts[row]).collect();
    let stages = if let (Some(first), Some(threshold)) = (encoder.first_stage(), encoder.threshold()) {
        let firsts = windows.iter().map(|window| first.probabilities(&window.ids));
        let staged = firsts.zip(&answers).map(|(probabilities, &second)| Staged {
            first: Answer::of(second.label, &probabilities),
            second,
        });
        let costs = Costs {
            first: cost::measure(encoder, &timed, Decider::First)?,
            encoder: cost::measure(encoder, &timed, Decider::Encoder)?,
            cascade: cost::measure(encoder, &timed, Decider::Cascade)?,
        };
        Stages::of_both(&staged.collect::<Vec<_>>(), threshold, costs)
    } else {
        let cost = cost::measure(encoder, &timed, Decider::Encoder)?;
        Stages::of_encoder(&answers, Costs { encoder: cost, ..Costs::default() })
    };

    let kinds: Vec<f64> =
        Noise::ALL.iter().filter_map(|n| robustness_by_kind.get(n.name()).copied()).collect();
    let per_category = metrics::per_category(&answers, &names);
    Ok(RouterEval {
        rows: rows.len(),
        accuracy: metrics::accuracy(&answers),
        macro_f1: metrics::macro_f1(&per_category),
        ece: metrics::calibration_error(&answers),
        selective: [("0.8", 0.8), ("0.5", 0.5)]
            .map(|(name, q)| (name, metrics::selective(&answers, q)))
            .into(),
        robustness: (!kinds.is_empty()).then(|| kinds.iter().sum::<f64>() / kinds.len() as f64),
        robustness_by_kind,
        per_category,
        per_source: metrics::per_source(&answers, rows.iter().map(|row| row.source.as_deref())),
        confusions: metrics::confusions(&answers, &names),
        stages,
        perturbed_rows: chosen.len(),
    })
}

/// Index of every row's label.
fn labels(rows: &[Row], names: &[&str]) -> Result<Vec<usize>, EvalError> {
    let place: BTreeMap<&str, usize> = names.iter().enumerate().map(|(index, name)| (*name, index)).collect();
    let label = |(index, row): (usize, &Row)| {
        place.get(row.category.as_str()).copied().ok_or_else(|| EvalError::Category {
            row: index + 1,
            category: row.category.clone(),
            known: names.iter().map(|&name| name.to_owned()).collect(),
        })
    };
    rows.iter().enumerate().map(label).collect()
}

/// So many rows chosen by chance, ascending.
fn sample(rows: usize, seed: u64, size: usize) -> impl Iterator<Item = usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    Rng::with_seed(seed).shuffle(&mut order);
    order.truncate(size);
    order.sort_unstable();
    order.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(category: &str) -> Row {
        Row { text: String::new(), category: category.to_owned(), license: None, source: None }
    }

    #[test]
    fn an_unknown_label_is_named() {
        let error = labels(&[row("a"), row("z")], &["a", "b"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 2 has the category `z`, which the bundle does not have; it has: a, b"
        );
        assert_eq!(labels(&[row("b")], &["a", "b"]).unwrap(), [1]);
    }

    #[test]
    fn the_sample_depends_on_the_seed_alone() {
        let rows = |all, seed| sample(all, seed, 5).collect::<Vec<_>>();
        assert_eq!(rows(100, 3), rows(100, 3));
        assert_ne!(rows(100, 3), rows(100, 4));
        assert_eq!(rows(3, 3), [0, 1, 2]);
    }

    #[test]
    fn the_json_has_the_names_that_stay() {
        let eval = RouterEval {
            rows: 2,
            accuracy: 0.5,
            macro_f1: 0.4,
            ece: 0.1,
            selective: [("0.8", 0.5), ("0.5", 1.0)].into(),
            robustness: Some(0.9),
            per_category: [("a".to_owned(), CategoryEval { rows: 2, recall: Some(0.5), precision: None })]
                .into(),
            robustness_by_kind: [("typos", 0.9)].into(),
            per_source: [("books".to_owned(), SourceEval { rows: 2, accuracy: 0.5 })].into(),
            confusions: vec![Confusion { category: "a".to_owned(), taken_for: "b".to_owned(), rows: 1 }],
            stages: Stages::of_encoder(&[], Costs::default()),
            perturbed_rows: 2,
        };
        let wanted = serde_json::json!({
            "rows": 2, "accuracy": 0.5, "macro_f1": 0.4, "ece": 0.1,
            "selective": {"0.8": 0.5, "0.5": 1.0}, "robustness": 0.9,
            "per_category": {"a": {"rows": 2, "recall": 0.5, "precision": null}},
            "robustness_by_kind": {"typos": 0.9},
            "per_source": {"books": {"rows": 2, "accuracy": 0.5}},
            "confusions": [{"category": "a", "taken_for": "b", "rows": 1}],
            "stages": {"first": null, "encoder": {"accuracy": 0.0, "ece": 0.0, "cost": null}, "cascade": null},
        });
        assert_eq!(serde_json::to_value(&eval).unwrap(), wanted);
        let page = eval.markdown();
        assert!(page.contains("| a | b | 1 |") && page.contains("| books | 2 | 50.0 % |"), "{page}");
        let table = eval.to_string();
        assert!(table.contains("typos 90.0 %") && table.contains("accuracy"), "{table}");
    }
}
