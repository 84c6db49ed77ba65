use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use routing::{Availability, ExpertFacts, ExpertId, Fleet, Live, Signals};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::call::{Call, Reply};
use crate::error::CallError;
use crate::kind::{EndpointStatus, Kind, Stats};
use crate::spec::{ExpertSpec, Problem};
use crate::upstream::{Client, Trust};
use crate::vitals::Board;

/// Something that can answer, ready to.
pub struct Expert {
    spec: ExpertSpec,
    trust: Trust,
    /// Shared with an earlier version of the expert that answered in the same way.
    kind: Arc<Kind>,
}

impl Expert {
    /// Makes an expert of its settings. `trust` says who gave them.
    ///
    /// # Errors
    /// The [`Problem`] that stands in the way; none when [`Registry::check`] found none.
    pub fn new(spec: ExpertSpec, trust: Trust, client: &Client) -> Result<Self, Problem> {
        let kind = Arc::new(spec.backend.build(&spec, trust, client)?);
        Ok(Self { spec, trust, kind })
    }

    /// The same expert with new settings. What answers stays, with all that was learned about its endpoints,
    /// unless its own settings have changed.
    fn updated(&self, spec: ExpertSpec, trust: Trust, client: &Client) -> Result<Self, Problem> {
        let same = self.trust == trust
            && self.spec.id == spec.id
            && self.spec.backend == spec.backend
            && self.spec.limits == spec.limits;
        if same { Ok(Self { spec, trust, kind: self.kind.clone() }) } else { Self::new(spec, trust, client) }
    }

    /// Its name.
    pub fn id(&self) -> &ExpertId {
        &self.spec.id
    }

    /// Its settings.
    pub fn spec(&self) -> &ExpertSpec {
        &self.spec
    }

    /// Whether it refuses every request.
    pub fn is_reject(&self) -> bool {
        self.kind.is_reject()
    }

    /// Whether it answers without an upstream.
    pub fn is_local(&self) -> bool {
        self.kind.is_local()
    }

    /// Whether it takes a client's own Messages request ([`crate::Call::messages`]), without a translation.
    pub fn speaks_messages(&self) -> bool {
        self.kind.speaks_messages()
    }

    /// The state of its endpoints; empty without an upstream.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.kind.endpoints()
    }

    /// What its calls met since it was set up.
    pub fn stats(&self) -> Stats {
        self.kind.stats()
    }

    /// Asks for an answer. Dropping the future or the reply cancels the upstream's work.
    ///
    /// # Errors
    /// [`CallError`] when there is no answer at all; an answer with an error status is a [`Reply`].
    pub async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        self.kind.call(call).await
    }
}

impl std::fmt::Debug for Expert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expert").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// All experts at one moment. Which of them are healthy is kept up to date.
pub struct Snapshot {
    revision: u64,
    experts: HashMap<ExpertId, Arc<Expert>>,
    /// The experts as if all were healthy, sorted by id.
    declared: Fleet,
    /// What policies see.
    fleet: ArcSwap<Fleet>,
    warnings: Vec<Problem>,
    board: Arc<Board>,
    /// The changes of the board that `fleet` knows of.
    seen: AtomicU64,
    /// When an endpoint may be called again because its time is over, in the board's milliseconds.
    due_ms: AtomicU64,
    /// Held while `fleet` is brought up to date.
    refreshing: Mutex<()>,
}

/// No endpoint waits for its time.
const NEVER: u64 = u64::MAX;

impl Snapshot {
    fn new(
        revision: u64,
        experts: HashMap<ExpertId, Arc<Expert>>,
        declared: Fleet,
        warnings: Vec<Problem>,
        board: Arc<Board>,
    ) -> Self {
        let fleet = ArcSwap::from_pointee(declared.clone());
        let seen = AtomicU64::new(board.changes());
        let snapshot = Self {
            revision,
            experts,
            declared,
            fleet,
            warnings,
            board,
            seen,
            due_ms: AtomicU64::new(NEVER),
            refreshing: Mutex::new(()),
        };
        snapshot.refresh(false);
        snapshot
    }

    /// Counts the changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The expert of that name.
    pub fn get(&self, id: &str) -> Option<&Arc<Expert>> {
        self.experts.get(id)
    }

    /// The names of all experts, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &ExpertId> {
        self.declared.experts.iter().map(|e| &e.id)
    }

    /// What policies see of the experts, sorted by id. An expert none of whose endpoints takes requests is
    /// unhealthy, until one may be tried again.
    pub fn fleet(&self) -> Arc<Fleet> {
        if self.is_stale() {
            self.refresh(true);
        }
        self.fleet.load_full()
    }

    /// How the experts are now, in the order of the fleet: load per unit of capacity, latency. Capacity is the
    /// expert's limit of concurrent requests, or a guess.
    pub fn live(&self) -> impl Iterator<Item = (&ExpertId, Live)> {
        let now = Instant::now();
        self.declared.experts.iter().map(move |facts| {
            let expert = self.get(facts.id.as_str());
            let live = expert.map(|e| e.kind.live(now, e.spec.concurrency.concurrent));
            (&facts.id, live.unwrap_or_default())
        })
    }

    /// Whether something may have changed since the fleet was made.
    fn is_stale(&self) -> bool {
        let due = self.due_ms.load(Ordering::Relaxed);
        self.seen.load(Ordering::Acquire) != self.board.changes()
            || (due != NEVER && self.board.ms(Instant::now()) >= due)
    }

    /// What is odd about the experts, but does not keep them from working: skills of categories that the
    /// router does not have. Paths begin with the expert's id.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Looks which experts are available, and logs what is `news`. Only one caller at a time does, and others
    /// wait for it: what they would find else may be older than the failure that they come after.
    fn refresh(&self, news: bool) {
        let _turn = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        if news && !self.is_stale() {
            // Somebody looked while this caller waited.
            return;
        }
        // Before the look: what changes during it is looked at the next time.
        let seen = self.board.changes();
        let now = Instant::now();
        let due = self.experts.values().filter_map(|e| e.kind.due_ms(now)).min();
        let healthy =
            |facts: &ExpertFacts| self.get(facts.id.as_str()).is_none_or(|e| e.kind.is_available(now));
        let availability = |facts: &ExpertFacts| match facts.availability {
            Availability::Ready if !healthy(facts) => Availability::Unhealthy,
            declared => declared,
        };
        let current = self.fleet.load();
        let pairs = || self.declared.experts.iter().map(availability).zip(&current.experts);
        if pairs().any(|(is, was)| is != was.availability) {
            let mut next = Fleet::clone(&current);
            for (facts, (is, was)) in next.experts.iter_mut().zip(pairs()) {
                if news && is != was.availability {
                    tell(&facts.id, is);
                }
                facts.availability = is;
            }
            self.fleet.store(Arc::new(next));
        }
        self.due_ms.store(due.unwrap_or(NEVER), Ordering::Relaxed);
        self.seen.store(seen, Ordering::Release);
    }
}

fn tell(expert: &ExpertId, availability: Availability) {
    if availability == Availability::Unhealthy {
        tracing::warn!(expert.id = %expert, "no endpoint of an expert works: policies pass it over");
    } else {
        tracing::info!(expert.id = %expert, "an expert may be called again");
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::new(0, HashMap::new(), Fleet::default(), Vec::new(), Arc::default())
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// An expert as it is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its settings.
    pub spec: ExpertSpec,
    /// Who gave them.
    pub trust: Trust,
    /// Whether it takes requests, as far as people decide: ready or draining.
    pub availability: Availability,
    /// What was learnt of it.
    pub signals: Arc<Signals>,
}

/// The experts of this process.
///
/// Readers take an immutable [`Snapshot`] by one atomic load. Requests in progress keep the experts that
/// they use, so that a removal breaks nothing.
#[derive(Debug)]
pub struct Registry {
    client: Client,
    current: ArcSwap<Snapshot>,
    /// Held while the next snapshot is made.
    writer: Mutex<Chores>,
}

/// The tasks that run beside the calls: looking names up, checking endpoints.
#[derive(Debug, Default)]
struct Chores {
    /// Where they run, once they do.
    runtime: Option<Handle>,
    /// By expert, with what they are for.
    running: HashMap<ExpertId, (Weak<Kind>, CancellationToken)>,
    all: TaskTracker,
    stop: CancellationToken,
}

impl Chores {
    /// Starts those of new experts, and stops those of experts that are gone.
    fn follow(&mut self, experts: &HashMap<ExpertId, Arc<Expert>>) {
        let Some(runtime) = self.runtime.clone() else { return };
        self.running.retain(|id, (kind, stop)| {
            let same = experts.get(id).is_some_and(|e| Weak::as_ptr(kind) == Arc::as_ptr(&e.kind));
            if !same {
                stop.cancel();
            }
            same
        });
        for (id, expert) in experts {
            if self.running.contains_key(id) {
                continue;
            }
            let stop = self.stop.child_token();
            for chore in expert.kind.chores(&stop) {
                self.all.spawn_on(chore, &runtime);
            }
            self.running.insert(id.clone(), (Arc::downgrade(&expert.kind), stop));
        }
    }
}

impl Registry {
    /// An empty registry whose experts call out through `client`.
    pub fn new(client: Client) -> Self {
        Self { client, current: ArcSwap::default(), writer: Mutex::default() }
    }

    /// The present experts.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The expert of that name.
    pub fn get(&self, id: &str) -> Option<Arc<Expert>> {
        self.current.load().get(id).cloned()
    }

    /// The client through which the experts call out.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Starts what runs beside the calls, on the present runtime: names are looked up and endpoints checked
    /// for all experts there are and will be. Until then, and without, calls find out by themselves.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(&self) {
        let mut chores = self.lock();
        chores.runtime = Some(Handle::current());
        chores.follow(&self.snapshot().experts);
    }

    /// Stops what [`Registry::start`] started, and waits until it has ended. Calls go on.
    pub async fn shutdown(&self) {
        let all = {
            let mut chores = self.lock();
            chores.runtime = None;
            chores.running.clear();
            chores.stop.cancel();
            chores.all.close();
            chores.all.clone()
        };
        all.wait().await;
    }

    /// Everything that would keep an expert from being used, as [`Registry::replace`] would find it: bad
    /// values, addresses that may not be called, files that cannot be read.
    pub fn check(&self, spec: &ExpertSpec, trust: Trust) -> Vec<Problem> {
        if self.get(spec.id.as_str()).is_some_and(|known| known.spec == *spec && known.trust == trust) {
            return Vec::new();
        }
        let mut problems = spec.validate();
        problems.extend(spec.refused(self.client.guard(), trust));
        if problems.is_empty() {
            problems.extend(Expert::new(spec.clone(), trust, &self.client).err());
        }
        problems
    }

    fn lock(&self) -> MutexGuard<'_, Chores> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces all experts: all of them or, when one cannot be used, none. Experts whose settings have not
    /// changed stay the same objects; what was learned about endpoints is kept while their settings stay, and
    /// connections are kept for every host that is still called.
    /// `categories` are the router's labels in the order of its probabilities.
    ///
    /// # Errors
    /// Everything that is wrong with the experts; paths begin with the expert's id.
    pub fn replace(
        &self,
        experts: Vec<Wanted>,
        categories: Arc<[Arc<str>]>,
    ) -> Result<Arc<Snapshot>, Vec<Problem>> {
        let mut chores = self.lock();
        let before = self.snapshot();
        let mut next = HashMap::with_capacity(experts.len());
        let mut facts: Vec<ExpertFacts> = Vec::with_capacity(experts.len());
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        for Wanted { spec, trust, availability, signals } in experts {
            let id = spec.id.clone();
            let mut found = spec.validate();
            found.extend(spec.refused(self.client.guard(), trust));
            if !found.is_empty() {
                problems.extend(below(&id, found));
                continue;
            }
            if next.contains_key(&id) {
                let message = "is the id of two experts; every expert needs its own".to_owned();
                problems.push(Problem { path: format!("{id}.id"), message });
                continue;
            }
            warnings.extend(below(&id, spec.unknown_skills(&categories)));
            facts.push(ExpertFacts { signals, ..spec.facts(&categories, availability) });
            let expert = match before.get(id.as_str()) {
                Some(same) if same.spec == spec && same.trust == trust => Ok(same.clone()),
                Some(other) => other.updated(spec, trust, &self.client).map(Arc::new),
                None => Expert::new(spec, trust, &self.client).map(Arc::new),
            };
            match expert {
                Ok(expert) => {
                    next.insert(id, expert);
                }
                Err(problem) => problems.extend(below(&id, vec![problem])),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        facts.sort_by(|a, b| a.id.cmp(&b.id));
        let declared = Fleet { categories, experts: facts };
        let board = self.client.board().clone();
        let snapshot = Arc::new(Snapshot::new(before.revision + 1, next, declared, warnings, board));
        self.current.store(snapshot.clone());
        chores.follow(&snapshot.experts);
        Ok(snapshot)
    }
}

fn below(id: &ExpertId, problems: Vec<Problem>) -> impl Iterator<Item = Problem> {
    problems.into_iter().map(move |p| Problem { path: format!("{id}.{}", p.path), message: p.message })
}
