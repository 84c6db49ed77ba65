//! Generated documents: the configuration's JSON schema and the admin API's `OpenAPI` document.

use serde_json::{Map, Value, json};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{OpenApi, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::config::Config;

/// Where `OpenAPI` keeps its schemas, and where JSON Schema does.
const COMPONENTS: &str = "#/components/schemas/";
const DEFINITIONS: &str = "#/$defs/";

/// The JSON schema of the configuration file.
///
/// `OpenAPI` 3.1 schemas are JSON Schema 2020-12; only the place of the definitions differs.
///
/// # Errors
/// When a schema has no JSON form, which none has.
pub fn config_schema() -> Result<Value, serde_json::Error> {
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
    inline_tags(&mut definitions, COMPONENTS);
    let body = serde_json::to_value(Config::schema())?;
    if let (Some(root), Value::Object(body)) = (root.as_object_mut(), body) {
        root.extend(body);
        root.insert("$defs".into(), definitions.into());
    }
    serde_json::from_str(&serde_json::to_string(&root)?.replace(COMPONENTS, DEFINITIONS))
}

/// An `OpenAPI` document as it is shown.
///
/// # Errors
/// When it has no JSON form, which it always has.
pub fn openapi(document: &OpenApi) -> Result<Value, serde_json::Error> {
    let mut document = serde_json::to_value(document)?;
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        inline_tags(schemas, COMPONENTS);
    }
    Ok(document)
}

/// Merges a tagged variant's tag into its object. The generator writes a variant as the object *and* a tag;
/// an object that refuses unknown fields would refuse the tag, and so every valid value.
fn inline_tags(schemas: &mut Map<String, Value>, prefix: &str) {
    let originals = schemas.clone();
    for schema in schemas.values_mut() {
        let Some(variants) = schema.get_mut("oneOf").and_then(Value::as_array_mut) else { continue };
        for variant in variants {
            if let Some(merged) = merged(variant, &originals, prefix) {
                *variant = merged;
            }
        }
    }
}

/// The one object that a variant stands for, if it is one object and its tag.
fn merged(variant: &Value, originals: &Map<String, Value>, prefix: &str) -> Option<Value> {
    let [object, tag] = variant.get("allOf")?.as_array()?.as_slice() else { return None };
    let name = object.get("$ref")?.as_str()?.strip_prefix(prefix)?;
    let mut whole = originals.get(name)?.as_object()?.clone();
    let mut properties = tag.get("properties")?.as_object()?.clone();
    if let Some(own) = whole.get("properties").and_then(Value::as_object) {
        properties.extend(own.clone());
    }
    let mut required = tag.get("required")?.as_array()?.clone();
    if let Some(own) = whole.get("required").and_then(Value::as_array) {
        required.extend(own.iter().cloned());
    }
    whole.insert("properties".into(), properties.into());
    whole.insert("required".into(), required.into());
    if let Some(description) = variant.get("description") {
        whole.insert("description".into(), description.clone());
    }
    Some(whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_takes_its_tag_and_still_refuses_unknown_fields() {
        let schema = config_schema().unwrap();
        let policy = &schema["$defs"]["PolicyConfig"]["oneOf"][0];
        assert_eq!(policy["additionalProperties"], false);
        assert_eq!(policy["properties"]["kind"]["enum"], json!(["coe"]));
        assert!(policy["properties"]["lambda"].is_object());
        assert_eq!(policy["required"][0], "kind");
        let text = schema.to_string();
        assert!(!text.contains(COMPONENTS) && text.contains(DEFINITIONS));
    }

    #[test]
    fn every_reference_of_the_schema_leads_somewhere() {
        let schema = config_schema().unwrap();
        let text = schema.to_string();
        let names = text.split(DEFINITIONS).skip(1).filter_map(|rest| rest.split('"').next());
        for name in names {
            assert!(schema["$defs"].get(name).is_some(), "{name}");
        }
    }
}
