//! YAML as JSON values, with merge keys (`<<`) resolved.
//!
//! Left out: tags, and keys that are no strings.

use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

/// The documents of a text.
///
/// # Panics
/// When it isn't YAML; `name` tells the file.
pub(crate) fn documents(name: &str, text: &str) -> Vec<Value> {
    let documents =
        YamlLoader::load_from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    documents
        .into_iter()
        .map(|yaml| value(name, yaml))
        .collect()
}

/// The text's only document.
///
/// # Panics
/// When it isn't YAML, or has several.
pub(crate) fn document(name: &str, text: &str) -> Value {
    let documents = documents(name, text);
    let [document] = <[Value; 1]>::try_from(documents)
        .unwrap_or_else(|documents| panic!("{name}: {} documents", documents.len()));
    document
}

fn value(name: &str, yaml: Yaml) -> Value {
    match yaml {
        Yaml::Null => Value::Null,
        Yaml::Boolean(it) => it.into(),
        Yaml::Integer(it) => it.into(),
        Yaml::Real(it) => it.parse::<f64>().map_or(Value::String(it), Value::from),
        Yaml::String(it) => it.into(),
        Yaml::Array(items) => items.into_iter().map(|item| value(name, item)).collect(),
        Yaml::Hash(entries) => {
            let (mut own, mut merged) = (Map::new(), Vec::new());
            for (key, entry) in entries {
                let Yaml::String(key) = key else {
                    panic!("{name}: the key {key:?} is no string");
                };
                match (key.as_str(), value(name, entry)) {
                    ("<<", Value::Array(maps)) => merged.extend(maps),
                    ("<<", map) => merged.push(map),
                    (_, entry) => {
                        own.insert(key, entry);
                    }
                }
            }
            // What stands first wins: a map's own entries, then those of the maps in their order.
            for map in merged {
                let Value::Object(map) = map else {
                    panic!("{name}: `<<: {map}` merges no map");
                };
                for (key, entry) in map {
                    own.entry(key).or_insert(entry);
                }
            }
            Value::Object(own)
        }
        Yaml::Alias(_) | Yaml::BadValue => panic!("{name}: an alias to nothing"),
    }
}

/// The items of a list; none where there is no list.
pub(crate) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The same of a list of texts.
pub(crate) fn strings(list: &Value) -> impl Iterator<Item = &str> {
    items(list).map(string)
}

/// A text.
///
/// # Panics
/// When it is something else.
pub(crate) fn string(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merged_maps_give_way_to_own_entries_and_to_earlier_maps() {
        let text =
            "a: &a { x: 1, y: 1 }\nb: &b { <<: *a, y: 2, z: 2 }\nc: { <<: [*a, *b], x: 3 }\n";
        let read = document("test", text);
        assert_eq!(read["b"], json!({ "x": 1, "y": 2, "z": 2 }));
        assert_eq!(read["c"], json!({ "x": 3, "y": 1, "z": 2 }));
    }

    #[test]
    fn documents_are_divided_and_an_empty_value_is_null() {
        assert_eq!(
            documents("test", "a:\n---\n- on\n- \"1\"\n"),
            [json!({ "a": null }), json!(["on", "1"])]
        );
    }
}
