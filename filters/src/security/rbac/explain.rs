//! Why a policy matches or not, in the words of its tests. The tests are those that decide; only the words are made here.

use std::fmt;

use crate::matcher::metadata::MetadataMatcher;
use crate::security::rbac::condition::{
    Condition, ConnectionTest, RequestTest, RequestView, remote_ip,
};
use crate::stream::connection::Connection;
use crate::stream::filter_state::{LOCAL_PRINCIPAL, PEER_PRINCIPAL};

impl Condition {
    /// What keeps it from being met; empty: it is met.
    pub(crate) fn misses<B>(
        &self,
        connection: &Connection,
        view: &RequestView<'_, B>,
    ) -> Vec<String> {
        let met = |condition: &Condition| condition.bind(connection).matches(view);
        if met(self) {
            return Vec::new();
        }
        match self {
            Condition::All(all) => {
                let missed = all.iter().filter(|part| !met(part));
                missed
                    .flat_map(|part| part.misses(connection, view))
                    .collect()
            }
            Condition::Any(any) => {
                let ways = any
                    .iter()
                    .map(|way| way.misses(connection, view).join(" and "));
                let ways: Vec<String> = ways.collect();
                match ways.as_slice() {
                    [_] => ways,
                    _ => vec![format!("none of: {}", ways.join("; "))],
                }
            }
            Condition::Constant(_) => vec!["it never matches".to_owned()],
            Condition::Not(inner) => vec![format!("not wanted: {inner}")],
            Condition::Connection(test) => vec![with(test, Some(test.seen(connection)))],
            Condition::Request(test) => vec![with(&**test, test.seen(view))],
        }
    }
}

/// A test, and what it found instead.
fn with(test: &impl fmt::Display, seen: Option<String>) -> String {
    match seen {
        Some(seen) => format!("{test}, and it is {seen}"),
        None => format!("{test}, and there is none"),
    }
}

/// What it asks for.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, parts: &[Condition], word: &str| {
            for (i, part) in parts.iter().enumerate() {
                let word = if i > 0 { word } else { "" };
                write!(f, "{word}{part}")?;
            }
            Ok(())
        };
        match self {
            Condition::Constant(true) => f.write_str("anything"),
            Condition::Constant(false) => f.write_str("nothing"),
            Condition::All(all) => list(f, all, " and "),
            Condition::Any(any) => list(f, any, " or "),
            Condition::Not(inner) => write!(f, "not ({inner})"),
            Condition::Connection(test) => test.fmt(f),
            Condition::Request(test) => test.fmt(f),
        }
    }
}

impl fmt::Display for ConnectionTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionTest::DestinationIp(net) => write!(f, "destination address in {net}"),
            ConnectionTest::DestinationPort(start, end) if start + 1 == *end => {
                write!(f, "destination port {start}")
            }
            ConnectionTest::DestinationPort(start, end) => {
                write!(f, "destination port in [{start}, {end})")
            }
            ConnectionTest::SourceIp(net) => write!(f, "source address in {net}"),
            ConnectionTest::FilterState { key, value } => write!(f, "{} is {value}", named(key)),
            ConnectionTest::ServerName(name) => write!(f, "server name is {name}"),
            ConnectionTest::Authenticated(None) => f.write_str("an identity"),
            ConnectionTest::Authenticated(Some(name)) => write!(f, "identity is {name}"),
        }
    }
}

impl ConnectionTest {
    fn seen(&self, connection: &Connection) -> String {
        match self {
            ConnectionTest::DestinationIp(_) => connection.destination.ip().to_string(),
            ConnectionTest::DestinationPort(..) => connection.destination.port().to_string(),
            ConnectionTest::SourceIp(_) => connection.source.ip().to_string(),
            ConnectionTest::FilterState { key, .. } => {
                let value = connection.filter_state.get(key);
                value.map_or_else(|| "not there".to_owned(), |v| format!("{:?}", v.to_plain()))
            }
            ConnectionTest::ServerName(_) => {
                let name = connection.server_name.known();
                name.map_or_else(|| "none".to_owned(), |name| format!("{name:?}"))
            }
            ConnectionTest::Authenticated(_) => {
                let peer = connection.peer.as_ref();
                peer.map_or_else(|| "none".to_owned(), |peer| format!("{:?}", peer.as_str()))
            }
        }
    }
}

/// Objects of filter state that have a name in policies.
fn named(key: &str) -> &str {
    match key {
        PEER_PRINCIPAL => "source identity",
        LOCAL_PRINCIPAL => "own identity",
        other => other,
    }
}

impl fmt::Display for RequestTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestTest::Header(matcher) => matcher.fmt(f),
            RequestTest::Path(matcher) => write!(f, "path is {matcher}"),
            RequestTest::UriTemplate(matcher) => write!(f, "path is {matcher}"),
            RequestTest::Metadata(matcher) => matcher.fmt(f),
            RequestTest::RemoteIp(net) => write!(f, "remote address in {net}"),
        }
    }
}

impl RequestTest {
    fn seen<B>(&self, view: &RequestView<'_, B>) -> Option<String> {
        let quoted = |text: String| format!("{text:?}");
        match self {
            RequestTest::Header(matcher) => matcher.seen(view.request).map(quoted),
            RequestTest::Path(_) | RequestTest::UriTemplate(_) => {
                Some(quoted(view.request.uri().path().to_owned()))
            }
            RequestTest::Metadata(matcher) => MetadataMatcher::seen(matcher, view.metadata),
            RequestTest::RemoteIp(_) => Some(remote_ip(view).to_string()),
        }
    }
}
