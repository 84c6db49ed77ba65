//! Routers, each as what it predicts of every model on every prompt.

use routing::{ExpertFacts, ExpertId, Features, Fleet, Policy, PolicyConfig, PolicyError, Request};
use serde_json::{Value, json};

use super::material::{Fold, Sample, one_hot};
use crate::clusters::{Clusters, similarity};
use crate::linalg::{Matrix, add, dot, scale};
use crate::mapping::Skills;
use crate::scorer::Moments;

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
/// Numbers of neighbours that are tried.
const NEIGHBOURS: [usize; 3] = [50, 100, 200];
/// A neighbour weighs exp((similarity - 1) / this).
const NEIGHBOUR_TEMPERATURE: f32 = 0.1;
/// Penalties of the scorers that are tried.
const ALPHAS: [f64; 4] = [3.0, 10.0, 30.0, 100.0];

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
    let of = |what: &str, value: &dyn std::fmt::Display| format!("{what} {value}");

    let by_domain = |policy: &dyn Policy| -> Vec<(String, Matrix)> {
        let planned = |m: f64| (of("pseudo-counts", &m), scores_of(policy, &skills(m), shares));
        PSEUDO.map(planned).into()
    };
    let by_category = Skills::fit(&learn.categories, &learn.scores, USUAL_PSEUDO);
    // What the domains leave unexplained, by clusters: two resolutions of one mapping.
    let usual = skills(USUAL_PSEUDO);
    let coarse = usual.expected(shares);
    let left = blend([(1.0, &learn.scores), (-1.0, &usual.expected(&labels))].into_iter());
    let (mut k_means, mut refined) = (Vec::new(), Vec::new());
    for k in CLUSTERS.into_iter().filter(|&k| k < learn.len()) {
        let (learnt, asked) = cluster_shares(fold, k, seed);
        let words = of("clusters", &k);
        let skills = Skills::fit(&learnt, &learn.scores, USUAL_PSEUDO);
        k_means.push((words.clone(), skills.expected(&asked)));
        let fine = Skills::fit(&learnt, &left, RESIDUAL_PSEUDO).expected(&asked);
        refined.push((words, blend([(1.0, &coarse), (1.0, &fine)].into_iter())));
    }
    let moments = Moments::new(&learn.embeddings(), &learn.scores);
    let embeddings = predict.embeddings();
    let scorer = |alpha: f64| (of("alpha", &alpha), moments.fit(alpha).predict(&embeddings));

    Ok(vec![
        named("coe_hard", by_domain(&*hard)),
        named("coe_soft", by_domain(&*soft)),
        named("coe_categories", vec![(String::new(), scores_of(&*soft, &by_category, &predict.categories))]),
        named("coe_refined", refined),
        named("k_means", k_means),
        named("knn", neighbours(learn, predict)),
        named("scorer", ALPHAS.map(scorer).into()),
    ])
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

/// What a policy of the gateway scores every model, given category shares.
fn scores_of(policy: &dyn Policy, skills: &Skills, shares: &Matrix) -> Matrix {
    let models = skills.overall.len();
    // Ids in the order of the models, so that sorting by id keeps it.
    let ids: Vec<ExpertId> =
        (0..models).filter_map(|model| ExpertId::new(format!("m{model:05}")).ok()).collect();
    let expert = |(model, id): (usize, &ExpertId)| ExpertFacts {
        skills: skills.by_category.iter().map(|row| row[model] as f32).collect(),
        ..ExpertFacts::new(id.clone())
    };
    let fleet = Fleet {
        categories: (0..shares.cols).map(|category| category.to_string().into()).collect(),
        experts: ids.iter().enumerate().map(expert).collect(),
    };
    let mut scores = Matrix::zeros(shares.rows(), models);
    for (row, shares) in shares.iter().enumerate() {
        let features = Features {
            probabilities: shares.iter().map(|&share| share as f32).collect(),
            ..Features::default()
        };
        let request = Request { features: Some(features), ..Request::default() };
        for candidate in policy.plan(&request, &fleet, 0).candidates {
            if let Ok(model) = ids.binary_search(&candidate.expert) {
                scores.row_mut(row)[model] = f64::from(candidate.score);
            }
        }
    }
    scores
}

/// Means over the nearest rows, weighted by nearness, with a few pseudo-counts of the overall mean.
fn neighbours(learn: &Sample, predict: &Sample) -> Vec<(String, Matrix)> {
    let overall = learn.scores.mean();
    let mut variants: Vec<(String, Matrix)> = NEIGHBOURS
        .iter()
        .map(|k| (format!("neighbours {k}"), Matrix::zeros(predict.len(), overall.len())))
        .collect();
    let mut near: Vec<(f32, usize)> = Vec::with_capacity(learn.len());
    for row in 0..predict.len() {
        near.clear();
        near.extend((0..learn.len()).map(|i| (similarity(predict.embedding(row), learn.embedding(i)), i)));
        let most = NEIGHBOURS[NEIGHBOURS.len() - 1].min(near.len());
        if most < near.len() {
            near.select_nth_unstable_by(most, |a, b| b.0.total_cmp(&a.0));
        }
        near[..most].sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let nearest = near.first().map_or(0.0, |(similarity, _)| *similarity);
        for (k, (_, means)) in NEIGHBOURS.iter().zip(&mut variants) {
            let mut total = 5.0;
            let to = means.row_mut(row);
            add(to, &overall, total);
            for (similarity, i) in &near[..most.min(*k)] {
                let weight = f64::from(((similarity - nearest) / NEIGHBOUR_TEMPERATURE).exp());
                add(to, learn.scores.row(*i), weight);
                total += weight;
            }
            scale(to, 1.0 / total);
        }
    }
    variants
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
        let planned = scores_of(&*policy(json!({"kind": "coe"})).unwrap(), &skills, &asked);
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
