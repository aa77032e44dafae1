//! What a CRD's schema says of single fields, as tables: `path, rule`, in the order in which they are checked.
//!
//! A path is that of the API (`rules[].name`: of every item, `labels{}`: every value of a map), below the place that the table is for. Types aren't
//! a table's business: where a value has another one, the reader says so.

use serde_json::Value;

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;

/// A field, and what must hold for it where it is given.
pub(crate) type Row = (&'static str, Rule);

#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// Characters of a text.
    Length(usize, usize),
    /// Items of a list.
    Items(usize, usize),
    /// A number's bounds.
    Between(i64, i64),
    OneOf(&'static [&'static str]),
    /// A text of this form; what it is called.
    Form(fn(&str) -> bool, &'static str),
    /// Fields that a mapping must have.
    Has(&'static [&'static str]),
    /// Fields of a map, at most.
    Fields(usize),
    /// A map whose names are of this form; what it is called.
    Names(fn(&str) -> bool, &'static str),
    /// A list of texts, none of which stands in it twice.
    Once,
    /// A list of texts in which `*` stands alone.
    StarAlone,
}

/// Checks what stands at `base` (`spec`) against a table.
pub(crate) fn check(manifest: &Manifest, base: &str, table: &[Row]) -> Result<(), LoadError> {
    check_below(manifest, base, "", table)
}

/// As [`check`], for a table that is for every place of this path.
pub(crate) fn check_below(
    manifest: &Manifest,
    base: &str,
    place: &str,
    table: &[Row],
) -> Result<(), LoadError> {
    let Some(value) = manifest.body.get(base) else {
        return Ok(());
    };
    let mut each = |value: &Value, field: &str| {
        table.iter().try_for_each(|(path, rule)| {
            let mut check = |value: &Value, field: &str| rule.check(value, field);
            walk(value, path, field.to_owned(), &mut check)
        })
    };
    walk(value, place, base.to_owned(), &mut each)
        .map_err(|(field, reason)| manifest.refused(field, reason))
}

type Refusal = (String, String);

/// Checks every value of a path in a way of its own.
pub(crate) fn each(
    manifest: &Manifest,
    base: &str,
    place: &str,
    mut check: impl FnMut(&Value, &str) -> Result<(), Refusal>,
) -> Result<(), LoadError> {
    let Some(value) = manifest.body.get(base) else {
        return Ok(());
    };
    walk(value, place, base.to_owned(), &mut check)
        .map_err(|(field, reason)| manifest.refused(field, reason))
}

fn walk(
    value: &Value,
    path: &str,
    field: String,
    visit: &mut dyn FnMut(&Value, &str) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    if path.is_empty() {
        return visit(value, &field);
    }
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    let bare = name.trim_end_matches(['[', ']', '{', '}']);
    let Some(found) = value.get(bare) else {
        return Ok(());
    };
    let field = format!("{field}.{bare}");
    match (found, name.get(bare.len()..)) {
        (Value::Array(items), Some("[]")) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, rest, format!("{field}[{index}]"), visit)?;
            }
            Ok(())
        }
        (Value::Object(fields), Some("{}")) => {
            for (name, value) in fields {
                walk(value, rest, format!("{field}.{name}"), visit)?;
            }
            Ok(())
        }
        (_, Some("[]" | "{}")) => Ok(()),
        _ => walk(found, rest, field, visit),
    }
}

impl Rule {
    fn check(self, value: &Value, field: &str) -> Result<(), Refusal> {
        match self.broken_by(value) {
            Some(reason) => Err((field.to_owned(), reason)),
            None => Ok(()),
        }
    }

    /// What is wrong with a value.
    fn broken_by(self, value: &Value) -> Option<String> {
        let texts = || {
            let items = value.as_array().into_iter().flatten();
            items.filter_map(Value::as_str)
        };
        match (self, value) {
            (Rule::Length(least, most), Value::String(text)) => {
                let fits = (least..=most).contains(&text.chars().count());
                (!fits).then(|| format!("must have {least} to {most} characters"))
            }
            (Rule::Items(least, most), Value::Array(items)) => {
                let fits = (least..=most).contains(&items.len());
                (!fits).then(|| format!("must have {least} to {most} items"))
            }
            (Rule::Between(least, most), Value::Number(number)) => {
                let fits = number.as_i64().is_some_and(|n| (least..=most).contains(&n));
                (!fits).then(|| format!("{number} is not between {least} and {most}"))
            }
            (Rule::OneOf(known), Value::String(text)) => {
                let fits = known.contains(&text.as_str());
                (!fits).then(|| format!("{text:?} is none of {}", known.join(", ")))
            }
            (Rule::Form(fits, called), Value::String(text)) => {
                (!fits(text)).then(|| format!("{text:?} is no {called}"))
            }
            (Rule::Has(names), Value::Object(fields)) => {
                let missing = names.iter().find(|name| !fields.contains_key(**name));
                missing.map(|name| format!("{name} is required"))
            }
            (Rule::Fields(most), Value::Object(fields)) => {
                (fields.len() > most).then(|| format!("must have {most} fields at most"))
            }
            (Rule::Names(fits, called), Value::Object(fields)) => {
                let odd = fields.keys().find(|name| !fits(name));
                odd.map(|name| format!("{name:?} is no {called}"))
            }
            (Rule::Once, Value::Array(_)) => {
                let mut seen: Vec<&str> = Vec::new();
                let twin = texts().find(|text| {
                    let again = seen.contains(text);
                    seen.push(text);
                    again
                });
                twin.map(|text| format!("{text:?} is given twice"))
            }
            (Rule::StarAlone, Value::Array(items)) => {
                let crowded = items.len() > 1 && texts().any(|text| text == "*");
                crowded.then(|| "\"*\" may have nothing beside it".to_owned())
            }
            _ => None,
        }
    }
}

/// A DNS subdomain: labels with dots between.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            let (first, last) = (label.bytes().next(), label.bytes().next_back());
            let ends = [first, last];
            ends.iter()
                .all(|c| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit()))
                && label
                    .bytes()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        })
}

/// A group of the API: a subdomain, or the core group.
pub(crate) fn is_group(text: &str) -> bool {
    text.is_empty() || is_subdomain(text)
}

/// A host name, which may begin with a label `*`.
pub(crate) fn is_hostname(text: &str) -> bool {
    is_subdomain(text.strip_prefix("*.").unwrap_or(text))
}

/// The name of a kind.
pub(crate) fn is_kind(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

/// A header's name (RFC 9110 `token`).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 256
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
}

/// A header's value: words of visible characters, with one space or tab between.
pub(crate) fn is_header_value(text: &str) -> bool {
    text.split([' ', '\t'])
        .all(|word| !word.is_empty() && word.bytes().all(|c| c.is_ascii_graphic()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    const TABLE: &[Row] = &[
        ("name", Rule::Length(1, 3)),
        ("list", Rule::Items(1, 2)),
        ("list[].number", Rule::Between(1, 9)),
        ("list[].word", Rule::OneOf(&["a", "b"])),
        ("list[].kind", Rule::Form(is_kind, "kind")),
        ("set", Rule::Once),
        ("set", Rule::StarAlone),
        ("map", Rule::Fields(2)),
        ("map", Rule::Names(is_kind, "kind")),
        ("map{}", Rule::Length(0, 2)),
    ];

    fn refused(spec: &str) -> Option<String> {
        let text = format!("{{apiVersion: a/v1, kind: K, metadata: {{name: k}}, spec: {spec}}}");
        let manifest = Manifest::of(&text);
        check(&manifest, "spec", TABLE).err()?.field
    }

    #[test]
    fn tables() {
        for (spec, field) in [
            ("{}", None),
            (
                "{name: abc, list: [{number: 1, word: a, kind: K}], set: ['*']}",
                None,
            ),
            ("{name: 12345, list: 1, set: 1}", None),
            ("{name: ''}", Some("spec.name")),
            ("{name: abcd}", Some("spec.name")),
            ("{list: []}", Some("spec.list")),
            (
                "{list: [{number: 1}, {number: 10}]}",
                Some("spec.list[1].number"),
            ),
            ("{list: [{number: 1, word: c}]}", Some("spec.list[0].word")),
            (
                "{list: [{number: 1, kind: 'a-'}]}",
                Some("spec.list[0].kind"),
            ),
            ("{set: [a, b, a]}", Some("spec.set")),
            ("{set: ['*', b]}", Some("spec.set")),
            ("{map: {a: b, c: d}}", None),
            ("{map: {a: b, c: d, e: f}}", Some("spec.map")),
            ("{map: {a/b: c}}", Some("spec.map")),
            ("{map: {a: bcd}}", Some("spec.map.a")),
        ] {
            assert_eq!(refused(spec).as_deref(), field, "{spec}");
        }
    }

    #[test]
    fn forms() {
        for text in ["a", "a.b-c.d1"] {
            assert!(is_subdomain(text) && is_group(text), "{text}");
        }
        for text in ["A", "a..b", "-a", "a-", "a_b", ".a"] {
            assert!(!is_subdomain(text) && !is_group(text), "{text}");
        }
        assert!(is_group("") && !is_subdomain(""));
        assert!(is_hostname("*.a.test") && !is_hostname("*") && !is_hostname("a.*"));
        assert!(is_token("x-a_b") && !is_token("a b") && !is_token(""));
        for (text, expected) in [
            ("a b", true),
            ("50%", true),
            ("a  b", false),
            (" a", false),
            ("a ", false),
            ("é", false),
            ("a\u{7}", false),
        ] {
            assert_eq!(is_header_value(text), expected, "{text:?}");
        }
    }
}
