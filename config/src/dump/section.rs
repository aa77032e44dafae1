//! The parts of a dump: a section is one `envoy.admin.v3` message, which holds resources in lists.

use std::sync::Arc;

use bytes::Bytes;
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage, Value};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::dump::field_mask::Mask;
use crate::dump::protojson::Printer;

/// One section.
pub(super) struct Section {
    /// The message's full name.
    name: String,
    /// The message itself, without its lists.
    head: Bytes,
    lists: Vec<(&'static str, Vec<Item>)>,
}

/// One element of a list: a message of the admin API around a resource in an `Any`.
pub(super) struct Item {
    pub(super) name: Arc<str>,
    /// The message's full name.
    element: String,
    /// The message without the resource.
    around: Bytes,
    /// The fields that lead to the resource.
    path: &'static [&'static str],
    /// Type URL and bytes; `None`: there is none.
    resource: Option<(&'static str, Bytes)>,
}

impl Item {
    pub(super) fn new<M: Message + Name>(
        name: Arc<str>,
        around: &M,
        path: &'static [&'static str],
        resource: Option<(&'static str, Bytes)>,
    ) -> Item {
        Item {
            name,
            element: M::full_name(),
            around: around.encode_to_vec().into(),
            path,
            resource,
        }
    }

    fn message(&self, printer: &Printer) -> Option<DynamicMessage> {
        let mut message = printer.message(&self.element, self.around.clone())?;
        if let Some((type_url, body)) = &self.resource {
            let any = printer.any(type_url, body.clone())?;
            set(&mut message, self.path, any);
        }
        Some(message)
    }

    /// The element; with its type where it stands alone.
    pub(super) fn json<'a>(&'a self, to: &'a To<'a>, alone: bool) -> impl Serialize + 'a {
        ItemJson {
            item: self,
            to,
            alone,
        }
    }
}

/// Sets the field that `path` leads to.
fn set(message: &mut DynamicMessage, path: &[&str], value: DynamicMessage) {
    match path {
        [] => {}
        [field] => {
            // Descriptors and generated types are of one version; a field that isn't there isn't printed.
            let _ = message.try_set_field_by_name(field, Value::Message(value));
        }
        [field, rest @ ..] => {
            if let Some(Value::Message(inner)) = message.get_field_by_name_mut(field) {
                set(inner, rest, value);
            }
        }
    }
}

impl Section {
    pub(super) fn new<M: Message + Name>(head: &M) -> Section {
        Section {
            name: M::full_name(),
            head: head.encode_to_vec().into(),
            lists: Vec::new(),
        }
    }

    /// Adds a list, which may be empty: then it isn't printed.
    pub(super) fn list(mut self, field: &'static str, items: Vec<Item>) -> Section {
        self.lists.push((field, items));
        self
    }

    pub(super) fn has_list(&self, field: &str) -> bool {
        self.lists.iter().any(|(name, _)| *name == field)
    }

    pub(super) fn items(&self, field: &str) -> &[Item] {
        let list = self.lists.iter().find(|(name, _)| *name == field);
        list.map_or(&[], |(_, items)| items)
    }

    /// Keeps the resources with these names.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        for (_, items) in &mut self.lists {
            items.retain(|item| keep(&item.name));
        }
    }

    pub(super) fn json<'a>(&'a self, to: &'a To<'a>) -> impl Serialize + 'a {
        SectionJson { section: self, to }
    }

    /// Whether the section's message has one of the mask's fields, set or not.
    pub(super) fn is_wanted(&self, to: &To<'_>) -> bool {
        let Some(message) = to.printer.message(&self.name, Bytes::new()) else {
            return false;
        };
        let asked = |field: FieldDescriptor| to.mask.of(field.name()).is_some();
        message.descriptor().fields().any(asked)
    }
}

/// How to print.
pub(super) struct To<'a> {
    pub(super) printer: &'a Printer,
    pub(super) mask: &'a Mask,
}

struct SectionJson<'a> {
    section: &'a Section,
    to: &'a To<'a>,
}

impl Serialize for SectionJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let SectionJson { section, to } = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("@type", &type_url(&section.name))?;
        if let Some(head) = to.printer.message(&section.name, section.head.clone()) {
            to.printer.entries(&head, to.mask, &mut map)?;
        }
        for (field, items) in &section.lists {
            match to.mask.of(field) {
                Some(mask) if !items.is_empty() => {
                    let printer = to.printer;
                    let to = &To { printer, mask };
                    map.serialize_entry(field, &Items { items, to })?;
                }
                _ => {}
            }
        }
        map.end()
    }
}

struct Items<'a> {
    items: &'a [Item],
    to: &'a To<'a>,
}

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.items.iter().map(|item| item.json(self.to, false)))
    }
}

struct ItemJson<'a> {
    item: &'a Item,
    to: &'a To<'a>,
    alone: bool,
}

impl Serialize for ItemJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ItemJson { item, to, alone } = *self;
        let mut map = serializer.serialize_map(None)?;
        if alone {
            map.serialize_entry("@type", &type_url(&item.element))?;
        }
        if let Some(message) = item.message(to.printer) {
            to.printer.entries(&message, to.mask, &mut map)?;
        }
        map.end()
    }
}

fn type_url(name: &str) -> String {
    format!("type.googleapis.com/{name}")
}
