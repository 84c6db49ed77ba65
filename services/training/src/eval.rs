//! Measuring a router bundle on labelled prompts, and routers on outcomes.

pub mod routing;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use ::routing::Features;
use encoder::{EncodeError, Encoder};
use fastrand::Rng;
use serde::Serialize;

use crate::data::{self, DataError, Row};
use crate::metrics::{self, Answer, CategoryEval};
use crate::perturb::Noise;

/// How to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Seed of the choice of rows to perturb and of the perturbations.
    pub seed: u64,
    /// Rows that robustness is measured on, each three times; 0 leaves it unmeasured.
    pub perturbed_rows: usize,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { seed: 1, perturbed_rows: 1000 }
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
    /// Share of perturbed prompts (typos, case, whitespace) that keep their category; nothing if it was
    /// not measured.
    pub robustness: Option<f64>,
    /// Each category by name.
    pub per_category: BTreeMap<String, CategoryEval>,
    /// Robustness by kind of perturbation, for people.
    #[serde(skip)]
    pub by_perturbation: BTreeMap<&'static str, f64>,
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
    let chosen = sample(rows.len(), options);
    let total = rows.len() + chosen.len() * Noise::ALL.len();

    let plain = encoder.features_batch(&texts, |done| progress(done, total))?;
    let answers: Vec<Answer> =
        plain.iter().zip(labels).map(|(features, label)| answer(features, label)).collect();

    let mut by_perturbation = BTreeMap::new();
    let mut done = rows.len();
    for noise in Noise::ALL {
        let mut rng = Rng::with_seed(options.seed ^ noise as u64);
        let changed: Vec<String> = chosen.iter().map(|&row| noise.apply(texts[row], &mut rng)).collect();
        let features = encoder.features_batch(&changed, |part| progress(done + part, total))?;
        done += changed.len();
        let same = chosen.iter().zip(&features).filter(|(row, f)| top(f).0 == answers[**row].top).count();
        if !chosen.is_empty() {
            by_perturbation.insert(noise.name(), same as f64 / chosen.len() as f64);
        }
    }

    let per_category = metrics::per_category(&answers, &names);
    Ok(RouterEval {
        rows: rows.len(),
        accuracy: metrics::accuracy(&answers),
        macro_f1: metrics::macro_f1(&per_category),
        ece: metrics::calibration_error(&answers),
        selective: [("0.8", 0.8), ("0.5", 0.5)]
            .map(|(name, q)| (name, metrics::selective(&answers, q)))
            .into(),
        robustness: (!by_perturbation.is_empty())
            .then(|| by_perturbation.values().sum::<f64>() / by_perturbation.len() as f64),
        per_category,
        by_perturbation,
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

/// Rows to perturb, ascending.
fn sample(rows: usize, options: &EvalOptions) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    Rng::with_seed(options.seed).shuffle(&mut order);
    order.truncate(options.perturbed_rows);
    order.sort_unstable();
    order
}

fn top(features: &Features) -> (usize, f32) {
    features.top().unwrap_or((usize::MAX, 0.0))
}

fn answer(features: &Features, label: usize) -> Answer {
    let (top, confidence) = top(features);
    Answer { label, top, confidence }
}

impl fmt::Display for RouterEval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let maybe = |share: Option<f64>| share.map_or("-".to_owned(), percent);
        writeln!(f, "{:<28} {:>8}", "rows", self.rows)?;
        writeln!(f, "{:<28} {:>8}", "accuracy", percent(self.accuracy))?;
        writeln!(f, "{:<28} {:>8.3}", "macro F1", self.macro_f1)?;
        writeln!(f, "{:<28} {:>8.3}", "calibration error", self.ece)?;
        for (share, accuracy) in self.selective.iter().rev() {
            writeln!(f, "{:<28} {:>8}", format!("accuracy, surest {share}"), percent(*accuracy))?;
        }
        if let Some(robustness) = self.robustness {
            let label = format!("robustness ({} rows)", self.perturbed_rows);
            let kinds: Vec<String> = self
                .by_perturbation
                .iter()
                .map(|(name, share)| format!("{name} {}", percent(*share)))
                .collect();
            writeln!(f, "{label:<28} {:>8}  ({})", percent(robustness), kinds.join(", "))?;
        }
        writeln!(f, "\n{:<28} {:>8} {:>8} {:>10}", "category", "rows", "recall", "precision")?;
        for (name, category) in &self.per_category {
            let (recall, precision) = (maybe(category.recall), maybe(category.precision));
            writeln!(f, "{name:<28} {:>8} {recall:>8} {precision:>10}", category.rows)?;
        }
        Ok(())
    }
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
        let options = |seed| EvalOptions { seed, perturbed_rows: 5 };
        assert_eq!(sample(100, &options(3)), sample(100, &options(3)));
        assert_ne!(sample(100, &options(3)), sample(100, &options(4)));
        assert_eq!(sample(3, &options(3)), [0, 1, 2]);
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
            by_perturbation: [("typos", 0.9)].into(),
            perturbed_rows: 2,
        };
        let wanted = serde_json::json!({
            "rows": 2, "accuracy": 0.5, "macro_f1": 0.4, "ece": 0.1,
            "selective": {"0.8": 0.5, "0.5": 1.0}, "robustness": 0.9,
            "per_category": {"a": {"rows": 2, "recall": 0.5, "precision": null}},
        });
        assert_eq!(serde_json::to_value(&eval).unwrap(), wanted);
        let table = eval.to_string();
        assert!(table.contains("typos 90.0 %") && table.contains("accuracy"), "{table}");
    }
}
