//! The walk over a message's bytes along its table.
//!
//! It allocates nothing unless it refuses: the path of a refusal is put together on the way back up, and
//! positions in lists are counted then.

use bytes::Buf;
use envoy_types::pb::google::protobuf::Any;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::xds::coverage::{Content, Field, Shape, Status, Table, Types};
use crate::xds::rejected::Refusal;

/// Messages nested deeper than this are refused; prost itself stops at 100 within one `Any`.
const MAX_DEPTH: usize = 128;
/// Fields of a map's entry and of an `Any`.
const KEY: u32 = 1;
const VALUE: u32 = 2;
const TYPE_URL: u32 = 1;

/// Refuses `bytes` where they set what `table` doesn't list, or leave out what it requires.
///
/// # Errors
/// The first such field, with its path.
pub fn check(bytes: &[u8], table: &Table) -> Result<(), Refusal> {
    walk(bytes, table, 0)
}

/// Decodes `bytes` once they are found to be covered by `table`, the table of `M`.
///
/// # Errors
/// As [`check`]; or they are no such message.
pub fn decode<M: prost::Message + Default>(bytes: &[u8], table: &Table) -> Result<M, Refusal> {
    check(bytes, table)?;
    M::decode(bytes).map_err(|error| Refusal::new("", error.to_string()))
}

/// Decodes the value of an `Any` inside bytes that [`check`] has found to be covered.
///
/// # Errors
/// It is no such message.
pub fn decode_any<M: prost::Message + Default>(any: &Any) -> Result<M, Refusal> {
    M::decode(any.value.as_slice()).map_err(|error| Refusal::new("typed_config", error.to_string()))
}

fn walk(bytes: &[u8], table: &Table, depth: usize) -> Result<(), Refusal> {
    if depth > MAX_DEPTH {
        return Err(Refusal::new("", "is nested too deeply"));
    }
    let mut set = 0u32;
    let mut rest = bytes;
    while !rest.is_empty() {
        let before = bytes.len() - rest.len();
        let (number, content) = next(&mut rest)?;
        let Some(field) = table.field(number) else {
            return Err(refuse(table, number));
        };
        for (i, required) in table.required.iter().enumerate() {
            if required.any_of.contains(&number) {
                set |= 1 << i;
            }
        }
        enter(field, content, depth + 1)
            .map_err(|refusal| refusal.within(label(field, content, bytes, before)))?;
    }
    match (table.required.iter().enumerate()).find(|(i, _)| set & (1 << i) == 0) {
        Some((_, required)) => Err(Refusal::missing(required.name)),
        None => Ok(()),
    }
}

/// Takes a field off the front: its number and, where it has a length, its bytes.
fn next<'a>(rest: &mut &'a [u8]) -> Result<(u32, Option<&'a [u8]>), Refusal> {
    let malformed = |error: prost::DecodeError| Refusal::new("", error.to_string());
    let (number, wire_type) = decode_key(rest).map_err(malformed)?;
    if wire_type != WireType::LengthDelimited {
        skip_field(wire_type, number, rest, DecodeContext::default()).map_err(malformed)?;
        return Ok((number, None));
    }
    let length = decode_varint(rest).map_err(malformed)?;
    let bytes: &'a [u8] = rest;
    let content = usize::try_from(length)
        .ok()
        .and_then(|length| bytes.get(..length));
    let content = content.ok_or_else(|| Refusal::new("", "ends in the middle of a field"))?;
    rest.advance(content.len());
    Ok((number, Some(content)))
}

/// Looks into a field's value.
fn enter(field: &Field, bytes: Option<&[u8]>, depth: usize) -> Result<(), Refusal> {
    // What is left out is left to the conversion, whatever it holds.
    if let Status::LeftOut(_) = field.status {
        return Ok(());
    }
    if let (Content::Plain, Shape::One | Shape::List | Shape::Named(_)) =
        (field.content, field.shape)
    {
        return Ok(());
    }
    let mut bytes = bytes.ok_or_else(|| Refusal::new("", "is no message"))?;
    if field.shape == Shape::Map {
        bytes = entry(bytes)?.1;
    }
    match field.content {
        Content::Plain => Ok(()),
        Content::Message(table) => walk(bytes, table, depth),
        Content::Any(types) => any(bytes, types, depth),
    }
}

/// A map entry's key and value. What isn't there is empty, as decoding has it.
fn entry(mut rest: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let mut key: &[u8] = &[];
    let mut value = None;
    while !rest.is_empty() {
        match next(&mut rest)? {
            (KEY, Some(bytes)) => key = bytes,
            // Decoding would merge them.
            (VALUE, _) if value.is_some() => return Err(Refusal::new("", "has two values")),
            (VALUE, bytes) => value = Some(bytes.unwrap_or_default()),
            (number, _) => return Err(unknown(number)),
        }
    }
    Ok((key, value.unwrap_or_default()))
}

fn any(mut rest: &[u8], types: Types, depth: usize) -> Result<(), Refusal> {
    let (mut type_url, mut value): (&[u8], &[u8]) = (&[], &[]);
    while !rest.is_empty() {
        match next(&mut rest)? {
            (TYPE_URL, Some(bytes)) => type_url = bytes,
            (VALUE, Some(bytes)) => value = bytes,
            (number, _) => return Err(unknown(number)),
        }
    }
    let type_url = String::from_utf8_lossy(type_url);
    let mut known = types.iter().copied().flatten();
    match known.find(|table| table.has_type_url(&type_url)) {
        Some(table) => walk(value, table, depth),
        None => Err(Refusal::new("", format!("type {type_url} is not built in"))),
    }
}

fn refuse(table: &Table, number: u32) -> Refusal {
    match table.refused().find(|(refused, _)| *refused == number) {
        Some((_, name)) => Refusal::unsupported(name),
        None => unknown(number),
    }
}

fn unknown(number: u32) -> Refusal {
    Refusal::new(
        "",
        format!("has a field, number {number}, that this version does not know"),
    )
}

/// The field's name, and for an element of several which one. `before` is where the field starts.
fn label(field: &Field, content: Option<&[u8]>, bytes: &[u8], before: usize) -> String {
    let name = field.name;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (field.shape, content) {
        (Shape::Map, Some(content)) => {
            let key = entry(content).map(|(key, _)| key).unwrap_or_default();
            format!("{name}[{:?}]", text(key))
        }
        (Shape::Named(number), Some(content)) => {
            format!("{name}[{:?}]", text(first(content, number)))
        }
        (Shape::List, _) => {
            let earlier = bytes.get(..before).unwrap_or_default();
            format!("{name}[{}]", count(earlier, field.number))
        }
        _ => name.to_owned(),
    }
}

/// The bytes of the first field with this number.
fn first(mut rest: &[u8], wanted: u32) -> &[u8] {
    while !rest.is_empty() {
        match next(&mut rest) {
            Ok((number, Some(bytes))) if number == wanted => return bytes,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    &[]
}

fn count(mut rest: &[u8], wanted: u32) -> usize {
    let mut count = 0;
    while !rest.is_empty() {
        match next(&mut rest) {
            Ok((number, _)) => count += usize::from(number == wanted),
            Err(_) => break,
        }
    }
    count
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::rbac::v3::{
        Permission, Policy, Principal, Rbac, permission::Rule, permission::Set,
        principal::Identifier,
    };
    use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as Filter;
    use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
        HttpFilter, http_filter::ConfigType,
    };
    use prost::Message as _;

    use super::*;
    use crate::xds::coverage::honoured;
    use crate::xds::coverage::required;

    static CHAIN: Table = Table {
        name: "test.Chain",
        fields: &[honoured(5, "http_filters").named(1).of(&FILTER)],
        refused: "1 codec_type, 6 add_user_agent",
        required: &[required("http_filters", &[5])],
    };

    static FILTER: Table = Table {
        name: "test.Filter",
        fields: &[
            honoured(1, "name"),
            honoured(4, "typed_config").any(&[crate::http::TABLES]),
        ],
        refused: "",
        required: &[],
    };

    /// As permissions are: each may hold another.
    static NOT: Table = Table {
        name: "test.Not",
        fields: &[honoured(3, "any"), honoured(8, "not_rule").of(&NOT)],
        refused: "",
        required: &[required("rule", &[3, 8])],
    };

    /// A chain of one RBAC filter with one policy.
    fn chain(permission: Permission) -> Vec<u8> {
        let policy = Policy {
            permissions: vec![permission],
            principals: vec![Principal {
                identifier: Some(Identifier::Any(true)),
            }],
            ..Policy::default()
        };
        let rbac = Filter {
            rules: Some(Rbac {
                policies: HashMap::from([("p".to_owned(), policy)]),
                ..Rbac::default()
            }),
            ..Filter::default()
        };
        let any = Any {
            type_url: "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC".into(),
            value: rbac.encode_to_vec(),
        };
        let filter = HttpFilter {
            name: "envoy.filters.http.rbac".into(),
            config_type: Some(ConfigType::TypedConfig(any)),
            ..HttpFilter::default()
        };
        let mut bytes = Vec::new();
        prost::encoding::message::encode(5, &filter, &mut bytes);
        bytes
    }

    fn allow(rule: Rule) -> Permission {
        Permission { rule: Some(rule) }
    }

    fn refusal(bytes: &[u8]) -> String {
        check(bytes, &CHAIN).unwrap_err().to_string()
    }

    #[test]
    fn a_refusal_names_its_way_through_lists_maps_and_types() {
        let set = |rules| Rule::OrRules(Set { rules });
        let known = set(vec![
            allow(Rule::Any(true)),
            allow(Rule::DestinationPort(80)),
        ]);
        assert_eq!(check(&chain(allow(known)), &CHAIN), Ok(()));

        let unset = set(vec![allow(Rule::Any(true)), Permission { rule: None }]);
        assert_eq!(
            refusal(&chain(allow(unset))),
            "http_filters[\"envoy.filters.http.rbac\"].typed_config.rules.policies[\"p\"]\
             .permissions[0].or_rules.rules[1].rule: is required but not set"
        );
        let refused = Rule::SourcedMetadata(Default::default());
        assert_eq!(
            refusal(&chain(allow(refused))),
            "http_filters[\"envoy.filters.http.rbac\"].typed_config.rules.policies[\"p\"]\
             .permissions[0].sourced_metadata: is not supported"
        );
    }

    #[test]
    fn a_field_of_a_newer_version_is_refused_at_any_depth() {
        // `not_rule` (field 8) of a permission with field 1000, a varint, after what is known.
        let mut inner = allow(Rule::Any(true)).encode_to_vec();
        inner.extend_from_slice(&[0xc0, 0x3e, 0x01]);
        let mut outer = Vec::new();
        prost::encoding::bytes::encode(8, &inner, &mut outer);
        assert_eq!(
            check(&outer, &NOT).unwrap_err().to_string(),
            "not_rule: has a field, number 1000, that this version does not know"
        );
    }

    #[test]
    fn what_is_required_is_required_in_a_map_entry_without_a_value() {
        static HOLDER: Table = Table {
            name: "test.Holder",
            fields: &[honoured(1, "permissions").map().of(&NOT)],
            refused: "",
            required: &[],
        };
        // An entry with the key `a` alone.
        let bytes = [0x0a, 3, 0x0a, 1, b'a'];
        assert_eq!(
            check(&bytes, &HOLDER).unwrap_err().to_string(),
            "permissions[\"a\"].rule: is required but not set"
        );
        // Two values, of which the first sets nothing; decoding would merge them.
        let bytes = [0x0a, 9, 0x0a, 1, b'a', 0x12, 0, 0x12, 2, 0x18, 1];
        assert_eq!(
            check(&bytes, &HOLDER).unwrap_err().to_string(),
            "permissions[\"\"]: has two values"
        );
        assert_eq!(refusal(&[]), "http_filters: is required but not set");
    }

    #[test]
    fn types_without_a_table_are_refused() {
        let mut filter = HttpFilter {
            name: "lua".into(),
            config_type: Some(ConfigType::TypedConfig(Any {
                type_url: "type.googleapis.com/a.Lua".into(),
                value: vec![],
            })),
            ..HttpFilter::default()
        };
        let mut bytes = Vec::new();
        prost::encoding::message::encode(5, &filter, &mut bytes);
        assert_eq!(
            refusal(&bytes),
            "http_filters[\"lua\"].typed_config: type type.googleapis.com/a.Lua is not built in"
        );
        filter.is_optional = true;
        assert!(check(&filter.encode_to_vec(), &FILTER).is_err());
    }

    #[test]
    fn cut_and_garbled_bytes_are_refused_and_nothing_panics() {
        let bytes = chain(allow(Rule::Any(true)));
        for end in 1..bytes.len() {
            assert!(check(&bytes[..end], &CHAIN).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut garbled = bytes.clone();
            garbled[at] ^= 0xff;
            let _ = check(&garbled, &CHAIN);
        }
        // A length that is longer than any address space.
        assert!(
            check(
                &[0x2a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
                &CHAIN
            )
            .is_err()
        );
        // Each `not_rule` holds the next.
        let mut deep = vec![];
        for _ in 0..200 {
            let mut outer = Vec::new();
            prost::encoding::bytes::encode(8, &deep, &mut outer);
            deep = outer;
        }
        let refusal = check(&deep, &NOT).unwrap_err();
        assert!(refusal.reason.contains("nested too deeply"), "{refusal}");
    }
}
