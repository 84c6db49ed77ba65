use std::collections::HashSet;

use admission::key::SecretHash;
use admission::{KeySpec, TeamSpec};
use experts::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;

/// An API key of the configuration file.
pub type FileKey = KeySpec<FileSecret>;

/// One secret of a key: the token itself, or what its secret hashes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSecret {
    /// The token, `sk-guildhall-<id>-<secret>`, as `${ENV}` or `file:PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub token: Option<Secret>,
    /// `sha256:` and the hash of the token's part after its last dash, in place of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<SecretHash>,
    /// When it ends, in milliseconds since the Unix epoch; without it with the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

impl FileSecret {
    /// The hash, given or made of the token.
    fn hash(&self, id: &str) -> Result<SecretHash, &'static str> {
        match (&self.token, self.hash) {
            (Some(token), None) => {
                let secret = token.expose().strip_prefix("sk-guildhall-");
                let secret = secret.and_then(|rest| rest.strip_prefix(id)?.strip_prefix('-'));
                match secret {
                    Some(secret)
                        if secret.len() >= 32 && secret.bytes().all(|b| b.is_ascii_alphanumeric()) =>
                    {
                        Ok(SecretHash::of(secret))
                    }
                    _ => Err(
                        "must be `sk-guildhall-<id>-<secret>` with this key's id and a secret of at least 32 letters and \
                              digits; `guildhall keys generate ID` makes one",
                    ),
                }
            }
            (None, Some(hash)) => Ok(hash),
            _ => Err("give either `token` or `hash`"),
        }
    }
}

/// The key as it is checked against.
pub(super) fn declared(key: &FileKey) -> KeySpec {
    let secrets = key.secrets.iter().filter_map(|secret| {
        let hash = secret.hash(&key.id).ok()?;
        Some(admission::key::SecretSpec { hash, created_ms: 0, expires_ms: secret.expires_ms })
    });
    key.clone().with(secrets.collect())
}

/// What is wrong with the keys and teams; whether they fit to the rest is the catalogue's to say.
pub(super) fn problems(keys: &[FileKey], teams: &[TeamSpec]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        for (n, secret) in key.secrets.iter().enumerate() {
            if let Err(message) = secret.hash(&key.id) {
                problems.push(Problem::at(format!("keys[{i}].secrets[{n}]"), message));
            }
        }
    }
    problems.extend(twice("keys", keys.iter().map(|key| key.id.as_str())));
    problems.extend(twice("teams", teams.iter().map(|team| team.id.as_str())));
    problems
}

fn twice<'a>(kind: &str, ids: impl Iterator<Item = &'a str>) -> Vec<Problem> {
    let mut seen = HashSet::new();
    let again = ids.enumerate().filter(|(_, id)| !seen.insert(*id));
    again.map(|(i, id)| Problem::at(format!("{kind}[{i}].id"), format!("`{id}` is there twice"))).collect()
}
