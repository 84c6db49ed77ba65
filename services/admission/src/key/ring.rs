use std::collections::HashMap;
use std::sync::Arc;

use super::compiled::{Key, Team};
use super::spec::{KeySpec, TeamSpec};
use super::token::{self, SecretHash};
use crate::gate::Gates;
use crate::problem::Problem;

/// All keys, ready to check requests against.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: HashMap<Box<str>, Arc<Key>>,
    teams: HashMap<Box<str>, Arc<Team>>,
}

/// Why a token is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no token of ours.
    #[error("the API key has not the form `sk-guildhall-<id>-<secret>`")]
    Malformed,
    /// There is no such key, or its secret is another.
    #[error("the API key is not known")]
    Unknown,
    /// It, or this secret of it, has ended. Only said to who knows the secret.
    #[error("the API key has expired")]
    Expired,
    /// It, or its team, is disabled. Only said to who knows the secret.
    #[error("the API key is disabled")]
    Disabled,
}

impl Refused {
    /// A name for metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Disabled => "disabled",
        }
    }
}

impl KeyRing {
    /// Compiles keys and teams. Gates that exist already are kept, with what is in progress and waits.
    ///
    /// # Errors
    /// All that is wrong, with paths such as `keys[3].team`. Nothing has changed then, gates included.
    pub fn build(keys: &[KeySpec], teams: &[TeamSpec], gates: &Gates) -> Result<Self, Vec<Problem>> {
        let problems = problems(keys, teams);
        if !problems.is_empty() {
            return Err(problems);
        }
        let teams: HashMap<Box<str>, Arc<Team>> =
            teams.iter().map(|spec| (spec.id.as_str().into(), Arc::new(Team::new(spec, gates)))).collect();
        let keys = keys.iter().map(|spec| {
            let team = spec.team.as_deref().and_then(|team| teams.get(team).cloned());
            (spec.id.as_str().into(), Arc::new(Key::new(spec, team, gates)))
        });
        Ok(Self { keys: keys.collect(), teams })
    }

    /// The key of a presented token, at a moment in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Refused`] says why not. An unknown id and a wrong secret look the same and take the same work.
    pub fn authenticate(&self, presented: &str, now_ms: u64) -> Result<&Arc<Key>, Refused> {
        let (id, secret) = token::parse(presented).ok_or(Refused::Malformed)?;
        let hash = SecretHash::of(secret);
        let key = self.keys.get(id).ok_or(Refused::Unknown)?;
        key.check(&hash, now_ms)?;
        Ok(key)
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// A key by its public id.
    pub fn key(&self, id: &str) -> Option<&Arc<Key>> {
        self.keys.get(id)
    }

    /// A team by its id.
    pub fn team(&self, id: &str) -> Option<&Arc<Team>> {
        self.teams.get(id)
    }
}

fn problems(keys: &[KeySpec], teams: &[TeamSpec]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut team_ids = HashMap::new();
    for (i, team) in teams.iter().enumerate() {
        let place = format!("teams[{i}]");
        problems.extend(team.problems().into_iter().map(|problem| problem.below(&place)));
        if let Some(first) = team_ids.insert(team.id.as_str(), i) {
            let message = format!("team `{}` is already defined at teams[{first}]", team.id);
            problems.push(Problem::at("id", message).below(&place));
        }
    }
    let mut key_ids = HashMap::new();
    for (i, key) in keys.iter().enumerate() {
        let place = format!("keys[{i}]");
        problems.extend(key.problems().into_iter().map(|problem| problem.below(&place)));
        if let Some(first) = key_ids.insert(key.id.as_str(), i) {
            let message = format!("key `{}` is already defined at keys[{first}]", key.id);
            problems.push(Problem::at("id", message).below(&place));
        }
        if let Some(team) = key.team.as_deref().filter(|team| !team_ids.contains_key(team)) {
            problems.push(Problem::at("team", format!("there is no team `{team}`")).below(&place));
        }
    }
    problems
}
