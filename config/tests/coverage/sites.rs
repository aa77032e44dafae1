//! Where messages stand inside others, as the tables lead to them.

use waypoint_filters::xds::coverage::{Content, Shape, Status, Table};

use crate::wire;

/// A message inside another.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) table: &'static Table,
    /// From the outermost message: field numbers, each with its how-manieth.
    pub(crate) path: Vec<(u32, usize)>,
    /// The tables on the way, the outermost first, its own last.
    pub(crate) tables: Vec<&'static Table>,
    /// Whether it stands in what is left out.
    pub(crate) left_out: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Site {
    /// Whether it is of this table, and nothing that it stands in is.
    pub(crate) fn is_first_of(&self, table: &Table) -> bool {
        let mut of_table = self.tables.iter().filter(|t| std::ptr::eq(**t, table));
        of_table.next().is_some() && of_table.next().is_none() && std::ptr::eq(self.table, table)
    }

    /// Whether the way to it leads through this table.
    pub(crate) fn is_within(&self, table: &Table) -> bool {
        self.tables.iter().any(|t| std::ptr::eq(*t, table))
    }
}

/// All messages that the tables know in `bytes`, the outermost first.
pub(crate) fn sites(table: &'static Table, bytes: &[u8]) -> Vec<Site> {
    let mut found = Vec::new();
    let outermost = Site {
        table,
        path: Vec::new(),
        tables: vec![table],
        left_out: false,
        bytes: bytes.to_vec(),
    };
    collect(outermost, &mut found);
    found
}

fn collect(site: Site, found: &mut Vec<Site>) {
    found.push(site.clone());
    let mut counts = std::collections::HashMap::new();
    for raw in wire::fields(&site.bytes) {
        let which = counts.entry(raw.number).or_insert(0usize);
        let step = (raw.number, *which);
        *which += 1;
        let (Some(field), Some(content)) = (site.table.field(raw.number), raw.content) else {
            continue;
        };
        let mut path = site.path.clone();
        path.push(step);
        let mut bytes = content.to_vec();
        if field.shape == Shape::Map {
            path.push((2, 0));
            bytes = part(&bytes, 2);
        }
        let inner = match field.content {
            Content::Plain => continue,
            Content::Message(table) => table,
            Content::Any(types) => {
                let type_url = String::from_utf8(part(&bytes, 1)).unwrap();
                let mut types = types.iter().copied().flatten();
                let Some(table) = types.find(|table| table.has_type_url(&type_url)) else {
                    continue;
                };
                path.push((2, 0));
                bytes = part(&bytes, 2);
                table
            }
        };
        let mut tables = site.tables.clone();
        tables.push(inner);
        collect(
            Site {
                table: inner,
                path,
                tables,
                left_out: site.left_out || matches!(field.status, Status::LeftOut(_)),
                bytes,
            },
            found,
        );
    }
}

/// The message without what its table refuses, as far down as that helps; `None`: it is needed.
pub(crate) fn honoured_part(table: &Table, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for raw in wire::fields(bytes) {
        let Some(field) = table.field(raw.number) else {
            continue;
        };
        let (Some(content), false) = (raw.content, matches!(field.status, Status::LeftOut(_)))
        else {
            out.extend_from_slice(raw.all);
            continue;
        };
        let value = match field.shape {
            Shape::Map => part(content, 2),
            _ => content.to_vec(),
        };
        let kept = match field.content {
            Content::Plain => Some(value),
            Content::Message(table) => honoured_part(table, &value),
            Content::Any(types) => {
                let type_url = String::from_utf8(part(&value, 1)).unwrap();
                let mut types = types.iter().copied().flatten();
                let table = types.find(|table| table.has_type_url(&type_url));
                let inner = table.and_then(|table| honoured_part(table, &part(&value, 2)));
                inner.map(|inner| {
                    let key = wire::with_length(1, type_url.as_bytes());
                    [key, wire::with_length(2, &inner)].concat()
                })
            }
        };
        let Some(kept) = kept else { continue };
        let content = match field.shape {
            Shape::Map => {
                let key = wire::with_length(1, &part(content, 1));
                [key, wire::with_length(2, &kept)].concat()
            }
            _ => kept,
        };
        out.extend_from_slice(&wire::with_length(raw.number, &content));
    }
    let set: Vec<u32> = wire::fields(&out).iter().map(|f| f.number).collect();
    let is_set = |numbers: &[u32]| numbers.iter().any(|number| set.contains(number));
    let complete = table.required.iter().all(|r| is_set(r.any_of));
    complete.then_some(out)
}

fn part(bytes: &[u8], number: u32) -> Vec<u8> {
    let fields = wire::fields(bytes).into_iter();
    let mut of_number = fields.filter(|field| field.number == number);
    of_number
        .next_back()
        .and_then(|f| f.content.map(<[u8]>::to_vec))
        .unwrap_or_default()
}
