//! `train gate`: a gate for each expert, learnt from that expert's own prompts alone, after the fact.
//!
//! PHATGOOSE (arXiv 2402.05859) freezes model and expert and trains a gate v by how much `sigmoid(v . u)` of the expert's
//! output helps on the expert's own data. A gateway does not see that loss. What it has is the frozen encoder, and what
//! that makes of requests that belong to nobody (module `background`): the gate is to open for the expert's prompts and to stay
//! shut for those. With x the states of prompts ([`routing::Features::state`]), v minimises
//!
//! `1/2 mean_own softplus(-v . x) + 1/2 mean_background softplus(v . x) + 1/2 r |v|^2`, `r = 0.0006 mean_background |x|^2`
//!
//! which is logistic regression without a bias: policy `gates` has none either. The mean direction of the own prompts,
//! `v = mean_own x`, would do without a background; it is dominated by what all prompts have in common. Rule and penalty
//! were chosen on the valid rows of a corpus of 19 categories that stood for experts (router model 1.1.0, untuned): the right gate was highest for 77.4%
//! of 1,140 prompts, with mean directions for 73.0%. The function is strictly convex: it has one minimum, which depends on
//! nothing but the own prompts.

mod background;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use encoder::Encoder;
use serde::{Deserialize, Serialize};

use crate::data;
use crate::lbfgs;
use crate::learn::{LearnError, LearnOptions, Learnt};
use crate::readings;

/// The penalty, in mean squared lengths of the background's states.
const PENALTY: f32 = 0.0006;
/// A fit ends when a step gains less than this share of the value.
const PRECISION: f64 = 1e-7;
/// Steps of a fit at the latest.
const STEPS: usize = 300;
/// Prompts below which there is no gate: a handful says nothing of what an expert is for.
const LEAST_PROMPTS: usize = 10;

/// The body of `PUT /admin/v1/gates/{expert}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LearntGate {
    /// The space of the states.
    pub encoder: String,
    /// v, `[d]`.
    pub vector: Vec<f32>,
}

/// One line: a prompt and whose it is. Other fields are ignored.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    text: String,
    #[serde(default)]
    expert: Option<String>,
    #[serde(default)]
    category: Option<String>,
}

impl Line {
    fn owner(&self) -> Option<&str> {
        self.expert.as_deref().or(self.category.as_deref()).filter(|owner| !owner.trim().is_empty())
    }

    fn fault(&self, named: bool) -> Option<String> {
        if self.text.trim().is_empty() {
            return Some("`text` is empty".to_owned());
        }
        let nobody = !named && self.owner().is_none();
        nobody.then(|| "neither `expert` nor `category` says whose prompt it is".to_owned())
    }
}

/// Learns a gate for every expert of a file of prompts, or for the named one of a file that holds its prompts alone.
/// What an expert's gate is does not depend on the others in the file.
///
/// # Errors
/// [`LearnError`] naming the file, and the line where a line is at fault.
pub fn gates_of_prompts(
    encoder: &Encoder,
    file: &Path,
    expert: Option<&str>,
    learn: &LearnOptions,
    mut progress: impl FnMut(usize, usize),
) -> Result<Learnt<LearntGate>, LearnError> {
    let wanted = "an object with `text`, and `expert` or `category`";
    let lines: Vec<Line> = data::lines(file, wanted, |line: &Line| line.fault(expert.is_some()))?;
    let unfit = |problem: String| LearnError::Unfit { from: file.display().to_string(), problem };
    let mut by_expert: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in &lines {
        by_expert.entry(expert.or(line.owner()).unwrap_or_default()).or_default().push(&line.text);
    }
    if let Some((name, few)) = by_expert.iter().find(|(_, prompts)| prompts.len() < LEAST_PROMPTS) {
        let problem =
            format!("has {} prompts of `{name}`, and at least {LEAST_PROMPTS} are needed", few.len());
        return Err(unfit(problem));
    }
    let requests = background::requests();
    let (mut before, total) = (0, requests.len() + lines.len());
    // Each expert's by themselves: what is read together shares batches, whose padding moves the last digits.
    let mut read = |texts: &[&str]| {
        let cache = learn.cache.as_deref();
        let states = readings::states(encoder, texts, cache, |done, _| progress(before + done, total));
        before += texts.len();
        states
    };
    let general = read(&requests.iter().map(String::as_str).collect::<Vec<_>>())?;
    if general.iter().any(|state| state.is_empty()) {
        let problem = "the bundle's graph has no `token_states`, which gates look at; use another bundle";
        return Err(unfit(problem.to_owned()));
    }
    let general: Vec<&[f32]> = general.iter().map(|state| &**state).collect();
    let mut experts = BTreeMap::new();
    for (name, prompts) in by_expert {
        let own = read(&prompts)?;
        let vector = fit(&own.iter().map(|state| &**state).collect::<Vec<_>>(), &general);
        experts.insert(name.to_owned(), LearntGate { encoder: encoder.bundle().space().to_owned(), vector });
    }
    let settings = format!("against {} general requests", general.len());
    Ok(Learnt { experts, settings, prompts: lines.len() })
}

/// The gate that opens for own states and stays shut for general ones; see the module's description.
fn fit(own: &[&[f32]], general: &[&[f32]]) -> Vec<f32> {
    let width = general.first().map_or(0, |state| state.len());
    let squares: f32 = general.iter().map(|x| dot(x, x)).sum();
    let penalty = PENALTY * squares / general.len().max(1) as f32;
    // The sign that v . x should have, and how much the state counts.
    let share = |side: &[&[f32]]| 0.5 / side.len().max(1) as f32;
    let sides = [(own, -1.0_f32, share(own)), (general, 1.0, share(general))];
    let evaluate = |v: &[f32], gradient: &mut [f32]| {
        let mut value = f64::from(0.5 * penalty * dot(v, v));
        for (to, v) in gradient.iter_mut().zip(v) {
            *to = penalty * v;
        }
        for (states, sign, share) in sides {
            for x in states {
                let margin = sign * dot(v, x);
                value += f64::from(share) * f64::from(margin.max(0.0) + (-margin.abs()).exp().ln_1p());
                let slope = share * sign / (1.0 + (-margin).exp());
                for (to, x) in gradient.iter_mut().zip(*x) {
                    *to += slope * x;
                }
            }
        }
        value
    };
    let mut gate = vec![0.0; width];
    let mut before = f64::INFINITY;
    lbfgs::minimise(vec![0.0; width], evaluate, |step| {
        gate.copy_from_slice(step.point);
        let gained = before - step.value;
        before = step.value;
        if gained < PRECISION * step.value || step.iteration >= STEPS {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    gate
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    crate::clusters::similarity(a, b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// States around a centre; all of them share a large last component, as those of real prompts do.
    fn states(centre: [f32; 3], seed: u64, count: usize) -> Vec<Vec<f32>> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut one = || {
            let mut state: Vec<f32> = centre.iter().map(|x| x + rng.f32() - 0.5).collect();
            state.push(5.0 + rng.f32());
            state
        };
        (0..count).map(|_| one()).collect()
    }

    fn views(states: &[Vec<f32>]) -> Vec<&[f32]> {
        states.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn a_gate_opens_for_its_own_prompts_and_not_for_general_ones() {
        let general = states([0.0; 3], 1, 200);
        let own = states([1.0, 0.0, -1.0], 2, 50);
        let gate = fit(&views(&own), &views(&general));
        let open = |states: &[Vec<f32>]| states.iter().filter(|x| dot(&gate, x) > 0.0).count();
        let (fresh, other) = (states([1.0, 0.0, -1.0], 3, 100), states([-1.0, 0.5, 1.0], 4, 100));
        assert!(open(&fresh) > 95 && open(&other) < 5, "{} {}", open(&fresh), open(&other));
        assert_eq!(gate, fit(&views(&own), &views(&general)), "the same to the last bit");
    }

    #[test]
    fn the_minimum_is_one() {
        let (general, own) = (states([0.0; 3], 1, 60), states([1.0, 0.0, -1.0], 2, 30));
        let gate = fit(&views(&own), &views(&general));
        // The gradient there, computed in the plainest way.
        let squares: f32 = general.iter().map(|x| x.iter().map(|x| x * x).sum::<f32>()).sum();
        let mut gradient: Vec<f32> = gate.iter().map(|v| PENALTY * squares / 60.0 * v).collect();
        for (states, sign) in [(&own, -1.0_f32), (&general, 1.0)] {
            for x in states {
                let product: f32 = gate.iter().zip(x).map(|(v, x)| v * x).sum();
                let slope = sign / (1.0 + (-sign * product).exp()) * 0.5 / states.len() as f32;
                gradient.iter_mut().zip(x).for_each(|(g, x)| *g += slope * x);
            }
        }
        assert!(gradient.iter().all(|g| g.abs() < 2e-3), "{gradient:?}");
    }

    #[test]
    fn a_line_says_whose_prompt_it_is() {
        let fault = |line: &str, named| serde_json::from_str::<Line>(line).unwrap().fault(named);
        assert_eq!(fault(r#"{"text":"t","category":"c"}"#, false), None);
        assert_eq!(fault(r#"{"text":"t"}"#, true), None);
        assert!(fault(r#"{"text":"t"}"#, false).unwrap().contains("neither"));
        assert!(fault(r#"{"text":" ","expert":"a"}"#, false).unwrap().contains("`text`"));
        let line: Line = serde_json::from_str(r#"{"text":"t","category":"c","expert":"e"}"#).unwrap();
        assert_eq!(line.owner(), Some("e"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        #[test]
        fn the_order_of_the_prompts_is_nothing(seed in 2..1000u64, turn in 0..40usize) {
            let general = states([0.0; 3], 1, 100);
            let mut own = states([0.5, 1.0, 0.0], seed, 40);
            let gate = fit(&views(&own), &views(&general));
            own.rotate_left(turn);
            let turned = fit(&views(&own), &views(&general));
            for (a, b) in gate.iter().zip(&turned) {
                prop_assert!((a - b).abs() < 2e-2 * (1.0 + a.abs()), "{gate:?} {turned:?}");
            }
        }
    }
}
