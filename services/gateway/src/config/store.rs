use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where run-time changes are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The embedded database's file; made when it is not there. Relative to the working directory.
    #[schema(value_type = String)]
    pub path: PathBuf,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { path: ".guildhall/store.redb".into() }
    }
}
