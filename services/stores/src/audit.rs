use serde::{Deserialize, Serialize};

/// Who did what, as the caller tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, in milliseconds since 1970 UTC, by the caller's clock.
    pub time_ms: u64,
    /// Who: the name of a credential, or the part of the gateway that acted by itself.
    pub actor: String,
    /// What was done, such as `expert.create`.
    pub action: String,
    /// To what, such as `experts/llama`.
    pub object: String,
    /// What else is worth knowing; never a secret.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number; later entries have larger ones.
    pub sequence: u64,
    /// The store's revision that the change made.
    pub revision: u64,
    /// What happened.
    #[serde(flatten)]
    pub entry: AuditEntry,
}
