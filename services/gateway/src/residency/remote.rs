//! A gateway's side of shared pools: leases from the process that owns them.
//!
//! Nothing here is waited for by a request but the owner's answer to its own: leases are renewed together, and given
//! back by a task. While the owner does not answer its experts are not to be had, requests under way go on, and their
//! leases are made anew when it is back.

mod link;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, StatusCode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use routing::ExpertId;
use tiers::owner::{Ask, Denied, Found, Outlook, Why};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::link::{EXCHANGE, Link, code, read, unexpected};
use super::wire::{
    LeaseGrant, LeaseRef, LeaseRefused, LeaseWish, PoolOutlook, RenewWish, Renewal, Suspicion,
};
use crate::config::OwnerConfig;
use crate::outbound::{Outbound, OutboundError};

/// How often the owner is asked where its experts are.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Beyond a request's deadline, for the owner's own refusal to arrive.
const GRACE: Duration = Duration::from_secs(1);
/// The longest wait of a request without a deadline.
const LONG: Duration = Duration::from_hours(1);
/// An outlook that is older says nothing any more.
const OUTLOOK_AGE: Duration = Duration::from_secs(5);
/// When to try again what the owner did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Messages to the owner that wait to be sent, and how many are on their way at a time.
const NOTES: usize = 4096;
const NOTES_AT_ONCE: usize = 32;

/// The pools of another process. Copies are the same.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    /// The owner's last answer about its experts.
    known: ArcSwapOption<Known>,
    owner: watch::Sender<Owner>,
    held: Mutex<HeldLeases>,
    notes: mpsc::Sender<Note>,
    /// Until they are sent by [`Remote::run`].
    queue: Mutex<Option<mpsc::Receiver<Note>>>,
    metrics: OwnerMetrics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Answers,
    /// With the exchanges in a row that it left without an answer in time.
    Late(u32),
    Silent,
}

struct Known {
    at: Instant,
    lasts: Duration,
    experts: HashMap<ExpertId, Outlook>,
}

/// The leases of requests under way, by a number of our own that a renewal does not change.
#[derive(Default)]
struct HeldLeases {
    next: u64,
    all: HashMap<u64, Held>,
}

impl HeldLeases {
    fn count(&self) -> i64 {
        i64::try_from(self.all.len()).unwrap_or(i64::MAX)
    }
}

#[derive(Clone, Debug)]
struct Held {
    term: u64,
    lease: LeaseRef,
}

/// Something to tell the owner; nobody waits for it.
enum Note {
    Release { term: u64, lease: u64 },
    Suspect(ExpertId),
}

/// Counts what goes on between this process and the owner of its pools.
#[derive(Clone, Default)]
pub(crate) struct OwnerMetrics {
    answers: Gauge,
    held: Gauge,
    lost: Counter,
}

impl OwnerMetrics {
    /// Makes and registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("guildhall_pool");
        let help = "Whether the owner of the pools answers";
        registry.register("owner_up", help, metrics.answers.clone());
        registry.register(
            "leases_held",
            "Leases of this process with the owner of the pools",
            metrics.held.clone(),
        );
        let help = "Leases that ended under a request: its expert may have been removed";
        registry.register("leases_lost", help, metrics.lost.clone());
        metrics
    }
}

/// An expert that is ready, and stays so until this is dropped.
pub struct RemoteLease {
    shared: Arc<Shared>,
    key: u64,
    /// How long the request waited, the way to the owner and back included.
    pub(super) waited: Duration,
    /// Where the expert was when the request came.
    pub(super) found: Found,
}

impl Drop for RemoteLease {
    fn drop(&mut self) {
        let (held, left) = {
            let mut held = self.shared.held();
            (held.all.remove(&self.key), held.count())
        };
        self.shared.metrics.held.set(left);
        if let Some(Held { term, lease }) = held {
            self.shared.tell(Note::Release { term, lease: lease.lease });
        }
    }
}

impl Remote {
    /// Pools of the owner that the configuration names. `holder` is this process's own name. Nothing is asked before
    /// [`Remote::run`].
    ///
    /// # Errors
    /// What is wrong with the token, which cannot be sent.
    pub(crate) fn new(
        config: &OwnerConfig,
        outbound: Arc<dyn Outbound>,
        holder: &str,
        metrics: OwnerMetrics,
    ) -> Result<Self, String> {
        let link = Link::new(config, outbound, holder)?;
        let (notes, queue) = mpsc::channel(NOTES);
        let shared = Shared {
            link,
            known: ArcSwapOption::empty(),
            owner: watch::Sender::new(Owner::Answers),
            held: Mutex::default(),
            notes,
            queue: Mutex::new(Some(queue)),
            metrics,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether the owner has said which experts it has.
    pub fn is_known(&self) -> bool {
        self.shared.known.load().is_some()
    }

    /// Whether an expert is in a pool of the owner's; as long as nobody knows, the owner has to be asked.
    pub fn may_have(&self, expert: &ExpertId) -> bool {
        self.shared.known.load().as_ref().is_none_or(|known| known.experts.contains_key(expert))
    }

    /// Where an expert was when the owner said so last; `None` for one that is in no pool.
    pub fn outlook(&self, expert: &ExpertId) -> Option<Outlook> {
        let known = self.shared.known.load();
        let known = known.as_ref()?;
        let outlook = *known.experts.get(expert)?;
        Some(if known.at.elapsed() <= OUTLOOK_AGE { outlook } else { Outlook { away: None, ..outlook } })
    }

    /// Waits until an expert is ready and it is this request's turn; `None` where it is in no pool. Dropping the future
    /// gives the turn up: the connection closes.
    ///
    /// # Errors
    /// [`Denied`], with [`Why::NoOwner`] where the owner does not answer.
    pub async fn acquire(&self, ask: Ask<'_>) -> Result<Option<RemoteLease>, Denied> {
        let shared = &self.shared;
        let no_owner = Denied { why: Why::NoOwner, retry_after: RETRY_AFTER };
        let mut owner = shared.owner.subscribe();
        if *owner.borrow() == Owner::Silent {
            return Err(no_owner);
        }
        let began = Instant::now();
        let left = ask.deadline.map(|deadline| deadline.saturating_duration_since(began));
        let wish = LeaseWish {
            expert: ask.expert.clone(),
            tenant: ask.tenant,
            session: ask.session,
            deadline_ms: left.map(|left| left.as_millis() as u64),
            holder: shared.link.holder.clone(),
        };
        let patience = left.map_or(LONG, |left| left + GRACE);
        let answer = tokio::select! {
            answer = shared.link.post("leases", &wish, patience) => answer,
            // An owner that died without a word would be waited for until the request's time is up.
            _ = owner.wait_for(|owner| *owner == Owner::Silent) => return Err(no_owner),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(OutboundError::Timeout) => {
                return Err(Denied { why: Why::Deadline, retry_after: RETRY_AFTER });
            }
            Err(error) => {
                shared.failed(&error);
                return Err(no_owner);
            }
        };
        match answer.status() {
            StatusCode::OK => match read::<LeaseGrant>(&answer) {
                Ok(grant) => Ok(Some(shared.hold(ask.expert, &grant, began.elapsed()))),
                Err(error) => {
                    shared.failed(&error);
                    Err(no_owner)
                }
            },
            // Not any 404: at a wrong address there is no lease API.
            StatusCode::NOT_FOUND if code(&answer) == "not_found" => Ok(None),
            status => match read::<LeaseRefused>(&answer) {
                Ok(LeaseRefused { why, retry_after_ms }) if status == StatusCode::SERVICE_UNAVAILABLE => {
                    Err(Denied { why, retry_after: Duration::from_millis(retry_after_ms) })
                }
                _ => {
                    // It answers, and this is not what it should say: the token's role may not suffice.
                    let error = unexpected(&answer);
                    tracing::warn!(expert.id = %ask.expert, %error, "the owner of the pools lends no expert");
                    Err(no_owner)
                }
            },
        }
    }

    /// Has the owner look soon whether an expert is where it should be.
    pub fn suspect(&self, expert: &ExpertId) {
        self.shared.tell(Note::Suspect(expert.clone()));
    }

    /// Keeps up with the owner until `stop`: asks where its experts are, renews leases and gives them back.
    pub async fn run(self, stop: CancellationToken) {
        let shared = &self.shared;
        let Some(mut queue) = shared.queue.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let notes = async {
            let all = stream::unfold(&mut queue, |queue| async move { Some((queue.recv().await?, queue)) });
            all.for_each_concurrent(NOTES_AT_ONCE, |note| shared.send(note)).await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { tokio::join!(shared.poll(), shared.renew(), notes); } => {}
        }
        // The last requests have ended: what they held is given back as far as that is quick.
        queue.close();
        let rest = stream::unfold(&mut queue, |queue| async move { Some((queue.recv().await?, queue)) });
        let sent = rest.for_each_concurrent(NOTES_AT_ONCE, |note| shared.send(note));
        let _late = timeout(GRACE, sent).await;
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, HeldLeases> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(self: &Arc<Self>, expert: &ExpertId, grant: &LeaseGrant, waited: Duration) -> RemoteLease {
        let lease = LeaseRef { lease: grant.lease, expert: expert.clone() };
        let mut held = self.held();
        let key = held.next;
        held.next += 1;
        held.all.insert(key, Held { term: grant.term, lease });
        self.metrics.held.set(held.count());
        RemoteLease { shared: self.clone(), key, waited, found: grant.found }
    }

    /// Queues a message. Where too many wait it is left out: a lease that is not given back runs out.
    fn tell(&self, note: Note) {
        let _full = self.notes.try_send(note);
    }

    /// An exchange with the owner failed. One that was late may have been the network; two in a row are the owner.
    fn failed(&self, error: &OutboundError) {
        let late = *error == OutboundError::Timeout;
        self.owner.send_if_modified(|owner| {
            let next = match (*owner, late) {
                (Owner::Silent, _) => return false,
                (Owner::Answers, true) => Owner::Late(1),
                (Owner::Late(_), _) | (Owner::Answers, false) => Owner::Silent,
            };
            *owner = next;
            if next == Owner::Silent {
                self.metrics.answers.set(0);
                tracing::warn!(
                    url = self.link.base, %error,
                    "the owner of the pools does not answer; its experts are not to be had until it does"
                );
            }
            true
        });
    }

    /// Tells the owner something. What fails is made good by the owner itself: leases run out, experts are looked for.
    async fn send(&self, note: Note) {
        let _answer = match note {
            Note::Release { term, lease } => {
                let path = format!("leases/{lease}?term={term}");
                self.link.exchange(Method::DELETE, &path, Bytes::new(), EXCHANGE).await
            }
            Note::Suspect(expert) => self.link.post("leases/suspect", &Suspicion { expert }, EXCHANGE).await,
        };
    }

    fn answered(&self) {
        self.metrics.answers.set(1);
        self.owner.send_if_modified(|owner| {
            if *owner == Owner::Silent {
                tracing::info!(url = self.link.base, "the owner of the pools answers again");
            }
            std::mem::replace(owner, Owner::Answers) != Owner::Answers
        });
    }

    /// Asks where the experts are, again and again.
    async fn poll(&self) {
        loop {
            match self.link.get::<PoolOutlook>("outlook").await {
                Ok(outlook) => {
                    let experts = outlook.experts.into_iter().map(|one| {
                        (one.expert, Outlook { away: one.away, wait: Duration::from_millis(one.wait_ms) })
                    });
                    let lasts = Duration::from_millis(outlook.expires_in_ms);
                    let known = Known { at: Instant::now(), lasts, experts: experts.collect() };
                    self.known.store(Some(Arc::new(known)));
                    self.answered();
                }
                Err(error) => self.failed(&error),
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Renews the leases, three times as often as they need it.
    async fn renew(&self) {
        loop {
            let lasts = self.known.load().as_ref().map_or(EXCHANGE, |known| known.lasts);
            let pause = if self.renew_all().await {
                lasts / 3
            } else {
                // An owner that comes back keeps what it finds for the time of one lease.
                (lasts / 10).min(RETRY_AFTER)
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether all leases last on, or are lost for good.
    async fn renew_all(&self) -> bool {
        // After a restart of the owner those of the term before are held beside new ones.
        let mut by_term: BTreeMap<u64, Vec<(u64, LeaseRef)>> = BTreeMap::new();
        for (key, held) in &self.held().all {
            by_term.entry(held.term).or_default().push((*key, held.lease.clone()));
        }
        let mut all = true;
        for (term, leases) in by_term {
            all &= self.renew_term(term, &leases).await;
        }
        all
    }

    async fn renew_term(&self, term: u64, leases: &[(u64, LeaseRef)]) -> bool {
        let wish = RenewWish {
            holder: self.link.holder.clone(),
            term,
            leases: leases.iter().map(|(_, lease)| lease.clone()).collect(),
        };
        let answer = match self.link.post("leases/renew", &wish, EXCHANGE).await {
            Ok(answer) if answer.status() == StatusCode::CONFLICT => {
                // Another owner, which knows nothing of them.
                let all = leases.iter().map(|(_, lease)| lease.lease);
                Ok(Renewal { term, expires_in_ms: 0, leases: vec![], lost: all.collect(), unknown: vec![] })
            }
            Ok(answer) => read::<Renewal>(&answer),
            Err(error) => Err(error),
        };
        let renewal = match answer {
            Ok(renewal) => renewal,
            Err(error) => {
                self.failed(&error);
                return false;
            }
        };
        let keys: HashMap<u64, u64> = leases.iter().map(|(key, lease)| (lease.lease, *key)).collect();
        let mut over = Vec::new();
        let mut held = self.held();
        for renewed in &renewal.leases {
            let Some(key) = keys.get(&renewed.lease) else { continue };
            match held.all.get_mut(key) {
                Some(held) => (held.term, held.lease.lease) = (renewal.term, renewed.now),
                // Its request ended meanwhile.
                None => over.push(Note::Release { term: renewal.term, lease: renewed.now }),
            }
        }
        for lost in &renewal.lost {
            if let Some(held) = keys.get(lost).and_then(|key| held.all.remove(key)) {
                self.metrics.lost.inc();
                tracing::warn!(
                    expert.id = %held.lease.expert,
                    "a lease is lost: its expert may be removed while a request uses it"
                );
            }
        }
        self.metrics.held.set(held.count());
        drop(held);
        for note in over {
            self.tell(note);
        }
        renewal.unknown.is_empty()
    }
}

#[cfg(test)]
mod tests;
