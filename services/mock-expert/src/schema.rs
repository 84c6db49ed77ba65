//! A value that satisfies a JSON schema, as far as tests need one.

use serde_json::{Map, Value, json};

/// Deepest nesting that is followed, so that a schema that refers to itself ends.
const DEEPEST: usize = 16;

/// The simplest instance of `schema`: constants, first enum members, required properties only. Strings
/// that the schema leaves open become `filler`.
pub(crate) fn instance(schema: &Value, filler: &str) -> Value {
    make(schema, schema, filler, 0)
}

fn make(schema: &Value, root: &Value, filler: &str, depth: usize) -> Value {
    if depth > DEEPEST {
        return Value::Null;
    }
    let deeper = |schema: &Value| make(schema, root, filler, depth + 1);
    if let Some(fixed) = schema.get("const").or_else(|| schema.get("default")) {
        return fixed.clone();
    }
    if let Some(first) = schema.get("enum").and_then(|members| members.get(0)) {
        return first.clone();
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        return target.strip_prefix('#').and_then(|path| root.pointer(path)).map_or(Value::Null, deeper);
    }
    if let Some(first) = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| schema.get(key)?.get(0)) {
        return deeper(first);
    }
    match kind(schema) {
        "object" => {
            let required = schema.get("required").and_then(Value::as_array);
            let members = required.into_iter().flatten().filter_map(Value::as_str).map(|name| {
                let property = schema.get("properties").and_then(|p| p.get(name)).unwrap_or(&Value::Null);
                (name.to_owned(), deeper(property))
            });
            Value::Object(members.collect::<Map<_, _>>())
        }
        "array" => {
            let length = schema.get("minItems").and_then(Value::as_u64).unwrap_or(1).min(64) as usize;
            vec![schema.get("items").map_or(Value::Null, deeper); length].into()
        }
        "integer" => json!(schema.get("minimum").and_then(Value::as_i64).unwrap_or(1)),
        "number" => json!(schema.get("minimum").and_then(Value::as_f64).unwrap_or(1.0)),
        "boolean" => Value::Bool(true),
        "null" => Value::Null,
        _ => Value::String(filler.to_owned()),
    }
}

/// The schema's type; the first when there are several, a guess when there is none.
fn kind(schema: &Value) -> &str {
    let named = schema.get("type").and_then(|t| t.as_str().or_else(|| t.get(0)?.as_str()));
    named.unwrap_or_else(|| {
        if schema.get("properties").is_some() {
            "object"
        } else if schema.get("items").is_some() {
            "array"
        } else {
            "string"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_properties_are_filled_by_their_type() {
        let schema = json!({
            "type": "object",
            "required": ["city", "days", "unit", "tags", "where"],
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 3},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
                "where": {"$ref": "#/$defs/place"},
                "optional": {"type": "string"},
            },
            "$defs": {"place": {"type": ["object", "null"], "required": ["x"], "properties": {"x": {"type": "number"}}}},
        });
        let expected =
            json!({"city": "hi", "days": 3, "unit": "celsius", "tags": [true, true], "where": {"x": 1.0}});
        assert_eq!(instance(&schema, "hi"), expected);
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}});
        assert!(instance(&schema, "x").is_object());
    }
}
