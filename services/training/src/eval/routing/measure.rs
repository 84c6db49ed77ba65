//! What a router's choices are worth. `docs/evaluation.md` has the definitions.

use fastrand::Rng;

use crate::linalg::Matrix;

/// Resamples behind an interval.
const RESAMPLES: usize = 1000;
/// Prices that a cost curve is drawn over, besides 0, evenly on a logarithmic scale.
const PRICES: usize = 160;
/// The lowest and the highest of them, in score points for the dearest model's cost.
const PRICE_RANGE: (f64, f64) = (1e-4, 10.0);

/// Index of the largest value; the first of equals.
pub(crate) fn top(values: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Mean of the numbers; 0 without any.
pub(super) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len().max(1) as f64;
    values.sum::<f64>() / n
}

/// A 95 % interval.
pub(super) type Interval = [f64; 2];

/// The 95 % interval of a statistic of `n` rows by the percentiles of its resamples.
pub(super) fn bootstrap(n: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> Interval {
    let mut rng = Rng::with_seed(seed);
    let mut rows = vec![0; n];
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            rows.fill_with(|| rng.usize(..n));
            statistic(&rows)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    [values[RESAMPLES / 40], values[RESAMPLES - 1 - RESAMPLES / 40]]
}

/// `(score - best single) / (oracle - best single)`; 0 where the oracle is no better.
pub(super) fn gap_closed(score: f64, best_single: f64, oracle: f64) -> f64 {
    let gap = oracle - best_single;
    if gap > 0.0 { (score - best_single) / gap } else { 0.0 }
}

/// A threshold curve of two models.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Threshold {
    /// Performance gap recovered when the first k of n rows go to the strong model, for k in 0..=n.
    pub recovered: Vec<f64>,
}

impl Threshold {
    /// `gain` is what the strong model scores more on each row, `predicted` what the router thinks it does.
    /// Nothing where the strong model is not better on the whole.
    pub(super) fn new(predicted: &[f64], gain: &[f64]) -> Option<Self> {
        let total: f64 = gain.iter().sum();
        if total <= 0.0 {
            return None;
        }
        let mut order: Vec<usize> = (0..gain.len()).collect();
        order.sort_by(|&a, &b| predicted[b].total_cmp(&predicted[a]).then(a.cmp(&b)));
        let mut sum = 0.0;
        let mut recovered = vec![0.0];
        for row in order {
            sum += gain[row];
            recovered.push(sum / total);
        }
        Some(Self { recovered })
    }

    /// Area under the curve by trapezoids over all its points.
    pub(super) fn apgr(&self) -> f64 {
        mean(self.recovered.windows(2).map(|pair| f64::midpoint(pair[0], pair[1])))
    }

    /// The smallest share of calls to the strong model that recovers `share` of the gap.
    pub(super) fn calls(&self, share: f64) -> f64 {
        let enough = |recovered: &f64| *recovered >= share - 1e-12;
        // The last point recovers everything.
        let k = self.recovered.iter().position(enough).unwrap_or(self.recovered.len() - 1);
        k as f64 / (self.recovered.len() - 1) as f64
    }
}

/// One point of a cost curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Score points given up for the dearest model's mean cost.
    pub price: f64,
    /// Mean cost of the rows.
    pub cost: f64,
    /// Mean score of the rows.
    pub score: f64,
}

/// What the models of a set cost.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Costs {
    /// What the router knows: each model's mean cost. Nothing for a model of unknown cost, which is never chosen.
    pub known: Vec<Option<f64>>,
    /// `USD per call` or `active parameters (B)`.
    pub unit: &'static str,
}

impl Costs {
    fn dearest(&self) -> f64 {
        self.known.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max)
    }

    /// The chosen model of each row at a price.
    pub(super) fn choose(&self, predicted: &Matrix, price: f64) -> Vec<usize> {
        let dearest = self.dearest();
        let choose = |row: &[f64]| {
            let worth = |(score, cost): (&f64, &Option<f64>)| {
                cost.map_or(f64::NEG_INFINITY, |cost| score - price * cost / dearest)
            };
            top(&row.iter().zip(&self.known).map(worth).collect::<Vec<_>>())
        };
        predicted.iter().map(choose).collect()
    }

    /// Score and cost over all prices. `spent` holds what each call cost, where that is known row by row.
    pub(super) fn curve(&self, predicted: &Matrix, scores: &Matrix, spent: Option<&Matrix>) -> Vec<Point> {
        let (low, high) = PRICE_RANGE;
        let step = |i: usize| low * (high / low).powf(i as f64 / (PRICES - 1) as f64);
        let at = |price: f64| {
            let chosen = self.choose(predicted, price);
            let cost = |(row, &model): (usize, &usize)| match spent {
                Some(spent) => spent.row(row)[model],
                None => self.known[model].unwrap_or_default(),
            };
            Point {
                price,
                cost: mean(chosen.iter().enumerate().map(cost)),
                score: mean(chosen.iter().enumerate().map(|(row, &model)| scores.row(row)[model])),
            }
        };
        std::iter::once(0.0).chain((0..PRICES).map(step)).map(at).collect()
    }
}

/// The cheapest point of a curve with at least that score.
pub(super) fn cheapest(curve: &[Point], score: f64) -> Option<Point> {
    let enough = curve.iter().filter(|point| point.score >= score - 1e-12);
    enough.copied().min_by(|a, b| a.cost.total_cmp(&b.cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_order_recovers_the_gap_first() {
        let curve = Threshold::new(&[0.1, 0.9, 0.5, 0.2], &[0.0, 1.0, 1.0, 0.0]).unwrap();
        assert_eq!(curve.recovered, [0.0, 0.5, 1.0, 1.0, 1.0]);
        assert!((curve.apgr() - 0.75).abs() < 1e-12);
        assert!((curve.calls(0.5) - 0.25).abs() < 1e-12 && (curve.calls(0.8) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_mean_over_both_orders_is_chance() {
        let gain = [1.0, 0.0, -1.0, 1.0, 1.0];
        let order = [0.5, 0.4, 0.3, 0.2, 0.1];
        let area = |predicted: &[f64]| Threshold::new(predicted, &gain).unwrap().apgr();
        let back: Vec<f64> = order.iter().map(|p| -p).collect();
        assert!((f64::midpoint(area(&order), area(&back)) - 0.5).abs() < 1e-12);
        assert!(Threshold::new(&order, &[0.0; 5]).is_none());
    }

    #[test]
    fn a_price_buys_cheaper_models_and_unknown_costs_are_never_bought() {
        let costs = Costs { known: vec![Some(1.0), Some(10.0), None], unit: "x" };
        let predicted = Matrix { cols: 3, data: vec![0.5, 0.6, 1.0, 0.2, 0.9, 1.0] };
        assert_eq!(costs.choose(&predicted, 0.0), [1, 1]);
        assert_eq!(costs.choose(&predicted, 0.2), [0, 1]);
        assert_eq!(costs.choose(&predicted, 5.0), [0, 0]);
        let scores = Matrix { cols: 3, data: vec![1.0, 1.0, 1.0, 0.0, 1.0, 1.0] };
        let curve = costs.curve(&predicted, &scores, None);
        let best = cheapest(&curve, 1.0).unwrap();
        assert!((best.cost - 5.5).abs() < 1e-12, "{best:?}");
        assert!((cheapest(&curve, 0.5).unwrap().cost - 1.0).abs() < 1e-12);
        assert!(cheapest(&curve, 1.1).is_none());
        let spent = Matrix { cols: 3, data: vec![2.0, 3.0, 0.0, 4.0, 5.0, 0.0] };
        assert!((costs.curve(&predicted, &scores, Some(&spent))[0].cost - 4.0).abs() < 1e-12);
    }

    #[test]
    fn an_interval_holds_the_mean_and_depends_on_the_seed_alone() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        let average = |rows: &[usize]| mean(rows.iter().map(|&row| values[row]));
        let [low, high] = bootstrap(100, 1, average);
        assert!(low < 49.5 && 49.5 < high && high - low < 16.0, "{low} {high}");
        assert_eq!(bootstrap(100, 1, average).map(f64::to_bits), [low, high].map(f64::to_bits));
    }

    #[test]
    fn the_gap_is_closed_from_the_best_single_to_the_oracle() {
        assert!((gap_closed(0.7, 0.6, 0.8) - 0.5).abs() < 1e-12);
        assert!(gap_closed(0.9, 0.9, 0.9).abs() < 1e-12);
    }
}
