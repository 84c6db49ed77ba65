use std::collections::HashSet;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::ring::Refused;
use super::spec::{KeySpec, Permissions, SecretSpec, TeamSpec};
use super::token::SecretHash;
use crate::gate::{Gate, Gates};
use crate::limit::{Account, Accounts};
use crate::priority::Priority;
use crate::subject::Subject;

/// A key, ready to check requests against.
#[derive(Debug)]
pub struct Key {
    id: Arc<str>,
    team: Option<Arc<Team>>,
    disabled: bool,
    expires_ms: u64,
    secrets: Box<[SecretSpec]>,
    access: Access,
    permissions: Permissions,
    priority: Priority,
    highest_priority: Priority,
    account: Option<Arc<Account>>,
    gate: Option<Gate>,
    flow: u64,
}

/// A team, ready to check requests against.
#[derive(Debug)]
pub struct Team {
    id: Arc<str>,
    disabled: bool,
    access: Access,
    account: Option<Arc<Account>>,
    gate: Option<Gate>,
}

impl Key {
    /// Compiles a key. One without secrets serves for callers whose identity was proven otherwise.
    pub fn new(spec: &KeySpec, team: Option<Arc<Team>>, gates: &Gates) -> Self {
        let id: Arc<str> = spec.id.as_str().into();
        let subject = Subject::Key(id.clone());
        let flow = flow_of(&id);
        Self {
            id,
            team,
            disabled: spec.disabled,
            expires_ms: spec.expires_ms.unwrap_or(u64::MAX),
            secrets: spec.secrets.clone().into(),
            access: Access::new(spec.routes.as_deref(), spec.experts.as_deref()),
            permissions: spec.permissions,
            priority: spec.priority,
            highest_priority: spec.highest_priority.unwrap_or(spec.priority),
            account: Account::new(subject.clone(), &spec.limits),
            gate: gates.get(&subject, &spec.limits.gate()),
            flow,
        }
    }

    /// Its public id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Its team.
    pub fn team(&self) -> Option<&Arc<Team>> {
        self.team.as_ref()
    }

    /// What it may do beyond sending requests to routes.
    pub fn permissions(&self) -> Permissions {
        self.permissions
    }

    /// Whether it, and its team, may use a route.
    pub fn may_use_route(&self, route: &str) -> bool {
        let of_team = self.team.as_ref().is_none_or(|team| allows(team.access.routes.as_ref(), route));
        of_team && allows(self.access.routes.as_ref(), route)
    }

    /// Whether an expert may answer it and its team.
    pub fn may_use_expert(&self, expert: &str) -> bool {
        let of_team = self.team.as_ref().is_none_or(|team| allows(team.access.experts.as_ref(), expert));
        of_team && allows(self.access.experts.as_ref(), expert)
    }

    /// Whether every expert may answer it, so that a plan need not be filtered.
    pub fn may_use_all_experts(&self) -> bool {
        let of_team = self.team.as_ref().is_none_or(|team| team.access.experts.is_none());
        of_team && self.access.experts.is_none()
    }

    /// The class of a request that asks for one: as asked, but not above what the key may.
    pub fn priority(&self, asked: Option<Priority>) -> Priority {
        asked.unwrap_or(self.priority).min(self.highest_priority)
    }

    /// What its requests are charged to, besides the account of the route.
    pub fn accounts<'a>(&'a self, route: Option<&'a Arc<Account>>) -> Accounts<'a> {
        let team = self.team.as_ref().and_then(|team| team.account.as_ref());
        Accounts { key: self.account.as_ref(), team, route }
    }

    /// The gate of its concurrency limit, when it has one; its team may have another.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// The number by which queues tell its requests from those of other keys; the same in every process.
    pub fn flow(&self) -> u64 {
        self.flow
    }

    /// Whether one of its secrets is the one that hashes to `presented`, and it may be used at that moment.
    pub(super) fn check(&self, presented: &SecretHash, now_ms: u64) -> Result<(), Refused> {
        // All are compared, so that the time does not tell which of them it is.
        let end = |secret: &SecretSpec| secret.expires_ms.unwrap_or(u64::MAX);
        let matching = self.secrets.iter().filter(|secret| secret.hash.matches(presented));
        let ends = matching.map(end).max().ok_or(Refused::Unknown)?;
        if self.disabled || self.team.as_ref().is_some_and(|team| team.disabled) {
            Err(Refused::Disabled)
        } else if now_ms >= ends.min(self.expires_ms) {
            Err(Refused::Expired)
        } else {
            Ok(())
        }
    }
}

impl Team {
    /// Compiles a team.
    pub fn new(spec: &TeamSpec, gates: &Gates) -> Self {
        let id: Arc<str> = spec.id.as_str().into();
        let subject = Subject::Team(id.clone());
        Self {
            id,
            disabled: spec.disabled,
            access: Access::new(spec.routes.as_deref(), spec.experts.as_deref()),
            account: Account::new(subject.clone(), &spec.limits),
            gate: gates.get(&subject, &spec.limits.gate()),
        }
    }

    /// Its id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The gate of its concurrency limit, when it has one.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// What its keys' requests are charged to together.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.account.as_ref()
    }
}

/// What may be used; `None` is everything.
#[derive(Debug)]
struct Access {
    routes: Option<HashSet<Box<str>>>,
    experts: Option<HashSet<Box<str>>>,
}

impl Access {
    fn new(routes: Option<&[String]>, experts: Option<&[String]>) -> Self {
        let set = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        Self { routes: routes.map(set), experts: experts.map(set) }
    }
}

fn allows(names: Option<&HashSet<Box<str>>>, name: &str) -> bool {
    names.is_none_or(|names| names.contains(name))
}

/// The first eight bytes of a hash of the id: no two keys of one installation share them.
fn flow_of(id: &str) -> u64 {
    let hash: [u8; 32] = Sha256::digest(id).into();
    hash.iter().take(8).fold(0, |flow, byte| flow << 8 | u64::from(*byte))
}
