//! Spherical k-means: groups of prompts that stand in for categories where there are no labels.

use fastrand::Rng;

/// Lloyd steps at the latest.
const STEPS: usize = 12;
/// How sharply a prompt belongs to the nearest centre: shares are the softmax of similarity over this.
const TEMPERATURE: f32 = 0.05;

/// Centres of groups.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Clusters {
    /// Unit vectors.
    centres: Vec<Vec<f32>>,
}

impl Clusters {
    /// Finds at most `k` groups of unit vectors. The same points, k and seed give the same groups.
    pub(crate) fn fit(points: &[&[f32]], k: usize, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut order: Vec<usize> = (0..points.len()).collect();
        rng.shuffle(&mut order);
        let mut clusters = Self { centres: order.iter().take(k).map(|&i| points[i].to_vec()).collect() };
        let mut before = Vec::new();
        for _ in 0..STEPS {
            let nearest: Vec<usize> = points.iter().map(|point| clusters.nearest(point)).collect();
            if nearest == before {
                break;
            }
            let mut sums: Vec<Vec<f32>> = clusters.centres.iter().map(|c| vec![0.0; c.len()]).collect();
            for (point, &group) in points.iter().zip(&nearest) {
                sums[group].iter_mut().zip(*point).for_each(|(s, x)| *s += x);
            }
            for (centre, sum) in clusters.centres.iter_mut().zip(sums) {
                if let Some(unit) = unit(&sum) {
                    *centre = unit;
                }
            }
            before = nearest;
        }
        clusters
    }

    fn nearest(&self, point: &[f32]) -> usize {
        let mut best = (0, f32::NEG_INFINITY);
        for (index, centre) in self.centres.iter().enumerate() {
            let similarity = similarity(centre, point);
            if similarity > best.1 {
                best = (index, similarity);
            }
        }
        best.0
    }

    /// How much a point belongs to each group; sums to 1.
    pub(crate) fn shares(&self, point: &[f32]) -> Vec<f32> {
        let mut shares: Vec<f32> =
            self.centres.iter().map(|centre| similarity(centre, point) / TEMPERATURE).collect();
        crate::head::softmax(&mut shares);
        shares
    }
}

/// Inner product, in lanes that the compiler can put into one register.
pub(crate) fn similarity(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut lanes = [0.0_f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((lane, x), y) in lanes.iter_mut().zip(a).zip(b) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// The vector at length 1; nothing where it has none.
pub(crate) fn unit(vector: &[f32]) -> Option<Vec<f32>> {
    let length = similarity(vector, vector).sqrt();
    (length > 1e-12).then(|| vector.iter().map(|x| x / length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_lie_apart_are_found() {
        let points: Vec<Vec<f32>> = (0..40)
            .map(|i| {
                unit(&if i % 2 == 0 { [1.0, 0.01 * i as f32, 0.0] } else { [0.0, 0.01 * i as f32, 1.0] })
                    .unwrap()
            })
            .collect();
        let views: Vec<&[f32]> = points.iter().map(Vec::as_slice).collect();
        let clusters = Clusters::fit(&views, 2, 3);
        let shares = |i: usize| clusters.shares(&points[i]);
        let group = usize::from(shares(0)[1] > 0.5);
        for i in 0..40 {
            let share = shares(i)[if i % 2 == 0 { group } else { 1 - group }];
            assert!(share > 0.9, "point {i}: {share}");
        }
        assert_eq!(clusters, Clusters::fit(&views, 2, 3));
    }

    #[test]
    fn the_inner_product_covers_what_fills_no_register() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        let wanted: f32 = a.iter().map(|x| x * x).sum();
        assert!((similarity(&a, &a) - wanted).abs() < 1e-2);
        assert_eq!(unit(&[0.0, 0.0]), None);
    }

    #[test]
    fn fewer_points_than_groups_are_groups_of_their_own() {
        let clusters = Clusters::fit(&[&[1.0, 0.0]], 4, 1);
        assert_eq!(clusters.shares(&[1.0, 0.0]), [1.0]);
    }
}
