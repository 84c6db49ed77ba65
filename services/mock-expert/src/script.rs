//! Which request gets which fault.

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::latency::unit;

/// One line of a script: a fault and the requests it strikes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What goes wrong.
    pub fault: Fault,
    /// Only requests for this model; every model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How many matching requests are let through first.
    #[serde(default)]
    pub skip: u64,
    /// How many requests are struck before the step is spent; without end when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// The share of matching requests that are struck, drawn with the seed.
    #[serde(default = "always")]
    pub probability: f64,
}

fn always() -> f64 {
    1.0
}

impl Step {
    /// A step that strikes every request.
    pub fn always(fault: Fault) -> Self {
        Self { fault, model: None, skip: 0, times: None, probability: 1.0 }
    }

    /// A step that strikes the next `times` requests.
    pub fn times(fault: Fault, times: u64) -> Self {
        Self { times: Some(times), ..Self::always(fault) }
    }

    /// The same step for one model only.
    #[must_use]
    pub fn for_model(self, model: &str) -> Self {
        Self { model: Some(model.to_owned()), ..self }
    }
}

/// The steps with their counts so far.
#[derive(Debug, Default)]
pub(crate) struct Script {
    steps: Vec<Progress>,
    seed: u64,
}

#[derive(Debug)]
struct Progress {
    step: Step,
    /// Requests that matched so far.
    matched: u64,
    /// Requests that were struck so far.
    struck: u64,
}

impl Script {
    pub(crate) fn new(steps: Vec<Step>, seed: u64) -> Self {
        let steps = steps.into_iter().map(|step| Progress { step, matched: 0, struck: 0 }).collect();
        Self { steps, seed }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The fault for the next request for `model`: that of the first step that strikes.
    pub(crate) fn next(&mut self, model: &str) -> Option<Fault> {
        for (place, progress) in self.steps.iter_mut().enumerate() {
            let step = &progress.step;
            if step.model.as_deref().is_some_and(|m| m != model) {
                continue;
            }
            if step.times.is_some_and(|times| progress.struck >= times) {
                continue;
            }
            let number = progress.matched;
            progress.matched += 1;
            if number < step.skip {
                continue;
            }
            // Each step draws from its own sequence, so that adding a step does not change the others.
            let draw = unit(self.seed.wrapping_add(place as u64), number);
            if step.probability < 1.0 && draw >= step.probability {
                continue;
            }
            progress.struck += 1;
            return Some(step.fault);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(json: &str) -> Step {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn steps_are_spent_in_order() {
        let steps = vec![
            step(r#"{"fault": "status:503", "times": 2}"#),
            step(r#"{"fault": "reset", "skip": 1, "times": 1}"#),
        ];
        let mut script = Script::new(steps, 0);
        let names: Vec<_> = (0..5).map(|_| script.next("m").map(|f| f.name())).collect();
        assert_eq!(names, [Some("status"), Some("status"), None, Some("reset"), None]);
    }

    #[test]
    fn a_step_for_a_model_leaves_the_others_alone() {
        let mut script = Script::new(vec![Step::always(Fault::Reset).for_model("a")], 0);
        assert_eq!(script.next("b"), None);
        assert_eq!(script.next("a"), Some(Fault::Reset));
    }

    #[test]
    fn a_probability_is_kept_and_repeats_with_the_seed() {
        let run = |seed| {
            let mut script = Script::new(vec![step(r#"{"fault": "reset", "probability": 0.3}"#)], seed);
            (0..1000).map(|_| script.next("m").is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let struck = run(1).iter().filter(|hit| **hit).count();
        assert!((250..350).contains(&struck), "{struck}");
    }

    #[test]
    fn an_unknown_field_of_a_step_is_refused() {
        assert!(serde_json::from_str::<Step>(r#"{"fault": "reset", "count": 2}"#).is_err());
    }
}
