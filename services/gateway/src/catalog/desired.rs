//! The wanted state, as file and admin API define it, and the edits that change it.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use admission::{KeySpec, TeamSpec};
use experts::ExpertSpec;
use routing::ExpertId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use stores::{AuditEntry, EmbeddedStore, Kind, Write};

use super::signals::{GateSpec, PilotsSpec, ScorerSpec};
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

/// All objects that are wanted.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// By id.
    pub experts: Table<ExpertSpec>,
    /// By id.
    pub routes: Table<RouteSpec>,
    /// By id.
    pub teams: Table<TeamSpec>,
    /// By id.
    pub keys: Table<KeySpec>,
    /// By expert.
    pub gates: Table<GateSpec>,
    /// By expert.
    pub pilots: Table<PilotsSpec>,
    /// By expert.
    pub scorers: Table<ScorerSpec>,
    /// Descriptions that replace the bundle's, by category.
    pub categories: BTreeMap<String, String>,
    /// Experts that finish what they have and take nothing new.
    pub drained: BTreeSet<ExpertId>,
}

/// The objects of one kind, by id.
pub type Table<T> = BTreeMap<<T as Object>::Id, Entry<T>>;

/// What file and admin API define alike.
pub trait Object: Clone + DeserializeOwned + Send + Sync + 'static {
    /// Its name's type.
    type Id: Ord + Clone + Borrow<str> + Display + Send + Sync;
    /// Where it is stored.
    const KIND: Kind;
    /// The word for it.
    const NAME: &'static str;
    /// Its name.
    fn id(&self) -> &Self::Id;
    /// All of it as JSON, secrets included, for the store.
    fn stored(&self) -> Value;
    /// Where it stands.
    fn table(desired: &Desired) -> &Table<Self>;
    /// Where it stands.
    fn table_mut(desired: &mut Desired) -> &mut Table<Self>;
    /// A change of one as a change of the wanted state.
    fn edit(op: Op<Self>) -> Edit;
    /// Who names the object of that name and so keeps it from being removed.
    fn users(_desired: &Desired, _id: &str) -> Vec<String> {
        Vec::new()
    }
}

macro_rules! object {
    ($type:ty, $id:ty, $kind:ident, $name:literal, $table:ident, $stored:expr $(, $users:expr)?) => {
        impl Object for $type {
            type Id = $id;
            const KIND: Kind = Kind::$kind;
            const NAME: &'static str = $name;

            fn id(&self) -> &$id {
                &self.id
            }

            fn stored(&self) -> Value {
                $stored(self)
            }

            fn table(desired: &Desired) -> &Table<Self> {
                &desired.$table
            }

            fn table_mut(desired: &mut Desired) -> &mut Table<Self> {
                &mut desired.$table
            }

            fn edit(op: Op<Self>) -> Edit {
                Edit::$kind(op)
            }

            $(fn users(desired: &Desired, id: &str) -> Vec<String> {
                $users(desired, id)
            })?
        }
    };
}

object!(ExpertSpec, ExpertId, Expert, "expert", experts, ExpertSpec::to_stored_json, routes_of_expert);
object!(RouteSpec, ExpertId, Route, "route", routes, plain);
object!(TeamSpec, String, Team, "team", teams, plain, keys_of_team);
object!(KeySpec, String, Key, "key", keys, plain);

/// Settings without secrets in clear are stored as they are shown. Plain structs with string keys serialise.
pub(super) fn plain<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn routes_of_expert(desired: &Desired, id: &str) -> Vec<String> {
    let names = |route: &RouteSpec| named_by(route).into_iter().any(|(_, expert)| expert.as_str() == id);
    let routes = desired.routes.values().filter(|entry| names(&entry.value));
    routes.map(|entry| format!("route `{}`", entry.value.id)).collect()
}

fn keys_of_team(desired: &Desired, id: &str) -> Vec<String> {
    let keys = desired.keys.values().filter(|entry| entry.value.team.as_deref() == Some(id));
    keys.map(|entry| format!("key `{}`", entry.value.id)).collect()
}

/// A change of one object.
///
/// The etag is the one that the object must have now; `None` changes it whatever it is.
#[derive(Clone, Debug)]
pub enum Op<T> {
    /// Adds it; it must not exist.
    Create(Box<T>),
    /// Replaces it; it must exist.
    Replace(Box<T>, Option<String>),
    /// Removes it, by its name. Requests that use it go on.
    Delete(String, Option<String>),
}

/// One change of the wanted state.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Of an expert.
    Expert(Op<ExpertSpec>),
    /// Of a route.
    Route(Op<RouteSpec>),
    /// Of a team.
    Team(Op<TeamSpec>),
    /// Of a key.
    Key(Op<KeySpec>),
    /// Of a gate.
    Gate(Op<GateSpec>),
    /// Of an expert's pilots.
    Pilot(Op<PilotsSpec>),
    /// Of a scorer.
    Scorer(Op<ScorerSpec>),
    /// Replaces a key by itself with another secret.
    RotateKey(Box<KeySpec>),
    /// Starts or ends an expert's draining. Allowed for the file's experts too: it is operation, not
    /// configuration.
    Drain(ExpertId, bool),
    /// Describes a category.
    DescribeCategory(String, String),
}

/// Who has a problem.
pub(super) enum Owner {
    /// An expert.
    Expert(ExpertId),
    /// A route.
    Route(ExpertId),
    /// A team.
    Team(String),
    /// A key.
    Key(String),
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
    /// The teams.
    pub teams: Vec<TeamSpec>,
    /// The keys, with the hashes of their secrets.
    pub keys: Vec<KeySpec>,
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
        desired.add_stored::<ExpertSpec>(store)?;
        desired.add_stored::<RouteSpec>(store)?;
        desired.add_stored::<TeamSpec>(store)?;
        desired.add_stored::<KeySpec>(store)?;
        desired.add_stored::<GateSpec>(store)?;
        desired.add_stored::<PilotsSpec>(store)?;
        desired.add_stored::<ScorerSpec>(store)?;
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
        self.add_declared(declared.experts);
        self.add_declared(declared.routes);
        self.add_declared(declared.teams);
        self.add_declared(declared.keys);
    }

    /// Where the store names one as well, the file's wins and the log says so.
    fn add_declared<T: Object>(&mut self, objects: Vec<T>) {
        for value in objects {
            let id = value.id().clone();
            let entry = Entry { value, origin: Origin::File };
            if T::table_mut(self).insert(id.clone(), entry).is_some() {
                tracing::warn!(
                    object.kind = T::NAME,
                    object.id = %id,
                    "defined in the configuration file and registered through the admin API as well; the file's definition is used"
                );
            }
        }
    }

    /// One that another version wrote in a form that is not understood is passed over with a warning.
    fn add_stored<T: Object>(&mut self, store: &EmbeddedStore) -> Result<(), ChangeError> {
        for document in store.load_all(T::KIND)? {
            match document.parse::<T>() {
                Ok(value) => {
                    T::table_mut(self).insert(value.id().clone(), Entry { value, origin: Origin::Admin });
                }
                Err(error) => {
                    tracing::warn!(%error, "a registered object cannot be read and is not used; register it anew");
                }
            }
        }
        Ok(())
    }

    /// Takes a stored object out of use; it stays stored. The file's objects stay, and so does their problem.
    pub(super) fn set_aside(&mut self, owner: &Owner, problem: &Problem) -> bool {
        match owner {
            Owner::Expert(id) => self.remove_stored::<ExpertSpec>(id.as_str(), problem),
            Owner::Route(id) => self.remove_stored::<RouteSpec>(id.as_str(), problem),
            Owner::Team(id) => self.remove_stored::<TeamSpec>(id, problem),
            Owner::Key(id) => self.remove_stored::<KeySpec>(id, problem),
        }
    }

    fn remove_stored<T: Object>(&mut self, id: &str, problem: &Problem) -> bool {
        if T::table(self).get(id).is_none_or(|entry| entry.origin != Origin::Admin) {
            return false;
        }
        tracing::warn!(
            object.kind = T::NAME,
            object.id = id,
            %problem,
            "a registered object no longer fits and is not used; register it anew"
        );
        T::table_mut(self).remove(id).is_some()
    }

    /// Applies one edit and gives the writes that make it durable. The result may still be refused as a
    /// whole by the caller's check.
    pub(super) fn edit(&mut self, edit: Edit) -> Result<Vec<Write>, ChangeError> {
        match edit {
            Edit::Expert(op) => {
                let removed = if let Op::Delete(id, _) = &op { Some(id.clone()) } else { None };
                let mut writes = self.write(op)?;
                // A later expert of the same name starts undrained.
                if let Some(id) = removed {
                    if self.drained.remove(id.as_str()) {
                        writes.push(self.drained_write()?);
                    }
                    // Nor does it take over what was learnt of this one.
                    writes.extend(self.forget::<GateSpec>(&id));
                    writes.extend(self.forget::<PilotsSpec>(&id));
                    writes.extend(self.forget::<ScorerSpec>(&id));
                }
                Ok(writes)
            }
            Edit::Route(op) => self.write(op),
            Edit::Team(op) => self.write(op),
            Edit::Key(op) => self.write(op),
            Edit::Gate(op) => self.write(op),
            Edit::Pilot(op) => self.write(op),
            Edit::Scorer(op) => self.write(op),
            Edit::RotateKey(key) => self.write(Op::Replace(key, None)),
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
            Edit::DescribeCategory(name, description) => {
                let write = Write::put(Kind::Category, name.as_str(), &description)?;
                self.categories.insert(name, description);
                Ok(vec![write])
            }
        }
    }

    fn forget<T: Object>(&mut self, id: &str) -> Option<Write> {
        T::table_mut(self).remove(id).map(|_| Write::delete(T::KIND, id.to_owned()))
    }

    fn write<T: Object>(&mut self, op: Op<T>) -> Result<Vec<Write>, ChangeError> {
        let value = match op {
            Op::Create(value) => {
                if T::table(self).contains_key::<str>(value.id().borrow()) {
                    return Err(ChangeError::Exists { kind: T::NAME, id: value.id().to_string() });
                }
                *value
            }
            Op::Replace(value, if_match) => {
                self.owned::<T>(value.id().borrow(), if_match.as_deref())?;
                *value
            }
            Op::Delete(id, if_match) => {
                self.owned::<T>(&id, if_match.as_deref())?;
                let users = T::users(self, &id);
                if !users.is_empty() {
                    return Err(ChangeError::InUse { kind: T::NAME, id, by: users.join(", ") });
                }
                T::table_mut(self).remove(id.as_str());
                return Ok(vec![Write::delete(T::KIND, id)]);
            }
        };
        let write = Write::put(T::KIND, value.id().to_string(), &value.stored())?;
        T::table_mut(self).insert(value.id().clone(), Entry { value, origin: Origin::Admin });
        Ok(vec![write])
    }

    /// The etag of an object: a digest of all that the admin API shows of it and of its secrets.
    pub fn etag<T: Object>(&self, entry: &Entry<T>) -> String {
        let drained = T::KIND == Kind::Expert && self.drained.contains(entry.value.id().borrow());
        digest(&[&entry.value.stored().to_string(), if drained { "drained" } else { "" }])
    }

    /// Whether an object may be changed by somebody who knows it by this etag.
    fn owned<T: Object>(&self, id: &str, if_match: Option<&str>) -> Result<(), ChangeError> {
        let missing = || ChangeError::NotFound { kind: T::NAME, id: id.to_owned() };
        let entry = T::table(self).get(id).ok_or_else(missing)?;
        if entry.origin == Origin::File {
            return Err(ChangeError::ReadOnly { kind: T::NAME, id: id.to_owned() });
        }
        let Some(wanted) = if_match else { return Ok(()) };
        let actual = self.etag(entry);
        if wanted == "*" || wanted == actual {
            Ok(())
        } else {
            Err(ChangeError::Stale { kind: T::NAME, id: id.to_owned(), actual })
        }
    }

    fn drained_write(&self) -> Result<Write, ChangeError> {
        Ok(Write::put(Kind::Setting, DRAINED, &Drained { experts: self.drained.clone() })?)
    }
}

impl Edit {
    /// What the audit log says of it: names, never contents, which may hold secrets.
    pub(super) fn audit(&self, actor: &str, now_ms: u64) -> AuditEntry {
        let (action, object) = match self {
            Self::Expert(op) => op.audit(),
            Self::Route(op) => op.audit(),
            Self::Team(op) => op.audit(),
            Self::Key(op) => op.audit(),
            Self::Gate(op) => op.audit(),
            Self::Pilot(op) => op.audit(),
            Self::Scorer(op) => op.audit(),
            Self::RotateKey(key) => ("key.rotate".to_owned(), format!("keys/{}", key.id)),
            Self::Drain(id, true) => ("expert.drain".to_owned(), format!("experts/{id}")),
            Self::Drain(id, false) => ("expert.undrain".to_owned(), format!("experts/{id}")),
            Self::DescribeCategory(name, _) => ("category.describe".to_owned(), format!("categories/{name}")),
        };
        let actor = actor.to_owned();
        AuditEntry { time_ms: now_ms, actor, action, object, detail: serde_json::Value::Null }
    }
}

impl<T: Object> Op<T> {
    fn audit(&self) -> (String, String) {
        let (verb, id) = match self {
            Self::Create(value) => ("create", value.id().to_string()),
            Self::Replace(value, _) => ("replace", value.id().to_string()),
            Self::Delete(id, _) => ("delete", id.clone()),
        };
        (format!("{}.{verb}", T::NAME), format!("{}s/{id}", T::NAME))
    }
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
