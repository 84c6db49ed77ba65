//! The first stage's part of a training run.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use encoder::{FirstStage, FirstStageSpec, FirstStageWeights};
use serde::Serialize;

use super::report::scaled;
use super::{Progress, TrainOptions};
use crate::features::Example;
use crate::first::{FittedFirst, StaticTokens, opinions, threshold};
use crate::head::{Head, Lessons, Penalty};
use crate::metrics::{self, Answer, Staged};

/// Name of the first stage's file in a bundle.
pub(super) const FILE: &str = "first.safetensors";

/// The full head, as the graph holds it.
pub(super) struct Heads<'a> {
    pub full: &'a Head,
    pub temperature: f32,
}

/// A first stage with all that a manifest says of it.
pub(super) struct First {
    pub weights: FirstStageWeights,
    pub report: FirstStageReport,
}

/// Quality of the first stage and of the cascade on the validation rows, which took part in stopping, calibration
/// and the choice of the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FirstStageReport {
    /// What its logits are divided by.
    pub temperature: f32,
    /// Probability of the best category from which on it decides.
    pub threshold: f32,
    /// Share of rows whose most probable category, by the first stage alone, is their label.
    pub accuracy: f64,
    /// Its expected calibration error over 15 bins.
    pub ece: f64,
    /// Share of rows that it decides in the cascade.
    pub coverage: f64,
    /// The cascade's accuracy.
    pub cascade_accuracy: f64,
}

impl fmt::Display for FirstStageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { temperature, threshold, accuracy, coverage, cascade_accuracy, .. } = self;
        let [accuracy, coverage, cascade] = [accuracy, coverage, cascade_accuracy].map(|share| 100.0 * share);
        write!(
            f,
            "first stage  accuracy {accuracy:.1} %, temperature {temperature:.3}; from {threshold:.3} on it decides \
             {coverage:.1} % of the rows, accuracy of the cascade {cascade:.1} %"
        )
    }
}

impl First {
    /// The manifest's section.
    pub(super) fn spec(&self, golden: &[u32]) -> FirstStageSpec {
        FirstStageSpec {
            file: FILE.to_owned(),
            threshold: self.report.threshold,
            temperature: self.report.temperature,
            golden_probabilities: FirstStage::new(&self.weights).probabilities(golden).to_vec(),
        }
    }
}

/// Fits a first stage, calibrates it and chooses its threshold.
pub(super) fn fit(
    options: &TrainOptions,
    vectors: &[Arc<[f32]>],
    train: Lessons<'_>,
    valid: (&[Example], &[usize]),
    heads: &Heads<'_>,
    penalty: Penalty,
    progress: &mut impl FnMut(Progress),
) -> First {
    let tokens = StaticTokens::new(vectors, train.examples.iter().map(|example| example.ids.as_slice()));
    let static_of = |examples: &[Example]| examples.iter().map(|e| tokens.example(e)).collect::<Vec<_>>();
    let taught =
        (options.distillation > 0.0).then(|| opinions(heads.full, train.examples, heads.temperature));
    let (train_static, valid_static) = (static_of(train.examples), static_of(valid.0));
    let teacher = taught.as_deref().map(|taught| (taught, options.distillation));
    let fitted = FittedFirst::fit(
        &tokens,
        Lessons { examples: &train_static, teacher, ..train },
        (&valid_static, valid.1),
        (heads.full.categories, heads.full.tables),
        (penalty, options.max_steps),
        |step| {
            progress(Progress::fitting("first stage", step));
            ControlFlow::Continue(())
        },
    );
    let stage = FirstStage::new(&fitted.weights);
    let staged = |(example, &label): (&Example, &usize)| Staged {
        first: Answer::of(label, &stage.probabilities(&example.ids)),
        second: Answer::of(label, &scaled(&heads.full.logits(example), heads.temperature)),
    };
    let answers: Vec<Staged> = valid.0.iter().zip(valid.1).map(staged).collect();
    let threshold = threshold(&answers, options.first_stage_loss);
    let firsts: Vec<Answer> = answers.iter().map(|answer| answer.first).collect();
    let cascade: Vec<Answer> = answers.iter().map(|answer| answer.at(threshold)).collect();
    let decided = firsts.iter().filter(|answer| answer.confidence >= threshold).count();
    let report = FirstStageReport {
        temperature: fitted.temperature,
        threshold,
        accuracy: metrics::accuracy(&firsts),
        ece: metrics::calibration_error(&firsts),
        coverage: decided as f64 / firsts.len().max(1) as f64,
        cascade_accuracy: metrics::accuracy(&cascade),
    };
    First { weights: fitted.weights, report }
}
