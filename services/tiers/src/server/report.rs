use std::collections::BTreeMap;
use std::fmt;

use routing::ExpertId;
use serde::Serialize;

use crate::residency::{Source, Tier};

/// What a driver can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Caps {
    /// Where it can put an expert, nearest first.
    pub tiers: Vec<Tier>,
    /// What a transition moves.
    pub scope: Scope,
    /// Whether loading one expert can make the server remove another by itself.
    pub exclusive: bool,
    /// Whether the bytes in inventories and outcomes are read from somewhere, not declared.
    pub measures: bool,
}

/// What a transition moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One expert of a server that has several.
    Expert,
    /// A server with one expert: all that it does stops while the expert is away.
    Server,
}

/// What is where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// The driver's experts; every one of them is here.
    pub experts: BTreeMap<ExpertId, Placed>,
    /// What the server holds besides, by the server's names. It takes bytes that no expert accounts for.
    pub strangers: Vec<String>,
    /// Free bytes of the accelerator, where the driver has a meter.
    pub free_bytes: Option<u64>,
}

/// Where an expert is, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Where.
    pub residence: Residence,
    /// Who says so.
    pub evidence: Evidence,
    /// Its bytes by tier, as far as they are known, with their source.
    pub bytes: BTreeMap<Tier, (u64, Source)>,
}

impl Placed {
    pub(crate) fn told(tier: Tier) -> Self {
        Self::new(Residence::In(tier), Evidence::Server)
    }

    pub(crate) fn new(residence: Residence, evidence: Evidence) -> Self {
        Self { residence, evidence, bytes: BTreeMap::new() }
    }
}

/// Where an expert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Residence {
    /// Its nearest complete copy is here.
    In(Tier),
    /// On its way; ask again.
    Moving,
    /// Nobody can tell. It may hold the bytes of every tier that it was on its way through.
    Unknown,
}

/// Who says where an expert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The server, now.
    Server,
    /// This driver remembers what it asked for and was granted; the server has no way to ask.
    Remembered,
    /// What the documentation of the server leads to expect; nobody granted or confirmed it.
    Assumed,
}

/// How a transition ended that did what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Where the expert is now.
    pub placed: Placed,
    /// Experts that were ready before and are not any more, though nobody asked for that: the server made room.
    pub evicted: Vec<ExpertId>,
    /// Free bytes of the accelerator before and after, where the driver has a meter.
    pub free_bytes: Option<(u64, u64)>,
}

impl Outcome {
    pub(crate) fn at(placed: Placed) -> Self {
        Self { placed, evicted: Vec::new(), free_bytes: None }
    }
}

/// Why a probe or a transition did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DriverError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// What happened, and where.
    pub message: String,
}

/// What a driver's error means for whoever owns the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Nothing changed, and later it may work: the server is busy, or slow to answer a question.
    Busy,
    /// The server is not there. What it held on the accelerator went with it; probe when it is back.
    Gone,
    /// Something may have changed: the deadline passed, or a part failed. Keep all bytes counted, and probe.
    HalfDone,
    /// Nothing changed, and asking again will not help: the server said no.
    Refused,
    /// The driver or the server cannot do this at all; the configuration must change.
    Unsupported,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Busy => "busy",
            Self::Gone => "gone",
            Self::HalfDone => "half_done",
            Self::Refused => "refused",
            Self::Unsupported => "unsupported",
        })
    }
}

impl DriverError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn half_done(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::HalfDone, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// The same, for a transition that had changed something before.
    pub(crate) fn after_a_change(self) -> Self {
        Self { kind: ErrorKind::HalfDone, ..self }
    }
}
