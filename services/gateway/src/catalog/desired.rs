//! The wanted state, as file and admin API define it, and the edits that change it.

use std::collections::{BTreeMap, BTreeSet};

use experts::ExpertSpec;
use routing::ExpertId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stores::{AuditEntry, EmbeddedStore, Kind, Write};

use super::{ChangeError, Origin, named_by};
use crate::config::RouteSpec;
use crate::problem::Problem;

/// An object with its owner.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// The object.
    pub value: T,
    /// Who owns it.
    pub origin: Origin,
}

/// All experts, routes and category descriptions that are wanted.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// By id.
    pub experts: BTreeMap<ExpertId, Entry<ExpertSpec>>,
    /// By id.
    pub routes: BTreeMap<ExpertId, Entry<RouteSpec>>,
    /// Descriptions that replace the bundle's, by category.
    pub categories: BTreeMap<String, String>,
    /// Experts that finish what they have and take nothing new.
    pub drained: BTreeSet<ExpertId>,
}

/// One change of the wanted state.
///
/// `if_match` is the etag that the object must have now; `None` changes it whatever it is.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Registers an expert; it must not exist.
    CreateExpert(Box<ExpertSpec>),
    /// Replaces an expert; it must exist.
    ReplaceExpert(Box<ExpertSpec>, Option<String>),
    /// Removes an expert. Requests that it is answering go on.
    DeleteExpert(ExpertId, Option<String>),
    /// Starts or ends an expert's draining. Allowed for the file's experts too: it is operation, not
    /// configuration.
    Drain(ExpertId, bool),
    /// Adds a route; it must not exist.
    CreateRoute(RouteSpec),
    /// Replaces a route; it must exist.
    ReplaceRoute(RouteSpec, Option<String>),
    /// Removes a route.
    DeleteRoute(ExpertId, Option<String>),
    /// Describes a category.
    DescribeCategory(String, String),
}

/// Who has a problem.
pub(super) enum Owner {
    /// An expert.
    Expert(ExpertId),
    /// A route.
    Route(ExpertId),
}

/// The stored form of [`Desired::drained`] and of a category's description.
#[derive(Serialize, Deserialize)]
struct Drained {
    experts: BTreeSet<ExpertId>,
}

const DRAINED: &str = "drained";

/// What the configuration file declares of the objects that can change while the gateway runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// The experts.
    pub experts: Vec<ExpertSpec>,
    /// The routes.
    pub routes: Vec<RouteSpec>,
}

impl Desired {
    /// The file's objects alone.
    pub(super) fn from_file(declared: Declared) -> Self {
        let mut desired = Self::default();
        desired.add_file(declared);
        desired
    }

    /// The file's objects and those that the store keeps. Where both name one, the file's wins and the log
    /// says so.
    pub(super) fn from_file_and_store(
        declared: Declared,
        store: &EmbeddedStore,
    ) -> Result<Self, ChangeError> {
        let mut desired = Self::default();
        for value in stored::<ExpertSpec>(store, Kind::Expert)? {
            desired.experts.insert(value.id.clone(), Entry { value, origin: Origin::Admin });
        }
        for value in stored::<RouteSpec>(store, Kind::Route)? {
            desired.routes.insert(value.id.clone(), Entry { value, origin: Origin::Admin });
        }
        for document in store.load_all(Kind::Category)? {
            desired.categories.insert(document.id.clone(), document.parse()?);
        }
        if let Some(document) = store.load(Kind::Setting, DRAINED)? {
            desired.drained = document.parse::<Drained>()?.experts;
        }
        desired.add_file(declared);
        desired.drained.retain(|id| desired.experts.contains_key(id));
        Ok(desired)
    }

    fn add_file(&mut self, declared: Declared) {
        for value in declared.experts {
            let id = value.id.clone();
            if self.experts.insert(id.clone(), Entry { value, origin: Origin::File }).is_some() {
                shadowed("expert", &id);
            }
        }
        for value in declared.routes {
            let id = value.id.clone();
            if self.routes.insert(id.clone(), Entry { value, origin: Origin::File }).is_some() {
                shadowed("route", &id);
            }
        }
    }

    /// Takes a stored object out of use; it stays stored. The file's objects stay, and so does their problem.
    pub(super) fn set_aside(&mut self, owner: &Owner, problem: &Problem) -> bool {
        let (kind, id, stored) = match owner {
            Owner::Expert(id) => ("expert", id, self.experts.get(id).map(|e| e.origin)),
            Owner::Route(id) => ("route", id, self.routes.get(id).map(|r| r.origin)),
        };
        if stored != Some(Origin::Admin) {
            return false;
        }
        tracing::warn!(
            object.kind = kind,
            object.id = %id,
            %problem,
            "a registered object no longer fits and is not used; register it anew"
        );
        match owner {
            Owner::Expert(id) => self.experts.remove(id).is_some(),
            Owner::Route(id) => self.routes.remove(id).is_some(),
        }
    }

    /// Applies one edit and gives the writes that make it durable. The result may still be refused as a
    /// whole by the caller's check.
    pub(super) fn edit(&mut self, edit: Edit) -> Result<Vec<Write>, ChangeError> {
        match edit {
            Edit::CreateExpert(spec) => {
                if self.experts.contains_key(&spec.id) {
                    return Err(ChangeError::Exists { kind: "expert", id: spec.id.to_string() });
                }
                self.put_expert(*spec)
            }
            Edit::ReplaceExpert(spec, if_match) => {
                self.owned_expert(&spec.id, if_match.as_deref())?;
                self.put_expert(*spec)
            }
            Edit::DeleteExpert(id, if_match) => {
                self.owned_expert(&id, if_match.as_deref())?;
                let by = |route: &RouteSpec| named_by(route).into_iter().any(|(_, e)| e == id);
                if let Some(entry) = self.routes.values().find(|r| by(&r.value)) {
                    let by = format!("route `{}`", entry.value.id);
                    return Err(ChangeError::InUse { kind: "expert", id: id.to_string(), by });
                }
                self.experts.remove(&id);
                let mut writes = vec![Write::delete(Kind::Expert, id.as_str())];
                // A later expert of the same name starts undrained.
                if self.drained.remove(&id) {
                    writes.push(self.drained_write()?);
                }
                Ok(writes)
            }
            Edit::Drain(id, on) => {
                if !self.experts.contains_key(&id) {
                    return Err(ChangeError::NotFound { kind: "expert", id: id.to_string() });
                }
                if on {
                    self.drained.insert(id);
                } else {
                    self.drained.remove(&id);
                }
                Ok(vec![self.drained_write()?])
            }
            Edit::CreateRoute(spec) => {
                if self.routes.contains_key(&spec.id) {
                    return Err(ChangeError::Exists { kind: "route", id: spec.id.to_string() });
                }
                self.put_route(spec)
            }
            Edit::ReplaceRoute(spec, if_match) => {
                self.owned_route(&spec.id, if_match.as_deref())?;
                self.put_route(spec)
            }
            Edit::DeleteRoute(id, if_match) => {
                self.owned_route(&id, if_match.as_deref())?;
                self.routes.remove(&id);
                Ok(vec![Write::delete(Kind::Route, id.as_str())])
            }
            Edit::DescribeCategory(name, description) => {
                let write = Write::put(Kind::Category, name.as_str(), &description)?;
                self.categories.insert(name, description);
                Ok(vec![write])
            }
        }
    }

    /// The etag of an expert: a digest of all that the admin API shows of it and of its secrets.
    pub fn expert_etag(&self, entry: &Entry<ExpertSpec>) -> String {
        let drained = self.drained.contains(&entry.value.id);
        digest(&[&entry.value.to_stored_json().to_string(), if drained { "drained" } else { "" }])
    }

    /// The etag of a route.
    pub fn route_etag(entry: &Entry<RouteSpec>) -> String {
        digest(&[&serde_json::to_string(&entry.value).unwrap_or_default()])
    }

    fn owned_expert(&self, id: &ExpertId, if_match: Option<&str>) -> Result<(), ChangeError> {
        let entry = self.experts.get(id);
        let entry = entry.ok_or_else(|| ChangeError::NotFound { kind: "expert", id: id.to_string() })?;
        owned("expert", id, entry.origin, if_match, || self.expert_etag(entry))
    }

    fn owned_route(&self, id: &ExpertId, if_match: Option<&str>) -> Result<(), ChangeError> {
        let entry = self.routes.get(id);
        let entry = entry.ok_or_else(|| ChangeError::NotFound { kind: "route", id: id.to_string() })?;
        owned("route", id, entry.origin, if_match, || Self::route_etag(entry))
    }

    fn drained_write(&self) -> Result<Write, ChangeError> {
        Ok(Write::put(Kind::Setting, DRAINED, &Drained { experts: self.drained.clone() })?)
    }

    fn put_expert(&mut self, value: ExpertSpec) -> Result<Vec<Write>, ChangeError> {
        let write = Write::put(Kind::Expert, value.id.as_str(), &value.to_stored_json())?;
        self.experts.insert(value.id.clone(), Entry { value, origin: Origin::Admin });
        Ok(vec![write])
    }

    fn put_route(&mut self, value: RouteSpec) -> Result<Vec<Write>, ChangeError> {
        let write = Write::put(Kind::Route, value.id.as_str(), &value)?;
        self.routes.insert(value.id.clone(), Entry { value, origin: Origin::Admin });
        Ok(vec![write])
    }
}

impl Edit {
    /// What the audit log says of it: names, never contents, which may hold secrets.
    pub(super) fn audit(&self, actor: &str, now_ms: u64) -> AuditEntry {
        let (action, object) = match self {
            Self::CreateExpert(spec) => ("expert.create", format!("experts/{}", spec.id)),
            Self::ReplaceExpert(spec, _) => ("expert.replace", format!("experts/{}", spec.id)),
            Self::DeleteExpert(id, _) => ("expert.delete", format!("experts/{id}")),
            Self::Drain(id, true) => ("expert.drain", format!("experts/{id}")),
            Self::Drain(id, false) => ("expert.undrain", format!("experts/{id}")),
            Self::CreateRoute(spec) => ("route.create", format!("routes/{}", spec.id)),
            Self::ReplaceRoute(spec, _) => ("route.replace", format!("routes/{}", spec.id)),
            Self::DeleteRoute(id, _) => ("route.delete", format!("routes/{id}")),
            Self::DescribeCategory(name, _) => ("category.describe", format!("categories/{name}")),
        };
        let (actor, action) = (actor.to_owned(), action.to_owned());
        AuditEntry { time_ms: now_ms, actor, action, object, detail: serde_json::Value::Null }
    }
}

fn owned(
    kind: &'static str,
    id: &ExpertId,
    origin: Origin,
    if_match: Option<&str>,
    etag: impl FnOnce() -> String,
) -> Result<(), ChangeError> {
    if origin == Origin::File {
        return Err(ChangeError::ReadOnly { kind, id: id.to_string() });
    }
    let Some(wanted) = if_match else { return Ok(()) };
    let actual = etag();
    if wanted == "*" || wanted == actual {
        Ok(())
    } else {
        Err(ChangeError::Stale { kind, id: id.to_string(), actual })
    }
}

/// The stored objects of a kind. One that another version wrote in a form that is not understood is passed
/// over with a warning.
fn stored<T: DeserializeOwned>(store: &EmbeddedStore, kind: Kind) -> Result<Vec<T>, ChangeError> {
    let mut objects = Vec::new();
    for document in store.load_all(kind)? {
        match document.parse() {
            Ok(object) => objects.push(object),
            Err(error) => {
                tracing::warn!(%error, "a registered object cannot be read and is not used; register it anew");
            }
        }
    }
    Ok(objects)
}

fn shadowed(kind: &str, id: &ExpertId) {
    tracing::warn!(
        object.kind = kind,
        object.id = %id,
        "defined in the configuration file and registered through the admin API as well; the file's definition is used"
    );
}

/// The first 16 hexadecimal digits of a SHA-256 over length-prefixed parts.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).fold(String::with_capacity(16), |mut hex, byte| {
        use std::fmt::Write as _;
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
