//! Routers, each as what it predicts of every model on every prompt.

use std::sync::Arc;

use routing::{
    ExpertFacts, ExpertId, Features, Fleet, Neighbour, Plan, Policy, PolicyConfig, PolicyError, Request,
    Signals,
};
use serde_json::{Value, json};

use super::material::{Fold, Sample, one_hot};
use crate::clusters::{Clusters, similarity};
use crate::linalg::{Matrix, add, dot, scale};
use crate::mapping::Skills;
use crate::scorer::{Moments, Scorers};

/// A router with the settings that it can have, and what it predicts under each.
pub(super) struct Family {
    /// Its name among the results.
    pub name: &'static str,
    /// Settings in words, and predictions `[n, models]`.
    pub variants: Vec<(String, Matrix)>,
}

/// Pseudo-counts of w(c,e) that are tried.
const PSEUDO: [f64; 3] = [5.0, 10.0, 30.0];
/// Those that are used where they are not chosen.
const USUAL_PSEUDO: f64 = 10.0;
/// Those of what is left when the domains are taken off, which is mostly noise.
const RESIDUAL_PSEUDO: f64 = 30.0;
/// Numbers of clusters that are tried.
const CLUSTERS: [usize; 3] = [16, 32, 64];
/// Settings of policy `knn` that are tried: k, tau, pseudo-counts. Between prompts that are not near copies the
/// similarity is about a half, so that a neighbour then weighs about exp(-0.5 / tau).
const NEIGHBOURS: [(usize, f32, f32); 5] =
    [(50, 0.1, 0.1), (100, 0.1, 0.1), (200, 0.1, 0.1), (200, 0.05, 0.01), (100, 0.1, 5.0)];
/// Penalties of the scorers that are tried.
const ALPHAS: [f64; 5] = [3.0, 10.0, 30.0, 100.0, 300.0];
/// Powers that the domains' probabilities are raised to: the head learns with smoothed labels, which makes it timid.
const SHARPNESS: [f64; 3] = [1.0, 1.5, 2.0];
/// That which is used where it is not chosen: the best over the sets in cross-validation.
const USUAL_SHARPNESS: f64 = 1.5;

/// Fits every router to the rows to learn from and lets it predict the others.
///
/// # Errors
/// [`PolicyError`] when a policy refuses its settings.
pub(super) fn families(fold: &Fold, seed: u64) -> Result<Vec<Family>, PolicyError> {
    let Fold { learn, predict, shares, domains } = fold;
    let labels = one_hot(&learn.domains, *domains);
    let skills = |pseudo| Skills::fit(&labels, &learn.scores, pseudo);
    let named = |name, variants| Family { name, variants };
    let hard = policy(json!({"kind": "coe", "hard": true}))?;
    let soft = policy(json!({"kind": "coe"}))?;
    let trade = policy(json!({"kind": "cost_quality"}))?;
    let alone = policy(json!({"kind": "cost_quality", "blend": 1.0}))?;
    let of = |what: &str, value: &dyn std::fmt::Display| format!("{what} {value}");

    let mut by_domain = Vec::new();
    for sharpness in SHARPNESS {
        let shares = sharpened(shares, sharpness);
        for pseudo in PSEUDO {
            let words = format!("sharpness {sharpness}, pseudo-counts {pseudo}");
            by_domain.push((words, scores_of(&*soft, &skills(pseudo), &shares, None)));
        }
    }
    let by_label = PSEUDO.map(|m| (of("pseudo-counts", &m), scores_of(&*hard, &skills(m), shares, None)));
    let by_category = Skills::fit(&learn.categories, &learn.scores, USUAL_PSEUDO);
    // What the domains leave unexplained, by clusters: two resolutions of one mapping.
    let usual = skills(USUAL_PSEUDO);
    let shares = sharpened(shares, USUAL_SHARPNESS);
    let coarse = usual.expected(&shares);
    let explained = usual.expected(&labels);
    let left = blend([(1.0, &learn.scores), (-1.0, &explained)].into_iter());
    let (mut k_means, mut refined) = (Vec::new(), Vec::new());
    for k in CLUSTERS.into_iter().filter(|&k| k < learn.len()) {
        let (learnt, asked) = cluster_shares(fold, k, seed);
        let words = of("clusters", &k);
        let skills = Skills::fit(&learnt, &learn.scores, USUAL_PSEUDO);
        k_means.push((words.clone(), skills.expected(&asked)));
        let fine = Skills::fit(&learnt, &left, RESIDUAL_PSEUDO).expected(&asked);
        refined.push((words, blend([(1.0, &coarse), (1.0, &fine)].into_iter())));
    }
    let inputs = learn.embeddings();
    let moments = Moments::new(&inputs, &learn.tokens, &learn.scores);
    let over = Moments::new(&inputs, &learn.tokens, &left);
    let (mut scorer, mut cost_quality) = (Vec::new(), Vec::new());
    for alpha in ALPHAS {
        let beside = moments.fit(alpha);
        let words = of("alpha", &alpha);
        scorer.push((words.clone(), scores_of(&*alone, &usual, &shares, Some((&beside, predict)))));
        let both = scores_of(&*trade, &usual, &shares, Some((&beside, predict)));
        cost_quality.push((format!("{words}, half and half"), both));
        let over = over.fit(alpha).over_mapping();
        let sum = scores_of(&*trade, &usual, &shares, Some((&over, predict)));
        cost_quality.push((format!("{words}, over the mapping"), sum));
    }

    Ok(vec![
        named("coe_hard", by_label.into()),
        named("coe_soft", by_domain),
        named(
            "coe_categories",
            vec![(String::new(), scores_of(&*soft, &by_category, &predict.categories, None))],
        ),
        named("coe_refined", refined),
        named("k_means", k_means),
        named("knn", neighbours(learn, predict)?),
        named("scorer", scorer),
        named("cost_quality", cost_quality),
    ])
}

/// Each row's shares to that power, and made to sum to 1: what another temperature of the calibration makes of them.
fn sharpened(shares: &Matrix, power: f64) -> Matrix {
    let mut sharp = shares.clone();
    for row in sharp.data.chunks_exact_mut(shares.cols.max(1)) {
        for share in row.iter_mut() {
            *share = share.powf(power);
        }
        let sum = row.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        scale(row, 1.0 / sum);
    }
    sharp
}

/// How much the rows to learn from and those to predict belong to each of `k` clusters.
fn cluster_shares(fold: &Fold, k: usize, seed: u64) -> (Matrix, Matrix) {
    let points: Vec<&[f32]> = (0..fold.learn.len()).map(|row| &**fold.learn.embedding(row)).collect();
    let clusters = Clusters::fit(&points, k, seed);
    let shares = |sample: &Sample| {
        let rows: Vec<Vec<f32>> =
            (0..sample.len()).map(|row| clusters.shares(sample.embedding(row))).collect();
        Matrix::from_rows(rows.iter().map(Vec::as_slice), k)
    };
    (shares(&fold.learn), shares(&fold.predict))
}

/// The prompts' true domains, for comparison.
pub(super) fn true_domain(fold: &Fold) -> Matrix {
    let labels = one_hot(&fold.learn.domains, fold.domains);
    let skills = Skills::fit(&labels, &fold.learn.scores, USUAL_PSEUDO);
    skills.expected(&one_hot(&fold.predict.domains, fold.domains))
}

/// A policy, from the settings that a route would carry.
fn policy(settings: Value) -> Result<Box<dyn Policy>, PolicyError> {
    let read = serde_json::from_value::<PolicyConfig>(settings);
    read.map_err(|error| PolicyError { field: "kind", problem: error.to_string() })?.build()
}

/// Ids in the order of the models, so that sorting by id keeps it.
fn ids(models: usize) -> Vec<ExpertId> {
    (0..models).filter_map(|model| ExpertId::new(format!("m{model:05}")).ok()).collect()
}

/// The models as experts, with the skills of each.
fn experts(ids: &[ExpertId], skills: impl Fn(usize) -> Vec<f64>) -> Vec<ExpertFacts> {
    let expert = |(model, id): (usize, &ExpertId)| ExpertFacts {
        skills: skills(model).into_iter().map(|w| w as f32).collect(),
        ..ExpertFacts::new(id.clone())
    };
    ids.iter().enumerate().map(expert).collect()
}

/// Puts a plan's scores in the models' places.
fn put(plan: &Plan, ids: &[ExpertId], to: &mut [f64]) {
    for candidate in &plan.candidates {
        if let Ok(model) = ids.binary_search(&candidate.expert) {
            to[model] = f64::from(candidate.score);
        }
    }
}

/// What a policy of the gateway scores every model on every row, given category shares and, where it reads them,
/// scorers.
fn scores_of(
    policy: &dyn Policy,
    skills: &Skills,
    shares: &Matrix,
    learnt: Option<(&Scorers, &Sample)>,
) -> Matrix {
    let ids = ids(skills.overall.len());
    let mut experts = experts(&ids, |model| skills.by_category.iter().map(|row| row[model]).collect());
    if let Some((scorers, _)) = learnt {
        for (model, expert) in experts.iter_mut().enumerate() {
            let scorer = Some(Arc::new(scorers.of(model)));
            expert.signals = Signals { scorer, ..Signals::default() }.into();
        }
    }
    let categories = (0..shares.cols).map(|category| category.to_string().into()).collect();
    let fleet = Fleet { categories, experts };
    let mut scores = Matrix::zeros(shares.rows(), ids.len());
    for (row, probabilities) in shares.iter().enumerate() {
        let mut features = Features {
            probabilities: probabilities.iter().map(|&share| share as f32).collect(),
            ..Features::default()
        };
        if let Some((_, sample)) = learnt {
            features.embedding = sample.embedding(row).clone();
            features.tokens = sample.tokens[row];
        }
        let request = Request { features: Some(features), ..Request::default() };
        put(&policy.plan(&request, &fleet, 0), &ids, scores.row_mut(row));
    }
    scores
}

/// What policy `knn` makes of the nearest rows.
fn neighbours(learn: &Sample, predict: &Sample) -> Result<Vec<(String, Matrix)>, PolicyError> {
    let overall = learn.scores.mean();
    let ids = ids(overall.len());
    let fleet =
        Fleet { categories: ["all".into()].into(), experts: experts(&ids, |model| vec![overall[model]]) };
    let outcomes: Vec<Arc<[(ExpertId, f32)]>> = learn
        .scores
        .iter()
        .map(|scores| ids.iter().cloned().zip(scores.iter().map(|&score| score as f32)).collect())
        .collect();
    let mut variants = Vec::new();
    for (k, tau, pseudo_counts) in NEIGHBOURS {
        let policy = policy(json!({"kind": "knn", "k": k, "tau": tau, "pseudo_counts": pseudo_counts}))?;
        let words = format!("k {k}, tau {tau}, pseudo-counts {pseudo_counts}");
        variants.push((words, policy, Matrix::zeros(predict.len(), overall.len())));
    }
    let most = NEIGHBOURS.iter().map(|(k, ..)| *k).max().unwrap_or(0).min(learn.len());
    let mut near: Vec<(f32, usize)> = Vec::with_capacity(learn.len());
    for row in 0..predict.len() {
        near.clear();
        near.extend((0..learn.len()).map(|i| (similarity(predict.embedding(row), learn.embedding(i)), i)));
        let nearest_first = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if most < near.len() {
            near.select_nth_unstable_by(most, nearest_first);
        }
        near[..most].sort_unstable_by(nearest_first);
        let remembered = |&(similarity, i): &(f32, usize)| Neighbour {
            id: Arc::default(),
            similarity,
            outcomes: outcomes[i].clone(),
        };
        let request = Request {
            features: Some(Features::default()),
            neighbours: near[..most].iter().map(remembered).collect(),
            ..Request::default()
        };
        for (_, policy, scores) in &mut variants {
            put(&policy.plan(&request, &fleet, 0), &ids, scores.row_mut(row));
        }
    }
    Ok(variants.into_iter().map(|(words, _, scores)| (words, scores)).collect())
}

/// A weighted sum of predictions.
pub(super) fn blend<'a>(parts: impl Iterator<Item = (f64, &'a Matrix)>) -> Matrix {
    let mut sum: Option<Matrix> = None;
    for (weight, part) in parts {
        let to = sum.get_or_insert_with(|| Matrix { cols: part.cols, data: vec![0.0; part.data.len()] });
        add(&mut to.data, &part.data, weight);
    }
    sum.unwrap_or(Matrix { cols: 0, data: Vec::new() })
}

/// Each row without its mean: what only says how hard a prompt is decides nothing.
fn contrasts(matrix: &Matrix) -> Vec<f64> {
    let mut data = matrix.data.clone();
    for row in data.chunks_exact_mut(matrix.cols.max(1)) {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        for x in row {
            *x -= mean;
        }
    }
    data
}

/// Mean squared error of predicted differences between models.
fn error(predicted: &Matrix, scores: &Matrix) -> f64 {
    let (predicted, wanted) = (contrasts(predicted), contrasts(scores));
    let sum: f64 = predicted.iter().zip(&wanted).map(|(p, w)| (p - w) * (p - w)).sum();
    sum / wanted.len().max(1) as f64
}

/// Which of several predictions has the least such error; the first of equals.
pub(crate) fn choose_by_error<'a>(
    guesses: impl IntoIterator<Item = &'a Matrix>,
    scores: &Matrix,
) -> Option<usize> {
    let errors = guesses.into_iter().map(|guess| error(guess, scores)).enumerate();
    errors.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
}

/// Weights of at least 0 under which the weighted sum of predictions has the least such error.
pub(super) fn stack(parts: &[&Matrix], scores: &Matrix) -> Vec<f64> {
    let parts: Vec<Vec<f64>> = parts.iter().map(|part| contrasts(part)).collect();
    let wanted = contrasts(scores);
    let gram: Vec<Vec<f64>> = parts.iter().map(|a| parts.iter().map(|b| dot(a, b)).collect()).collect();
    let target: Vec<f64> = parts.iter().map(|part| dot(part, &wanted)).collect();
    let mut weights = vec![0.0; parts.len()];
    // The problem is convex and small: going round the coordinates ends at its minimum.
    for _ in 0..2000 {
        for i in 0..weights.len() {
            let slope = target[i] - dot(&gram[i], &weights);
            if gram[i][i] > 0.0 {
                weights[i] = (weights[i] + slope / gram[i][i]).max(0.0);
            }
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_the_gateway_gives_the_soft_mapping() {
        let shares = Matrix { cols: 2, data: vec![1.0, 0.0, 0.0, 1.0] };
        let scores = Matrix { cols: 3, data: vec![0.9, 0.2, 0.5, 0.1, 0.8, 0.5] };
        let skills = Skills::fit(&shares, &scores, 0.0);
        let asked = Matrix { cols: 2, data: vec![0.25, 0.75] };
        let planned = scores_of(&*policy(json!({"kind": "coe"})).unwrap(), &skills, &asked, None);
        for (got, wanted) in planned.data.iter().zip(&skills.expected(&asked).data) {
            assert!((got - wanted).abs() < 1e-6, "{got} {wanted}");
        }
    }

    #[test]
    fn the_stack_leaves_out_what_does_not_help() {
        let scores = Matrix { cols: 2, data: vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0] };
        let good = Matrix { cols: 2, data: vec![0.6, 0.4, 0.4, 0.6, 0.6, 0.4, 0.4, 0.6] };
        let bad = Matrix { cols: 2, data: vec![0.4, 0.6, 0.6, 0.4, 0.4, 0.6, 0.6, 0.4] };
        let weights = stack(&[&good, &bad], &scores);
        assert!((weights[0] - 5.0).abs() < 1e-6 && weights[1] < 1e-9, "{weights:?}");
        let blended = blend([(weights[0], &good), (weights[1], &bad)].into_iter());
        assert!(error(&blended, &scores) < 1e-9 && error(&good, &scores) > 0.1);
    }
}
