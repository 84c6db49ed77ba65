//! What a training run says of itself.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::{FirstStageReport, LeaveOutReport};
use crate::eval::RouterEval;
use crate::head::softmax;
use crate::metrics::{self, Answer};

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainReport {
    /// The new bundle.
    pub bundle: PathBuf,
    /// Its categories, in the order of its logits.
    pub categories: Vec<String>,
    /// Rows that were trained on.
    pub rows: usize,
    /// Rows that were left out for their licence.
    pub left_out: usize,
    /// Steps of the fit.
    pub steps: usize,
    /// What the logits are divided by.
    pub temperature: f32,
    /// Quality on the validation rows, which took part in stopping and calibration.
    pub valid: ValidReport,
    /// The first stage, where there is one.
    pub first_stage: Option<FirstStageReport>,
    /// Quality on sources that were left out, where that was asked for.
    pub left_out_sources: Option<LeaveOutReport>,
    /// Quality on the test rows, if there were any.
    pub test: Option<RouterEval>,
}

/// Quality on the validation rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ValidReport {
    /// Rows.
    pub rows: usize,
    /// Share of rows whose most probable category is their label.
    pub accuracy: f64,
    /// Expected calibration error over 15 bins.
    pub ece: f64,
    /// Mean negative log likelihood.
    pub loss: f64,
}

impl fmt::Display for TrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, left_out, steps, temperature, valid, .. } = self;
        writeln!(f, "bundle       {}", self.bundle.display())?;
        writeln!(f, "categories   {}", self.categories.join(", "))?;
        writeln!(f, "rows         {rows} ({left_out} left out for their licence)")?;
        writeln!(f, "fit          {steps} steps, temperature {temperature:.3}")?;
        writeln!(
            f,
            "validation   {} rows, accuracy {:.1} %, calibration error {:.3}",
            valid.rows,
            100.0 * valid.accuracy,
            valid.ece
        )?;
        if let Some(first) = &self.first_stage {
            writeln!(f, "{first}")?;
        }
        if let Some(sources) = &self.left_out_sources {
            writeln!(f, "{sources}")?;
        }
        match &self.test {
            Some(test) => write!(f, "\ntest\n{test}"),
            None => Ok(()),
        }
    }
}

/// Probabilities of scores at a temperature.
pub(super) fn scaled(logits: &[f32], temperature: f32) -> Vec<f32> {
    let mut scores: Vec<f32> = logits.iter().map(|z| z / temperature).collect();
    softmax(&mut scores);
    scores
}

/// Quality of scores at a temperature.
pub(super) fn valid_report(logits: &[Vec<f32>], labels: &[usize], temperature: f32) -> ValidReport {
    let mut loss = 0.0;
    let mut answers = Vec::with_capacity(labels.len());
    for (row, &label) in logits.iter().zip(labels) {
        let shares = scaled(row, temperature);
        loss -= f64::from(shares[label].max(f32::MIN_POSITIVE)).ln();
        answers.push(Answer::of(label, &shares));
    }
    ValidReport {
        rows: labels.len(),
        accuracy: metrics::accuracy(&answers),
        ece: metrics::calibration_error(&answers),
        loss: loss / labels.len().max(1) as f64,
    }
}
