use std::fmt;

use serde::Serialize;

use super::expert::ExpertIndex;
use super::predict::PredictionSource;
use super::tier::Tier;

/// Something to do, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Send this many requests, the first of its line, to a ready expert as one batch.
    Dispatch {
        /// To whom.
        expert: ExpertIndex,
        /// How many; at least 1.
        requests: u32,
        /// Why.
        reason: Reason,
    },
    /// Bring an expert nearer.
    Promote {
        /// Whom.
        expert: ExpertIndex,
        /// Where its nearest copy is.
        from: Tier,
        /// Where to.
        to: Tier,
        /// For what.
        cause: Cause,
        /// On whose account, where someone waits for it.
        tenant: Option<u32>,
        /// Why.
        reason: Reason,
    },
    /// Give a copy up.
    Demote {
        /// Whose.
        expert: ExpertIndex,
        /// The copy in this tier.
        from: Tier,
        /// Why.
        reason: Reason,
    },
    /// Send an expert no more requests, so that it can be removed when those under way have ended.
    Drain {
        /// Whom.
        expert: ExpertIndex,
        /// Why.
        reason: Reason,
    },
    /// Send a drained expert requests again.
    Resume {
        /// Whom.
        expert: ExpertIndex,
        /// Why.
        reason: Reason,
    },
    /// Answer a waiting request with a refusal: its expert cannot be had in time.
    Refuse {
        /// Whose request.
        expert: ExpertIndex,
        /// Its number.
        request: u64,
        /// Why.
        reason: Reason,
    },
}

/// For what an expert is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = LoadCause)]
pub enum Cause {
    /// A request's bound is up.
    Demand,
    /// Someone waits for it.
    Prefetch,
    /// Nobody asked for it yet, but that is likely.
    Predicted {
        /// Who said so.
        source: PredictionSource,
    },
    /// An operator asked for it.
    Admin,
}

/// Why an action was chosen, with what it was chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", tag = "reason")]
#[schema(as = ResidencyReason)]
pub enum Reason {
    /// Of the ready experts it has the request that must be served first.
    OldestHead {
        /// When that request's bound is up.
        due_us: u64,
    },
    /// A request's bound is up, or would be before its expert could be loaded.
    Bound {
        /// When.
        due_us: u64,
    },
    /// Of the experts that are not ready, those who wait for it have waited longest for each second of loading.
    LongestWait {
        /// How long they have waited, together.
        waited_us: u64,
        /// What loading takes.
        load_us: u64,
    },
    /// It goes to the host's memory, because there is no room nearer.
    NearerOnly,
    /// It is likely to be asked for next.
    Expected {
        /// How likely the next request is for it, from 0 to 1.
        chance: f64,
    },
    /// Of those that nobody waits for it is worth least: share of the requests to come, times what loading it again
    /// takes, by its bytes.
    LeastValue {
        /// Microseconds a gigabyte.
        value: f64,
    },
    /// Nobody waits for it, and it was asked for longest ago. That rules where judging by value has loaded more than
    /// recency would have.
    LeastRecent,
    /// Somebody waits for all that could go, and for this one last.
    WantedLast {
        /// When the first request for it is due.
        due_us: u64,
    },
    /// Nothing can go but what still answers.
    AllBusy,
    /// Its place is not needed any more.
    NotNeeded,
    /// The last transition failed, or its outcome is not known.
    Unavailable,
    /// What is pinned leaves no room.
    NoRoom,
    /// An operator asked for it.
    Asked,
}

impl Cause {
    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Prefetch => "prefetch",
            Self::Predicted { .. } => "predicted",
            Self::Admin => "admin",
        }
    }
}

impl Reason {
    /// As a label, without what it was chosen by.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OldestHead { .. } => "oldest_head",
            Self::Bound { .. } => "bound",
            Self::LongestWait { .. } => "longest_wait",
            Self::NearerOnly => "nearer_only",
            Self::Expected { .. } => "expected",
            Self::LeastValue { .. } => "least_value",
            Self::LeastRecent => "least_recent",
            Self::WantedLast { .. } => "wanted_last",
            Self::AllBusy => "all_busy",
            Self::NotNeeded => "not_needed",
            Self::Unavailable => "unavailable",
            Self::NoRoom => "no_room",
            Self::Asked => "asked",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |us: &u64| *us as f64 / 1e6;
        match self {
            Self::OldestHead { due_us } => {
                write!(f, "of the ready experts its head is due first, at {:.3} s", seconds(due_us))
            }
            Self::Bound { due_us } => {
                write!(f, "a request must not be overtaken after {:.3} s", seconds(due_us))
            }
            Self::LongestWait { waited_us, load_us } => {
                write!(
                    f,
                    "requests have waited {:.3} s for a load of {:.3} s",
                    seconds(waited_us),
                    seconds(load_us)
                )
            }
            Self::Expected { chance } => {
                write!(f, "the next request is for it with a chance of {:.1} %", 100.0 * chance)
            }
            Self::NearerOnly => f.write_str("there is no room nearer"),
            Self::LeastValue { value } => {
                write!(f, "nobody waits for it, and it is worth least: {value:.3} us/GB")
            }
            Self::LeastRecent => f.write_str("nobody waits for it, and it was asked for longest ago"),
            Self::WantedLast { due_us } => {
                write!(f, "all are waited for, and it is due last, at {:.3} s", seconds(due_us))
            }
            Self::AllBusy => f.write_str("nothing can go but what still answers"),
            Self::NotNeeded => f.write_str("its place is not needed any more"),
            Self::Unavailable => f.write_str("its last transition failed, or nobody knows how it ended"),
            Self::NoRoom => f.write_str("what is pinned leaves no room"),
            Self::Asked => f.write_str("an operator asked for it"),
        }
    }
}
