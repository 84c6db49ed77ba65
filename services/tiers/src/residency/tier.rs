use std::fmt;

use serde::{Deserialize, Serialize};

/// Where weights are, nearest first. A driver says which of these it has.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Bound into the running step and read without a copy, such as a place in a bank of adapters.
    Slot,
    /// On the accelerator.
    Hbm,
    /// In the host's memory.
    Dram,
    /// On a local disk.
    Disk,
    /// Somewhere else, to be fetched.
    Remote,
}

/// How many tiers there are.
pub(super) const TIERS: usize = 5;

impl Tier {
    /// All tiers, nearest first.
    pub const ALL: [Self; TIERS] = [Self::Slot, Self::Hbm, Self::Dram, Self::Disk, Self::Remote];

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Slot => "slot",
            Self::Hbm => "hbm",
            Self::Dram => "dram",
            Self::Disk => "disk",
            Self::Remote => "remote",
        })
    }
}

/// Where a number of bytes comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Read from the device.
    Measured,
    /// Said by the operator.
    Declared,
    /// Made up by a simulation.
    Simulated,
}

impl Source {
    /// Whether it was read from the device.
    pub fn is_measured(self) -> bool {
        self == Self::Measured
    }
}

/// A tier of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierSpec {
    /// Which.
    pub tier: Tier,
    /// All its bytes. A [`Tier::Slot`] may count places instead, where each adapter takes one.
    pub capacity_bytes: u64,
    /// Bytes that experts never get: caches of keys and values, activations, contexts of sleeping engines.
    pub reserved_bytes: u64,
    /// Where `capacity_bytes` comes from.
    pub source: Source,
}
