//! YAML and JSON text to single Kubernetes documents, the way `kubectl apply -f` reads them.
//!
//! Scalars are those of YAML 1.1: an unquoted `y`, `no` or `off` is a boolean and `0777` is 511, so a
//! boolean where a string belongs is an error later instead of a silent surprise. Documents are cut at
//! lines that begin with `---` before they are parsed (a block scalar can't hold such a line), so that
//! an error names its document. `kind: List` is taken apart here. Size, depth and aliases are bounded. `80.0` is
//! 80: on the way to the API server every number is written as JSON, which has one kind of numbers.

use std::path::Path;

use serde_json::Value;

use crate::standalone::input::json::Json;
use crate::standalone::input::problem::{LoadError, Origin};

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most documents in one file, list items included.
const MAX_DOCUMENTS: usize = 200_000;
/// Nesting of collections in one document.
const MAX_DEPTH: usize = 64;
/// YAML nodes in one document; a dump of a large cluster is one `List`.
const MAX_NODES: usize = 8_000_000;
/// Events that aliases may add in one document.
const MAX_ALIAS_EVENTS: usize = 100_000;

/// One Kubernetes object as it was written, lists taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub origin: Origin,
    pub value: Value,
}

/// All documents of one file; `file` is only named, not read.
pub fn documents(file: &Path, text: &str) -> Result<Vec<Document>, LoadError> {
    let mut found = Vec::new();
    // An editor's byte order mark says nothing, in YAML or in JSON.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if file
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        for (index, value) in serde_json::Deserializer::from_str(text)
            .into_iter()
            .enumerate()
        {
            let origin = Origin {
                file: file.to_path_buf(),
                document: index + 1,
            };
            let Json(mut value) = value.map_err(|error| LoadError::document(&origin, error))?;
            whole_numbers(&mut value);
            push(&mut found, origin, value)?;
        }
        return Ok(found);
    }
    for (index, part) in split(text).into_iter().enumerate() {
        let origin = Origin {
            file: file.to_path_buf(),
            document: index + 1,
        };
        let value = parse(part.text).map_err(|error| {
            let line = error
                .location()
                .map_or(0, |location| location.line() as usize);
            let message = error.without_snippet().to_string();
            LoadError::document(&origin, format!("line {}: {message}", part.line + line))
        })?;
        push(&mut found, origin, value)?;
    }
    Ok(found)
}

/// YAML text inside an object, such as MeshConfig in its ConfigMap.
pub fn embedded(text: &str) -> Result<Value, String> {
    parse(text).map_err(|error| error.without_snippet().to_string())
}

fn parse(text: &str) -> Result<Value, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: MAX_NODES * 2,
            max_total_scalar_bytes: MAX_FILE_BYTES as usize,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIAS_EVENTS,
        },
        strict_booleans: false,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let mut value = serde_saphyr::from_str_with_options(text, options)?;
    whole_numbers(&mut value);
    Ok(value)
}

/// Writes numbers without a fraction as whole ones.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
                return;
            };
            // Whole numbers that a float holds exactly.
            if float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 {
                *number = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

struct Part<'a> {
    text: &'a str,
    /// Lines before this part.
    line: usize,
}

/// Cuts a stream at its document markers. The marker's own line stays with what follows it, so that
/// `--- {kind: …}` works.
fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && offset > start {
            parts.push(Part {
                text: &text[start..offset],
                line: start_line,
            });
            (start, start_line) = (offset, line_number);
        }
        offset += line.len();
    }
    parts.push(Part {
        text: &text[start..],
        line: start_line,
    });
    // What stands before the first marker is usually only comments; it is no document of its own.
    parts.retain(|part| !part.text.lines().all(is_blank));
    parts
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line == "---" || line == "..."
}

fn push(found: &mut Vec<Document>, origin: Origin, value: Value) -> Result<(), LoadError> {
    if value.is_null() {
        return Ok(());
    }
    let Value::Object(mut object) = value else {
        return Err(LoadError::document(
            &origin,
            "a Kubernetes object must be a mapping",
        ));
    };
    let is_list = object
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"))
        && object.contains_key("items");
    if !is_list {
        if found.len() >= MAX_DOCUMENTS {
            return Err(LoadError::file(
                &origin.file,
                format!("more than {MAX_DOCUMENTS} objects"),
            ));
        }
        found.push(Document {
            origin,
            value: Value::Object(object),
        });
        return Ok(());
    }
    // Items of a typed list, such as PodList, leave out what the list says.
    let named = ["kind", "apiVersion"].map(|field| {
        let value = object.get(field).and_then(Value::as_str);
        (
            field,
            value.map(|value| value.strip_suffix("List").unwrap_or(value).to_owned()),
        )
    });
    let typed = object.get("kind").and_then(Value::as_str) != Some("List");
    let complete = |mut item: Value| {
        if let (true, Value::Object(fields)) = (typed, &mut item) {
            for (field, value) in &named {
                if let (Some(value), false) = (value, fields.contains_key(*field)) {
                    fields.insert((*field).to_owned(), Value::String(value.clone()));
                }
            }
        }
        item
    };
    match object.remove("items") {
        Some(Value::Array(items)) => items
            .into_iter()
            .map(complete)
            .try_for_each(|item| push(found, origin.clone(), item)),
        Some(Value::Null) | None => Ok(()),
        Some(_) => Err(LoadError::document(
            &origin,
            "items of a List must be a sequence",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Vec<Document>, LoadError> {
        documents(Path::new("a.yaml"), text)
    }

    #[test]
    fn many_documents_and_lists() {
        let text = "# comment\n---\nkind: A\n---\n# nothing\n---\nkind: List\nitems:\n- {kind: B}\n- {kind: C}\n--- {kind: D}\n";
        let found = read(text).unwrap();
        let kinds: Vec<_> = found
            .iter()
            .map(|d| (d.origin.document, d.value["kind"].as_str().unwrap()))
            .collect();
        assert_eq!(kinds, [(1, "A"), (2, "B"), (2, "C"), (3, "D")]);
    }

    #[test]
    fn items_of_a_typed_list_have_its_kind() {
        let found = read("{apiVersion: v1, kind: PodList, items: [{a: 1}, {kind: B}]}").unwrap();
        assert_eq!(
            found[0].value,
            json!({"apiVersion": "v1", "kind": "Pod", "a": 1})
        );
        assert_eq!(found[1].value, json!({"apiVersion": "v1", "kind": "B"}));
        let found = read("{apiVersion: v1, kind: List, items: [{a: 1}]}").unwrap();
        assert_eq!(found[0].value, json!({"a": 1}));
    }

    #[test]
    fn scalars_are_yaml_1_1() {
        let found = read("a: y\nb: \"y\"\nc: off\nd: 0777\ne: No\nf: ~\ng: 2026-01-01\nh: \"080\"")
            .unwrap();
        assert_eq!(
            found[0].value,
            json!({"a": true, "b": "y", "c": false, "d": 511, "e": false, "f": null, "g": "2026-01-01", "h": "080"})
        );
    }

    #[test]
    fn errors_name_file_document_and_line() {
        let error = read("kind: A\n---\nkind: B\nx: [1\ny: 2\n").unwrap_err();
        assert_eq!(error.document, Some(2));
        assert!(
            error.to_string().starts_with("a.yaml document 2: line "),
            "{error}"
        );
        assert!(
            read("kind: A\nkind: B")
                .unwrap_err()
                .reason
                .contains("duplicate")
        );
        assert!(read("[1, 2]").unwrap_err().reason.contains("mapping"));
    }

    #[test]
    fn block_scalars_may_hold_markers_and_json_is_read() {
        let found = read("kind: A\ndata:\n  mesh: |\n    ---\n    x: 1\n").unwrap();
        assert_eq!(found[0].value["data"]["mesh"], "---\nx: 1\n");
        let found = documents(Path::new("a.json"), "{\"kind\":\"A\"}\n{\"kind\":\"B\"}").unwrap();
        assert_eq!(found.len(), 2);
        assert!(documents(Path::new("a.json"), "{\"kind\":").is_err());
    }

    #[test]
    fn a_byte_order_mark_says_nothing() {
        for (file, text) in [
            ("a.json", "\u{feff}{\"kind\": \"A\"}"),
            ("a.yaml", "\u{feff}kind: A"),
            ("a.yaml", "\u{feff}---\nkind: A"),
            ("a.yml", "\u{feff}{\"kind\": \"A\"}"),
        ] {
            let found = documents(Path::new(file), text).unwrap();
            assert_eq!(found.len(), 1, "{file}: {text:?}");
            assert_eq!(found[0].value, json!({"kind": "A"}), "{file}: {text:?}");
        }
    }

    #[test]
    fn there_is_one_kind_of_numbers() {
        for (file, text) in [
            ("a.yaml", "{a: 80.0, b: [8e1, 80.5], c: -1.0}"),
            ("a.json", "{\"a\": 80.0, \"b\": [8e1, 80.5], \"c\": -1.0}"),
        ] {
            let found = documents(Path::new(file), text).unwrap();
            assert_eq!(found[0].value, json!({"a": 80, "b": [80, 80.5], "c": -1}));
        }
        let found = read("{a: 1e300}").unwrap();
        assert_eq!(found[0].value, json!({"a": 1e300}));
    }

    #[test]
    fn bombs_are_refused() {
        let deep = format!("a: {}1{}", "[".repeat(100), "]".repeat(100));
        assert!(read(&deep).is_err());
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..8 {
            let refs = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{refs}]\n"));
        }
        assert!(read(&bomb).is_err());
    }
}
