//! Phase `admit`: who sends the request, a place among those in progress, and a body within the limits.

use std::sync::Arc;
use std::time::Duration;

use admission::limit::Resource;
use admission::{
    Accounts, Embedded, Gate, Ledger, Outcome, Permit, Refusal, Rejected, Reservation, Sample, Ticket, Usage,
    Usd,
};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header;
use http_body::Body as _;
use http_body_util::BodyExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;

use super::compressed::{self, Coding};
use super::decode::Decoded;
use super::route::{Target, Trace};
use super::{Context, Pipeline, now_ms};
use crate::catalog::View;
use crate::error::{ApiError, ErrorKind, whole_seconds};
use crate::residency::Lease;

/// Tokens that an answer is expected to have when the request sets no bound.
const USUAL_ANSWER: u64 = 256;

/// What a request holds while it is in progress; given back when dropped.
pub(super) struct Hold {
    ledger: Arc<Embedded>,
    in_flight: Gauge,
    _place: OwnedSemaphorePermit,
    /// Of its key, team and route.
    permits: [Option<Permit>; 3],
    /// Of the expert that answers, with how that went.
    expert: Option<(Permit, Sample)>,
    reservation: Option<Reservation>,
    /// Keeps the weights of the expert that answers where they are.
    pub(super) lease: Option<Lease>,
}

impl Hold {
    /// Puts what was used in the place of what was reserved. Without a count from the expert, the
    /// reservation stands.
    pub(super) fn settle(&mut self, usage: Option<Usage>) {
        if let Some(reservation) = self.reservation.take()
            && let Some(usage) = usage
        {
            self.ledger.settle(reservation, usage, now_ms());
        }
    }
}

impl Hold {
    /// Gives back what was reserved, the request itself too: nothing was done for it.
    fn release(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.ledger.release(reservation, now_ms());
        }
    }

    /// Keeps the place at the expert that was called. How long an expert took to begin tells its load; how
    /// long its answer takes tells the answer's length.
    pub(super) fn put(&mut self, permit: Permit, latency: Duration, overload: bool) {
        let outcome = if overload { Outcome::Overload } else { Outcome::Success };
        self.expert = Some((permit, Sample { latency, outcome }));
    }

    /// Gives back the place at the expert that was called.
    pub(super) fn give_back_expert(&mut self) {
        self.lease = None;
        if let Some((permit, sample)) = self.expert.take() {
            permit.release(sample);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.in_flight.dec();
        self.give_back_expert();
        // The request failed before anybody answered: it counts as a request and used nothing.
        if let Some(reservation) = self.reservation.take() {
            self.ledger.settle(reservation, Usage::default(), now_ms());
        }
    }
}

impl Pipeline {
    /// Takes a place.
    ///
    /// # Errors
    /// 503 when all places are taken.
    pub(super) fn hold(&self) -> Result<Hold, ApiError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(ErrorKind::Overloaded, "the gateway has as many requests in progress as it may")
        })?;
        self.metrics.in_flight.inc();
        Ok(Hold {
            ledger: self.ledger.clone(),
            in_flight: self.metrics.in_flight.clone(),
            _place: place,
            permits: [const { None }; 3],
            expert: None,
            reservation: None,
            lease: None,
        })
    }

    /// Reads the body, and says how it is compressed.
    ///
    /// # Errors
    /// 413 for a body over the limit, 415 for an unknown compression, 408 when it does not arrive, 400 when the
    /// connection breaks.
    pub(super) async fn body(
        &self,
        context: &Context,
        body: Body,
    ) -> Result<(Bytes, Option<Coding>), ApiError> {
        let is_coded = context.headers.contains_key(header::CONTENT_ENCODING);
        let coding = if is_coded { compressed::coding(&context.headers)? } else { None };
        let max = self.limits.max_body_bytes;
        if body.size_hint().lower() > max as u64 {
            return Err(too_large(max));
        }
        let patience = self.limits.body_timeout_ms;
        let collected = tokio::time::timeout(Duration::from_millis(patience), collect(body, max)).await;
        let body = collected.map_err(|_| {
            ApiError::new(ErrorKind::RequestTimeout, format!("the body did not arrive within {patience} ms"))
        })??;
        Ok((body, coding))
    }

    /// Charges the request to its key, team and route, as far as they have limits.
    ///
    /// # Errors
    /// 429 that names the limit.
    pub(super) async fn reserve(
        &self,
        view: &View,
        target: Option<&Target>,
        estimate: (u64, u64),
        trace: &mut Trace,
        hold: &mut Hold,
    ) -> Result<(), ApiError> {
        let route = match target {
            Some(Target::Route(route)) => route.account.as_ref(),
            _ => None,
        };
        let accounts = match &trace.caller {
            Some(key) => key.accounts(route),
            None => Accounts { route, ..Accounts::default() },
        };
        if accounts.is_empty() {
            return Ok(());
        }
        let (input_tokens, output_tokens) = estimate;
        // Who answers is not known yet: the dearest expert's price keeps a budget from being overdrawn.
        let price =
            |price: f32, tokens| Usd::from_dollars(f64::from(price)).unwrap_or_default().per_million(tokens);
        let cost = price(view.dearest.input, input_tokens).plus(price(view.dearest.output, output_tokens));
        let usage = Usage { input_tokens, output_tokens, cost };
        match self.ledger.reserve(accounts, usage, now_ms()).await {
            Ok(reservation) => {
                trace.headroom = reservation.headroom();
                hold.reservation = Some(reservation);
                Ok(())
            }
            Err(refusal) => {
                trace.headroom = refusal.headroom();
                Err(over_limit(&refusal))
            }
        }
    }

    /// Waits for a place at the gates of the request's key, its team and its route.
    ///
    /// # Errors
    /// 429 where the key or its team has too many requests in progress, 503 where the route has.
    pub(super) async fn queue(
        &self,
        target: &Target,
        trace: &mut Trace,
        hold: &mut Hold,
    ) -> Result<(), ApiError> {
        let route = match target {
            Target::Route(route) => route.gate.as_ref(),
            Target::Expert(_) => None,
        };
        let key = trace.caller.as_ref().and_then(|key| key.gate());
        let team = trace.caller.as_ref().and_then(|key| key.team()?.gate());
        let gates = [(key, "key"), (team, "team"), (route, "route")];
        if gates.iter().all(|(gate, _)| gate.is_none()) {
            return Ok(());
        }
        let ticket = trace.ticket();
        for (at, (gate, whose)) in gates.into_iter().enumerate() {
            let Some(gate) = gate else { continue };
            let permit = self.place_at(gate, ticket).await.map_err(|rejected| {
                hold.release();
                no_place(whose, rejected)
            })?;
            trace.queue += permit.waited();
            hold.permits[at] = Some(permit);
        }
        Ok(())
    }

    /// A place at one gate.
    pub(super) async fn place_at(&self, gate: &Gate, ticket: Ticket) -> Result<Permit, Rejected> {
        let permit = gate.acquire(ticket).await?;
        if !permit.waited().is_zero() {
            self.metrics.queue.observe(permit.waited().as_secs_f64());
        }
        Ok(permit)
    }
}

impl Trace {
    /// The request as queues see it.
    pub(super) fn ticket(&self) -> Ticket {
        let (flow, priority) = match &self.caller {
            Some(key) => (key.flow(), key.priority(self.priority)),
            None => (0, self.priority.unwrap_or_default()),
        };
        Ticket { flow, priority, deadline: self.deadline }
    }
}

impl Decoded {
    /// Tokens of prompt and answer, as far as the request tells.
    pub(super) fn estimate(&self) -> (u64, u64) {
        (self.prompt_tokens, self.answer_tokens.unwrap_or(USUAL_ANSWER))
    }
}

fn over_limit(refusal: &Refusal) -> ApiError {
    let (of, name) = (&refusal.subject, refusal.rule.kind.name());
    let mut error = if refusal.rule.kind.resource() == Resource::Cost {
        let limit = Usd::from_nanos(refusal.rule.limit).dollars();
        let message = format!("{of} has spent its budget: {name} is {limit} USD");
        ApiError::new(ErrorKind::BudgetExceeded, message)
    } else {
        let limit = refusal.rule.limit;
        let message = if refusal.retry_after.is_some() {
            format!("{of} has reached its limit: {name} is {limit}")
        } else {
            format!("this request alone is more than {of} may use: {name} is {limit}")
        };
        ApiError::new(ErrorKind::RateLimited, message)
    };
    error.retry_after = refusal.retry_after.map(whole_seconds);
    error.pointless = refusal.is_final();
    error
}

/// Why no place was given.
pub(super) fn no_place(whose: &str, rejected: Rejected) -> ApiError {
    let kind = if matches!(whose, "key" | "team") { ErrorKind::RateLimited } else { ErrorKind::Overloaded };
    let message = format!(
        "the {whose} has as many requests in progress as it may, and this one cannot wait ({})",
        rejected.reason.name()
    );
    let mut error = ApiError::new(kind, message);
    error.retry_after = Some(whole_seconds(rejected.retry_after));
    error
}

/// Reads a body of at most `max` bytes; one that came in one piece is not copied.
async fn collect(mut body: Body, max: usize) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            ApiError::new(ErrorKind::InvalidRequest, "the connection broke before the whole body had arrived")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > max {
            return Err(too_large(max));
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

pub(super) fn too_large(max: usize) -> ApiError {
    let message = format!(
        "the body is longer than {max} bytes, compressed or not; the operator sets this limit as data.max_body_bytes"
    );
    ApiError::new(ErrorKind::BodyTooLarge, message)
}
