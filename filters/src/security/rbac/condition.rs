//! Conditions of permissions and principals, and their partial evaluation for a connection.
//!
//! `source_ip`, `direct_remote_ip` mean the address that the tunnel came from. (In Envoy's internal
//! listener they mean a pseudo address: `ipBlocks` never match and `notIpBlocks` always do there.)
//! `remote_ip` is that address too, unless the request brings `x-forwarded-for`, whose last address
//! counts then, as with Envoy's `use_remote_address: false`; where the connection manager says who the client is, that
//! counts.
//!
//! Where there is no request, a test that needs one is refused when it is compiled ([`Subject`]): left in, it
//! would match nothing, and a DENY let everything pass.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, Request};
use ipnet::IpNet;

use crate::matcher::cidr;
use crate::matcher::header::HeaderMatcher;
use crate::matcher::metadata::MetadataMatcher;
use crate::matcher::string::StringMatcher;
use crate::matcher::uri_template::UriTemplateMatcher;
use crate::service::ClientAddress;
use crate::stream::connection::Connection;
use crate::stream::dynamic_metadata::Metadata;
use crate::xds::rejected::Refusal;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What is there to be tested where rules are compiled for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Connection,
    Request,
}

/// A tree of tests.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    Constant(bool),
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Connection(ConnectionTest),
    Request(Arc<RequestTest>),
}

/// A test that has one answer for all requests of a connection.
#[derive(Clone, Debug)]
pub(crate) enum ConnectionTest {
    DestinationIp(IpNet),
    /// Start (inclusive) and end (exclusive).
    DestinationPort(u32, u32),
    SourceIp(IpNet),
    FilterState {
        key: Box<str>,
        value: StringMatcher,
    },
    /// Of the TLS inside the tunnel; empty without one, as with Envoy.
    ServerName(StringMatcher),
    /// `None`: any peer that was authenticated.
    Authenticated(Option<StringMatcher>),
}

/// A test that needs the request.
#[derive(Clone, Debug)]
pub(crate) enum RequestTest {
    Header(HeaderMatcher),
    Path(StringMatcher),
    UriTemplate(UriTemplateMatcher),
    Metadata(MetadataMatcher),
    RemoteIp(IpNet),
}

/// What a request test looks at.
pub(crate) struct RequestView<'a, B> {
    pub(crate) request: &'a Request<B>,
    pub(crate) metadata: &'a Metadata,
    pub(crate) source: IpAddr,
}

impl Subject {
    /// The test of a request that `field` stands for.
    ///
    /// # Errors
    /// There is no request here, or the test can't be built.
    pub(crate) fn request(
        self,
        field: &str,
        test: impl FnOnce() -> Result<RequestTest, Refusal>,
    ) -> Result<Condition, Refusal> {
        match self {
            Subject::Connection => Err(Refusal::new(
                field,
                "needs a request, which a TCP filter has not",
            )),
            Subject::Request => {
                let test = test().map_err(|e| e.within(field))?;
                Ok(Condition::Request(Arc::new(test)))
            }
        }
    }

    /// The address that a client is said to have; only a request can say another than the connection's.
    pub(crate) fn remote_ip(self, net: IpNet) -> Condition {
        match self {
            Subject::Connection => Condition::Connection(ConnectionTest::SourceIp(net)),
            Subject::Request => Condition::Request(Arc::new(RequestTest::RemoteIp(net))),
        }
    }
}

impl Condition {
    /// What is left of the condition once the connection is known: a constant, or tests of the request.
    pub(crate) fn bind(&self, connection: &Connection) -> Condition {
        match self {
            Condition::Constant(value) => Condition::Constant(*value),
            Condition::Connection(test) => Condition::Constant(test.matches(connection)),
            Condition::Request(test) => Condition::Request(test.clone()),
            Condition::Not(inner) => match inner.bind(connection) {
                Condition::Constant(value) => Condition::Constant(!value),
                bound => Condition::Not(Box::new(bound)),
            },
            Condition::All(conditions) => fold(conditions, connection, false),
            Condition::Any(conditions) => fold(conditions, connection, true),
        }
    }

    pub(crate) fn matches<B>(&self, view: &RequestView<'_, B>) -> bool {
        match self {
            Condition::Constant(value) => *value,
            Condition::All(all) => all.iter().all(|c| c.matches(view)),
            Condition::Any(any) => any.iter().any(|c| c.matches(view)),
            Condition::Not(inner) => !inner.matches(view),
            Condition::Request(test) => test.matches(view),
            // Only unbound conditions hold these; nothing is allowed by mistake.
            Condition::Connection(_) => false,
        }
    }

    /// Whether it looks at the server name that the client asks for.
    pub(crate) fn asks_server_name(&self) -> bool {
        match self {
            Condition::Constant(_) | Condition::Request(_) => false,
            Condition::Connection(test) => matches!(test, ConnectionTest::ServerName(_)),
            Condition::All(list) | Condition::Any(list) => {
                list.iter().any(Condition::asks_server_name)
            }
            Condition::Not(inner) => inner.asks_server_name(),
        }
    }

    /// Whether it looks at dynamic metadata.
    pub(crate) fn needs_metadata(&self) -> bool {
        match self {
            Condition::Constant(_) | Condition::Connection(_) => false,
            Condition::All(list) | Condition::Any(list) => {
                list.iter().any(Condition::needs_metadata)
            }
            Condition::Not(inner) => inner.needs_metadata(),
            Condition::Request(test) => matches!(**test, RequestTest::Metadata(_)),
        }
    }
}

/// Folds a list in which one `decisive` element decides.
fn fold(conditions: &[Condition], connection: &Connection, decisive: bool) -> Condition {
    let mut left = Vec::new();
    for condition in conditions {
        match condition.bind(connection) {
            Condition::Constant(value) if value == decisive => {
                return Condition::Constant(decisive);
            }
            Condition::Constant(_) => {}
            bound => left.push(bound),
        }
    }
    match (left.len(), decisive) {
        (0, _) => Condition::Constant(!decisive),
        (1, _) => left.remove(0),
        (_, true) => Condition::Any(left),
        (_, false) => Condition::All(left),
    }
}

impl ConnectionTest {
    fn matches(&self, connection: &Connection) -> bool {
        match self {
            ConnectionTest::DestinationIp(net) => cidr::contains(net, connection.destination.ip()),
            ConnectionTest::DestinationPort(start, end) => {
                (*start..*end).contains(&u32::from(connection.destination.port()))
            }
            ConnectionTest::SourceIp(net) => cidr::contains(net, connection.source.ip()),
            ConnectionTest::FilterState { key, value } => connection
                .filter_state
                .get(key)
                .is_some_and(|object| match object {
                    crate::stream::filter_state::FilterValue::String(s) => value.matches(s),
                    other => value.matches(&other.to_plain()),
                }),
            ConnectionTest::ServerName(name) => {
                name.matches(connection.server_name.known().unwrap_or_default())
            }
            ConnectionTest::Authenticated(name) => match (&connection.peer, name) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(peer), Some(name)) => name.matches(peer.as_str()),
            },
        }
    }
}

impl RequestTest {
    fn matches<B>(&self, view: &RequestView<'_, B>) -> bool {
        match self {
            RequestTest::Header(matcher) => matcher.matches_one(view.request),
            RequestTest::Path(matcher) => matcher.matches(view.request.uri().path()),
            RequestTest::UriTemplate(matcher) => matcher.matches(view.request.uri().path()),
            RequestTest::Metadata(matcher) => matcher.matches(view.metadata),
            RequestTest::RemoteIp(net) => cidr::contains(net, remote_ip(view)),
        }
    }
}

pub(super) fn remote_ip<B>(view: &RequestView<'_, B>) -> IpAddr {
    if let Some(client) = view.request.extensions().get::<ClientAddress>() {
        return client.0;
    }
    view.request
        .headers()
        .get_all(X_FORWARDED_FOR)
        .iter()
        .next_back()
        .and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok())
        .unwrap_or(view.source)
}
