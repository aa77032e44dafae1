//! Protobuf messages as trees of fields, without a schema: enough to compare two encodings of one message
//! and to say where they differ.
//!
//! A length-delimited field that parses as a message is shown as one, which is the same for equal bytes.
//! Maps have no order, so repeated fields that look like map entries (a string in field 1, nothing but
//! field 2 besides) are sorted; so are those that the caller names.

use std::collections::BTreeMap;

use prost::encoding::{WireType, decode_key, decode_varint};

#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub(crate) enum Tree {
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
    Message(BTreeMap<u32, Vec<Tree>>),
}

impl Tree {
    /// `sorted` are field numbers that are sorted at any depth.
    pub(crate) fn of(message: &[u8], sorted: &[u32]) -> Tree {
        Tree::Message(fields(message, sorted, 0).expect("a message"))
    }

    /// The same with equal neighbours in a repeated field counted once.
    pub(crate) fn without_twins(self) -> Tree {
        let Tree::Message(fields) = self else {
            return self;
        };
        let fields = fields.into_iter().map(|(field, trees)| {
            let mut once: Vec<Tree> = Vec::new();
            for tree in trees.into_iter().map(Tree::without_twins) {
                if !once.contains(&tree) {
                    once.push(tree);
                }
            }
            (field, once)
        });
        Tree::Message(fields.collect())
    }

    /// Paths at which two trees differ, with both values.
    pub(crate) fn differences(&self, other: &Tree) -> Vec<String> {
        let mut found = Vec::new();
        compare("", Some(self), Some(other), &mut found);
        found
    }
}

fn compare(path: &str, left: Option<&Tree>, right: Option<&Tree>, found: &mut Vec<String>) {
    match (left, right) {
        (Some(Tree::Message(left)), Some(Tree::Message(right))) => {
            let fields: std::collections::BTreeSet<&u32> =
                left.keys().chain(right.keys()).collect();
            for field in fields {
                let none = Vec::new();
                let (left, right) = (
                    left.get(field).unwrap_or(&none),
                    right.get(field).unwrap_or(&none),
                );
                for index in 0..left.len().max(right.len()) {
                    let path = format!("{path}/{field}[{index}]");
                    compare(&path, left.get(index), right.get(index), found);
                }
            }
        }
        (left, right) if left == right => {}
        (left, right) => found.push(format!("{path}: {} instead of {}", show(left), show(right))),
    }
}

fn show(tree: Option<&Tree>) -> String {
    let text = tree.map_or_else(|| "nothing".to_owned(), |tree| format!("{tree:?}"));
    text.chars().take(400).collect()
}

fn fields(mut message: &[u8], sorted: &[u32], depth: usize) -> Option<BTreeMap<u32, Vec<Tree>>> {
    let mut found: BTreeMap<u32, Vec<Tree>> = BTreeMap::new();
    if depth > 60 {
        return None;
    }
    while !message.is_empty() {
        let (field, wire_type) = decode_key(&mut message).ok()?;
        let tree = match wire_type {
            WireType::Varint => Tree::Number(decode_varint(&mut message).ok()?),
            WireType::SixtyFourBit => {
                let (value, rest) = message.split_at_checked(8)?;
                message = rest;
                Tree::Number(u64::from_le_bytes(value.try_into().ok()?))
            }
            WireType::ThirtyTwoBit => {
                let (value, rest) = message.split_at_checked(4)?;
                message = rest;
                Tree::Number(u32::from_le_bytes(value.try_into().ok()?).into())
            }
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
                let (value, rest) = message.split_at_checked(length)?;
                message = rest;
                delimited(value, sorted, depth)
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        found.entry(field).or_default().push(tree);
    }
    for (field, trees) in &mut found {
        if sorted.contains(field) || (trees.len() > 1 && trees.iter().all(is_map_entry)) {
            trees.sort_by(|a, b| a.partial_cmp(b).expect("no floats"));
        }
    }
    Some(found)
}

fn delimited(value: &[u8], sorted: &[u32], depth: usize) -> Tree {
    let printable = std::str::from_utf8(value)
        .ok()
        .filter(|text| text.len() > 2 && text.chars().all(|c| !c.is_control() || c == '\n'));
    match printable {
        Some(text) => Tree::Text(text.to_owned()),
        None => match fields(value, sorted, depth + 1) {
            Some(fields) => Tree::Message(fields),
            None => match std::str::from_utf8(value) {
                Ok(text) => Tree::Text(text.to_owned()),
                Err(_) => Tree::Bytes(value.to_vec()),
            },
        },
    }
}

fn is_map_entry(tree: &Tree) -> bool {
    let Tree::Message(fields) = tree else {
        return false;
    };
    let is_key = |trees: &Vec<Tree>| matches!(trees.as_slice(), [Tree::Text(_)]);
    fields.get(&1).is_some_and(is_key) && fields.keys().all(|field| *field <= 2)
}
