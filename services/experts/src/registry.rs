use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use routing::{Availability, ExpertFacts, ExpertId, Fleet};

use crate::call::{Call, Reply};
use crate::error::CallError;
use crate::kind::{EndpointStatus, Kind};
use crate::spec::{ExpertSpec, Problem};
use crate::upstream::Client;

/// Something that can answer, ready to.
pub struct Expert {
    spec: ExpertSpec,
    kind: Kind,
}

impl Expert {
    /// Makes an expert of its settings.
    ///
    /// # Errors
    /// The [`Problem`] that stands in the way; none when [`ExpertSpec::validate`] found none.
    pub fn new(spec: ExpertSpec, client: &Client) -> Result<Self, Problem> {
        let kind = spec.backend.build(&spec, client)?;
        Ok(Self { spec, kind })
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

    /// The state of its endpoints; empty without an upstream.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.kind.endpoints()
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

/// All experts at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    revision: u64,
    experts: HashMap<ExpertId, Arc<Expert>>,
    fleet: Arc<Fleet>,
    warnings: Vec<Problem>,
}

impl Snapshot {
    /// Counts the changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The expert of that name.
    pub fn get(&self, id: &str) -> Option<&Arc<Expert>> {
        self.experts.get(id)
    }

    /// What policies see of the experts, sorted by id.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// What is odd about the experts, but does not keep them from working: skills of categories that the
    /// router does not have. Paths begin with the expert's id.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
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
    writer: Mutex<()>,
}

impl Registry {
    /// An empty registry whose experts call out through `client`.
    pub fn new(client: Client) -> Self {
        Self { client, current: ArcSwap::default(), writer: Mutex::new(()) }
    }

    /// The present experts.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The expert of that name.
    pub fn get(&self, id: &str) -> Option<Arc<Expert>> {
        self.current.load().get(id).cloned()
    }

    /// Replaces all experts: all of them or, when one cannot be used, none. Experts whose settings have not
    /// changed stay the same objects, and connections are kept for every host that is still called.
    /// `categories` are the router's labels in the order of its probabilities.
    ///
    /// # Errors
    /// Everything that is wrong with the experts; paths begin with the expert's id.
    pub fn replace(
        &self,
        experts: Vec<(ExpertSpec, Availability)>,
        categories: Arc<[Arc<str>]>,
    ) -> Result<Arc<Snapshot>, Vec<Problem>> {
        let _turn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let mut next = HashMap::with_capacity(experts.len());
        let mut facts: Vec<ExpertFacts> = Vec::with_capacity(experts.len());
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        for (spec, availability) in experts {
            let id = spec.id.clone();
            let found = spec.validate();
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
            facts.push(spec.facts(&categories, availability));
            let expert = match before.get(id.as_str()) {
                Some(same) if same.spec == spec => Ok(same.clone()),
                _ => Expert::new(spec, &self.client).map(Arc::new),
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
        let fleet = Arc::new(Fleet { categories, experts: facts });
        let snapshot = Arc::new(Snapshot { revision: before.revision + 1, experts: next, fleet, warnings });
        self.current.store(snapshot.clone());
        Ok(snapshot)
    }
}

fn below(id: &ExpertId, problems: Vec<Problem>) -> impl Iterator<Item = Problem> {
    problems.into_iter().map(move |p| Problem { path: format!("{id}.{}", p.path), message: p.message })
}
