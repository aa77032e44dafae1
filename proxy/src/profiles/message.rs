//! A profile in pprof's format: a protobuf message (`perftools.profiles.Profile`), packed with gzip.
//!
//! Names are in it: whoever reads it needs neither the program nor its symbols.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use crate::profiles::symbols::{Code, Name};

/// What was seen at one place of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The innermost first; each within the instruction that was at work.
    pub(super) stack: Vec<u64>,
    /// One for each of [`Recorded::kinds`].
    pub(super) values: Vec<i64>,
    pub(super) thread: Option<String>,
}

/// A profile before it has names.
#[derive(Debug)]
pub(super) struct Recorded {
    /// What is counted, in which unit. The last one is what readers show first.
    pub(super) kinds: &'static [(&'static str, &'static str)],
    pub(super) seen: Vec<Seen>,
    /// Between two samples: of what, in which unit, how much.
    pub(super) period: (&'static str, &'static str, i64),
    pub(super) began: SystemTime,
    pub(super) lasted: Duration,
    /// What a reader must know.
    pub(super) comment: String,
}

impl Recorded {
    /// As it is sent.
    pub(super) fn packed(&self, code: &mut Code) -> io::Result<Vec<u8>> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&self.profile(code).encode_to_vec())?;
        packed.finish()
    }

    fn profile(&self, code: &mut Code) -> Profile {
        let mut tables = Tables::new();
        let seen = self.seen.iter().filter(|seen| !seen.stack.is_empty());
        let samples = seen.map(|seen| tables.sample(seen, code)).collect();
        let kinds = self.kinds.iter();
        let kinds = kinds.map(|(kind, unit)| tables.value_type(kind, unit));
        let kinds: Vec<ValueType> = kinds.collect();
        let (kind, unit, period) = self.period;
        Profile {
            default_sample_type: kinds.last().map_or(0, |last| last.kind),
            samples,
            kinds,
            period_type: Some(tables.value_type(kind, unit)),
            period,
            time_nanos: nanos(self.began.duration_since(UNIX_EPOCH).unwrap_or_default()),
            duration_nanos: nanos(self.lasted),
            comments: vec![tables.string(&self.comment)],
            mappings: tables.mappings(code),
            locations: tables.locations,
            functions: tables.functions,
            strings: tables.strings,
        }
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Each string, function and place once.
struct Tables {
    strings: Vec<String>,
    string_ids: HashMap<String, i64>,
    functions: Vec<Function>,
    function_ids: HashMap<i64, u64>,
    locations: Vec<Location>,
    location_ids: HashMap<u64, u64>,
}

impl Tables {
    fn new() -> Tables {
        let mut tables = Tables {
            strings: Vec::new(),
            string_ids: HashMap::new(),
            functions: Vec::new(),
            function_ids: HashMap::new(),
            locations: Vec::new(),
            location_ids: HashMap::new(),
        };
        // The format wants the empty one first.
        tables.string("");
        tables
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(id) = self.string_ids.get(text) {
            return *id;
        }
        let id = self.strings.len() as i64;
        self.strings.push(text.to_owned());
        self.string_ids.insert(text.to_owned(), id);
        id
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType {
            kind: self.string(kind),
            unit: self.string(unit),
        }
    }

    fn sample(&mut self, seen: &Seen, code: &mut Code) -> Sample {
        let stack = seen.stack.iter();
        let locations = stack.map(|address| self.location(*address, code)).collect();
        let labels = seen.thread.iter().map(|thread| Label {
            key: self.string("thread"),
            text: self.string(thread),
        });
        Sample {
            labels: labels.collect(),
            locations,
            values: seen.values.clone(),
        }
    }

    fn location(&mut self, address: u64, code: &mut Code) -> u64 {
        if let Some(id) = self.location_ids.get(&address) {
            return *id;
        }
        let id = self.locations.len() as u64 + 1;
        let name = code.name(address);
        let lines = name.map(|name| Line {
            function: self.function(&name),
        });
        self.locations.push(Location {
            id,
            mapping: code.mapping(address).map_or(0, |index| index as u64 + 1),
            address,
            lines: lines.into_iter().collect(),
        });
        self.location_ids.insert(address, id);
        id
    }

    /// Readers leave a name as it is if the linker's differs, and else take generics out of it.
    fn function(&mut self, name: &Name) -> u64 {
        let system_name = self.string(&name.symbol);
        let name = self.string(&name.source);
        if let Some(id) = self.function_ids.get(&name) {
            return *id;
        }
        let id = self.functions.len() as u64 + 1;
        self.functions.push(Function {
            id,
            name,
            system_name,
        });
        self.function_ids.insert(name, id);
        id
    }

    fn mappings(&mut self, code: &Code) -> Vec<Mapping> {
        let mappings = code.mappings().iter().enumerate();
        let mappings = mappings.map(|(index, mapping)| Mapping {
            id: index as u64 + 1,
            start: mapping.start,
            end: mapping.end,
            offset: mapping.offset,
            file: self.string(&mapping.file),
            // Or readers would look for a file of that name to find some.
            has_functions: true,
        });
        mappings.collect()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    kinds: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mappings: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    locations: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    functions: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    strings: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comments: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    locations: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    values: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    labels: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    start: u64,
    #[prost(uint64, tag = "3")]
    end: u64,
    #[prost(uint64, tag = "4")]
    offset: u64,
    #[prost(int64, tag = "5")]
    file: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    lines: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_and_names_are_in_it_once() {
        let recorded = Recorded {
            kinds: &[("samples", "count"), ("cpu", "nanoseconds")],
            seen: vec![
                Seen {
                    stack: vec![1, 2],
                    values: vec![3, 30],
                    thread: Some("worker".to_owned()),
                },
                Seen {
                    stack: vec![3, 2],
                    values: vec![1, 10],
                    thread: None,
                },
                Seen {
                    stack: Vec::new(),
                    values: vec![1, 10],
                    thread: None,
                },
            ],
            period: ("cpu", "nanoseconds", 10),
            began: UNIX_EPOCH + Duration::from_secs(7),
            lasted: Duration::from_millis(5),
            comment: "as it is".to_owned(),
        };
        let profile = recorded.profile(&mut Code::default());
        assert_eq!(profile.strings.first().unwrap(), "");
        let text = |id: i64| profile.strings[usize::try_from(id).unwrap()].as_str();
        let stacks: Vec<_> = profile.samples.iter().map(|s| &s.locations[..]).collect();
        assert_eq!(stacks, [[1, 2], [3, 2]]);
        assert_eq!(profile.locations.len(), 3);
        assert_eq!(text(profile.samples[0].labels[0].text), "worker");
        assert_eq!(text(profile.default_sample_type), "cpu");
        assert_eq!(text(profile.comments[0]), "as it is");
        assert_eq!(profile.time_nanos, 7_000_000_000);
        assert_eq!(profile.duration_nanos, 5_000_000);
        let packed = recorded.packed(&mut Code::default()).unwrap();
        assert_eq!(packed[..2], [0x1f, 0x8b]);
    }
}
