/// Width of a bucket, in milliseconds: how much longer than a minute a charge may count.
const WIDTH: u64 = 2_000;

/// Buckets that touch a minute: thirty whole ones and the current one.
const BUCKETS: usize = 31;

/// What was used within the last minute, in buckets.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    /// Amounts; bucket `b` of time is at `b % BUCKETS`.
    buckets: [u64; BUCKETS],
    /// The newest bucket of time.
    head: u64,
    /// Sum of all buckets.
    sum: u64,
}

impl Default for Sliding {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], head: 0, sum: 0 }
    }
}

impl Sliding {
    /// Drops what is a minute old. A clock that was set back a little stands still for as long; one that was
    /// set back by more than a minute had been wrong, and the count begins anew.
    pub(super) fn advance(&mut self, now_ms: u64) {
        let bucket = now_ms / WIDTH;
        if bucket > self.head {
            for passed in 1..=(bucket - self.head).min(BUCKETS as u64) {
                let amount = std::mem::take(&mut self.buckets[place(self.head + passed)]);
                self.sum = self.sum.saturating_sub(amount);
            }
            self.head = bucket;
        } else if self.head - bucket >= BUCKETS as u64 {
            *self = Self { head: bucket, ..Self::default() };
        }
    }

    /// What counts; [`advance`](Self::advance) comes first.
    pub(super) fn used(&self) -> u64 {
        self.sum
    }

    pub(super) fn add(&mut self, amount: u64) {
        // The sum is what bounds: it saturates, and so no bucket can.
        let amount = amount.min(u64::MAX - self.sum);
        self.buckets[place(self.head)] += amount;
        self.sum += amount;
    }

    /// Takes back what was added at a moment, if it still counts.
    pub(super) fn refund(&mut self, at_ms: u64, amount: u64) {
        let bucket = (at_ms / WIDTH).min(self.head);
        if self.head - bucket < BUCKETS as u64 {
            let kept = &mut self.buckets[place(bucket)];
            let amount = amount.min(*kept);
            *kept -= amount;
            self.sum -= amount;
        }
    }

    /// When nothing will be left if nothing is added, in milliseconds since the epoch.
    pub(super) fn drained(&self) -> u64 {
        // The newest bucket is the likely one: something has just been added.
        let oldest = self.head.saturating_sub(BUCKETS as u64 - 1);
        let newest = (oldest..=self.head).rev().find(|bucket| self.buckets[place(*bucket)] > 0);
        newest.map_or(0, |bucket| (bucket + BUCKETS as u64) * WIDTH)
    }

    /// When at most `allowed` will be left if nothing is added, in milliseconds since the epoch.
    pub(super) fn drained_to(&self, allowed: u64) -> u64 {
        let oldest = self.head.saturating_sub(BUCKETS as u64 - 1);
        let mut left = self.sum;
        for bucket in oldest..=self.head {
            if left <= allowed {
                return (bucket + BUCKETS as u64 - 1) * WIDTH;
            }
            left -= self.buckets[place(bucket)];
        }
        (self.head + BUCKETS as u64) * WIDTH
    }
}

const fn place(bucket: u64) -> usize {
    (bucket % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_counts_for_a_minute_and_at_most_two_seconds_more() {
        for at in [1_000_000, 1_000_001, 1_001_999] {
            let mut minute = Sliding::default();
            minute.advance(at);
            minute.add(5);
            minute.advance(at + 60_000);
            assert_eq!(minute.used(), 5, "charged at {at}");
            let drained = minute.drained();
            assert_eq!(drained, minute.drained_to(0));
            assert!((at + 60_000..=at + 62_000).contains(&drained));
            minute.advance(drained - 1);
            assert_eq!(minute.used(), 5);
            minute.advance(drained);
            assert_eq!(minute.used(), 0);
        }
    }

    #[test]
    fn what_drains_first_is_the_oldest() {
        let mut minute = Sliding::default();
        for (at, amount) in [(10_000_000, 3), (10_010_000, 4), (10_020_000, 5)] {
            minute.advance(at);
            minute.add(amount);
        }
        assert_eq!(minute.drained_to(9), 10_062_000);
        assert_eq!(minute.drained_to(8), 10_072_000);
        assert_eq!(minute.drained_to(0), 10_082_000);
        assert!(minute.drained_to(12) <= 10_020_000);
    }

    #[test]
    fn a_refund_is_taken_from_its_own_bucket_only() {
        let mut minute = Sliding::default();
        minute.advance(10_000_000);
        minute.add(10);
        minute.advance(10_030_000);
        minute.add(10);
        minute.refund(10_000_000, 4);
        assert_eq!(minute.used(), 16);
        minute.advance(10_062_000);
        assert_eq!(minute.used(), 10);
        minute.refund(10_000_000, 6);
        assert_eq!(minute.used(), 10);
    }

    #[test]
    fn a_wrong_clock_does_not_lock_out_for_ever() {
        let mut minute = Sliding::default();
        minute.advance(99_000_000_000);
        minute.add(10);
        minute.advance(98_999_990_000);
        assert_eq!(minute.used(), 10);
        minute.advance(1_000_000);
        assert_eq!(minute.used(), 0);
    }
}
