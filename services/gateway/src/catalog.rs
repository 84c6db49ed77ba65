//! What there is to route to: experts, routes, categories, from the configuration file and the admin API.
//!
//! Readers take an immutable [`View`] by one atomic load. Writers go through [`Catalog::apply`], one at a
//! time: the wanted state is changed, checked as a whole, made durable, and only then published, so that a
//! bad change stops nothing that worked and a confirmed one survives a crash. What the file defines is
//! owned by the file and refused to change here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use admission::{Account, Gate, Gates, KeyRing, KeySpec, Subject, TeamSpec};
use arc_swap::ArcSwap;
use encoder::Encoder;
use experts::{Cost, ExpertSpec, Registry, Snapshot, Trust, Wanted};
use http::HeaderValue;
use routing::modifier::Balance;
use routing::{Availability, ExpertId, Live, Plan, Policy, Signals};
use serde::{Deserialize, Serialize};
use stores::{Change, EmbeddedStore};
use tokio::sync::Notify;
use utoipa::ToSchema;

use crate::config::RouteSpec;
use crate::metrics::series::{RouteSeries, Series};
use crate::problem::Problem;
use crate::residency::Pools;

mod check;
mod describe;
mod desired;
mod signals;

pub use check::check_file;
use check::{check, named_by};
use describe::Descriptions;
use desired::Owner;
pub use desired::{Declared, Desired, Edit, Entry, Object, Op, Table};
pub(crate) use signals::WIDEST;
pub use signals::{GateSpec, PilotsSpec, ScorerSpec, Signal};

/// Who owns an object, and so who may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The configuration file; read-only at run time.
    File,
    /// The admin API.
    Admin,
}

impl Origin {
    /// How far an object's addresses are trusted.
    fn trust(self) -> Trust {
        match self {
            Self::File => Trust::Operator,
            Self::Admin => Trust::Registered,
        }
    }
}

/// A label of the router's classifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Category {
    /// The label.
    pub name: String,
    /// What belongs to it, for people.
    pub description: String,
}

/// What reads prompts: the router model of one bundle. A request uses the one of the view that it began with,
/// so that its probabilities and the categories they are for belong together.
#[derive(Clone, Default)]
pub struct RouterModel {
    /// The bundle's id; empty without a model.
    pub bundle: Arc<str>,
    /// The sessions; `None` when no route asks for them. They end with the last request that holds them.
    pub encoder: Option<Encoder>,
    /// The labels, in the order of the probabilities.
    pub categories: Vec<Category>,
    /// The space of its embeddings; `None` without a model.
    pub space: Option<Space>,
}

/// A space of embeddings. What was learnt in one means nothing in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its name, `Manifest::space`.
    pub id: Arc<str>,
    /// Its width.
    pub dimensions: usize,
}

/// A route, ready to plan.
pub struct Route {
    /// Its settings.
    pub spec: RouteSpec,
    /// Its policy.
    pub policy: Box<dyn Policy>,
    /// Its name as an answer header.
    pub header: HeaderValue,
    /// Its policy's name as an answer header.
    pub policy_header: HeaderValue,
    /// Where its requests are counted against its limits, if it has any.
    pub account: Option<Arc<Account>>,
    /// Where its requests wait for a place, if it has a limit.
    pub gate: Option<Gate>,
    /// Where its requests are counted.
    pub series: Arc<RouteSeries>,
    /// The biases that even its experts' shares out, if that is wanted. Outlives the view.
    balance: Option<Arc<Mutex<Balance>>>,
}

/// Everything that a request needs to know about experts and routes, at one moment.
pub struct View {
    /// Counts the published changes of this process.
    pub revision: u64,
    /// The experts.
    pub experts: Arc<Snapshot>,
    /// The routes by name.
    pub routes: HashMap<ExpertId, Arc<Route>>,
    /// Where requests wait for a place at an expert, for those that have a limit.
    pub expert_gates: HashMap<ExpertId, Gate>,
    /// The keys and teams.
    pub keys: KeyRing,
    /// The highest price of any expert, for what a request reserves before its expert is known.
    pub dearest: Cost,
    /// What reads prompts.
    pub router: Arc<RouterModel>,
    /// The router's categories in the order of its probabilities, with the name as an answer header.
    pub categories: Vec<(Category, HeaderValue)>,
    /// Where requests are counted.
    pub series: Series,
    /// What it was built from.
    pub desired: Arc<Desired>,
}

impl View {
    /// The ids of all experts, sorted.
    pub fn expert_ids(&self) -> impl Iterator<Item = &str> {
        self.experts.ids().map(ExpertId::as_str)
    }
}

/// Why a change was refused. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such object.
    #[error("there is no {kind} `{id}`")]
    NotFound {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        id: String,
    },
    /// An object of that name is already there.
    #[error("{kind} `{id}` is already there; use PUT to replace it")]
    Exists {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        id: String,
    },
    /// The object has changed since the caller read it.
    #[error(
        "{kind} `{id}` has changed since you read it; read it again and repeat the change (its etag is now {actual})"
    )]
    Stale {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        id: String,
        /// Its present etag.
        actual: String,
    },
    /// The configuration file owns it.
    #[error("{kind} `{id}` is defined in the configuration file and read-only here; change it there")]
    ReadOnly {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        id: String,
    },
    /// Something else depends on it.
    #[error("{kind} `{id}` is named by {by}; change that first")]
    InUse {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        id: String,
        /// Who names it.
        by: String,
    },
    /// The new state would be unusable.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Problem>),
    /// It could not be made durable.
    #[error("the change could not be stored: {0}")]
    Store(#[from] stores::CommitError),
    /// The thread that was to store it failed.
    #[error("the change could not be stored: {0}")]
    Aborted(String),
}

impl From<stores::StoreError> for ChangeError {
    fn from(error: stores::StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// The owner of [`View`].
pub struct Catalog {
    current: Arc<ArcSwap<View>>,
    parts: Arc<Parts>,
    store: Arc<EmbeddedStore>,
    /// Told of every change.
    changed: Arc<Notify>,
    /// Serialises writers over validate, commit and publish. An async mutex because the commit is awaited
    /// under it; readers never touch it.
    writer: Arc<tokio::sync::Mutex<()>>,
}

impl Catalog {
    /// Builds the first view from the configuration and the store. A stored object that no longer fits,
    /// because the file or the router's categories have changed, is set aside with a warning: it stays
    /// stored, and can be replaced or removed.
    ///
    /// # Errors
    /// [`ChangeError::Invalid`] when the configuration's experts, routes and categories do not fit together;
    /// [`ChangeError::Store`] when the store cannot be read.
    pub fn open(
        declared: Declared,
        router: RouterModel,
        registry: Registry,
        store: Arc<EmbeddedStore>,
    ) -> Result<Self, ChangeError> {
        let parts = Arc::new(Parts {
            registry,
            gates: Gates::default(),
            balances: Mutex::default(),
            descriptions: Descriptions::default(),
        });
        let desired = gather(declared, &store, &parts, &router.categories)?;
        let current = Arc::new(ArcSwap::from_pointee(parts.publish(desired, Arc::new(router), 1)?));
        Ok(Self { current, parts, store, changed: Arc::default(), writer: Arc::default() })
    }

    /// The present state.
    pub fn view(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// The gates of keys, teams and routes.
    pub fn gates(&self) -> &Gates {
        &self.parts.gates
    }

    /// The experts' registry, to be started and shut down.
    pub fn registry(&self) -> &Registry {
        &self.parts.registry
    }

    /// The store, for what else is kept there.
    pub fn store(&self) -> &Arc<EmbeddedStore> {
        &self.store
    }

    /// Takes over what the configuration file declares now; what the store keeps stays, and one of its
    /// objects that no longer fits is set aside as at the start. The same declaration changes nothing.
    ///
    /// # Errors
    /// [`ChangeError::Invalid`] when the file's objects do not fit together or with each other's names; the
    /// present state stays then.
    pub async fn redeclare(&self, declared: Declared) -> Result<Arc<View>, ChangeError> {
        let turn = self.writer.clone().lock_owned().await;
        let (store, current) = (self.store.clone(), self.current.clone());
        let (parts, changed) = (self.parts.clone(), self.changed.clone());
        // Reads the store from disk. Takes the turn along, as a write does.
        let published = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let before = current.load();
            let router = before.router.clone();
            let desired = gather(declared, &store, &parts, &router.categories)?;
            let view = Arc::new(parts.publish(desired, router, before.revision + 1)?);
            current.store(view.clone());
            parts.gates.sweep();
            changed.notify_one();
            Ok(view)
        });
        published.await.map_err(|e| ChangeError::Aborted(e.to_string()))?
    }

    /// Applies edits as one change: all of them or none. `now_ms` is the time for the audit log. With
    /// `dry_run` everything is checked, and the state that would be is returned, but nothing changes.
    ///
    /// # Errors
    /// [`ChangeError`] that names what stands in the way.
    pub async fn apply(
        &self,
        edits: Vec<Edit>,
        actor: &str,
        now_ms: u64,
        dry_run: bool,
    ) -> Result<Arc<Desired>, ChangeError> {
        let turn = self.writer.clone().lock_owned().await;
        let before = self.view();
        let mut desired = Desired::clone(&before.desired);
        let mut writes = Vec::with_capacity(edits.len());
        let mut audit = Vec::with_capacity(edits.len());
        for edit in edits {
            audit.push(edit.audit(actor, now_ms));
            writes.extend(desired.edit(edit)?);
        }
        let found = check(&desired, &before.router.categories, Some(&self.parts.registry));
        if !found.is_empty() {
            return Err(invalid(found));
        }
        if dry_run {
            return Ok(Arc::new(desired));
        }
        // All that can fail comes before the commit.
        let view = self.parts.publish(desired, before.router.clone(), before.revision + 1)?;
        self.commit(turn, view, Change { writes, audit }).await
    }

    /// Lets another router model read from now on; requests under way keep theirs. `change` is committed with
    /// it. With `dry_run` it is only seen whether all objects fit the new categories.
    ///
    /// # Errors
    /// [`ChangeError::Invalid`] when an object names a category that the new model does not have, or when a
    /// route needs a model and there is none; [`ChangeError::Store`].
    pub async fn switch(
        &self,
        router: RouterModel,
        change: Change,
        dry_run: bool,
    ) -> Result<Arc<Desired>, ChangeError> {
        let turn = self.writer.clone().lock_owned().await;
        let before = self.view();
        let found = check(&before.desired, &router.categories, Some(&self.parts.registry));
        if !found.is_empty() {
            return Err(invalid(found));
        }
        if dry_run {
            return Ok(before.desired.clone());
        }
        let desired = Desired::clone(&before.desired);
        let view = self.parts.publish(desired, Arc::new(router), before.revision + 1)?;
        self.commit(turn, view, change).await
    }

    /// Compiles the present state anew, with what was learnt of it since.
    async fn republish(&self) -> Result<(), ChangeError> {
        let _turn = self.writer.clone().lock_owned().await;
        let before = self.view();
        let desired = Desired::clone(&before.desired);
        let view = self.parts.publish(desired, before.router.clone(), before.revision + 1)?;
        self.current.store(Arc::new(view));
        Ok(())
    }

    /// Makes a change durable and shows it to readers.
    async fn commit(
        &self,
        turn: tokio::sync::OwnedMutexGuard<()>,
        view: View,
        change: Change,
    ) -> Result<Arc<Desired>, ChangeError> {
        let (store, current, parts) = (self.store.clone(), self.current.clone(), self.parts.clone());
        let changed = self.changed.clone();
        // The commit waits for the disk, and so may not run on a thread that serves sockets. It takes the
        // turn along: a caller that leaves cannot come between the commit and what readers see.
        let committed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            store.commit(&change)?;
            let desired = view.desired.clone();
            current.store(Arc::new(view));
            parts.gates.sweep();
            changed.notify_one();
            Ok(desired)
        });
        committed.await.map_err(|e| ChangeError::Aborted(e.to_string()))?
    }
}

/// The wanted state of file and store, without the stored objects that do not fit.
fn gather(
    declared: Declared,
    store: &EmbeddedStore,
    parts: &Parts,
    categories: &[Category],
) -> Result<Desired, ChangeError> {
    let mut desired = Desired::from_file_and_store(declared, store)?;
    loop {
        let found = check(&desired, categories, Some(&parts.registry));
        // Setting one object aside may leave another without what it names.
        if !found.iter().any(|(owner, problem)| desired.set_aside(owner, problem)) {
            return if found.is_empty() { Ok(desired) } else { Err(invalid(found)) };
        }
    }
}

fn invalid(found: Vec<(Owner, Problem)>) -> ChangeError {
    ChangeError::Invalid(found.into_iter().map(|(_, problem)| problem).collect())
}

/// What a view is compiled with.
struct Parts {
    registry: Registry,
    /// Of keys, teams and routes; they outlive the views, with who is in and who waits.
    gates: Gates,
    /// Biases by route; they outlive the views.
    balances: Mutex<HashMap<ExpertId, Arc<Mutex<Balance>>>>,
    /// Embeddings of descriptions.
    descriptions: Descriptions,
}

impl Parts {
    /// Compiles the wanted state into what requests read.
    fn publish(&self, desired: Desired, model: Arc<RouterModel>, revision: u64) -> Result<View, ChangeError> {
        let keys: Vec<KeySpec> = desired.keys.values().map(|entry| entry.value.clone()).collect();
        let teams: Vec<TeamSpec> = desired.teams.values().map(|entry| entry.value.clone()).collect();
        let experts = desired.experts.iter().map(|(id, entry)| {
            let availability =
                if desired.drained.contains(id) { Availability::Draining } else { Availability::Ready };
            let signals = desired.signals_of(id, model.space.as_ref());
            let description = self.descriptions.get(model.space.as_ref(), &entry.value.description);
            let signals = Arc::new(Signals { description, ..signals });
            Wanted { spec: entry.value.clone(), trust: entry.origin.trust(), availability, signals }
        });
        let labels: Vec<Arc<str>> = model.categories.iter().map(|c| Arc::from(c.name.as_str())).collect();
        let experts = self.registry.replace(experts.collect(), labels.into()).map_err(|problems| {
            ChangeError::Invalid(problems.into_iter().map(|p| Problem::at(p.path, p.message)).collect())
        })?;
        let mut routes = HashMap::with_capacity(desired.routes.len());
        for (number, (id, entry)) in desired.routes.iter().enumerate() {
            let mut compiled = Route::new(&entry.value, &self.gates)?;
            compiled.series = Arc::new(RouteSeries::new(number));
            // The biases go on from where they were: they took many requests to find.
            compiled.balance =
                compiled.balance.map(|new| lock(&self.balances).entry(id.clone()).or_insert(new).clone());
            routes.insert(id.clone(), Arc::new(compiled));
        }
        let keys = KeyRing::build(&keys, &teams, &self.gates).map_err(|problems| {
            ChangeError::Invalid(problems.into_iter().map(|p| Problem::at(p.path, p.message)).collect())
        })?;
        let gate = |entry: &Entry<ExpertSpec>| {
            let id = &entry.value.id;
            let gate = self.gates.get(&Subject::Expert(id.as_str().into()), &entry.value.concurrency)?;
            Some((id.clone(), gate))
        };
        let expert_gates = desired.experts.values().filter_map(gate).collect();
        let categories = model.categories.iter().map(|c| {
            let described = desired.categories.get(&c.name).cloned();
            let description = described.unwrap_or_else(|| c.description.clone());
            (Category { name: c.name.clone(), description }, header(&c.name))
        });
        let categories = categories.collect();
        let prices = desired.experts.values().map(|entry| entry.value.cost);
        let dearest = prices.fold(Cost::default(), |most, cost| Cost {
            input: most.input.max(cost.input),
            output: most.output.max(cost.output),
        });
        let series = Series::new(experts.ids(), model.categories.len());
        let desired = Arc::new(desired);
        Ok(View {
            revision,
            experts,
            routes,
            expert_gates,
            keys,
            dearest,
            router: model,
            categories,
            series,
            desired,
        })
    }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Route {
    /// Compiles a route.
    ///
    /// # Errors
    /// [`ChangeError::Invalid`] when its policy cannot be built.
    pub(crate) fn new(spec: &RouteSpec, gates: &Gates) -> Result<Self, ChangeError> {
        let policy = spec
            .planner()
            .map_err(|problem| ChangeError::Invalid(vec![problem.below(&format!("routes.{}", spec.id))]))?;
        let subject = Subject::Route(spec.id.as_str().into());
        Ok(Self {
            header: header(spec.id.as_str()),
            policy_header: HeaderValue::from_static(spec.policy.name()),
            gate: gates.get(&subject, &spec.concurrency),
            account: Account::new(subject, &spec.limits),
            spec: spec.clone(),
            policy,
            series: Arc::default(),
            balance: spec.modifiers.balance.is_some().then(Arc::default),
        })
    }

    /// How the view's experts are now, with the biases that this route gives them.
    pub(crate) fn live(&self, view: &View, pools: &Pools) -> Arc<[Live]> {
        let balance = self.balance.as_deref().map(lock);
        let bias = |id: &ExpertId| balance.as_ref().map_or(0.0, |balance| balance.bias(id));
        let here = |id: &ExpertId, live: Live| {
            let outlook = pools.outlook(id);
            let resident = outlook.map(|outlook| outlook.away.unwrap_or(u8::MAX));
            let wait_ms = outlook.map(|outlook| outlook.wait.as_secs_f32() * 1e3);
            Live { bias: bias(id), resident, wait_ms, ..live }
        };
        view.experts.live().map(|(id, live)| (id, here(id, live)).1).collect()
    }

    /// Takes a decision into account for later ones.
    pub(crate) fn observe(&self, plan: &Plan) {
        if let (Some(balance), Some(config)) = (&self.balance, &self.spec.modifiers.balance) {
            lock(balance).observe(plan, config);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name as a header value; names are checked to be plain ASCII where they come in.
fn header(name: &str) -> HeaderValue {
    HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests;
