//! What each stage of a bundle is worth, and what the cascade of both is worth at every threshold.

use serde::Serialize;

use super::cost::Cost;
use crate::metrics::{self, Answer, Staged};

/// Each stage and the cascade.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stages {
    /// The first stage alone, where the bundle has one.
    pub first: Option<StageEval>,
    /// The encoder alone.
    pub encoder: StageEval,
    /// First stage, then encoder.
    pub cascade: Option<CascadeEval>,
}

/// One stage alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageEval {
    /// Share of rows whose most probable category is their label.
    pub accuracy: f64,
    /// Expected calibration error over 15 bins.
    pub ece: f64,
    /// What a decision costs; nothing if it was not measured.
    pub cost: Option<Cost>,
}

/// The cascade at its threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CascadeEval {
    /// Probability of the best category from which on the first stage decides.
    pub threshold: f32,
    /// Share of rows that the first stage decides.
    pub coverage: f64,
    /// Share of right answers among those.
    pub accuracy_decided: f64,
    /// Share of right answers among all rows.
    pub accuracy: f64,
    /// Expected calibration error over 15 bins.
    pub ece: f64,
    /// What a decision costs; nothing if it was not measured.
    pub cost: Option<Cost>,
    /// The whole trade-off, from the lowest threshold to the highest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<Point>,
}

/// The cascade at another threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The threshold.
    pub threshold: f64,
    /// Share of rows that the first stage decides.
    pub coverage: f64,
    /// Accuracy of the cascade.
    pub accuracy: f64,
    /// Mean processor time of a decision in microseconds, by those of the stages; nothing if those were not
    /// measured.
    pub cpu_us: Option<f64>,
}

/// Steps of the curve between the thresholds 0 and 1.
const STEPS: u32 = 40;

/// Costs of first stage, encoder and cascade.
#[derive(Default)]
pub(super) struct Costs {
    pub first: Option<Cost>,
    pub encoder: Option<Cost>,
    pub cascade: Option<Cost>,
}

impl Stages {
    /// Of a bundle without a first stage.
    pub(super) fn of_encoder(answers: &[Answer], costs: Costs) -> Self {
        Self { first: None, encoder: alone(answers, costs.encoder), cascade: None }
    }

    /// Of a bundle with a first stage.
    pub(super) fn of_both(answers: &[Staged], threshold: f32, costs: Costs) -> Self {
        let firsts: Vec<Answer> = answers.iter().map(|answer| answer.first).collect();
        let seconds: Vec<Answer> = answers.iter().map(|answer| answer.second).collect();
        let both: Vec<Answer> = answers.iter().map(|answer| answer.at(threshold)).collect();
        let decided: Vec<Answer> = firsts.iter().filter(|a| a.confidence >= threshold).copied().collect();
        let share = |part: usize| part as f64 / answers.len().max(1) as f64;
        let cpu = |cost: &Option<Cost>| cost.as_ref().and_then(|cost| cost.cpu_us);
        let (cheap, dear) = (cpu(&costs.first), cpu(&costs.encoder));
        let curve = (0..=STEPS).map(|step| {
            let threshold = f64::from(step) / f64::from(STEPS);
            let coverage = share(firsts.iter().filter(|a| f64::from(a.confidence) >= threshold).count());
            let answers: Vec<Answer> = answers.iter().map(|answer| answer.at(threshold as f32)).collect();
            // What the first stage leaves to the encoder has cost its tokens already.
            let cpu_us =
                cheap.zip(dear).map(|(cheap, dear)| cheap + (1.0 - coverage) * (dear - cheap).max(0.0));
            Point { threshold, coverage, accuracy: metrics::accuracy(&answers), cpu_us }
        });
        let cascade = CascadeEval {
            threshold,
            coverage: share(decided.len()),
            accuracy_decided: metrics::accuracy(&decided),
            accuracy: metrics::accuracy(&both),
            ece: metrics::calibration_error(&both),
            cost: costs.cascade,
            curve: curve.collect(),
        };
        Self {
            first: Some(alone(&firsts, costs.first)),
            encoder: alone(&seconds, costs.encoder),
            cascade: Some(cascade),
        }
    }
}

fn alone(answers: &[Answer], cost: Option<Cost>) -> StageEval {
    StageEval { accuracy: metrics::accuracy(answers), ece: metrics::calibration_error(answers), cost }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Vec<Staged> {
        [(0.95, true, true), (0.8, false, true), (0.6, true, false), (0.3, false, true)]
            .map(|(confidence, first, second)| {
                let answer = |right: bool| Answer { label: 0, top: usize::from(!right), confidence };
                Staged { first: answer(first), second: answer(second) }
            })
            .to_vec()
    }

    #[test]
    fn a_cascade_worked_by_hand() {
        let cost = |cpu_us| Some(Cost { rows: 1, cpu_us: Some(cpu_us), p50_us: 0.0, p99_us: 0.0 });
        let costs = Costs { first: cost(10.0), encoder: cost(110.0), cascade: None };
        let stages = Stages::of_both(&answers(), 0.9, costs);
        let cascade = stages.cascade.unwrap();
        assert!((cascade.coverage - 0.25).abs() < 1e-9 && (cascade.accuracy_decided - 1.0).abs() < 1e-9);
        assert!((cascade.accuracy - 0.75).abs() < 1e-9);
        assert!((stages.first.unwrap().accuracy - 0.5).abs() < 1e-9);
        assert!((stages.encoder.accuracy - 0.75).abs() < 1e-9);
        // At 0.5 the first stage decides three of four, one of them wrongly, and mends one.
        let at = cascade.curve[20];
        assert!((at.threshold - 0.5).abs() < 1e-9 && (at.coverage - 0.75).abs() < 1e-9);
        assert!((at.accuracy - 0.75).abs() < 1e-9);
        assert!((at.cpu_us.unwrap() - 35.0).abs() < 1e-9);
        let ends = [cascade.curve[0], cascade.curve[40]];
        assert!((ends[0].coverage - 1.0).abs() < 1e-9 && ends[1].coverage.abs() < 1e-9);
    }

    #[test]
    fn without_a_first_stage_there_is_no_cascade() {
        let seconds: Vec<Answer> = answers().iter().map(|answer| answer.second).collect();
        let stages = Stages::of_encoder(&seconds, Costs::default());
        assert!(stages.first.is_none() && stages.cascade.is_none());
        assert!((stages.encoder.accuracy - 0.75).abs() < 1e-9);
    }
}
