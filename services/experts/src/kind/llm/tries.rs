//! One call as a row of tries: which endpoint, whether again, whether a second one beside it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{StatusCode, response};
use tokio::time::{Instant, sleep_until};

use super::Llm;
use super::compose::Composed;
use super::site::Site;
use crate::call::{Call, Tries, Try};
use crate::error::{CallError, CallErrorKind as Kind, Phase};
use crate::resilience::backoff::retry_after;
use crate::resilience::balance::{Candidate, choose};
use crate::splice::Filter;
use crate::upstream::{Exchange, Times};
use crate::vitals::{Standing, Ticket};

/// What Anthropic's API answers where others answer 503.
pub(super) const OVERLOADED: u16 = 529;

/// What is wanted, and until when.
pub(super) struct Ask<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) composed: &'a Composed,
    pub(super) connect: Duration,
    pub(super) first_byte: Duration,
    pub(super) start: Instant,
    pub(super) end: Instant,
}

/// The head of the answer that is given on.
pub(super) struct Answer {
    pub(super) parts: response::Parts,
    pub(super) exchange: Exchange,
    pub(super) filter: Filter,
    /// To be told how the body ends; `None` when the endpoint's failure is noted already.
    pub(super) ticket: Option<Ticket>,
    pub(super) tries: Tries,
    /// When the head came.
    pub(super) at: Instant,
}

/// A try to be made.
struct Next {
    site: Arc<Site>,
    ticket: Ticket,
    begun: Instant,
    hedge: bool,
    backoff: Duration,
}

/// What came of a try.
struct Outcome {
    result: Result<Head, CallError>,
    entry: Try,
    at: Instant,
    /// How long the endpoint asked to be left alone.
    rest: Option<Duration>,
}

struct Head {
    parts: response::Parts,
    exchange: Exchange,
    filter: Filter,
    ticket: Option<Ticket>,
}

/// Where a failed request may be sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Nowhere,
    /// The same endpoint would most likely fail again, and late.
    Elsewhere,
    Anywhere,
}

enum Pick {
    Site(Arc<Site>, Ticket),
    /// All that could be called rest.
    Rests {
        until_ms: u64,
    },
    Nobody,
}

/// An endpoint's rank for the next try: endpoints that were tried already come after those that were not,
/// and among both those in doubt after those that are well.
type Rank = (bool, Doubt);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    Well,
    /// Its host refused connections a short time ago, perhaps those of another expert.
    Refused,
    /// It fails, but too many do for all of them to be ejected.
    LastResort,
}

impl Llm {
    /// Tries endpoints until one gives an answer that is worth giving on, or no more tries are allowed.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Answer, CallError> {
        let mut rng = fastrand::Rng::with_seed(ask.call.seed);
        lock(&self.allowance).request();
        let hedge_after = self.hedging.as_ref().and_then(|hedging| lock(hedging).request());
        let mut tries = Tries::default();
        // Boxed: few requests have one, and all of them would carry the room for it.
        let mut last: Option<Box<Outcome>> = None;
        let mut now = ask.start;
        let mut backoff = Duration::ZERO;
        let mut waited = false;
        loop {
            if now >= ask.end {
                let late = CallError::new(Kind::Timeout(Phase::Total));
                return give_up(last.map(|last| *last), tries, late);
            }
            let (site, ticket) = match self.pick(ask, &tries, None, &mut rng, now) {
                Pick::Site(site, ticket) => (site, ticket),
                Pick::Nobody => {
                    return give_up(last.map(|last| *last), tries, CallError::new(Kind::Unhealthy));
                }
                Pick::Rests { until_ms } => {
                    let wait = self.client.board().at(until_ms).saturating_duration_since(now);
                    let busy = CallError::new(Kind::Busy).after(wait);
                    // Those who wait for the same moment do not all come in it.
                    let until = now + wait + self.retries.backoff.delay(0, &mut rng);
                    if waited || wait > self.retries.backoff.longest() || until >= ask.end {
                        return give_up(last.map(|last| *last), tries, busy);
                    }
                    sleep_until(until).await;
                    backoff += until - now;
                    waited = true;
                    now = Instant::now();
                    continue;
                }
            };
            if let Some(failed) = last.take() {
                self.counters.retries.fetch_add(1, Ordering::Relaxed);
                release(*failed);
            }
            let next = Next { site, ticket, begun: now, hedge: false, backoff };
            let outcome = match hedge_after {
                None => self.attempt(ask, next).await,
                Some(after) => {
                    let (outcome, other) = Box::pin(self.race(ask, next, after, &mut tries, &mut rng)).await;
                    tries.push(outcome.entry.clone());
                    if let Some(other) = other {
                        tries.push(other);
                    }
                    outcome
                }
            };
            if hedge_after.is_none() {
                tries.push(outcome.entry.clone());
            }
            let again = self.again(&outcome.result);
            match self.before_retry(ask, &outcome, again, &tries, &mut rng) {
                None => {
                    let unknown = CallError::new(Kind::Unhealthy);
                    return give_up(Some(outcome), tries, unknown);
                }
                Some(wait) => {
                    if let Err(error) = &outcome.result {
                        tracing::debug!(
                            expert.id = %self.id,
                            endpoint.url = &*outcome.entry.endpoint,
                            error = %error,
                            "a try failed, trying again"
                        );
                    }
                    if !wait.is_zero() {
                        sleep_until(outcome.at + wait).await;
                    }
                    backoff = wait;
                    waited = false;
                    now = Instant::now();
                    last = Some(Box::new(outcome));
                }
            }
        }
    }

    /// How long to wait before the request is sent again; `None` when it is not.
    fn before_retry(
        &self,
        ask: &Ask<'_>,
        outcome: &Outcome,
        again: Again,
        tries: &Tries,
        rng: &mut fastrand::Rng,
    ) -> Option<Duration> {
        let made = tries.len() as u32;
        if again == Again::Nowhere || made >= self.retries.max_attempts {
            return None;
        }
        let now = outcome.at;
        let elsewhere = self.has_other(tries, now);
        if again == Again::Elsewhere && !elsewhere {
            return None;
        }
        let unseen = matches!(&outcome.result, Err(error) if error.is_connect());
        let wait = match outcome.rest {
            Some(_) if elsewhere => Duration::ZERO,
            None if elsewhere && unseen => Duration::ZERO,
            None => self.retries.backoff.delay(made - 1, rng),
            Some(rest) if rest > self.retries.backoff.longest() => return None,
            // Those who wait for the same moment do not all come in it.
            Some(rest) => rest + self.retries.backoff.delay(0, rng),
        };
        if now + wait >= ask.end {
            return None;
        }
        if !lock(&self.allowance).take(now) {
            self.counters.retries_refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(wait)
    }

    /// Whether a failure may be repaired by sending the request again.
    fn again(&self, result: &Result<Head, CallError>) -> Again {
        match result {
            Ok(head) if self.retries.statuses.contains(&head.parts.status.as_u16()) => Again::Anywhere,
            Ok(_) => Again::Nowhere,
            Err(error) if error.kind() == Kind::Forbidden => Again::Elsewhere,
            Err(error) if error.is_connect() => Again::Anywhere,
            Err(_) if !self.retries.after_send => Again::Nowhere,
            Err(error) => match error.kind() {
                Kind::Reset => Again::Anywhere,
                Kind::Timeout(Phase::FirstByte)
                | Kind::Protocol
                | Kind::HeadersTooLarge
                | Kind::BadContentType
                | Kind::UnexpectedStatus => Again::Elsewhere,
                _ => Again::Nowhere,
            },
        }
    }

    /// Makes one try.
    async fn attempt(&self, ask: &Ask<'_>, next: Next) -> Outcome {
        let Next { site, mut ticket, begun, hedge, backoff } = next;
        let times = Times { connect: ask.connect, head: begun + ask.first_byte, end: ask.end };
        let server = &site.server;
        let sent =
            site.peer.send(|version| server.request(ask.call, &ask.composed.payload, version), times).await;
        let at = Instant::now();
        let took = at - begun;
        let filtered = sent.and_then(|(parts, exchange)| {
            let filter = self.filter(ask.call, &parts, &ask.composed.wanted)?;
            Ok((parts, exchange, filter))
        });
        let mut entry = Try {
            endpoint: site.vitals.endpoint.clone(),
            status: None,
            error: None,
            started: begun - ask.start,
            duration: took,
            hedge,
            backoff,
        };
        let mut rest = None;
        let result = match filtered {
            Ok((parts, exchange, filter)) => {
                entry.status = Some(parts.status.as_u16());
                rest = self.asked_to_rest(&parts);
                if let Some(rest) = rest {
                    site.vitals.rest(rest, at);
                }
                let ticket = if is_failure(parts.status) {
                    ticket.failed(at);
                    None
                } else {
                    ticket.answered(at);
                    if let Some(hedging) = &self.hedging {
                        lock(hedging).observe(took);
                    }
                    Some(ticket)
                };
                Ok(Head { parts, exchange, filter, ticket })
            }
            Err(error) => {
                entry.error = Some(error.kind().message());
                if error.is_connect() {
                    server.look.notify_one();
                }
                match error.kind() {
                    // Nothing that the endpoint could have done better is known.
                    Kind::Timeout(Phase::Total) | Kind::TooLarge | Kind::Forbidden => drop(ticket),
                    _ => ticket.failed(at),
                }
                Err(error)
            }
        };
        Outcome { result, entry, at, rest }
    }

    /// Makes one try, and a second one beside it if the first takes long. Gives what decides, and the record
    /// of the try that was started after it, if there was one; earlier ones are in `tries`.
    async fn race(
        &self,
        ask: &Ask<'_>,
        next: Next,
        after: Duration,
        tries: &mut Tries,
        rng: &mut fastrand::Rng,
    ) -> (Outcome, Option<Try>) {
        let (begun, backoff, site) = (next.begun, next.backoff, next.site.clone());
        let mut first = Box::pin(self.attempt(ask, next));
        let hedge_at = begun + after;
        tokio::select! {
            biased;
            outcome = &mut first => return (outcome, None),
            () = sleep_until(hedge_at) => {}
        }
        let now = Instant::now();
        let Some((other, ticket)) = self.beside(ask, tries, &site, rng, now) else {
            return (first.await, None);
        };
        let next = Next { site: other.clone(), ticket, begun: now, hedge: true, backoff: Duration::ZERO };
        let mut second = Box::pin(self.attempt(ask, next));
        let cancelled = |site: &Site, begun: Instant, hedge, backoff| Try {
            endpoint: site.vitals.endpoint.clone(),
            status: None,
            error: Some(Try::CANCELLED),
            started: begun - ask.start,
            duration: begun.elapsed(),
            hedge,
            backoff,
        };
        let is_usable =
            |outcome: &Outcome| self.again(&outcome.result) == Again::Nowhere && outcome.result.is_ok();
        tokio::select! {
            biased;
            outcome = &mut first => {
                if is_usable(&outcome) {
                    return (outcome, Some(cancelled(&other, now, true, Duration::ZERO)));
                }
                tries.push(outcome.entry);
                (second.await, None)
            }
            outcome = &mut second => {
                if is_usable(&outcome) {
                    self.counters.hedges_won.fetch_add(1, Ordering::Relaxed);
                    tries.push(cancelled(&site, begun, false, backoff));
                    return (outcome, None);
                }
                (first.await, Some(outcome.entry))
            }
        }
    }

    /// Another endpoint for a second try, if there is one that is well, and the budget allows it.
    fn beside(
        &self,
        ask: &Ask<'_>,
        tries: &Tries,
        first: &Arc<Site>,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Option<(Arc<Site>, Ticket)> {
        if now >= ask.end {
            return None;
        }
        let Pick::Site(site, ticket) = self.pick(ask, tries, Some(first), rng, now) else { return None };
        let hedging = self.hedging.as_ref()?;
        if !lock(hedging).take(now) {
            self.counters.hedges_refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.counters.hedges.fetch_add(1, Ordering::Relaxed);
        Some((site, ticket))
    }

    /// Chooses the endpoint of the next try. With `beside`, only one that is well and that neither was tried
    /// nor is this one.
    fn pick(
        &self,
        ask: &Ask<'_>,
        tries: &Tries,
        beside: Option<&Arc<Site>>,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Pick {
        let sites = self.sites.load();
        let now_ms = self.client.board().ms(now);
        let rank = |site: &Arc<Site>| -> Option<Rank> {
            let rank = self.rank(&sites, site, tries, now_ms)?;
            match beside {
                Some(first) => (rank == (false, Doubt::Well) && !Arc::ptr_eq(first, site)).then_some(rank),
                None => Some(rank),
            }
        };
        // Somebody else may take the last place of a probe in between; then the ranks have changed.
        for _ in 0..4 {
            let Some(best) = sites.iter().filter_map(rank).min() else { break };
            let ranked = sites.iter().enumerate().filter(|(_, site)| rank(site) == Some(best));
            let candidates = ranked.map(|(at, site)| Candidate {
                at,
                weight: site.server.weight,
                outstanding: site.peer.outstanding(),
                latency: site.vitals.latency(now_ms),
                key: site.key,
            });
            let chosen = choose(self.balancing, &candidates, ask.call.affinity, rng);
            let Some(site) = chosen.and_then(|at| sites.get(at)) else { break };
            let ticket = match best.1 {
                Doubt::LastResort => Some(site.vitals.force(now)),
                Doubt::Well | Doubt::Refused => site.vitals.admit(now),
            };
            if let Some(ticket) = ticket {
                return Pick::Site(site.clone(), ticket);
            }
        }
        let rests = sites.iter().filter_map(|site| match site.vitals.standing(now_ms) {
            Standing::Resting { until_ms } => Some(until_ms),
            Standing::Well | Standing::Out { .. } => None,
        });
        rests.min().map_or(Pick::Nobody, |until_ms| Pick::Rests { until_ms })
    }

    fn rank(&self, sites: &[Arc<Site>], site: &Arc<Site>, tries: &Tries, now_ms: u64) -> Option<Rank> {
        let doubt = match site.vitals.standing(now_ms) {
            Standing::Resting { .. } => return None,
            Standing::Well if site.peer.is_resting() => Doubt::Refused,
            Standing::Well => Doubt::Well,
            Standing::Out { .. } if self.is_ejected(sites, site, now_ms) => return None,
            Standing::Out { .. } => Doubt::LastResort,
        };
        Some((was_tried(site, tries), doubt))
    }

    /// Whether there is an endpoint that was not tried yet.
    fn has_other(&self, tries: &Tries, now: Instant) -> bool {
        let sites = self.sites.load();
        let now_ms = self.client.board().ms(now);
        sites.iter().any(|site| matches!(self.rank(&sites, site, tries, now_ms), Some((false, _))))
    }

    /// How long an answer asks that the endpoint be left alone. One that refuses for the rate of requests
    /// and does not say is left alone for as long as a first back-off may be.
    fn asked_to_rest(&self, parts: &response::Parts) -> Option<Duration> {
        let asked = match parts.status.as_u16() {
            429 | 503 | OVERLOADED => retry_after(&parts.headers, self.client.wall()),
            _ => None,
        };
        let limited = parts.status == StatusCode::TOO_MANY_REQUESTS;
        asked.or_else(|| limited.then(|| Duration::from_millis(self.retries.backoff.base_ms)))
    }
}

fn was_tried(site: &Site, tries: &Tries) -> bool {
    tries.iter().any(|one| Arc::ptr_eq(&one.endpoint, &site.vitals.endpoint))
}

/// Whether a status says that the endpoint does not work. 501 and 505 are about the request.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504 | OVERLOADED)
}

/// The last answer, whatever it is, or the last failure; without any try, the reason for that.
fn give_up(last: Option<Outcome>, tries: Tries, reason: CallError) -> Result<Answer, CallError> {
    match last {
        None => Err(reason.having_tried(tries)),
        Some(Outcome { result: Err(error), .. }) => Err(error.having_tried(tries)),
        Some(Outcome { result: Ok(head), at, .. }) => {
            let Head { parts, exchange, filter, ticket } = head;
            Ok(Answer { parts, exchange, filter, ticket, tries, at })
        }
    }
}

/// Lets go of an answer that is not given on. A short one has come with its head: once it is read, its
/// connection can be used again.
fn release(outcome: Outcome) {
    const SHORT: usize = 64 * 1024;
    let Ok(Head { mut exchange, ticket, .. }) = outcome.result else { return };
    let mut read = 0;
    while let std::task::Poll::Ready(Some(Ok(piece))) = exchange.poll_now() {
        read += piece.len();
        if read > SHORT {
            break;
        }
    }
    if let Some(ticket) = ticket {
        ticket.completed(outcome.at);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
