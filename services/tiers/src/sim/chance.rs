//! The reference's chance, bit for bit: PCG64 seeded as numpy seeds it, so that drawn experts and clocks are the same
//! as in the simulations whose numbers are compared with.

const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

/// How far the exponential's steps reach, and the area of each.
const REACH: f64 = 7.697_117_470_131_05;
const AREA: f64 = 0.003_949_659_822_581_572;
const MANTISSA: f64 = 9_007_199_254_740_992.0;

pub(super) struct Chance {
    state: u128,
    increment: u128,
}

impl Chance {
    pub(super) fn new(seed: u32) -> Self {
        let words = spread(seed);
        let wide = |i: usize| u128::from(words[i]) << 64 | u128::from(words[i + 1]);
        let mut this = Self { state: 0, increment: wide(2) << 1 | 1 };
        this.step();
        this.state = this.state.wrapping_add(wide(0));
        this.step();
        this
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn word(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// Evenly in 0..1.
    pub(super) fn even(&mut self) -> f64 {
        (self.word() >> 11) as f64 / MANTISSA
    }
}

/// Numpy's `SeedSequence`: four 64-bit words from a seed.
fn spread(seed: u32) -> [u64; 4] {
    let mut factor = 0x43b0_d7e5_u32;
    let mut hash = |value: u32| {
        let value = value ^ factor;
        factor = factor.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(factor);
        value ^ value >> 16
    };
    let mut pool = [seed, 0, 0, 0].map(&mut hash);
    for from in 0..pool.len() {
        for to in 0..pool.len() {
            if from != to {
                let mixed = 0xca01_f9dd_u32
                    .wrapping_mul(pool[to])
                    .wrapping_sub(0x4973_f715_u32.wrapping_mul(hash(pool[from])));
                pool[to] = mixed ^ mixed >> 16;
            }
        }
    }
    let mut factor = 0x8b51_f9dd_u32;
    let mut word = |i: usize| {
        let value = pool[i % pool.len()] ^ factor;
        factor = factor.wrapping_mul(0x58f3_8ded);
        let value = value.wrapping_mul(factor);
        u64::from(value ^ value >> 16)
    };
    std::array::from_fn(|i| word(2 * i) | word(2 * i + 1) << 32)
}

/// Draws from a Zipf law of exponent 0.9 over so many ranks.
pub(super) struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    pub(super) fn new(ranks: u32) -> Self {
        let weights: Vec<f64> = (1..=ranks).map(|rank| f64::from(rank).powf(-0.9)).collect();
        let sum: f64 = weights.iter().sum();
        let mut cumulated: Vec<f64> = weights
            .iter()
            .scan(0.0, |all, weight| {
                *all += weight / sum;
                Some(*all)
            })
            .collect();
        let last = cumulated.last().copied().unwrap_or(1.0);
        for share in &mut cumulated {
            *share /= last;
        }
        Self { cumulated }
    }

    pub(super) fn draw(&self, chance: &mut Chance) -> u32 {
        let even = chance.even();
        self.cumulated.partition_point(|share| *share <= even) as u32
    }
}

/// Draws exponential times of mean 1, by the ziggurat.
pub(super) struct Exponential {
    inside: [u64; 256],
    width: [f64; 256],
    height: [f64; 256],
}

impl Exponential {
    pub(super) fn new() -> Self {
        let mut this = Self { inside: [0; 256], width: [0.0; 256], height: [0.0; 256] };
        let mut edge = REACH;
        let mut outer = edge;
        let base = AREA / (-edge).exp();
        this.inside[0] = (edge / base * MANTISSA) as u64;
        this.width[0] = base / MANTISSA;
        this.width[255] = edge / MANTISSA;
        this.height[0] = 1.0;
        this.height[255] = (-edge).exp();
        for i in (1..255).rev() {
            edge = -(AREA / edge + (-edge).exp()).ln();
            this.inside[i + 1] = (edge / outer * MANTISSA) as u64;
            outer = edge;
            this.height[i] = (-edge).exp();
            this.width[i] = edge / MANTISSA;
        }
        this
    }

    pub(super) fn draw(&self, chance: &mut Chance) -> f64 {
        loop {
            let word = chance.word() >> 3;
            let step = (word & 0xff) as usize;
            let at = word >> 8;
            let value = at as f64 * self.width[step];
            if at < self.inside[step] {
                return value;
            }
            if step == 0 {
                return REACH - (-chance.even()).ln_1p();
            }
            let between = self.height[step - 1] - self.height[step];
            if between * chance.even() + self.height[step] < (-value).exp() {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_draws_what_numpy_draws() {
        let mut chance = Chance::new(42);
        let drawn: Vec<f64> = (0..3).map(|_| chance.even()).collect();
        for (drawn, numpy) in
            drawn.iter().zip([0.773_956_048_555_963_3, 0.438_878_439_752_25, 0.858_597_919_911_755_8])
        {
            assert!((drawn - numpy).abs() < 1e-8, "{drawn} is not {numpy}");
        }
    }

    #[test]
    fn exponential_times_have_the_law() {
        let (mut chance, law) = (Chance::new(3), Exponential::new());
        let times: Vec<f64> = (0..200_000).map(|_| law.draw(&mut chance)).collect();
        let share =
            |limit: f64| times.iter().filter(|time| **time > limit).count() as f64 / times.len() as f64;
        for limit in [0.01, 0.1, 1.0, 3.0, 8.0] {
            assert!((share(limit) - (-limit).exp()).abs() < 0.003, "{limit}: {}", share(limit));
        }
    }
}
