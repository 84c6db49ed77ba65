//! Counts of values in buckets whose width grows with the value, as `HdrHistogram` has them: a million
//! latencies take a few kilobytes, and every quantile keeps the same relative precision.

/// Buckets in each power of two, as a power of two.
const PRECISION: u32 = 7;
const BUCKETS: u64 = 1 << PRECISION;

/// A histogram of whole numbers; here always nanoseconds. A quantile is at most 1/128 above a recorded value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

impl Histogram {
    /// Adds a value.
    pub fn record(&mut self, value: u64) {
        let place = place(value);
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
        self.total += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest value; 0 when there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean, exact; 0 when there is no value.
    pub fn mean(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum as f64 / self.total as f64 }
    }

    /// The value that a `share` (0 to 1) of all values do not exceed; 0 when there is none.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return highest(place).min(self.max);
            }
        }
        self.max
    }
}

/// The bucket of a value. Below 256 each value has its own.
fn place(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(PRECISION + 1);
    (u64::from(shift) * BUCKETS + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn highest(place: usize) -> u64 {
    let place = place as u64;
    let shift = (place / BUCKETS).saturating_sub(1);
    let lowest = (place - shift * BUCKETS) << shift;
    lowest + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_values_and_is_narrow(value in 0_u64..=u64::MAX / 2) {
            let top = highest(place(value));
            prop_assert!(top >= value);
            prop_assert!((top - value) as f64 <= value as f64 / BUCKETS as f64);
            prop_assert!(place(top) == place(value) && place(top + 1) == place(value) + 1);
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0_u64..10_000_000_000, 1..300),
            share in 0.0_f64..=1.0,
        ) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.record(*value);
            }
            values.sort_unstable();
            let rank = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let told = histogram.quantile(share);
            prop_assert!(told >= exact && told as f64 <= exact as f64 * (1.0 + 1.0 / BUCKETS as f64), "{told} {exact}");
            prop_assert_eq!(histogram.quantile(1.0), values[values.len() - 1]);
        }
    }

    #[test]
    fn an_empty_histogram_says_zero() {
        let empty = Histogram::default();
        assert_eq!((empty.quantile(0.99), empty.max(), empty.count()), (0, 0, 0));
        assert!(empty.mean().abs() < f64::EPSILON);
    }
}
