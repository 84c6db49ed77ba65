//! Measuring routers on outcomes: who would have been asked, and what that would have been worth.
//!
//! Settings are chosen by cross-validation over the rows of train and valid; the rows of test are looked at once, at
//! the end. `docs/evaluation.md` has the definitions.

mod learners;
mod material;
mod measure;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use encoder::{EncodeError, Encoder};
use routing::PolicyError;
use serde::Serialize;

use crate::features::Example;
use crate::linalg::Matrix;
use crate::outcomes::{Outcome, OutcomeError, OutcomeSet};
use crate::readings::{self, ReadingError};
use learners::{Family, blend, families, stack, true_domain};
use material::{Fold, Sample};
use measure::{Costs, Point, Threshold, bootstrap, cheapest, gap_closed, mean};

pub(crate) use learners::choose_by_error;
pub(crate) use material::parts;
pub(crate) use measure::top;

pub use report::Report;

/// Shares of the best single model's score that costs are asked for.
const TARGETS: [(&str, f64); 4] = [("0.9", 0.9), ("0.95", 0.95), ("0.98", 0.98), ("1.0", 1.0)];
/// Parts of the cross-validation.
const FOLDS: usize = 4;

/// How to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingOptions {
    /// Seed of folds, clusters and resamples.
    pub seed: u64,
    /// A file that keeps embeddings between runs.
    pub cache: Option<PathBuf>,
}

impl Default for RoutingOptions {
    fn default() -> Self {
        Self { seed: 1, cache: None }
    }
}

/// What measuring is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingProgress {
    /// Prompts go through the encoder.
    Reading {
        /// Prompts done.
        done: usize,
        /// Prompts in all.
        total: usize,
    },
    /// Routers are fitted.
    Fitting {
        /// Fits done.
        done: usize,
        /// Fits in all.
        total: usize,
    },
}

/// Routers on one routing set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoutingEval {
    /// The set.
    pub set: String,
    /// Rows that were measured on.
    pub rows: usize,
    /// Rows that were learnt from, those that chose the settings included.
    pub learnt_from: usize,
    /// Mean score of the model with the best mean on the train rows.
    pub best_single: f64,
    /// That model.
    pub best_single_model: String,
    /// Mean score of a model chosen at random.
    pub random: f64,
    /// Mean score of the best model for each row.
    pub oracle: f64,
    /// Mean score of the best model of each row's true domain.
    pub true_domain: f64,
    /// Share of rows whose domain the domain head finds.
    pub domain_accuracy: f64,
    /// What costs are counted in; nothing where they are not known.
    pub cost_unit: Option<&'static str>,
    /// Each router by name.
    pub policies: BTreeMap<String, PolicyEval>,
    /// Always the best single model, the true domain and the oracle, measured like routers.
    pub references: BTreeMap<String, PolicyEval>,
}

/// What one router is worth on one set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyEval {
    /// Mean score of the models it chooses.
    pub score: f64,
    /// 95 % interval of that.
    pub score_interval: [f64; 2],
    /// Share of the gap between best single model and oracle that it closes.
    pub gap_closed: f64,
    /// 95 % interval of that.
    pub gap_closed_interval: [f64; 2],
    /// Two models: area under the curve of the performance gap recovered.
    pub apgr: Option<f64>,
    /// 95 % interval of that.
    pub apgr_interval: Option<[f64; 2]>,
    /// Two models: share of calls to the strong one that recovers 50 % of the gap.
    pub cpt50: Option<f64>,
    /// Two models: share of calls to the strong one that recovers 80 % of the gap.
    pub cpt80: Option<f64>,
    /// Smallest mean cost that reaches a share of the best single model's score, read off the curve over all prices;
    /// nothing where no price does.
    pub cost_at: BTreeMap<&'static str, Option<f64>>,
    /// The same with the price chosen without these rows.
    pub at_chosen_price: BTreeMap<&'static str, Option<Chosen>>,
    /// The settings that cross-validation chose.
    pub settings: String,
    /// Cost and score over all prices.
    #[serde(skip)]
    pub curve: Vec<[f64; 2]>,
}

/// What a price chosen by cross-validation comes to on the test rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Chosen {
    /// Score points given up for the dearest model's mean cost.
    pub price: f64,
    /// Mean cost.
    pub cost: f64,
    /// Mean score as a share of the best single model's.
    pub score_share: f64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum RoutingEvalError {
    /// The set cannot be used.
    #[error(transparent)]
    Outcomes(#[from] OutcomeError),
    /// There is too little of something.
    #[error("{set}: {problem}")]
    TooSmall {
        /// The set.
        set: String,
        /// What is missing.
        problem: String,
    },
    /// The prompts could not be read.
    #[error(transparent)]
    Reading(#[from] ReadingError),
    /// The prompts could not be tokenised.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A policy refused its settings.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Measures routers on a set; contaminated rows are left out. Blocks; not to be called from an async context.
///
/// # Errors
/// [`RoutingEvalError`].
pub fn evaluate_routing(
    encoder: &Encoder,
    set: &OutcomeSet,
    options: &RoutingOptions,
    mut progress: impl FnMut(RoutingProgress),
) -> Result<RoutingEval, RoutingEvalError> {
    let clean =
        |rows: &[Outcome]| -> Vec<Outcome> { rows.iter().filter(|row| !row.contaminated).cloned().collect() };
    let (train, valid, test) = (clean(&set.train), clean(&set.valid), clean(&set.test));
    for (part, rows, least) in [("train", &train, 2 * FOLDS), ("test", &test, 1)] {
        if rows.len() < least {
            let problem =
                format!("has {} rows in {part}, and {least} are needed to measure routers", rows.len());
            return Err(RoutingEvalError::TooSmall { set: set.name.clone(), problem });
        }
    }
    let (trained, learnt) = (train.len(), train.len() + valid.len());
    let rows: Vec<Outcome> = train.into_iter().chain(valid).chain(test).collect();
    let known: BTreeSet<&str> = rows[..learnt].iter().map(|row| row.domain.as_str()).collect();
    let domains: Vec<&str> = known.into_iter().collect();
    let all = sample(encoder, &rows, &domains, options, &mut progress)?;
    let learn = all.pick(&(0..learnt).collect::<Vec<_>>());
    let test = all.pick(&(learnt..rows.len()).collect::<Vec<_>>());

    // What every router would have said of rows that it did not learn from; settings are chosen by it.
    let mut guesses: Vec<Family> = Vec::new();
    let total = FOLDS + 1;
    for (done, part) in parts(learnt, FOLDS, options.seed).into_iter().enumerate() {
        progress(RoutingProgress::Fitting { done, total });
        let rest: Vec<usize> = (0..learnt).filter(|row| !part.contains(row)).collect();
        let fold = Fold::new(learn.pick(&rest), learn.pick(&part), domains.len());
        scatter(&mut guesses, &families(&fold, options.seed)?, &part, learnt);
    }
    progress(RoutingProgress::Fitting { done: FOLDS, total });
    let fold = Fold::new(learn, test, domains.len());
    let routers = routers(&guesses, families(&fold, options.seed)?, &fold.learn.scores);
    let bench = Bench::new(set, &fold, trained, options.seed);
    progress(RoutingProgress::Fitting { done: total, total });

    let right = fold.predict.domains.iter().zip(fold.shares.iter());
    let right = right.filter(|(domain, shares)| **domain == Some(top(shares))).count();
    let best = bench.always_best();
    let truth = true_domain(&fold);
    let oracle = &fold.predict.scores;
    let measured = |(name, router): (String, Router)| (name, bench.measure(&router.predicted, Some(&router)));
    let reference = |(name, predicted)| (str::to_owned(name), bench.measure(predicted, None));
    let references: BTreeMap<String, PolicyEval> =
        [("best_single", &best), ("true_domain", &truth), ("oracle", oracle)].map(reference).into();
    Ok(RoutingEval {
        set: set.name.clone(),
        rows: bench.rows(),
        learnt_from: learnt,
        best_single: references["best_single"].score,
        best_single_model: set.models[bench.best].name.clone(),
        random: mean(oracle.data.iter().copied()),
        oracle: references["oracle"].score,
        true_domain: references["true_domain"].score,
        domain_accuracy: right as f64 / bench.rows() as f64,
        cost_unit: bench.costs.as_ref().map(|costs| costs.unit),
        policies: routers.into_iter().map(measured).collect(),
        references,
    })
}

/// Reads the prompts of rows and puts everything in place.
fn sample(
    encoder: &Encoder,
    rows: &[Outcome],
    domains: &[&str],
    options: &RoutingOptions,
    progress: &mut impl FnMut(RoutingProgress),
) -> Result<Sample, RoutingEvalError> {
    let prompts: Vec<&str> = rows.iter().map(|row| row.prompt.as_str()).collect();
    let told = |done, total| progress(RoutingProgress::Reading { done, total });
    let readings = readings::read(encoder, &prompts, options.cache.as_deref(), told)?;
    let example = |(reading, prompt): (&readings::Reading, &&str)| {
        let window = encoder.tokenize_window(prompt)?;
        Ok((Example { ids: window.ids, embedding: reading.embedding.clone() }, window.tokens))
    };
    let examples: Result<(Vec<Example>, Vec<u32>), EncodeError> =
        readings.iter().zip(&prompts).map(example).collect();
    let (examples, tokens) = examples?;
    let models = rows.first().map_or(0, |row| row.scores.len());
    let spent: Option<Vec<f64>> =
        rows.iter().map(|row| row.costs.as_deref()).try_fold(Vec::new(), |mut all, costs| {
            all.extend_from_slice(costs?);
            Some(all)
        });
    Ok(Sample {
        examples,
        tokens,
        categories: Matrix::from_rows(
            readings.iter().map(|reading| &*reading.probabilities),
            encoder.bundle().categories.len(),
        ),
        domains: rows.iter().map(|row| domains.binary_search(&row.domain.as_str()).ok()).collect(),
        scores: Matrix::from_rows(rows.iter().map(|row| row.scores.as_slice()), models),
        spent: spent.map(|data| Matrix { cols: models, data }),
    })
}

/// Puts the predictions of one part of the rows where those rows are.
fn scatter(all: &mut Vec<Family>, part: &[Family], rows: &[usize], total: usize) {
    if all.is_empty() {
        let empty =
            |(setting, matrix): &(String, Matrix)| (setting.clone(), Matrix::zeros(total, matrix.cols));
        let family = |f: &Family| Family { name: f.name, variants: f.variants.iter().map(empty).collect() };
        *all = part.iter().map(family).collect();
    }
    for (to, from) in all.iter_mut().zip(part) {
        for ((_, to), (_, from)) in to.variants.iter_mut().zip(&from.variants) {
            for (&row, values) in rows.iter().zip(from.iter()) {
                to.row_mut(row).copy_from_slice(values);
            }
        }
    }
}

/// A router with the settings that were chosen.
struct Router {
    settings: String,
    /// What it said of the rows to learn from, each time without having learnt from the row.
    guessed: Matrix,
    /// What it says of the test rows.
    predicted: Matrix,
}

/// Chooses settings by the guesses, and adds what is made of several routers.
fn routers(guesses: &[Family], finals: Vec<Family>, scores: &Matrix) -> BTreeMap<String, Router> {
    let mut routers = BTreeMap::new();
    for (guess, family) in guesses.iter().zip(finals) {
        let best = choose_by_error(guess.variants.iter().map(|(_, guessed)| guessed), scores);
        let chosen =
            best.and_then(|best| Some((guess.variants.get(best)?, family.variants.into_iter().nth(best)?)));
        if let Some(((_, guessed), (settings, predicted))) = chosen {
            routers.insert(family.name.to_owned(), Router { settings, guessed: guessed.clone(), predicted });
        }
    }
    let mix = |parts: Vec<(f64, &Router)>, settings: String| Router {
        settings,
        guessed: blend(parts.iter().map(|(weight, router)| (*weight, &router.guessed))),
        predicted: blend(parts.iter().map(|(weight, router)| (*weight, &router.predicted))),
    };
    let parts: Vec<&Matrix> = routers.values().map(|router: &Router| &router.guessed).collect();
    let weighted: Vec<(f64, &str, &Router)> = stack(&parts, scores)
        .into_iter()
        .zip(&routers)
        .filter(|(weight, _)| *weight > 1e-6)
        .map(|(weight, (name, router))| (weight, name.as_str(), router))
        .collect();
    let words: Vec<String> = weighted.iter().map(|(weight, name, _)| format!("{weight:.2} {name}")).collect();
    let ensemble =
        mix(weighted.into_iter().map(|(weight, _, router)| (weight, router)).collect(), words.join(" + "));
    routers.insert("ensemble".to_owned(), ensemble);
    routers
}

/// What all routers of a set are measured by.
struct Bench<'a> {
    learn: &'a Sample,
    test: &'a Sample,
    /// The model with the best mean on the train rows.
    best: usize,
    /// The same among the models of known cost.
    best_priced: usize,
    costs: Option<Costs>,
    oracle: Vec<f64>,
    seed: u64,
}

impl<'a> Bench<'a> {
    fn new(set: &OutcomeSet, fold: &'a Fold, trained: usize, seed: u64) -> Self {
        let (learn, test) = (&fold.learn, &fold.predict);
        // The learnt rows begin with those of train.
        let train = learn.pick(&(0..trained).collect::<Vec<_>>()).scores.mean();
        let known = match &learn.spent {
            Some(spent) => spent.mean().into_iter().map(Some).collect(),
            None => set.models.iter().map(|model| model.params_active_b).collect::<Vec<_>>(),
        };
        let unit = if learn.spent.is_some() { "USD per call" } else { "active parameters (B)" };
        let priced: Vec<f64> =
            train.iter().zip(&known).map(|(mean, cost)| cost.map_or(f64::NEG_INFINITY, |_| *mean)).collect();
        let costs = (known.iter().flatten().count() > 1).then_some(Costs { known, unit });
        let oracle = test.scores.iter().map(|row| row[top(row)]).collect();
        Self { learn, test, best: top(&train), best_priced: top(&priced), costs, oracle, seed }
    }

    fn rows(&self) -> usize {
        self.test.len()
    }

    /// The best single model as a router.
    fn always_best(&self) -> Matrix {
        let mut predicted = Matrix::zeros(self.rows(), self.test.scores.cols);
        for row in 0..self.rows() {
            predicted.row_mut(row)[self.best] = 1.0;
        }
        predicted
    }

    fn measure(&self, predicted: &Matrix, router: Option<&Router>) -> PolicyEval {
        let scores = &self.test.scores;
        let worth: Vec<f64> =
            predicted.iter().zip(scores.iter()).map(|(predicted, scores)| scores[top(predicted)]).collect();
        let of = |values: &[f64], rows: &[usize]| mean(rows.iter().map(|&row| values[row]));
        let single: Vec<f64> = scores.iter().map(|row| row[self.best]).collect();
        let gap = |rows: &[usize]| gap_closed(of(&worth, rows), of(&single, rows), of(&self.oracle, rows));
        let every: Vec<usize> = (0..self.rows()).collect();
        let n = self.rows();
        let threshold = self.threshold(predicted, &every);
        let curve = self.curve(predicted);
        PolicyEval {
            score: of(&worth, &every),
            score_interval: bootstrap(n, self.seed, |rows| of(&worth, rows)),
            gap_closed: gap(&every),
            gap_closed_interval: bootstrap(n, self.seed, gap),
            apgr: threshold.as_ref().map(Threshold::apgr),
            apgr_interval: threshold.as_ref().map(|_| {
                let area = |rows: &[usize]| self.threshold(predicted, rows).map_or(0.5, |curve| curve.apgr());
                bootstrap(n, self.seed, area)
            }),
            cpt50: threshold.as_ref().map(|curve| curve.calls(0.5)),
            cpt80: threshold.as_ref().map(|curve| curve.calls(0.8)),
            cost_at: TARGETS
                .map(|(name, share)| {
                    let reached = cheapest(&curve, share * self.priced_score(self.test));
                    (name, reached.map(|point| point.cost))
                })
                .into(),
            at_chosen_price: TARGETS
                .map(|(name, share)| (name, router.and_then(|router| self.chosen(router, &curve, share))))
                .into(),
            settings: router.map(|router| router.settings.clone()).unwrap_or_default(),
            curve: curve.iter().map(|point| [point.cost, point.score]).collect(),
        }
    }

    /// The threshold curve of some rows, where the set has two models.
    fn threshold(&self, predicted: &Matrix, rows: &[usize]) -> Option<Threshold> {
        if predicted.cols != 2 {
            return None;
        }
        let gain = |from: &Matrix| -> Vec<f64> {
            rows.iter().map(|&row| from.row(row)[self.best] - from.row(row)[1 - self.best]).collect()
        };
        Threshold::new(&gain(predicted), &gain(&self.test.scores))
    }

    fn curve(&self, predicted: &Matrix) -> Vec<Point> {
        let curve = |costs: &Costs| costs.curve(predicted, &self.test.scores, self.test.spent.as_ref());
        self.costs.as_ref().map(curve).unwrap_or_default()
    }

    /// Mean score of the best single model of known cost.
    fn priced_score(&self, sample: &Sample) -> f64 {
        mean(sample.scores.iter().map(|row| row[self.best_priced]))
    }

    /// The price that the learnt rows ask for, and what it comes to on the test rows.
    fn chosen(&self, router: &Router, curve: &[Point], share: f64) -> Option<Chosen> {
        let costs = self.costs.as_ref()?;
        let learnt = costs.curve(&router.guessed, &self.learn.scores, self.learn.spent.as_ref());
        let price = cheapest(&learnt, share * self.priced_score(self.learn))?.price;
        let point = curve.iter().find(|point| point.price.total_cmp(&price).is_eq())?;
        let score_share = point.score / self.priced_score(self.test);
        Some(Chosen { price, cost: point.cost, score_share })
    }
}
