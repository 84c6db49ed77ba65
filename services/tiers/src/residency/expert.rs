use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use routing::ExpertId;
use serde::{Deserialize, Serialize};

use super::tier::Tier;

/// An expert's place in its pool's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExpertIndex(pub u32);

impl ExpertIndex {
    pub(super) fn at(self) -> usize {
        self.0 as usize
    }
}

/// What an expert's weights are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Kind {
    /// A whole model with an engine of its own.
    Full,
    /// Weights for an engine that is there already: a fine-tune that is swapped in.
    Weights {
        /// The architecture that the engine must have.
        architecture: String,
    },
    /// An adapter, which needs its base nearby.
    Adapter {
        /// The base model, an expert of the same pool. It is never removed while an adapter of it is resident.
        base: ExpertId,
    },
}

/// An expert, as its pool needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpertSpec {
    /// Its name.
    pub id: ExpertId,
    /// What its weights are.
    pub kind: Kind,
    /// The tiers that it can be in, with its bytes there; a compressed copy is smaller. It answers from the nearest,
    /// and the farthest, its home, always has it.
    pub bytes: BTreeMap<Tier, u64>,
    /// What warming up takes after a load.
    pub warm_us: u64,
    /// What a batch takes, until some were measured.
    pub batch_us: u64,
}

/// What is going on with an expert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// Nowhere on this node.
    Absent,
    /// On its way to the disk.
    Fetching,
    /// On the disk.
    Cold,
    /// On its way to the host's memory.
    Staging,
    /// In the host's memory.
    Warm,
    /// On its way to where it answers from.
    Loading,
    /// There, and computing its first token.
    Warming,
    /// Ready.
    Hot,
    /// Ready, but taking no more requests, because its place is needed.
    Draining,
    /// Being removed; its bytes count until they are known to be free.
    Unloading,
    /// A transition failed.
    Failed {
        /// Where it was going.
        tier: Tier,
        /// What the driver said.
        cause: Arc<str>,
        /// When to try again.
        retry_at_us: u64,
    },
    /// Nobody knows: a transition timed out. Its bytes stay counted until a probe.
    Unknown,
}

impl Phase {
    /// The state of rest that a nearest copy in `tier` means, for an expert that answers from `serves`.
    pub(super) fn resting(tier: Tier, serves: Tier) -> Self {
        match tier {
            tier if tier == serves => Self::Hot,
            Tier::Slot | Tier::Hbm | Tier::Dram => Self::Warm,
            Tier::Disk => Self::Cold,
            Tier::Remote => Self::Absent,
        }
    }

    /// The transition that brings an expert to `tier`.
    pub(super) fn towards(tier: Tier, serves: Tier) -> Self {
        match tier {
            tier if tier == serves => Self::Loading,
            Tier::Slot | Tier::Hbm | Tier::Dram => Self::Staging,
            Tier::Disk | Tier::Remote => Self::Fetching,
        }
    }

    /// Whether a transition is under way, so that no other may begin.
    pub fn is_moving(&self) -> bool {
        matches!(self, Self::Fetching | Self::Staging | Self::Loading | Self::Warming | Self::Unloading)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Absent => "absent",
            Self::Fetching => "fetching",
            Self::Cold => "cold",
            Self::Staging => "staging",
            Self::Warm => "warm",
            Self::Loading => "loading",
            Self::Warming => "warming",
            Self::Hot => "hot",
            Self::Draining => "draining",
            Self::Unloading => "unloading",
            Self::Failed { .. } => "failed",
            Self::Unknown => "unknown",
        })
    }
}

/// Whether an expert may be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "pin")]
pub enum Pin {
    /// Yes.
    #[default]
    None,
    /// Not until then: for a session, or a tenant.
    Soft {
        /// When it ends.
        until_us: u64,
    },
    /// Never: the operator said so.
    Hard,
}

impl Pin {
    pub(super) fn holds(self, now_us: u64) -> bool {
        match self {
            Self::None => false,
            Self::Soft { until_us } => now_us < until_us,
            Self::Hard => true,
        }
    }
}
