//! The fits of a training run, one after the other: without sources, the head, the first stage.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::first::{self, First};
use super::plan::{self, Material};
use super::report::{ValidReport, valid_report};
use super::sources::Trial;
use super::{LeaveOutReport, Progress, TrainError, TrainOptions};
use crate::calibrate;
use crate::features::{Example, Tables};
use crate::head::{Head, Lessons, Penalty, STRETCH_OF_UNIT_VECTORS};
use crate::quantise::{Rounded, Storage};

/// How much more the weights of static vectors cost in the first stage than those of words.
const STATIC_PENALTY: f32 = 100.0;

/// What there is to fit to.
pub(super) struct Inputs<'a> {
    pub material: &'a Material,
    pub train: &'a [Example],
    pub valid: &'a [Example],
    /// What the encoder makes of each token alone, where a first stage is wanted.
    pub vectors: Option<&'a [Arc<[f32]>]>,
    pub tables: Tables,
}

/// What was fitted.
pub(super) struct Fitted {
    /// The head, as the graph will hold it.
    pub rounded: Rounded,
    pub temperature: f32,
    /// Steps of the head's fit.
    pub steps: usize,
    /// What was minimised: the penalties may have been chosen.
    pub penalty: Penalty,
    pub report: ValidReport,
    pub first: Option<First>,
    pub left_out: Option<LeaveOutReport>,
}

/// Fits all that was asked for.
pub(super) fn fit(
    options: &TrainOptions,
    inputs: &Inputs<'_>,
    storage: Storage,
    progress: &mut impl FnMut(Progress),
) -> Result<Fitted, TrainError> {
    let Inputs { material, train, valid, vectors, tables } = *inputs;
    let weights = plan::weights(material, options.source_balance, options.category_balance);
    let lessons = Lessons { weights: &weights, ..Lessons::new(train, &material.train_labels) };
    let mut penalty = Penalty {
        lexical: options.lexical_penalty,
        embedding: options.embedding_penalty,
        min_examples: options.min_rows,
        smoothing: options.label_smoothing,
        stretch: STRETCH_OF_UNIT_VECTORS,
    };
    let max_steps = options.max_steps;
    let left_out = match &options.leave_out {
        Some(how) => {
            let trial = Trial { material, train, valid, weights: &weights, tables, penalty, max_steps };
            Some(trial.run(how, progress)?)
        }
        None => None,
    };
    if let Some(report) = &left_out {
        penalty.lexical = report.lexical_penalty;
        penalty.embedding = report.embedding_penalty;
    }
    let labelled = (valid, material.valid_labels.as_slice());
    let mut steps = 0;
    let head =
        Head::fit(lessons, labelled, (material.categories.len(), tables), penalty, max_steps, |step| {
            steps = step.iteration;
            progress(Progress::fitting("head", step));
            ControlFlow::Continue(())
        });
    let rounded = Rounded::new(head, storage);
    let logits: Vec<Vec<f32>> = valid.iter().map(|example| rounded.head.logits(example)).collect();
    let strangers = left_out.as_ref().map_or(&[][..], |report| report.losses.as_slice());
    let temperature = options
        .temperature
        .unwrap_or_else(|| calibrate::shared_temperature((&logits, &material.valid_labels), strangers));
    let report = valid_report(&logits, &material.valid_labels, temperature);
    let first = vectors.map(|vectors| {
        let heads = first::Heads { full: &rounded.head, temperature };
        let lexical = options.first_stage_penalty;
        let penalty = Penalty { lexical, embedding: STATIC_PENALTY * lexical, ..penalty };
        first::fit(options, vectors, lessons, labelled, &heads, penalty, progress)
    });
    Ok(Fitted { rounded, temperature, steps, penalty, report, first, left_out })
}
