//! What gateways and the owner of pools say to each other, as JSON over the owner's admin API.

use std::sync::Arc;

use routing::ExpertId;
use serde::{Deserialize, Serialize};
use tiers::owner::{Found, Why};
use utoipa::ToSchema;

/// A request for an expert that is to be ready.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaseWish {
    /// Which.
    pub(crate) expert: ExpertId,
    /// On whose account weights are loaded; equal numbers are one tenant.
    #[serde(default)]
    pub(crate) tenant: u32,
    /// The conversation that it belongs to, as a number that is the same for all its requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<u64>,
    /// In how many milliseconds it is of no more use; without it there is no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_ms: Option<u64>,
    /// Who asks, by a name of its own.
    #[schema(value_type = String, min_length = 1, max_length = 128)]
    pub(crate) holder: Arc<str>,
}

/// The expert is ready, and stays so while the lease lasts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LeaseGrant {
    /// Its number in this term.
    pub(crate) lease: u64,
    /// Counts the starts of the owner.
    pub(crate) term: u64,
    /// How long it lasts without being renewed.
    pub(crate) expires_in_ms: u64,
    /// Where the expert was when the request came.
    pub(crate) found: Found,
    /// How long the request waited for it.
    pub(crate) waited_us: u64,
}

/// Why a request does not get its expert.
#[derive(Debug, Deserialize)]
pub(crate) struct LeaseRefused {
    /// Why.
    pub(crate) why: Why,
    /// After how long it could be had, as estimated.
    pub(crate) retry_after_ms: u64,
}

/// Leases that are to last on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenewWish {
    /// Who has them.
    #[schema(value_type = String, min_length = 1, max_length = 128)]
    pub(crate) holder: Arc<str>,
    /// The term of all of them.
    pub(crate) term: u64,
    /// The leases.
    pub(crate) leases: Vec<LeaseRef>,
}

/// A lease, by what it is for: after a restart the owner knows it by that alone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaseRef {
    /// Its number.
    pub(crate) lease: u64,
    /// Whom it keeps.
    pub(crate) expert: ExpertId,
}

/// What became of leases that were to last on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Renewal {
    /// The term now. Leases that last on are of this term.
    pub(crate) term: u64,
    /// How long they last without being renewed again.
    pub(crate) expires_in_ms: u64,
    /// Those that last on.
    pub(crate) leases: Vec<LastsOn>,
    /// Those that do not: their experts are not ready any more.
    pub(crate) lost: Vec<u64>,
    /// Those of whose experts nobody knows yet where they are; to be renewed again soon.
    pub(crate) unknown: Vec<u64>,
}

/// A lease that lasts on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LastsOn {
    /// The number that was given.
    pub(crate) lease: u64,
    /// Its number now, which differs where it had to be made anew.
    pub(crate) now: u64,
}

/// An expert that is suspected not to be where it should be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suspicion {
    /// Which.
    pub(crate) expert: ExpertId,
}

/// Where the experts of all pools are, as far as routing wants to know.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct PoolOutlook {
    /// Counts the starts of the owner.
    pub(crate) term: u64,
    /// How long a lease lasts without being renewed.
    pub(crate) expires_in_ms: u64,
    /// The experts of all pools.
    pub(crate) experts: Vec<ExpertOutlook>,
}

/// Where an expert is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ExpertOutlook {
    /// Which.
    pub(crate) expert: ExpertId,
    /// Its pool.
    pub(crate) pool: String,
    /// How many tiers its nearest copy is away from where it answers; null where nobody knows.
    #[schema(required)]
    pub(crate) away: Option<u8>,
    /// How long a request that came now would wait, as estimated.
    pub(crate) wait_ms: u64,
}
