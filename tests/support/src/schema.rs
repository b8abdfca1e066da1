//! As much of JSON Schema as `xtask/schemas/` uses, for tests: a validator crate brings thirty others along.
//!
//! Left out: all other keywords. A schema with one of them panics, so that it is never overlooked.

use chrono::{DateTime, Utc};
use serde_json::Value;

/// The places where a document violates its schema, each with its path and the reason; empty when it is valid.
pub fn violations(schema: &Value, document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, document, "", &mut found);
    found
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let schema = schema.as_object().expect("a schema is an object");
    for (keyword, expected) in schema {
        let holds = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let pointer = expected.as_str().and_then(|to| to.strip_prefix('#'));
                let target = pointer.and_then(|pointer| root.pointer(pointer));
                check(root, target.expect("a local $ref"), value, at, found);
                true
            }
            "type" => match expected {
                Value::Array(types) => types.iter().any(|name| is(name, value)),
                name => is(name, value),
            },
            "const" => value == expected,
            "enum" => list(expected).contains(value),
            // Of numbers only.
            "minimum" => value
                .as_f64()
                .is_none_or(|value| Some(value) >= expected.as_f64()),
            "maximum" => value
                .as_f64()
                .is_none_or(|value| Some(value) <= expected.as_f64()),
            "minLength" => value.as_str().map(str::len) >= size(expected),
            "minItems" => value.as_array().map(Vec::len) >= size(expected),
            "format" => {
                assert_eq!(expected, "date-time", "the only format known here");
                let text = value.as_str().unwrap_or_default();
                text.parse::<DateTime<Utc>>().is_ok()
            }
            "required" => list(expected).iter().all(|name| {
                let name = name.as_str().expect("a name");
                value.get(name).is_some()
            }),
            "properties" => {
                for (name, schema) in expected.as_object().expect("schemas by name") {
                    if let Some(value) = value.get(name) {
                        check(root, schema, value, &format!("{at}/{name}"), found);
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties");
                let others = value.as_object().into_iter().flatten();
                let others = others.filter(|(name, _)| known.and_then(|k| k.get(*name)).is_none());
                let mut none = true;
                for (name, value) in others {
                    match expected {
                        Value::Bool(allowed) => none &= allowed,
                        schema => check(root, schema, value, &format!("{at}/{name}"), found),
                    }
                }
                none
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, expected, item, &format!("{at}/{number}"), found);
                }
                true
            }
            "oneOf" => {
                let fits = |schema: &&Value| {
                    let mut found = Vec::new();
                    check(root, schema, value, at, &mut found);
                    found.is_empty()
                };
                list(expected).iter().filter(fits).count() == 1
            }
            unknown => panic!("the keyword {unknown} is not known here"),
        };
        if !holds {
            found.push(format!("{at}: {keyword} {expected}: {value}"));
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|size| usize::try_from(size).ok())
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str().expect("a type's name") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        unknown => panic!("the type {unknown} is not known here"),
    }
}
