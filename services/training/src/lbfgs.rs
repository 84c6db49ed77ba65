//! Limited-memory BFGS for smooth convex functions: no learning rate to choose, the same result every time.

use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Pairs of steps and gradient changes that approximate the curvature.
const MEMORY: usize = 6;
/// Share of the predicted decrease that a step must reach (Armijo).
const SUFFICIENT: f64 = 1e-4;
/// Halvings of a step before the search gives up: then the arithmetic's precision is used up.
const HALVINGS: usize = 30;

/// One accepted step.
pub(crate) struct Step<'a> {
    /// Number of the step, from 1.
    pub iteration: usize,
    /// Value after it.
    pub value: f64,
    /// Point after it.
    pub point: &'a [f32],
}

/// Minimises a function from `point`. `evaluate` writes the gradient at a point and returns the value;
/// `observe` sees each step and may end the search, which also ends when no step leads further down.
pub(crate) fn minimise(
    mut point: Vec<f32>,
    mut evaluate: impl FnMut(&[f32], &mut [f32]) -> f64,
    mut observe: impl FnMut(&Step<'_>) -> ControlFlow<()>,
) {
    let mut gradient = vec![0.0; point.len()];
    let mut value = evaluate(&point, &mut gradient);
    let mut memory: VecDeque<(Vec<f32>, Vec<f32>, f64)> = VecDeque::with_capacity(MEMORY);
    let mut next = vec![0.0; point.len()];
    let mut next_gradient = vec![0.0; point.len()];
    for iteration in 1.. {
        let mut direction = descend(&gradient, &memory);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            memory.clear();
            direction = descend(&gradient, &memory);
            slope = dot(&direction, &gradient);
        }
        // Without curvature the gradient's length says nothing about the step's.
        let mut length =
            if memory.is_empty() { 1.0 / dot(&gradient, &gradient).sqrt().max(1.0) } else { 1.0 };
        let mut reached = None;
        for _ in 0..HALVINGS {
            for ((to, from), along) in next.iter_mut().zip(&point).zip(&direction) {
                *to = from + length as f32 * along;
            }
            let candidate = evaluate(&next, &mut next_gradient);
            if candidate <= value + SUFFICIENT * length * slope && candidate < value {
                reached = Some(candidate);
                break;
            }
            length *= 0.5;
        }
        let Some(candidate) = reached else { return };
        value = candidate;
        let step = difference(&next, &point);
        let change = difference(&next_gradient, &gradient);
        let curvature = dot(&step, &change);
        std::mem::swap(&mut point, &mut next);
        std::mem::swap(&mut gradient, &mut next_gradient);
        if curvature > 1e-12 {
            if memory.len() == MEMORY {
                memory.pop_front();
            }
            memory.push_back((step, change, 1.0 / curvature));
        }
        if observe(&Step { iteration, value, point: &point }).is_break() {
            return;
        }
    }
}

/// The two-loop recursion: minus the approximate inverse Hessian times the gradient.
fn descend(gradient: &[f32], memory: &VecDeque<(Vec<f32>, Vec<f32>, f64)>) -> Vec<f32> {
    let mut direction: Vec<f32> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(memory.len());
    for (step, change, inverse) in memory.iter().rev() {
        let share = inverse * dot(step, &direction);
        add(&mut direction, change, -share);
        shares.push(share);
    }
    if let Some((step, change, _)) = memory.back() {
        let scale = (dot(step, change) / dot(change, change)) as f32;
        for d in &mut direction {
            *d *= scale;
        }
    }
    for ((step, change, inverse), share) in memory.iter().zip(shares.iter().rev()) {
        let back = inverse * dot(change, &direction);
        add(&mut direction, step, share - back);
    }
    direction
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    // Sums of 64 products in f32 lose nothing that matters and keep the loop vectorised.
    a.chunks(64)
        .zip(b.chunks(64))
        .map(|(a, b)| f64::from(a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>()))
        .sum()
}

fn add(to: &mut [f32], what: &[f32], times: f64) {
    to.iter_mut().zip(what).for_each(|(t, w)| *t += times as f32 * w);
}

fn difference(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bottom_of_a_badly_scaled_bowl_is_found() {
        let target = [3.0_f32, -2.0, 0.5, 100.0];
        let weights = [1.0_f32, 100.0, 0.01, 10.0];
        let mut end = Vec::new();
        minimise(
            vec![0.0; 4],
            |x, gradient| {
                let mut value = 0.0;
                for i in 0..4 {
                    let off = x[i] - target[i];
                    gradient[i] = weights[i] * off;
                    value += f64::from(0.5 * weights[i] * off * off);
                }
                value
            },
            |step| {
                end = step.point.to_vec();
                if step.iteration < 200 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            },
        );
        for (found, wanted) in end.iter().zip(target) {
            assert!((found - wanted).abs() < 1e-2, "{end:?}");
        }
    }

    #[test]
    fn values_only_fall_and_the_observer_can_stop() {
        let mut last = f64::INFINITY;
        let mut steps = 0;
        minimise(
            vec![5.0; 3],
            |x, gradient| {
                gradient.iter_mut().zip(x).for_each(|(g, x)| *g = 4.0 * x * x * x);
                x.iter().map(|x| f64::from(x.powi(4))).sum()
            },
            |step| {
                assert!(step.value < last);
                last = step.value;
                steps += 1;
                if step.iteration == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        assert_eq!(steps, 5);
    }
}
