//! What there is to route to: experts, routes, categories, from the configuration file and the admin API.
//!
//! Readers take an immutable [`View`] by one atomic load. Writers go through [`Catalog::apply`], one at a
//! time: the wanted state is changed, checked as a whole, made durable, and only then published, so that a
//! bad change stops nothing that worked and a confirmed one survives a crash. What the file defines is
//! owned by the file and refused to change here.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use experts::{ExpertSpec, Registry, Snapshot, Trust, Wanted};
use http::HeaderValue;
use routing::{Availability, ExpertId, Policy};
use serde::{Deserialize, Serialize};
use stores::{Change, EmbeddedStore};
use utoipa::ToSchema;

use crate::config::RouteSpec;
use crate::problem::{Problem, nearest};

mod desired;

use desired::Owner;
pub use desired::{Desired, Edit, Entry};

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
}

/// Everything that a request needs to know about experts and routes, at one moment.
pub struct View {
    /// Counts the published changes of this process.
    pub revision: u64,
    /// The experts.
    pub experts: Arc<Snapshot>,
    /// The routes by name.
    pub routes: HashMap<ExpertId, Arc<Route>>,
    /// The router's categories in the order of its probabilities, with the name as an answer header.
    pub categories: Vec<(Category, HeaderValue)>,
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
    #[error(
        "{kind} `{id}` is defined in the configuration file and read-only here; change the file and restart"
    )]
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
    registry: Registry,
    store: Arc<EmbeddedStore>,
    categories: Vec<Category>,
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
        experts: Vec<ExpertSpec>,
        routes: Vec<RouteSpec>,
        categories: Vec<Category>,
        registry: Registry,
        store: Arc<EmbeddedStore>,
    ) -> Result<Self, ChangeError> {
        let mut desired = Desired::from_file_and_store(experts, routes, &store)?;
        loop {
            let found = check(&desired, &categories, Some(&registry));
            // Setting one object aside may leave another without what it names.
            if !found.iter().any(|(owner, problem)| desired.set_aside(owner, problem)) {
                if found.is_empty() {
                    break;
                }
                return Err(invalid(found));
            }
        }
        let view = publish(desired, &categories, &registry, 1)?;
        let current = Arc::new(ArcSwap::from_pointee(view));
        Ok(Self { current, registry, store, categories, writer: Arc::default() })
    }

    /// The present state.
    pub fn view(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// The experts' registry, to be started and shut down.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The store, for what else is kept there.
    pub fn store(&self) -> &Arc<EmbeddedStore> {
        &self.store
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
        let found = check(&desired, &self.categories, Some(&self.registry));
        if !found.is_empty() {
            return Err(invalid(found));
        }
        if dry_run {
            return Ok(Arc::new(desired));
        }
        // All that can fail comes before the commit.
        let view = publish(desired, &self.categories, &self.registry, before.revision + 1)?;
        let (store, current) = (self.store.clone(), self.current.clone());
        let change = Change { writes, audit };
        // The commit waits for the disk, and so may not run on a thread that serves sockets. It takes the
        // turn along: a caller that leaves cannot come between the commit and what readers see.
        let committed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            store.commit(&change)?;
            let desired = view.desired.clone();
            current.store(Arc::new(view));
            Ok(desired)
        });
        committed.await.map_err(|e| ChangeError::Aborted(e.to_string()))?
    }
}

fn invalid(found: Vec<(Owner, Problem)>) -> ChangeError {
    ChangeError::Invalid(found.into_iter().map(|(_, problem)| problem).collect())
}

/// Checks a configuration's experts and routes against each other, and against the router's categories
/// where those are known.
pub fn check_file(config: &crate::config::Config, categories: Option<&[String]>) -> Vec<Problem> {
    let desired = Desired::from_file(config.experts.clone(), config.routes.clone());
    let known: Vec<Category> = match categories {
        Some(names) => {
            names.iter().map(|n| Category { name: n.clone(), description: String::new() }).collect()
        }
        None => Vec::new(),
    };
    let mut problems: Vec<Problem> =
        check(&desired, &known, None).into_iter().map(|(_, problem)| problem).collect();
    if categories.is_none() {
        problems.retain(|p| !p.message.contains("no router model is loaded"));
    }
    problems
}

/// Whether the parts fit together: names, references and categories, and, with a registry, whether it can
/// use the experts. Each problem comes with the object that has it.
fn check(desired: &Desired, categories: &[Category], registry: Option<&Registry>) -> Vec<(Owner, Problem)> {
    let mut problems = Vec::new();
    for (id, entry) in &desired.experts {
        let own = match registry {
            Some(registry) => registry.check(&entry.value, entry.origin.trust()),
            None => entry.value.validate(),
        };
        let mut found: Vec<Problem> = own.into_iter().map(|p| Problem::at(p.path, p.message)).collect();
        found.extend(skill_problems(&entry.value, categories));
        let place = format!("experts.{id}");
        problems.extend(found.into_iter().map(|p| (Owner::Expert(id.clone()), p.below(&place))));
    }
    for (id, entry) in &desired.routes {
        let found = route_problems(&entry.value, desired, categories);
        let place = format!("routes.{id}");
        problems.extend(found.into_iter().map(|p| (Owner::Route(id.clone()), p.below(&place))));
    }
    problems
}

fn skill_problems(expert: &ExpertSpec, categories: &[Category]) -> Vec<Problem> {
    let names = || categories.iter().map(|c| c.name.as_str());
    let mut problems = Vec::new();
    for skill in expert.skills.keys() {
        // Without a router model there are no categories to check against.
        if !categories.is_empty() && !names().any(|n| n == skill) {
            let hint = match nearest(skill, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it knows {}", names().collect::<Vec<_>>().join(", ")),
            };
            let message = format!("the router has no category `{skill}`; {hint}");
            problems.push(Problem::at(format!("skills.{skill}"), message));
        }
    }
    problems
}

fn route_problems(route: &RouteSpec, desired: &Desired, categories: &[Category]) -> Vec<Problem> {
    let mut problems = route.problems();
    let reads = route.policy.build().is_ok_and(|p| p.reads_features());
    if reads && categories.is_empty() {
        let message = "looks at prompts, and no router model is loaded; set router.load: always and restart";
        problems.push(Problem::at("policy", message));
    }
    if desired.experts.contains_key(&route.id) {
        let message = "is the name of an expert as well; a model name must mean one thing";
        problems.push(Problem::at("id", message));
    }
    for (field, expert) in named_by(route) {
        if !desired.experts.contains_key(&expert) {
            let hint = nearest(expert.as_str(), desired.experts.keys().map(ExpertId::as_str))
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            problems.push(Problem::at(field, format!("there is no expert `{expert}`{hint}")));
        }
    }
    problems
}

/// The experts that a route names, with the field that does.
fn named_by(route: &RouteSpec) -> Vec<(&'static str, ExpertId)> {
    let mut names: Vec<(&'static str, ExpertId)> =
        route.default.iter().map(|e| ("default", e.clone())).collect();
    if let Ok(policy) = route.policy.build() {
        names.extend(policy.named_experts().into_iter().map(|e| ("policy", e.clone())));
    }
    names
}

/// Compiles the wanted state into what requests read.
fn publish(
    desired: Desired,
    categories: &[Category],
    registry: &Registry,
    revision: u64,
) -> Result<View, ChangeError> {
    let experts = desired.experts.iter().map(|(id, entry)| {
        let availability =
            if desired.drained.contains(id) { Availability::Draining } else { Availability::Ready };
        Wanted { spec: entry.value.clone(), trust: entry.origin.trust(), availability }
    });
    let labels: Vec<Arc<str>> = categories.iter().map(|c| Arc::from(c.name.as_str())).collect();
    let experts = registry.replace(experts.collect(), labels.into()).map_err(|problems| {
        ChangeError::Invalid(problems.into_iter().map(|p| Problem::at(p.path, p.message)).collect())
    })?;
    let mut routes = HashMap::with_capacity(desired.routes.len());
    for (id, entry) in &desired.routes {
        let policy = entry.value.policy.build().map_err(|e| {
            ChangeError::Invalid(vec![Problem::at(format!("routes.{id}.policy.{}", e.field), e.problem)])
        })?;
        let route = Route {
            header: header(id.as_str()),
            policy_header: HeaderValue::from_static(entry.value.policy.name()),
            spec: entry.value.clone(),
            policy,
        };
        routes.insert(id.clone(), Arc::new(route));
    }
    let categories = categories
        .iter()
        .map(|c| {
            let described = desired.categories.get(&c.name).cloned();
            let description = described.unwrap_or_else(|| c.description.clone());
            (Category { name: c.name.clone(), description }, header(&c.name))
        })
        .collect();
    Ok(View { revision, experts, routes, categories, desired: Arc::new(desired) })
}

/// A name as a header value; names are checked to be plain ASCII where they come in.
fn header(name: &str) -> HeaderValue {
    HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests;
