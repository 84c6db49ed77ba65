use proptest::prelude::*;

use super::*;

const TABLES: Tables = Tables { unigrams: 20, bigrams: 13 };
const PENALTY: Penalty =
    Penalty { lexical: 1e-3, embedding: 1e-3, min_examples: 1, smoothing: 0.0, stretch: 4.0 };

fn example(ids: &[u32], embedding: &[f32]) -> Example {
    Example { ids: ids.to_vec(), embedding: embedding.into() }
}

/// Two categories told apart by a token, and a third by the embedding.
fn separable() -> (Vec<Example>, Vec<usize>) {
    let mut examples = Vec::new();
    let mut labels = Vec::new();
    for i in 0..12_u32 {
        let side = if i % 3 == 2 { [0.0, 1.0] } else { [1.0, 0.0] };
        let token = if i % 3 == 1 { 5 } else { 4 };
        examples.push(example(&[1, token, 6 + i % 4, 2], &side));
        labels.push((i % 3) as usize);
    }
    (examples, labels)
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}

#[test]
fn a_fit_separates_what_can_be_separated() {
    let (examples, labels) = separable();
    let head = Head::fit(Lessons::new(&examples, &labels), (&[], &[]), (3, TABLES), PENALTY, 60, |_| {
        ControlFlow::Continue(())
    });
    for (example, &label) in examples.iter().zip(&labels) {
        assert_eq!(top(&head.logits(example)), label);
    }
    assert!(head.loss(&examples, &labels) < 0.5);
}

#[test]
fn the_same_rows_give_the_same_head() {
    let (examples, labels) = separable();
    let fit = || {
        Head::fit(Lessons::new(&examples, &labels), (&examples, &labels), (3, TABLES), PENALTY, 25, |_| {
            ControlFlow::Continue(())
        })
    };
    assert_eq!(fit(), fit());
}

#[test]
fn the_head_scores_as_the_problem_does() {
    let (examples, labels) = separable();
    let problem = Problem::new(Lessons::new(&examples, &labels), 3, TABLES, PENALTY);
    let point: Vec<f32> = (0..problem.parameters()).map(|i| ((i * 37 % 19) as f32 - 9.0) / 10.0).collect();
    let head = problem.head(&point);
    let plain = Penalty { lexical: 0.0, embedding: 0.0, ..PENALTY };
    let free = Problem::new(Lessons::new(&examples, &labels), 3, TABLES, plain);
    let mut gradient = vec![0.0; point.len()];
    assert!((free.evaluate(&point, &mut gradient) - head.loss(&examples, &labels)).abs() < 1e-5);
}

#[test]
fn rare_features_stay_without_weight() {
    let examples = [example(&[1, 3], &[1.0]), example(&[1, 4], &[1.0])];
    let penalty = Penalty { min_examples: 2, ..PENALTY };
    let head = Head::fit(Lessons::new(&examples, &[0, 1]), (&[], &[]), (2, TABLES), penalty, 5, |_| {
        ControlFlow::Continue(())
    });
    assert!(head.lexical[3 * 2..5 * 2].iter().all(|w| w.abs() < f32::EPSILON));
}

#[test]
fn the_observer_is_told_and_can_stop() {
    let (examples, labels) = separable();
    let mut losses = Vec::new();
    Head::fit(Lessons::new(&examples, &labels), (&examples, &labels), (3, TABLES), PENALTY, 50, |step| {
        losses.push(step.valid_loss);
        if step.iteration == 6 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(losses.len(), 6);
    assert!(losses[4].is_some() && losses[5].is_none());
}

#[test]
fn probabilities_of_large_scores_are_numbers() {
    let mut scores = [1000.0, 999.0, -1000.0];
    softmax(&mut scores);
    assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    assert!((scores[0] - 0.731_058_6).abs() < 1e-5);
    assert!(negative_log_likelihood(&[-1000.0, 1000.0], 0).is_finite());
}

proptest! {
    /// The gradient is the slope: compared with central differences along random directions.
    #[test]
    fn the_gradient_is_the_slope(seed in 0_u64..1000, smoothing in 0.0_f32..0.3) {
        let (examples, labels) = separable();
        let problem = Problem::new(Lessons::new(&examples, &labels), 3, TABLES, Penalty { smoothing, ..PENALTY });
        let mut rng = fastrand::Rng::with_seed(seed);
        let size = problem.parameters();
        let point: Vec<f32> = (0..size).map(|_| rng.f32() * 2.0 - 1.0).collect();
        let direction: Vec<f32> = (0..size).map(|_| rng.f32() * 2.0 - 1.0).collect();
        let mut gradient = vec![0.0; size];
        problem.evaluate(&point, &mut gradient);
        let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let mut scratch = vec![0.0; size];
        let mut at = |h: f32| {
            let moved: Vec<f32> = point.iter().zip(&direction).map(|(p, d)| p + h * d).collect();
            problem.evaluate(&moved, &mut scratch)
        };
        let h = 1e-2;
        let measured = (at(h) - at(-h)) / (2.0 * f64::from(h));
        prop_assert!((slope - measured).abs() < 1e-3 * (1.0 + slope.abs()), "{slope} {measured}");
    }
}
