//! `guildhall schema` and `guildhall openapi`: generated documents.

use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::{Failure, say, say_json};
use crate::config::Config;

/// Prints the JSON schema of the configuration file.
pub(super) fn schema() -> Result<(), Failure> {
    say_json(&config_schema().map_err(anyhow::Error::from)?)
}

/// Prints the `OpenAPI` document of the admin API.
pub(super) fn openapi() -> Result<(), Failure> {
    say(crate::admin::openapi().to_pretty_json().map_err(anyhow::Error::from)?)
}

/// `OpenAPI` 3.1 schemas are JSON Schema 2020-12; only the place of the definitions differs.
fn config_schema() -> Result<Value, serde_json::Error> {
    let mut parts: Vec<(String, RefOr<Schema>)> = Vec::new();
    Config::schemas(&mut parts);
    let mut definitions = Map::new();
    for (name, part) in parts {
        definitions.insert(name, serde_json::to_value(part)?);
    }
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Guildhall configuration",
    });
    let body = serde_json::to_value(Config::schema())?;
    if let (Some(root), Value::Object(body)) = (root.as_object_mut(), body) {
        root.extend(body);
        root.insert("$defs".into(), definitions.into());
    }
    let text = serde_json::to_string(&root)?.replace("#/components/schemas/", "#/$defs/");
    serde_json::from_str(&text)
}
