//! `guildhall schema` and `guildhall openapi`.

use super::{Failure, say_json};

/// Prints the JSON schema of the configuration file.
pub(super) fn schema() -> Result<(), Failure> {
    say_json(&crate::documents::config_schema().map_err(anyhow::Error::from)?)
}

/// Prints the `OpenAPI` document of the admin API.
pub(super) fn openapi() -> Result<(), Failure> {
    say_json(&crate::documents::openapi(&crate::admin::openapi()).map_err(anyhow::Error::from)?)
}
