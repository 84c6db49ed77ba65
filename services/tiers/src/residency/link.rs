use serde::{Deserialize, Serialize};

use super::tier::Tier;

/// How many transfers the declared bandwidth counts for.
const PRIOR: f64 = 4.0;

/// The least weight of a new transfer, so that a link that changed is learnt again.
const LEAST_WEIGHT: f64 = 0.1;

/// A way between two tiers of a pool, as declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// The farther tier.
    pub from: Tier,
    /// The nearer tier.
    pub to: Tier,
    /// Bytes a second of one transfer; more than 0.
    pub bytes_per_second: f64,
    /// What each transfer takes on top.
    #[serde(default)]
    pub latency_us: u64,
    /// Transfers at a time; at least 1.
    #[serde(default = "one")]
    pub concurrency: u32,
}

fn one() -> u32 {
    1
}

/// A link and what was learnt of it: the declared bandwidth is where the estimate starts.
#[derive(Clone, Debug)]
pub struct Link {
    spec: LinkSpec,
    /// Microseconds a byte.
    pace: f64,
    transfers: f64,
    pub(super) busy: u32,
}

impl Link {
    pub(super) fn new(spec: LinkSpec) -> Self {
        let pace = 1e6 / spec.bytes_per_second;
        Self { spec, pace, transfers: 0.0, busy: 0 }
    }

    /// What was declared.
    pub fn spec(&self) -> &LinkSpec {
        &self.spec
    }

    /// Bytes a second, as learnt until now.
    pub fn bytes_per_second(&self) -> f64 {
        1e6 / self.pace
    }

    /// Transfers under way.
    pub fn busy(&self) -> u32 {
        self.busy
    }

    pub(super) fn is_free(&self) -> bool {
        self.busy < self.spec.concurrency
    }

    /// Microseconds for the bytes alone.
    pub(super) fn bytes_us(&self, bytes: u64) -> f64 {
        bytes as f64 * self.pace
    }

    /// Learns from a transfer. An empty one, or one shorter than the latency, says nothing of the bandwidth.
    pub(super) fn observe(&mut self, bytes: u64, elapsed_us: u64) {
        let moving = elapsed_us.saturating_sub(self.spec.latency_us);
        if bytes == 0 || moving == 0 {
            return;
        }
        self.transfers += 1.0;
        let weight = (1.0 / (PRIOR + self.transfers)).max(LEAST_WEIGHT);
        self.pace += (moving as f64 / bytes as f64 - self.pace) * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declared_bandwidth_gives_way_to_what_is_measured() {
        let spec = LinkSpec {
            from: Tier::Dram,
            to: Tier::Hbm,
            bytes_per_second: 50e9,
            latency_us: 1_000,
            concurrency: 1,
        };
        let mut link = Link::new(spec);
        assert!((link.bytes_us(50_000_000_000) - 1e6).abs() < 1.0);
        // Four times slower than declared.
        link.observe(50_000_000_000, 4_001_000);
        assert!(link.bytes_per_second() > 25e9, "one transfer does not outweigh the declaration");
        for _ in 0..100 {
            link.observe(50_000_000_000, 4_001_000);
        }
        assert!((link.bytes_per_second() / 12.5e9 - 1.0).abs() < 0.01, "{}", link.bytes_per_second());
        link.observe(50_000_000_000, 500);
        assert!(link.bytes_per_second().is_finite());
    }
}
