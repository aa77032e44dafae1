//! The document `docs/honoured.md`: the tables, and what of a real istiod's resources is refused.
//!
//! It is written by `WAYPOINT_WRITE_DOCS=1 cargo test -p waypoint-config --test coverage document`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use waypoint_config::resource::Update;
use waypoint_filters::xds::coverage::{Field, Shape, Status, Table};

use crate::descriptors::tables;
use crate::pieces::{RECORDINGS, pieces, resources};
use crate::process;
use crate::sites::sites;
use crate::wire;

const WRITE: &str = "WAYPOINT_WRITE_DOCS";

const INTRODUCTION: &str = "\
# What is honoured, field by field

Every field of every xDS message that istiod may send is one of these:

| status | what it means |
|---|---|
| honoured | it does what Envoy's API says; values that the waypoint can't honour are refused by name |
| harmless | leaving it out changes nothing for anybody's traffic, policy or records; the remark says why |
| left out | telemetry that isn't built: it is told of in the log, on `/problems` and as a gauge, and the rest is honoured |
| refused | the resource, or the one filter chain that it stands in, keeps its last good version; istiod is told the field and the reason |

Fields that a newer API has, extensions of types that aren't listed, and required fields that aren't set are
refused, too. Nothing is skipped in silence.

This page is made from the tables that configuration is held against, and from what a real istiod sent for
twelve kinds of configuration. A test keeps it true. *Sent for* names those in which the field came.
`istio.workload.Workload` is not here: it only gives peers their names in telemetry.
";

/// Sections, with what the names of their messages begin with; the first that fits.
const SECTIONS: [(&str, &[&str]); 8] = [
    (
        "Clusters",
        &[
            "envoy.config.cluster.",
            "envoy.extensions.clusters.",
            "envoy.extensions.common.dynamic_forward_proxy.",
            "envoy.extensions.upstreams.",
            "envoy.extensions.transport_sockets.",
            "envoy.extensions.network.dns_resolver.",
            "envoy.type.metadata.",
            "envoy.type.v3.Percent",
        ],
    ),
    ("Endpoints", &["envoy.config.endpoint."]),
    (
        "Listeners and filter chains",
        &[
            "envoy.config.listener.",
            "envoy.extensions.filters.listener.",
            "envoy.extensions.filters.network.http_connection_manager.",
            "envoy.extensions.filters.network.tcp_proxy.",
            "envoy.extensions.http.header_formatters.",
            "envoy.extensions.matching.",
            "envoy.extensions.request_id.",
            "xds.",
        ],
    ),
    (
        "Routes",
        &["envoy.config.route.", "envoy.extensions.retry."],
    ),
    (
        "Filters and their rules",
        &[
            "envoy.extensions.filters.",
            "envoy.extensions.http.",
            "envoy.config.rbac.",
            "envoy.config.common.mutation_rules.",
            "envoy.extensions.common.ratelimit.",
            "envoy.extensions.path.",
            "udpa.",
        ],
    ),
    (
        "Telemetry",
        &[
            "envoy.config.accesslog.",
            "envoy.extensions.access_loggers.",
            "envoy.extensions.formatter.",
            "envoy.config.trace.",
            "envoy.extensions.tracers.",
            "envoy.type.metadata.",
            "envoy.type.tracing.",
            "opentelemetry.",
            "stats.",
        ],
    ),
    ("Matchers", &["envoy.type.matcher."]),
    (
        "Parts of several messages",
        &["envoy.config.core.", "envoy.type.http.", "envoy.type.v3."],
    ),
];

#[test]
fn the_document_is_what_the_tables_say() {
    let written = render();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/honoured.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let differ = kept.lines().zip(written.lines()).find(|(a, b)| a != b);
    assert_eq!(differ, None, "made anew by {WRITE}=1");
    assert_eq!(kept.len(), written.len(), "made anew by {WRITE}=1");
}

fn render() -> String {
    let mut text = INTRODUCTION.to_owned();
    text += "\n## What of istiod's resources is refused or left out\n\n";
    text += "By the kind of configuration that the resources were sent for. Whatever is not named is honoured.\n";
    let seen = seen();
    for (recording, about) in RECORDINGS {
        refusals(recording, about, &seen, &mut text);
    }
    let mut tables = tables();
    tables.retain(|(table, _)| {
        let is_empty = table.fields.is_empty() && table.refused.is_empty();
        !is_empty && !table.name.starts_with("google.protobuf.")
    });
    for (section, prefixes) in SECTIONS {
        let (mine, others) = tables
            .into_iter()
            .partition(|(table, _)| prefixes.iter().any(|p| table.name.starts_with(p)));
        tables = others;
        write!(text, "\n## {section}\n").unwrap();
        for (table, ways) in mine {
            message(table, &ways, &seen, &mut text);
        }
    }
    assert!(tables.is_empty(), "in no section: {tables:?}");
    text
}

/// What a recording's resources come to, and the fields that are refused in what is refused already.
fn refusals(recording: &str, about: &str, seen: &Seen, text: &mut String) {
    let mut store = process::store();
    let outcome = store.apply(Update {
        added: resources(recording),
        ..Update::default()
    });
    let refused = outcome
        .rejected
        .iter()
        .map(|rejected| format!("refused: {}", said(&rejected.field, &rejected.reason)));
    let omitted = store.omitted().map(|(_, omitted)| {
        let refusal = &omitted.refusal;
        format!("left out: {}", said(&refusal.field, &refusal.reason))
    });
    let lines: BTreeSet<String> = refused.chain(omitted).collect();
    let mut told_last = String::new();
    let mut others = BTreeSet::new();
    for (table, _) in tables() {
        for (number, name) in table.refused() {
            let came = seen.get(&(std::ptr::from_ref(table) as usize, number));
            let told = lines
                .iter()
                .any(|line| line.contains(&format!("{name}` is not")));
            if !told && came.is_some_and(|recordings| recordings.contains(recording)) {
                let message = short(table.name);
                others.insert(format!("`{message}.{name}`"));
            }
        }
    }
    if !others.is_empty() {
        let others: Vec<String> = others.into_iter().collect();
        told_last = format!("- refused, too: {}\n", others.join(", "));
    }
    write!(text, "\n**{about}** (`{recording}`)").unwrap();
    if lines.is_empty() {
        text.push_str(": everything is honoured.\n");
        return;
    }
    text.push_str("\n\n");
    for line in lines {
        writeln!(text, "- {line}").unwrap();
    }
    text.push_str(&told_last);
}

fn said(field: &str, reason: &str) -> String {
    // Positions in lists differ from chain to chain.
    let digits = |c: char| c.is_ascii_digit();
    let field = field.split('[').map(|part| match part.split_once(']') {
        Some((index, rest)) if index.chars().all(digits) => format!("[]{rest}"),
        _ if part == field.split('[').next().unwrap() => part.to_owned(),
        _ => format!("[{part}"),
    });
    match field.collect::<String>().as_str() {
        "" => reason.to_owned(),
        field => format!("`{field}` {reason}"),
    }
}

/// By table and field number: the recordings in which the field came.
type Seen = BTreeMap<(usize, u32), BTreeSet<&'static str>>;

fn seen() -> Seen {
    let mut seen = BTreeMap::<_, BTreeSet<_>>::new();
    for piece in pieces() {
        for site in sites(piece.table, &piece.bytes) {
            let id = std::ptr::from_ref(site.table) as usize;
            for field in wire::fields(&site.bytes) {
                seen.entry((id, field.number))
                    .or_default()
                    .insert(piece.recording);
            }
        }
    }
    seen
}

fn message(table: &'static Table, ways: &[String], seen: &Seen, text: &mut String) {
    let sent = |number: u32| {
        let id = std::ptr::from_ref(table) as usize;
        match seen.get(&(id, number)) {
            None => "–".to_owned(),
            Some(all) if all.len() == RECORDINGS.len() => "everything".to_owned(),
            Some(some) => some.iter().copied().collect::<Vec<_>>().join(", "),
        }
    };
    write!(text, "\n### {}\n\n", table.name).unwrap();
    if !ways.is_empty() {
        let ways: BTreeSet<&str> = ways.iter().map(|way| short(way)).collect();
        let ways: Vec<String> = ways.iter().map(|way| format!("`{way}`")).collect();
        writeln!(text, "In {}.\n", ways.join(", ")).unwrap();
    }
    if !table.fields.is_empty() {
        text.push_str("| field | status | remark | sent for |\n|---|---|---|---|\n");
    }
    for field in table.fields {
        let (status, remark) = match field.status {
            Status::Honoured => ("honoured", remark(table, field)),
            Status::Harmless(why) => ("harmless", why.to_owned()),
            Status::LeftOut(what) => ("left out", what.to_owned()),
        };
        let (name, sent) = (name(field), sent(field.number));
        writeln!(text, "| `{name}` | {status} | {remark} | {sent} |").unwrap();
    }
    let refused: Vec<String> = table
        .refused()
        .map(|(number, name)| match sent(number).as_str() {
            "–" => format!("`{name}`"),
            sent => format!("`{name}` (sent for {sent})"),
        })
        .collect();
    if !refused.is_empty() {
        let gap = if table.fields.is_empty() { "" } else { "\n" };
        writeln!(text, "{gap}Refused: {}.", refused.join(", ")).unwrap();
    }
}

/// `Message.field` of a full name.
fn short(way: &str) -> &str {
    let parts: Vec<&str> = way.split('.').collect();
    let start = parts
        .iter()
        .position(|part| part.starts_with(|c: char| c.is_ascii_uppercase()));
    let skipped = parts
        .iter()
        .take(start.unwrap_or(0))
        .map(|part| part.len() + 1);
    &way[skipped.sum::<usize>()..]
}

fn name(field: &Field) -> String {
    let ending = match field.shape {
        Shape::One => "",
        Shape::List | Shape::Named(_) => "[]",
        Shape::Map => "{}",
    };
    format!("{}{ending}", field.name)
}

fn remark(table: &Table, field: &Field) -> String {
    let required = table.required.iter();
    let mut of_field = required.filter(|r| r.any_of.contains(&field.number));
    let required = match of_field.next() {
        None => "",
        Some(required) if required.any_of.len() == 1 => "required",
        Some(_) => "one of these is required",
    };
    match (required, field.only) {
        (required, "") => required.to_owned(),
        ("", only) => format!("only: {only}"),
        (required, only) => format!("{required}; only: {only}"),
    }
}
