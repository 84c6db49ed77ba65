//! How often experts are asked for, over several horizons at once.

use super::expert::ExpertIndex;

/// Over how many requests the counts fade, shortest first: each horizon is [`STEP`] times the one before.
const HORIZONS: [f64; 8] = [8.0, 24.0, 72.0, 216.0, 648.0, 1944.0, 5832.0, 17496.0];
const STEP: i32 = 3;
const N: usize = HORIZONS.len();

/// How fast the horizons' common weights follow.
const RATE: f64 = 0.02;

/// Least common weight of a horizon, so that each can come back when the workload changes.
const LEAST: f64 = 0.002;

/// How many requests of its own an expert needs until its weights are as much its own as common.
const PRIOR: f64 = 3.0;

/// Predicts how often each expert will be asked for.
///
/// How far back to look depends on the workload: over everything where popularity is steady, over the last
/// minutes where it drifts. So counts are kept for eight horizons, and those that foresaw the requests that counted,
/// for experts that were not ready, get the say: a Bayesian mixture, with weights per expert that start from the
/// common ones. Time is counted in requests, so that a quiet night makes nobody less popular.
#[derive(Clone, Debug)]
pub(super) struct Popularity {
    experts: Vec<Counts>,
    weights: [f64; N],
    /// What a horizon's counts of all experts add up to.
    mass: [f64; N],
    requests: f64,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    /// Requests, faded over each horizon, as of the last one.
    faded: [f64; N],
    /// How often each horizon foresaw a request that counted.
    credit: [f64; N],
    credited: f64,
    /// The number of the last request.
    at: f64,
    seen: bool,
}

impl Popularity {
    pub(super) fn new(experts: usize) -> Self {
        Self {
            experts: vec![Counts::default(); experts],
            weights: [1.0 / N as f64; N],
            mass: [0.0; N],
            requests: 0.0,
        }
    }

    /// Takes a request in; `missed` where its expert was not ready.
    pub(super) fn requested(&mut self, expert: ExpertIndex, missed: bool) {
        if missed && self.experts[expert.at()].seen {
            self.learn(expert);
        }
        let fade = fade(self.requests - self.experts[expert.at()].at);
        let counts = &mut self.experts[expert.at()];
        for (count, left) in counts.faded.iter_mut().zip(fade) {
            *count = *count * left + 1.0;
        }
        counts.at = self.requests;
        counts.seen = true;
        self.requests += 1.0;
        for (mass, horizon) in self.mass.iter_mut().zip(HORIZONS) {
            *mass = horizon * (1.0 - (-(self.requests + 1.0) / horizon).exp());
        }
    }

    /// The expected share of this expert in the requests to come.
    pub(super) fn share(&self, expert: ExpertIndex) -> f64 {
        let shares = self.shares(expert);
        let own = &self.experts[expert.at()];
        let all = PRIOR + own.credited;
        (0..N).map(|i| (self.weights[i] * PRIOR + own.credit[i]) / all * shares[i]).sum()
    }

    fn shares(&self, expert: ExpertIndex) -> [f64; N] {
        let own = &self.experts[expert.at()];
        if !own.seen {
            return [0.0; N];
        }
        let fade = fade(self.requests - own.at);
        std::array::from_fn(|i| own.faded[i] * fade[i] / self.mass[i])
    }

    fn learn(&mut self, expert: ExpertIndex) {
        // What no horizon foresaw says nothing about them.
        const FLOOR: f64 = 1e-9;
        let shares = self.shares(expert).map(|share| share + FLOOR);
        let all: f64 = self.weights.iter().zip(shares).map(|(weight, share)| weight * share).sum();
        let own = &mut self.experts[expert.at()];
        let mut sum = 0.0;
        for ((weight, share), credit) in self.weights.iter_mut().zip(shares).zip(&mut own.credit) {
            let posterior = *weight * share / all;
            *credit += posterior;
            *weight = ((1.0 - RATE) * *weight + RATE * posterior).max(LEAST);
            sum += *weight;
        }
        own.credited += 1.0;
        for weight in &mut self.weights {
            *weight /= sum;
        }
    }
}

/// What is left of each horizon's count after so many requests. One exponential, because the horizons are powers.
fn fade(age: f64) -> [f64; N] {
    let mut fade = [0.0; N];
    let mut left = (-age / HORIZONS[N - 1]).exp();
    for i in (0..N).rev() {
        fade[i] = left;
        left = left.powi(STEP);
    }
    fade
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ExpertIndex = ExpertIndex(0);
    const B: ExpertIndex = ExpertIndex(1);

    #[test]
    fn horizons_are_powers_of_each_other() {
        for pair in HORIZONS.windows(2) {
            assert!((pair[1] / pair[0] - f64::from(STEP)).abs() < f64::EPSILON);
        }
        for (left, horizon) in fade(100.0).iter().zip(HORIZONS) {
            assert!((left - (-100.0 / horizon).exp()).abs() < 1e-12);
        }
    }

    #[test]
    fn steady_shares_are_found() {
        let mut popularity = Popularity::new(2);
        for i in 0..50_000 {
            popularity.requested(if i % 4 == 0 { B } else { A }, true);
        }
        assert!((popularity.share(A) - 0.75).abs() < 0.02, "{}", popularity.share(A));
        assert!((popularity.share(B) - 0.25).abs() < 0.02, "{}", popularity.share(B));
    }

    #[test]
    fn a_shift_is_followed() {
        let mut popularity = Popularity::new(2);
        for _ in 0..20_000 {
            popularity.requested(A, true);
        }
        for _ in 0..500 {
            popularity.requested(B, true);
        }
        assert!(popularity.share(B) > popularity.share(A));
    }
}
