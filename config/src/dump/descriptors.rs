//! The descriptors of every message that a waypoint may be sent, for printing them as JSON.
//!
//! Conversions don't need them: they read the generated types. The decoded pool is some 16 MB, so nobody
//! keeps one: it is made for one answer, in tens of milliseconds, and dropped with it.
//! `config/descriptors/make.sh` makes the file.

use prost_reflect::DescriptorPool;

static DESCRIPTORS: &[u8] = include_bytes!("../../descriptors/descriptors.bin");
static SENSITIVE: &str = include_str!("../../descriptors/sensitive.txt");

/// Makes the pool. `None` only if the file isn't what the build put there.
pub fn pool() -> Option<DescriptorPool> {
    match DescriptorPool::decode(DESCRIPTORS) {
        Ok(pool) => Some(pool),
        Err(error) => {
            tracing::error!(%error, "descriptors can't be read");
            None
        }
    }
}

/// The full names of the fields that nobody may be shown.
pub fn sensitive() -> impl Iterator<Item = &'static str> {
    SENSITIVE.lines()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use prost_reflect::{DynamicMessage, SerializeOptions};

    use super::*;
    use crate::sources::recorded;

    /// Configured by a `Struct` inside a `TypedStruct`: no message of these types is ever sent.
    const STRUCTS: [&str; 1] = ["envoy.tcp.metadataexchange.config.MetadataExchange"];
    const PACKAGES: [&str; 6] = ["envoy.", "google.", "istio.", "stats.", "udpa.", "xds."];

    fn named_in(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                named_in(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                for rest in source.split("type.googleapis.com/").skip(1) {
                    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"._".contains(c));
                    let name = &rest[..end.unwrap_or(rest.len())];
                    // What ends in a dot is put together with its last part elsewhere.
                    if PACKAGES.iter().any(|p| name.starts_with(p)) && !name.ends_with('.') {
                        found.insert(name.to_owned());
                    }
                }
            }
        }
    }

    /// Those that are written out as type URLs; tables are held against the descriptors in `tests/coverage/`.
    #[test]
    fn every_type_url_in_the_source_is_described() {
        let pool = pool().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut named = BTreeSet::new();
        named_in(&root.join("src"), &mut named);
        named_in(&root.join("../filters/src"), &mut named);
        assert!(named.len() > 15, "{named:?}");
        named.retain(|name| !STRUCTS.contains(&name.as_str()));
        named.retain(|name| pool.get_message_by_name(name).is_none());
        assert!(named.is_empty(), "{named:?}");
    }

    /// Printing a message looks up every type inside, at any depth.
    #[test]
    fn all_that_was_recorded_can_be_printed() {
        let pool = pool().unwrap();
        let options = SerializeOptions::new();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut printed = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "pb") {
                continue;
            }
            for resource in recorded::read(&std::fs::read(&path).unwrap()).unwrap() {
                let url = resource.kind.type_url();
                let (_, name) = url.split_once('/').unwrap();
                let descriptor = pool.get_message_by_name(name).unwrap();
                let message = DynamicMessage::decode(descriptor, resource.body).unwrap();
                let text = message.serialize_with_options(serde_json::value::Serializer, &options);
                assert!(text.is_ok(), "{path:?} {}: {text:?}", resource.name);
                printed += 1;
            }
        }
        assert!(printed > 100, "{printed}");
    }
}
