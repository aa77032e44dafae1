//! The tables against the descriptors of the API: every field of every message stands in its table, under
//! its name and as what it is.

use std::collections::BTreeSet;

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use waypoint_config::model::balance::endpoint_set;
use waypoint_config::model::cluster;
use waypoint_config::model::cluster::delivered_secret;
use waypoint_config::model::discovered;
use waypoint_config::model::listener;
use waypoint_config::model::listener::originate;
use waypoint_config::model::route;
use waypoint_filters::xds::coverage::{Content, Field, Shape, Status, Table};

/// The tables that resources are held against, and all that they lead to, in the order of the first mention.
/// With each, the fields that lead to it.
pub(crate) fn tables() -> Vec<(&'static Table, Vec<String>)> {
    let mut found: Vec<(&'static Table, Vec<String>)> = Vec::new();
    for (root, from) in [
        (&cluster::CLUSTER, None),
        (&endpoint_set::CLUSTER_LOAD_ASSIGNMENT, None),
        (&listener::LISTENER, None),
        (
            &originate::ORIGINATE_CHAIN,
            Some("connect_originate.filter_chains"),
        ),
        (&route::ROUTE_CONFIGURATION, None),
        (&discovered::EXTENSION, None),
        (&delivered_secret::SECRET, None),
    ] {
        add(root, from.map(str::to_owned), &mut found);
    }
    found
}

fn add(
    table: &'static Table,
    from: Option<String>,
    found: &mut Vec<(&'static Table, Vec<String>)>,
) {
    if let Some((_, ways)) = found.iter_mut().find(|(t, _)| std::ptr::eq(*t, table)) {
        ways.extend(from);
        return;
    }
    found.push((table, from.into_iter().collect()));
    for field in table.fields {
        let way = || Some(format!("{}.{}", table.name, field.name));
        match field.content {
            Content::Plain => {}
            Content::Message(inner) => add(inner, way(), found),
            Content::Any(types) => {
                for inner in types.iter().copied().flatten() {
                    add(inner, way(), found);
                }
            }
        }
    }
}

pub(crate) fn pool() -> DescriptorPool {
    waypoint_config::dump::descriptors::pool().unwrap()
}

#[test]
fn every_field_of_every_message_stands_in_its_table() {
    let pool = pool();
    let tables = tables();
    assert!(tables.len() > 100, "{}", tables.len());
    let mut wrong = Vec::new();
    for (table, _) in tables {
        match pool.get_message_by_name(table.name) {
            Some(message) => hold(table, &message, &mut wrong),
            None => wrong.push(format!("{}: no such message", table.name)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn hold(table: &Table, message: &MessageDescriptor, wrong: &mut Vec<String>) {
    let listed = table.fields.iter().map(|f| (f.number, f.name));
    let listed: Vec<(u32, &str)> = listed.chain(table.refused()).collect();
    let numbers: BTreeSet<u32> = listed.iter().map(|(number, _)| *number).collect();
    let mut complain = |what: String| wrong.push(format!("{}: {what}", table.name));
    if numbers.len() != listed.len() {
        complain("a field stands twice".to_owned());
    }
    if !table.fields.is_sorted_by_key(|field| field.number) {
        complain("fields aren't in order".to_owned());
    }
    for field in message.fields() {
        if !listed.contains(&(field.number(), field.name())) {
            complain(format!("{} {} is missing", field.number(), field.name()));
        }
    }
    if listed.len() != message.fields().len() {
        complain("lists a field that the message does not have".to_owned());
    }
    for field in table.fields {
        match message.get_field(field.number) {
            Some(descriptor) if shape_is(field, &descriptor) && content_is(field, &descriptor) => {}
            _ => complain(format!("{} isn't what it says", field.name)),
        }
    }
    if table.required.len() > 32 {
        complain("requires more than the walk keeps in mind".to_owned());
    }
    for required in table.required {
        let oneof = message.oneofs().find(|oneof| oneof.name() == required.name);
        let members: BTreeSet<u32> = match oneof {
            Some(oneof) => oneof.fields().map(|field| field.number()).collect(),
            None => message
                .get_field_by_name(required.name)
                .map(|field| field.number())
                .into_iter()
                .collect(),
        };
        let settable = |number: &u32| table.field(*number).is_some();
        let may: BTreeSet<u32> = members.into_iter().filter(settable).collect();
        if may.is_empty() || may != required.any_of.iter().copied().collect() {
            complain(format!("required {} is not {may:?}", required.name));
        }
    }
}

fn shape_is(field: &Field, descriptor: &FieldDescriptor) -> bool {
    match field.shape {
        Shape::One => !descriptor.is_list() && !descriptor.is_map(),
        Shape::List => descriptor.is_list(),
        Shape::Map => descriptor.is_map(),
        Shape::Named(number) => {
            let name = descriptor.kind();
            let name = name.as_message().and_then(|m| m.get_field(number));
            descriptor.is_list() && name.is_some_and(|name| name.kind() == Kind::String)
        }
    }
}

/// What is honoured is looked into; what is harmless may be passed over.
fn content_is(field: &Field, descriptor: &FieldDescriptor) -> bool {
    let kind = match descriptor.kind() {
        Kind::Message(entry) if descriptor.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    match (field.content, &kind) {
        (Content::Any(_), Kind::Message(message)) => message.full_name() == "google.protobuf.Any",
        (Content::Message(table), Kind::Message(message)) => message.full_name() == table.name,
        (Content::Plain, Kind::Message(_)) => field.status != Status::Honoured,
        (Content::Plain, _) => true,
        _ => false,
    }
}
