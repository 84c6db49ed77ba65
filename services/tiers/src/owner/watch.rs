//! What happens in a pool, for whoever counts it.

use std::fmt;

use routing::ExpertId;
use serde::{Deserialize, Serialize};

use crate::driver::ErrorKind;
use crate::residency::{Cause, Reason, RefusedFor, Tier};

/// Takes events. Called with the pool's lock held: it must be quick, and must not ask the pool anything.
pub trait Watch: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

/// Watches nothing.
pub struct Silent;

impl Watch for Silent {
    fn event(&self, _event: &Event<'_>) {}
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// A request got its expert.
    Served {
        /// Which.
        expert: &'a ExpertId,
        /// Where it was when the request came.
        found: Found,
        /// How long the request waited.
        waited_us: u64,
    },
    /// A request did not get its expert.
    Refused {
        /// Which.
        expert: &'a ExpertId,
        /// Why.
        why: Why,
    },
    /// A transition began.
    Began {
        /// Whose.
        expert: &'a ExpertId,
        /// From where.
        from: Tier,
        /// Where to.
        to: Tier,
        /// For what; `None` where a copy is given up.
        cause: Option<Cause>,
        /// Why.
        reason: Reason,
        /// Whether it had been removed from there less than a minute before.
        again: bool,
    },
    /// A transition ended.
    Ended {
        /// Whose.
        expert: &'a ExpertId,
        /// From where.
        from: Tier,
        /// Where to.
        to: Tier,
        /// For what; `None` where a copy was given up.
        cause: Option<Cause>,
        /// How.
        outcome: Outcome,
        /// How long it took.
        took_us: u64,
        /// What was moved.
        bytes: u64,
    },
    /// A driver could not be asked what is where.
    ProbeFailed {
        /// The driver's kind.
        driver: &'static str,
        /// Why.
        kind: ErrorKind,
    },
    /// A probe found an expert elsewhere than it should be.
    Mismatch {
        /// Which.
        expert: &'a ExpertId,
    },
}

/// Where an expert was when a request for it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Ready.
    Hot,
    /// On its way.
    InFlight,
    /// In the host's memory.
    Warm,
    /// Farther away.
    Cold,
    /// Failed, or nobody knew.
    Unavailable,
}

impl Found {
    /// All, in the order of the variants.
    pub const ALL: [Self; 5] = [Self::Hot, Self::InFlight, Self::Warm, Self::Cold, Self::Unavailable];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::InFlight => "inflight",
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How a transition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// As asked.
    Done,
    /// Not.
    Failed(ErrorKind),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Failed(kind) => kind.fmt(f),
        }
    }
}

/// Why a request does not get its expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The pool has no such expert.
    NotHere,
    /// Too many requests wait.
    Full,
    /// It would come too late.
    Deadline,
    /// The expert's last transition failed, or nobody knows where it is.
    Unavailable,
    /// What is pinned leaves no room for it.
    NoRoom,
    /// The pool is being emptied.
    Draining,
    /// The pool has stopped.
    Stopped,
    /// The pool is owned by another process, which does not answer.
    NoOwner,
}

impl Why {
    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotHere => "not_here",
            Self::Full => "full",
            Self::Deadline => "deadline",
            Self::Unavailable => "unavailable",
            Self::NoRoom => "no_room",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::NoOwner => "no_owner",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHere => "the pool has no such expert",
            Self::Full => "too many requests wait for experts of this pool",
            Self::Deadline => "its weights cannot be loaded before the request's time is up",
            Self::Unavailable => "its weights could not be loaded, and are tried again later",
            Self::NoRoom => "what is pinned leaves no room for its weights",
            Self::Draining => "its pool is being emptied",
            Self::Stopped => "its pool has stopped",
            Self::NoOwner => "the owner of its pool does not answer",
        })
    }
}

impl From<RefusedFor> for Why {
    fn from(why: RefusedFor) -> Self {
        match why {
            RefusedFor::Full => Self::Full,
            RefusedFor::Deadline => Self::Deadline,
            RefusedFor::Unavailable => Self::Unavailable,
        }
    }
}
