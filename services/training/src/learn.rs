//! `train mapping`, `train scorer`, `train pilots`: what outcomes tell of experts, in the form that the admin API takes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use encoder::Encoder;
use serde::{Deserialize, Serialize};

use crate::data::{self, DataError};
use crate::eval::routing::{choose_by_error, parts};
use crate::linalg::{Matrix, add};
use crate::mapping::Skills;
use crate::mapping::programme::{Programme, ProgrammeError};
use crate::mapping::robust::{self, Robust};
use crate::outcomes::{Outcome, OutcomeSet};
use crate::pilots;
use crate::readings::{self, Reading, ReadingError};
use crate::scorer::Moments;

/// Penalties of scorers that are tried.
const ALPHAS: [f64; 5] = [3.0, 10.0, 30.0, 100.0, 300.0];
/// Parts of the cross-validation that chooses one.
const FOLDS: usize = 5;
/// Prompts below which a group has no pilot.
const LEAST_PROMPTS: usize = 5;

/// Where readings are kept between runs, and the seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LearnOptions {
    /// A file that keeps embeddings between runs.
    pub cache: Option<PathBuf>,
    /// Seed of the folds.
    pub seed: u64,
}

/// How w(c,e) is counted, and who may be mapped to.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingOptions {
    /// Prompts' worth of weight that an expert's mean has in each category.
    pub pseudo_counts: f64,
    /// Whether a prompt counts for its most probable category alone.
    pub hard: bool,
    /// The most that the hosted experts may have together, in billions of parameters.
    pub hosting_budget: Option<f64>,
    /// The most that a call may use on the mean, in billions of active parameters.
    pub mean_cost_cap: Option<f64>,
    /// Score points given up for the active parameters of the largest expert.
    pub price: f64,
}

impl Default for MappingOptions {
    fn default() -> Self {
        Self { pseudo_counts: 10.0, hard: false, hosting_budget: None, mean_cost_cap: None, price: 0.0 }
    }
}

/// A learnt mapping: `experts` is the body of `PUT /admin/v1/mapping`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LearntMapping {
    /// w(c,e) by expert and category.
    pub experts: BTreeMap<String, BTreeMap<String, f32>>,
    /// Outcomes that it rests on.
    #[serde(skip)]
    pub outcomes: usize,
    /// The expert of each category and what that comes to, where a budget, a cap or a price was given.
    #[serde(skip)]
    pub assignment: Option<Assigned>,
    /// When to leave the mapping for a general expert, where there were rows to choose that on.
    #[serde(skip)]
    pub robust: Option<Robust>,
}

/// What the programme chose.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assigned {
    /// The expert of each category.
    pub categories: BTreeMap<String, String>,
    /// Mean score over the prompts that were learnt from.
    pub score: f64,
    /// Mean active parameters of a call, in billions.
    pub mean_active_b: f64,
    /// Parameters of the hosted experts together, in billions.
    pub hosted_b: f64,
}

/// What was learnt of experts one by one: each value is the body of a `PUT` below `/admin/v1`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Learnt<T> {
    /// By expert.
    pub experts: BTreeMap<String, T>,
    /// The settings that were chosen, in words.
    #[serde(skip)]
    pub settings: String,
    /// Prompts that it rests on.
    #[serde(skip)]
    pub prompts: usize,
}

/// The body of `PUT /admin/v1/scorers/{expert}`: [`routing::Scorer`] says what it means.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LearntScorer {
    /// The space of the embeddings.
    pub encoder: String,
    /// `[d]`.
    pub weights: Vec<f32>,
    /// What a unit of ln(1 + tokens) adds.
    pub length: f32,
    /// Score at the origin, for a prompt without tokens.
    pub bias: f32,
    /// Whether it says what the mapping misses.
    pub over_mapping: bool,
}

/// What scorers are learnt to say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScorerTarget {
    /// The expert's score.
    Score,
    /// What a mapping over the router's categories with so many pseudo-counts misses of it.
    OverMapping {
        /// As in [`MappingOptions::pseudo_counts`], for a mapping from the same rows.
        pseudo_counts: f64,
    },
}

/// The body of `PUT /admin/v1/pilots/{expert}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LearntPilots {
    /// The space of the embeddings.
    pub encoder: String,
    /// Unit vectors `[d]`.
    pub vectors: Vec<Vec<f32>>,
}

/// Why nothing was learnt.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The data is readable, but not enough or not what is needed.
    #[error("{from}: {problem}")]
    Unfit {
        /// The set or file.
        from: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// There is no mapping within the limits.
    #[error(transparent)]
    Programme(#[from] ProgrammeError),
    /// The prompts could not be read.
    #[error(transparent)]
    Reading(#[from] ReadingError),
}

/// One line of a feedback file, as `GET /admin/v1/feedback` gives them. Other fields are ignored.
#[derive(Clone, Debug, Deserialize)]
struct FeedbackLine {
    /// p(c|x) of the prompt by category.
    probabilities: BTreeMap<String, f64>,
    /// Who answered.
    expert: String,
    /// How good the answer was, in 0..=1.
    score: f64,
}

impl FeedbackLine {
    fn fault(&self) -> Option<String> {
        if !(0.0..=1.0).contains(&self.score) {
            return Some(format!("`score` is {} and should lie in 0..=1", self.score));
        }
        let bad = self.probabilities.iter().find(|(_, p)| !(0.0..=1.0).contains(*p));
        bad.map(|(category, p)| format!("the probability of `{category}` is {p} and should lie in 0..=1"))
    }
}

/// Learns w(c,e) from feedback. The limits of [`MappingOptions`] need sizes, which feedback does not have: they are
/// refused.
///
/// # Errors
/// [`LearnError`] naming the file, and the line where a line is at fault.
pub fn mapping_of_feedback(file: &Path, options: &MappingOptions) -> Result<LearntMapping, LearnError> {
    let unfit =
        |problem: &str| LearnError::Unfit { from: file.display().to_string(), problem: problem.to_owned() };
    if options.hosting_budget.is_some() || options.mean_cost_cap.is_some() || options.price > 0.0 {
        return Err(unfit(
            "feedback does not say how large experts are; give no budget, cap or price with it",
        ));
    }
    let wanted = "an object with `probabilities` by category, `expert` and `score`";
    let lines: Vec<FeedbackLine> = data::lines(file, wanted, FeedbackLine::fault)?;
    let categories: BTreeSet<&str> =
        lines.iter().flat_map(|line| line.probabilities.keys().map(String::as_str)).collect();
    let categories: Vec<&str> = categories.into_iter().collect();
    let experts: BTreeSet<&str> = lines.iter().map(|line| line.expert.as_str()).collect();
    let experts: Vec<&str> = experts.into_iter().collect();
    if categories.is_empty() {
        return Err(unfit("no line has probabilities: were the decisions made by policy `static`?"));
    }
    let mut shares = Matrix::zeros(lines.len(), categories.len());
    let mut scores = Matrix { cols: experts.len(), data: vec![f64::NAN; lines.len() * experts.len()] };
    for (row, line) in lines.iter().enumerate() {
        for (category, share) in &line.probabilities {
            if let Ok(at) = categories.binary_search(&category.as_str()) {
                shares.row_mut(row)[at] = *share;
            }
        }
        if let Ok(at) = experts.binary_search(&line.expert.as_str()) {
            scores.row_mut(row)[at] = line.score;
        }
    }
    let shares = if options.hard { hardened(&shares) } else { shares };
    let skills = Skills::fit(&shares, &scores, options.pseudo_counts);
    Ok(LearntMapping {
        experts: table(&skills, &categories, &experts),
        outcomes: lines.len(),
        assignment: None,
        robust: None,
    })
}

/// Learns w(c,e), over the router's own categories, from the train and valid rows of a routing set. With limits or a
/// price only the experts that the programme chose have a row. The robust expert's threshold is chosen on valid, with
/// the skills of train.
///
/// # Errors
/// [`LearnError`].
pub fn mapping_of_set(
    encoder: &Encoder,
    set: &OutcomeSet,
    options: &MappingOptions,
    learn: &LearnOptions,
    progress: impl FnMut(usize, usize),
) -> Result<LearntMapping, LearnError> {
    let material = Material::read(encoder, set, learn, progress)?;
    let names: Vec<&str> = encoder.bundle().categories.iter().map(|c| c.name.as_str()).collect();
    let models: Vec<&str> = set.models.iter().map(|model| model.name.as_str()).collect();
    let soft =
        Matrix::from_rows(material.readings.iter().map(|reading| &*reading.probabilities), names.len());
    let shares = if options.hard { hardened(&soft) } else { soft.clone() };
    let skills = Skills::fit(&shares, &material.scores, options.pseudo_counts);
    let mut experts = table(&skills, &names, &models);
    let mut assignment = None;
    if options.hosting_budget.is_some() || options.mean_cost_cap.is_some() || options.price > 0.0 {
        let (chosen, assigned) = assign(set, &shares, &skills, &names, options)?;
        experts.retain(|name, _| chosen.contains(name.as_str()));
        assignment = Some(assigned);
    }
    let mapped: Vec<usize> = (0..models.len()).filter(|&at| experts.contains_key(models[at])).collect();
    let robust = material.robust((&soft, &shares), options.pseudo_counts, &models, &mapped);
    Ok(LearntMapping { experts, outcomes: material.scores.data.len(), assignment, robust })
}

/// Learns a scorer for every model of a routing set from its train and valid rows: ridge regression, with the penalty
/// chosen by cross-validation.
///
/// # Errors
/// [`LearnError`].
pub fn scorers_of_set(
    encoder: &Encoder,
    set: &OutcomeSet,
    target: ScorerTarget,
    learn: &LearnOptions,
    progress: impl FnMut(usize, usize),
) -> Result<Learnt<LearntScorer>, LearnError> {
    let material = Material::read(encoder, set, learn, progress)?;
    let embeddings = material.embeddings();
    let tokens = material.tokens(encoder)?;
    let wanted = material.wanted(encoder, target);
    let mut guesses = vec![Matrix::zeros(material.rows(), set.models.len()); ALPHAS.len()];
    for part in parts(material.rows(), FOLDS, learn.seed) {
        let rest: Vec<usize> = (0..material.rows()).filter(|row| !part.contains(row)).collect();
        let counts = |rows: &[usize]| rows.iter().map(|&row| tokens[row]).collect::<Vec<u32>>();
        let moments = Moments::new(&embeddings.pick(&rest), &counts(&rest), &wanted.pick(&rest));
        let (asked, lengths) = (embeddings.pick(&part), counts(&part));
        for (guess, alpha) in guesses.iter_mut().zip(ALPHAS) {
            for (&row, values) in part.iter().zip(moments.fit(alpha).predict(&asked, &lengths).iter()) {
                guess.row_mut(row).copy_from_slice(values);
            }
        }
    }
    let alpha = choose_by_error(&guesses, &wanted).map_or(ALPHAS[0], |best| ALPHAS[best]);
    let fitted = Moments::new(&embeddings, &tokens, &wanted).fit(alpha);
    let scorers = if target == ScorerTarget::Score { fitted } else { fitted.over_mapping() };
    let space = space(encoder);
    let body = |model| {
        let routing::Scorer { weights, length, bias, over_mapping } = scorers.of(model);
        LearntScorer { encoder: space.clone(), weights: weights.to_vec(), length, bias, over_mapping }
    };
    let bodies = (0..set.models.len()).map(body);
    Ok(Learnt {
        experts: set.models.iter().map(|model| model.name.clone()).zip(bodies).collect(),
        settings: format!("alpha {alpha}"),
        prompts: material.rows(),
    })
}

/// Makes pilots for the models of a routing set from its train and valid rows; a model that is nowhere the best has none.
///
/// # Errors
/// [`LearnError`].
pub fn pilots_of_set(
    encoder: &Encoder,
    set: &OutcomeSet,
    learn: &LearnOptions,
    progress: impl FnMut(usize, usize),
) -> Result<Learnt<LearntPilots>, LearnError> {
    let material = Material::read(encoder, set, learn, progress)?;
    let rows = material.outcomes.iter().zip(&material.readings);
    let prompts =
        rows.map(|(row, reading)| (row.domain.as_str(), &*reading.embedding, row.scores.as_slice()));
    let pilots = pilots::fit(prompts, set.models.len(), LEAST_PROMPTS);
    let space = space(encoder);
    let of = |(model, vectors): (&crate::outcomes::Model, Vec<Vec<f32>>)| {
        (model.name.clone(), LearntPilots { encoder: space.clone(), vectors })
    };
    let experts: BTreeMap<String, LearntPilots> =
        set.models.iter().zip(pilots).filter(|(_, vectors)| !vectors.is_empty()).map(of).collect();
    let settings = format!("{} pilots", experts.values().map(|pilots| pilots.vectors.len()).sum::<usize>());
    Ok(Learnt { experts, settings, prompts: material.rows() })
}

/// The rows of a set that may be learnt from, as the encoder reads them; those of train come first.
struct Material {
    outcomes: Vec<Outcome>,
    readings: Vec<Reading>,
    scores: Matrix,
    trained: usize,
}

impl Material {
    fn read(
        encoder: &Encoder,
        set: &OutcomeSet,
        learn: &LearnOptions,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self, LearnError> {
        let clean =
            |rows: &[Outcome]| rows.iter().filter(|row| !row.contaminated).cloned().collect::<Vec<_>>();
        let mut outcomes = clean(&set.train);
        let trained = outcomes.len();
        outcomes.extend(clean(&set.valid));
        if trained < FOLDS {
            let problem =
                format!("has {trained} rows in train, and at least {FOLDS} are needed to learn from");
            return Err(LearnError::Unfit { from: set.name.clone(), problem });
        }
        let prompts: Vec<&str> = outcomes.iter().map(|row| row.prompt.as_str()).collect();
        let readings = readings::read(encoder, &prompts, learn.cache.as_deref(), progress)?;
        let scores = Matrix::from_rows(outcomes.iter().map(|row| row.scores.as_slice()), set.models.len());
        Ok(Self { outcomes, readings, scores, trained })
    }

    fn rows(&self) -> usize {
        self.outcomes.len()
    }

    fn embeddings(&self) -> Matrix {
        let width = self.readings.first().map_or(0, |reading| reading.embedding.len());
        Matrix::from_rows(self.readings.iter().map(|reading| &*reading.embedding), width)
    }

    /// Tokens of each prompt.
    fn tokens(&self, encoder: &Encoder) -> Result<Vec<u32>, ReadingError> {
        let count = |row: &Outcome| Ok(encoder.tokenize_window(&row.prompt)?.tokens);
        self.outcomes.iter().map(count).collect()
    }

    /// What scorers are to say of each row.
    fn wanted(&self, encoder: &Encoder, target: ScorerTarget) -> Matrix {
        let ScorerTarget::OverMapping { pseudo_counts } = target else { return self.scores.clone() };
        let categories = encoder.bundle().categories.len();
        let shares =
            Matrix::from_rows(self.readings.iter().map(|reading| &*reading.probabilities), categories);
        let expected = Skills::fit(&shares, &self.scores, pseudo_counts).expected(&shares);
        let mut left = self.scores.clone();
        add(&mut left.data, &expected.data, -1.0);
        left
    }

    /// The best threshold for the mapped model with the best mean; nothing without valid rows. Shares are those that
    /// rows are routed by, and those that they count by.
    fn robust(
        &self,
        (soft, shares): (&Matrix, &Matrix),
        pseudo: f64,
        models: &[&str],
        mapped: &[usize],
    ) -> Option<Robust> {
        let (train, valid): (Vec<usize>, Vec<usize>) = (0..self.rows()).partition(|&row| row < self.trained);
        if valid.is_empty() || mapped.is_empty() {
            return None;
        }
        let skills = Skills::fit(&shares.pick(&train), &self.scores.pick(&train), pseudo);
        let best_of = |scores: &[f64]| {
            let among: Vec<f64> = mapped.iter().map(|&model| scores[model]).collect();
            mapped[highest(&among)]
        };
        let general = best_of(&skills.overall);
        let expected = skills.expected(&soft.pick(&valid));
        let prompts: Vec<(f64, f64, f64)> = valid
            .iter()
            .zip(expected.iter())
            .map(|(&row, expected)| {
                let doubt = 1.0 - soft.row(row).iter().copied().fold(0.0, f64::max);
                let scores = self.scores.row(row);
                (doubt, scores[best_of(expected)], scores[general])
            })
            .collect();
        Some(robust::choose(models[general], &prompts))
    }
}

/// The experts that the programme hosts, and what it chose.
fn assign<'a>(
    set: &'a OutcomeSet,
    shares: &Matrix,
    skills: &Skills,
    categories: &[&str],
    options: &MappingOptions,
) -> Result<(BTreeSet<&'a str>, Assigned), LearnError> {
    let unknown = |name: &str, what: &str| LearnError::Unfit {
        from: set.name.clone(),
        problem: format!(
            "does not say the {what} parameters of `{name}`, which a budget, cap or price needs"
        ),
    };
    let mut sizes = Vec::new();
    let mut costs = Vec::new();
    for model in &set.models {
        sizes.push(model.params_total_b.ok_or_else(|| unknown(&model.name, "total"))?);
        costs.push(model.params_active_b.ok_or_else(|| unknown(&model.name, "active"))?);
    }
    let programme = Programme {
        shares: shares.mean(),
        skills: skills.by_category.iter().map(<[f64]>::to_vec).collect(),
        sizes,
        costs,
        hosting_budget: options.hosting_budget,
        mean_cost_cap: options.mean_cost_cap,
        price: options.price,
    };
    let solved = programme.solve()?;
    let name = |expert: usize| set.models[expert].name.as_str();
    let chosen = solved.experts.iter().map(|&expert| name(expert)).collect();
    let assigned = Assigned {
        categories: categories
            .iter()
            .zip(&solved.experts)
            .map(|(category, &expert)| ((*category).to_owned(), name(expert).to_owned()))
            .collect(),
        score: solved.score,
        mean_active_b: solved.mean_cost,
        hosted_b: solved.hosted,
    };
    Ok((chosen, assigned))
}

/// The space that a bundle's embeddings lie in.
fn space(encoder: &Encoder) -> String {
    encoder.bundle().space().to_owned()
}

fn highest(values: &[f64]) -> usize {
    crate::eval::routing::top(values)
}

/// Each row with all of its share in its highest place.
fn hardened(shares: &Matrix) -> Matrix {
    let mut hard = Matrix::zeros(shares.rows(), shares.cols);
    for (row, shares) in shares.iter().enumerate() {
        hard.row_mut(row)[highest(shares)] = 1.0;
    }
    hard
}

fn table(skills: &Skills, categories: &[&str], experts: &[&str]) -> BTreeMap<String, BTreeMap<String, f32>> {
    // Four digits are more than the data carries.
    let rounded = |w: f64| ((w.clamp(0.0, 1.0) * 1e4).round() / 1e4) as f32;
    let row = |(at, expert): (usize, &&str)| {
        let weights = categories.iter().zip(skills.by_category.iter());
        ((*expert).to_owned(), weights.map(|(c, skills)| ((*c).to_owned(), rounded(skills[at]))).collect())
    };
    experts.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feedback(lines: &[&str]) -> Result<LearntMapping, LearnError> {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("feedback.jsonl");
        std::fs::write(&file, lines.join("\n")).unwrap();
        mapping_of_feedback(&file, &MappingOptions { pseudo_counts: 1.0, ..MappingOptions::default() })
    }

    #[test]
    fn feedback_gives_a_row_for_each_expert() {
        let learnt = feedback(&[
            r#"{"decision":"x","probabilities":{"code":1.0},"expert":"a","score":1}"#,
            r#"{"probabilities":{"code":0.5,"law":0.5},"expert":"b","score":0}"#,
            r#"{"probabilities":{"law":1.0},"expert":"a","score":0}"#,
        ])
        .unwrap();
        // a: mean 0.5; code (1 + 0.5) / 2, law (0 + 0.5) / 2.
        assert_eq!(learnt.experts["a"], [("code".to_owned(), 0.75), ("law".to_owned(), 0.25)].into());
        assert_eq!(learnt.outcomes, 3);
        assert_eq!(
            serde_json::to_value(&learnt).unwrap(),
            serde_json::json!({"experts": {"a": {"code": 0.75, "law": 0.25}, "b": {"code": 0.0, "law": 0.0}}})
        );
    }

    #[test]
    fn bad_feedback_is_named_by_its_line() {
        let good = r#"{"probabilities":{"code":1.0},"expert":"a","score":1}"#;
        for (bad, wanted) in [
            (r#"{"probabilities":{"code":1.0},"expert":"a","score":2}"#, "`score` is 2"),
            (r#"{"probabilities":{"code":1.5},"expert":"a","score":1}"#, "probability of `code`"),
            (r#"{"probabilities":{},"score":1}"#, "expert"),
        ] {
            let error = feedback(&[good, bad]).unwrap_err().to_string();
            assert!(error.contains("feedback.jsonl:2: ") && error.contains(wanted), "{error}");
        }
        let error = feedback(&[r#"{"probabilities":{},"expert":"a","score":1}"#]).unwrap_err().to_string();
        assert!(error.contains("no line has probabilities"), "{error}");
    }
}
