//! `RouteMatch`: path, headers, query parameters, metadata, what the connection is; of routes, and of the rules of filters.

use std::fmt;

use crate::matcher::exact_value::Subject;
use crate::matcher::filter_state::{FILTER_STATE_MATCHER, FilterStateMatcher};
use crate::matcher::header::{HEADER_MATCHER, HeaderMatcher};
use crate::matcher::metadata::{METADATA_MATCHER, MetadataMatcher};
use crate::matcher::query::{QUERY_PARAMETER_MATCHER, QueryParameterMatcher};
use crate::matcher::regex::{self, REGEX_MATCHER};
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::well_known::BOOL_VALUE;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;
use envoy_types::pb::envoy::config::route::v3::{
    RouteMatch as RouteMatchProto, route_match::PathSpecifier,
};
use http::{Method, Request};

/// When a route is taken. All parts must match.
#[derive(Debug)]
pub struct RouteMatch {
    path: PathMatch,
    case_sensitive: bool,
    headers: Box<[HeaderMatcher]>,
    query: Box<[QueryParameterMatcher]>,
    metadata: Box<[MetadataMatcher]>,
    filter_state: Box<[FilterStateMatcher]>,
}

#[derive(Debug)]
enum PathMatch {
    Prefix(Box<str>),
    /// A prefix that ends where a segment does.
    Segments(Box<str>),
    Exact(Box<str>),
    Regex(::regex::Regex),
    Connect,
}

/// What all paths have in common that a route may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKey<'a> {
    Exact(&'a str),
    /// A prefix that ends where a segment does.
    Segments(&'a str),
    Prefix(&'a str),
}

pub static ROUTE_MATCH: Table = Table {
    name: "envoy.config.route.v3.RouteMatch",
    fields: &[
        honoured(1, "prefix"),
        honoured(2, "path"),
        honoured(4, "case_sensitive").of(&BOOL_VALUE),
        honoured(6, "headers").list().of(&HEADER_MATCHER),
        honoured(7, "query_parameters")
            .list()
            .of(&QUERY_PARAMETER_MATCHER),
        honoured(10, "safe_regex").of(&REGEX_MATCHER),
        honoured(12, "connect_matcher")
            .only("where tunnels begin")
            .of(&CONNECT_MATCHER),
        honoured(13, "dynamic_metadata")
            .list()
            .of(&METADATA_MATCHER),
        honoured(14, "path_separated_prefix"),
        honoured(16, "filter_state")
            .list()
            .of(&FILTER_STATE_MATCHER),
    ],
    refused: "8 grpc, 9 runtime_fraction, 11 tls_context, 15 path_match_policy, 17 cookies",
    required: &[required("path_specifier", &[1, 2, 10, 12, 14])],
};

static CONNECT_MATCHER: Table = Table {
    name: "envoy.config.route.v3.RouteMatch.ConnectMatcher",
    fields: &[],
    refused: "",
    required: &[],
};

impl RouteMatch {
    pub fn from_proto(proto: &RouteMatchProto) -> Result<RouteMatch, Refusal> {
        let case_sensitive = proto.case_sensitive.as_ref().is_none_or(|c| c.value);
        let text = |s: &str| -> Box<str> {
            if case_sensitive {
                s.into()
            } else {
                s.to_ascii_lowercase().into()
            }
        };
        let path = match &proto.path_specifier {
            None => return Err(Refusal::missing("path_specifier")),
            Some(PathSpecifier::Prefix(s)) => PathMatch::Prefix(text(s)),
            Some(PathSpecifier::PathSeparatedPrefix(s)) => PathMatch::Segments(text(s)),
            Some(PathSpecifier::Path(s)) => PathMatch::Exact(text(s)),
            Some(PathSpecifier::SafeRegex(r)) => {
                PathMatch::Regex(regex::from_proto(r).map_err(|e| e.within("safe_regex"))?)
            }
            Some(PathSpecifier::ConnectMatcher(_)) => PathMatch::Connect,
            Some(PathSpecifier::PathMatchPolicy(_)) => {
                return Err(Refusal::unsupported("path_match_policy"));
            }
        };
        Ok(RouteMatch {
            path,
            case_sensitive,
            headers: list(&proto.headers, "headers", HeaderMatcher::from_proto)?,
            query: list(
                &proto.query_parameters,
                "query_parameters",
                QueryParameterMatcher::from_proto,
            )?,
            metadata: list(
                &proto.dynamic_metadata,
                "dynamic_metadata",
                MetadataMatcher::from_proto,
            )?,
            filter_state: list(
                &proto.filter_state,
                "filter_state",
                FilterStateMatcher::from_proto,
            )?,
        })
    }

    pub fn matches<B>(&self, request: &Request<B>, stream: &StreamInfo) -> bool {
        self.matches_path(request)
            && self.headers.iter().all(|m| m.matches(request))
            && self.query.iter().all(|m| m.matches(request.uri().query()))
            && self.matches_connection(stream)
            && (self.metadata.is_empty() || {
                let metadata = stream.state().metadata.clone();
                self.metadata.iter().all(|m| m.matches(&metadata))
            })
    }

    /// What of it isn't met; empty: it matches.
    pub fn misses<B>(&self, request: &Request<B>, stream: &StreamInfo) -> Vec<String> {
        let mut misses = Vec::new();
        if !self.matches_path(request) {
            misses.push(format!(
                "{}, and it is {:?}",
                self.path,
                request.uri().path()
            ));
        }
        let seen = |found: Option<String>| match found {
            Some(found) => format!("it is {found:?}"),
            None => "there is none".to_owned(),
        };
        for header in self.headers.iter().filter(|m| !m.matches(request)) {
            misses.push(format!("{header}, and {}", seen(header.seen(request))));
        }
        let query = request.uri().query();
        for parameter in self.query.iter().filter(|m| !m.matches(query)) {
            misses.push(format!(
                "{parameter}, and the query is {:?}",
                query.unwrap_or_default()
            ));
        }
        let state = &stream.connection.filter_state;
        for test in self.filter_state.iter().filter(|m| !m.matches(state)) {
            misses.push(format!("{test}, and {}", seen(test.seen(state))));
        }
        let metadata = stream.state().metadata.clone();
        for test in self.metadata.iter().filter(|m| !m.matches(&metadata)) {
            misses.push(format!("{test}, and {}", seen(test.seen(&metadata))));
        }
        misses
    }

    fn matches_connection(&self, stream: &StreamInfo) -> bool {
        let state = &stream.connection.filter_state;
        self.filter_state.iter().all(|m| m.matches(state))
    }

    fn matches_path<B>(&self, request: &Request<B>) -> bool {
        if let PathMatch::Connect = self.path {
            return request.method() == Method::CONNECT;
        }
        let path = request.uri().path();
        match self.case_sensitive {
            true => self.path.matches(path),
            false => self.path.matches_in_any_case(path),
        }
    }

    /// What its paths have in common, by which it is found among many.
    pub fn path_key(&self) -> PathKey<'_> {
        match &self.path {
            PathMatch::Regex(regex) => PathKey::Prefix(regex::beginning(regex)),
            _ if !self.case_sensitive => PathKey::Prefix(""),
            PathMatch::Prefix(prefix) => PathKey::Prefix(prefix),
            PathMatch::Segments(prefix) => PathKey::Segments(prefix),
            PathMatch::Exact(path) => PathKey::Exact(path),
            PathMatch::Connect => PathKey::Prefix(""),
        }
    }

    /// What it asks for by exact values besides its path. A request that matches has each of them.
    pub fn exact_values(&self) -> impl Iterator<Item = (Subject, &str)> {
        let headers = self.headers.iter().filter_map(HeaderMatcher::exact);
        headers.chain(self.query.iter().filter_map(QueryParameterMatcher::exact))
    }

    /// What the route matched by prefix, for rewrites.
    pub fn prefix(&self) -> Option<&str> {
        match &self.path {
            PathMatch::Prefix(s) | PathMatch::Segments(s) | PathMatch::Exact(s) => Some(s),
            _ => None,
        }
    }
}

/// What it asks for.
impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)?;
        self.headers.iter().try_for_each(|m| write!(f, ", {m}"))?;
        self.query.iter().try_for_each(|m| write!(f, ", {m}"))?;
        self.metadata.iter().try_for_each(|m| write!(f, ", {m}"))?;
        self.filter_state
            .iter()
            .try_for_each(|m| write!(f, ", {m}"))
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathMatch::Prefix(prefix) => write!(f, "path begins with {prefix:?}"),
            PathMatch::Segments(prefix) => write!(f, "path is {prefix:?} or below it"),
            PathMatch::Exact(exact) => write!(f, "path is {exact:?}"),
            PathMatch::Regex(regex) => write!(f, "path is /{}/", regex::written(regex)),
            PathMatch::Connect => f.write_str("CONNECT"),
        }
    }
}

impl PathMatch {
    fn matches(&self, path: &str) -> bool {
        match self {
            PathMatch::Prefix(prefix) => path.starts_with(&**prefix),
            PathMatch::Segments(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            PathMatch::Exact(exact) => path == &**exact,
            PathMatch::Regex(regex) => regex.is_match(path),
            PathMatch::Connect => false,
        }
    }

    /// Case counts in regular expressions, whatever is said of it.
    fn matches_in_any_case(&self, path: &str) -> bool {
        let rest = |prefix: &str| {
            let (begins, rest) = path.split_at_checked(prefix.len())?;
            begins.eq_ignore_ascii_case(prefix).then_some(rest)
        };
        match self {
            PathMatch::Prefix(prefix) => rest(prefix).is_some(),
            PathMatch::Segments(prefix) => {
                rest(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Exact(exact) => path.eq_ignore_ascii_case(exact),
            PathMatch::Regex(_) | PathMatch::Connect => self.matches(path),
        }
    }
}

fn list<P, T>(
    protos: &[P],
    field: &str,
    convert: impl Fn(&P) -> Result<T, Refusal>,
) -> Result<Box<[T]>, Refusal> {
    protos
        .iter()
        .enumerate()
        .map(|(i, proto)| convert(proto).map_err(|e| e.within(format!("{field}[{i}]"))))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;

    use super::*;

    fn path_matches(specifier: PathSpecifier, insensitive: bool, uri: &str) -> bool {
        let matcher = RouteMatch::from_proto(&RouteMatchProto {
            path_specifier: Some(specifier),
            case_sensitive: insensitive.then(Default::default),
            ..RouteMatchProto::default()
        });
        let request = Request::builder().uri(uri).body(()).unwrap();
        matcher.unwrap().matches_path(&request)
    }

    #[test]
    fn paths_without_their_query() {
        let segments = || PathSpecifier::PathSeparatedPrefix("/api".into());
        assert!(path_matches(segments(), false, "/api"));
        assert!(path_matches(segments(), false, "/api/v1?x"));
        assert!(!path_matches(segments(), false, "/apis"));
        assert!(path_matches(
            PathSpecifier::Prefix("/ap".into()),
            false,
            "/apis"
        ));
        assert!(path_matches(
            PathSpecifier::Path("/a".into()),
            false,
            "/a?b=c"
        ));
        assert!(!path_matches(PathSpecifier::Path("/a".into()), false, "/A"));
        assert!(path_matches(PathSpecifier::Path("/a".into()), true, "/A"));
        let regex = || {
            PathSpecifier::SafeRegex(RegexMatcher {
                regex: "/A.*".into(),
                ..RegexMatcher::default()
            })
        };
        assert!(path_matches(regex(), true, "/Ab"));
        assert!(!path_matches(regex(), true, "/ab"));
    }
}
