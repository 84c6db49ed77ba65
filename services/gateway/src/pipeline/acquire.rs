//! Phase `acquire`: the weights of an expert that is in a pool are brought where it answers from, and stay there until
//! its answer has ended.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use experts::{CallError, CallErrorKind, Expert};
use tiers::owner::{Ask, Denied, Found, Why};
use tokio::time::Instant;

use super::decode::Decoded;
use super::route::Trace;
use super::{Pipeline, micros};
use crate::decision::{Attempt, Residency};
use crate::error::{ApiError, ErrorKind, whole_seconds};
use crate::residency::Lease;

impl Pipeline {
    /// Waits until an expert is where it answers from; `None` for one that is in no pool.
    ///
    /// # Errors
    /// 503 with a time to try again where it cannot be had in time; the next candidate may be.
    pub(super) async fn acquire(
        &self,
        expert: &Expert,
        request: &Decoded,
        trace: &mut Trace,
    ) -> Result<Option<Lease>, ApiError> {
        let Some(keeper) = self.pools.keeper(expert.id()) else { return Ok(None) };
        let ask = Ask {
            expert: expert.id(),
            tenant: tenant(trace),
            session: request.affinity(),
            deadline: trace.deadline,
        };
        let began = Instant::now();
        // Boxed: most requests have nothing to wait for here, and should not carry the room for it.
        match Box::pin(keeper.acquire(ask)).await {
            Ok(lease) => {
                if let Some(lease) = &lease {
                    note(trace, lease.found(), lease.waited());
                }
                Ok(lease)
            }
            Err(denied) => {
                let mut attempt = Attempt::new(expert.id().clone());
                attempt.error = Some(denied.why.name().into());
                trace.attempts.push(attempt);
                note(trace, Found::Unavailable, began.elapsed());
                Err(refusal(expert, &denied))
            }
        }
    }

    /// An expert that should be there did not answer: its driver is asked whether it is.
    pub(super) fn suspect(&self, expert: &Expert, error: &CallError) {
        if matches!(error.kind(), CallErrorKind::Request | CallErrorKind::Untranslatable) {
            return;
        }
        if let Some(keeper) = self.pools.keeper(expert.id()) {
            keeper.suspect(expert.id());
        }
    }
}

/// Takes a wait into the record; several experts may be waited for, one after the other.
fn note(trace: &mut Trace, found: Found, waited: Duration) {
    let before = trace.residency.map_or(0, |residency| residency.waited_us);
    trace.residency = Some(Residency { found, waited_us: before + micros(waited) });
}

/// On whose account weights are loaded: the team's, else the key's.
fn tenant(trace: &Trace) -> u32 {
    let name = trace.caller.as_deref().map(|key| key.team().map_or(key.id(), |team| team.id()));
    // Equal names give equal numbers, and a collision does no harm.
    name.map_or(0, |name| BuildHasherDefault::<DefaultHasher>::default().hash_one(name) as u32)
}

fn refusal(expert: &Expert, denied: &Denied) -> ApiError {
    let id = expert.id();
    let kind = match denied.why {
        Why::Full | Why::Draining | Why::Stopped => ErrorKind::Overloaded,
        Why::Deadline | Why::Unavailable | Why::NoRoom | Why::NotHere | Why::NoOwner => {
            ErrorKind::NoHealthyBackend
        }
    };
    let mut error = ApiError::new(kind, format!("the expert `{id}` cannot answer now: {}", denied.why));
    error.retry_after = Some(whole_seconds(denied.retry_after));
    error
}
