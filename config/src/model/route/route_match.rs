//! Route matches: path, headers, query parameters, metadata.

use envoy_types::pb::envoy::config::route::v3::{
    RouteMatch as RouteMatchProto, route_match::PathSpecifier,
};
use http::{Method, Request};
use waypoint_filters::matcher::header::{HEADER_MATCHER, HeaderMatcher};
use waypoint_filters::matcher::metadata::{METADATA_MATCHER, MetadataMatcher};
use waypoint_filters::matcher::query::{QUERY_PARAMETER_MATCHER, QueryParameterMatcher};
use waypoint_filters::matcher::regex::{self, REGEX_MATCHER};
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::stream_info::StreamInfo;
use waypoint_filters::xds::coverage::well_known::BOOL_VALUE;
use waypoint_filters::xds::coverage::{Table, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

/// When a route is taken. All parts must match.
#[derive(Debug)]
pub struct RouteMatch {
    path: PathMatch,
    case_sensitive: bool,
    headers: Box<[HeaderMatcher]>,
    query: Box<[QueryParameterMatcher]>,
    metadata: Box<[MetadataMatcher]>,
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

pub(crate) static ROUTE_MATCH: Table = Table {
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
        honoured(12, "connect_matcher").of(&CONNECT_MATCHER),
        honoured(13, "dynamic_metadata")
            .list()
            .of(&METADATA_MATCHER),
        honoured(14, "path_separated_prefix"),
    ],
    refused: "8 grpc, 9 runtime_fraction, 11 tls_context, 15 path_match_policy, 16 filter_state, \
              17 cookies",
    required: &[required("path_specifier", &[1, 2, 10, 12, 14])],
};

static CONNECT_MATCHER: Table = Table {
    name: "envoy.config.route.v3.RouteMatch.ConnectMatcher",
    fields: &[],
    refused: "",
    required: &[],
};

impl RouteMatch {
    pub(crate) fn from_proto(proto: &RouteMatchProto) -> Result<RouteMatch, Refusal> {
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
        })
    }

    pub fn matches(&self, request: &Request<Body>, stream: &StreamInfo) -> bool {
        self.matches_path(request)
            && self.headers.iter().all(|m| m.matches(request))
            && self.query.iter().all(|m| m.matches(request.uri().query()))
            && (self.metadata.is_empty() || {
                let metadata = stream.state().metadata.clone();
                self.metadata.iter().all(|m| m.matches(&metadata))
            })
    }

    fn matches_path(&self, request: &Request<Body>) -> bool {
        if let PathMatch::Connect = self.path {
            return request.method() == Method::CONNECT;
        }
        let path = request.uri().path();
        // Case counts in regular expressions, whatever is said of it.
        if self.case_sensitive || matches!(self.path, PathMatch::Regex(_)) {
            return self.path.matches(path);
        }
        self.path.matches(&path.to_ascii_lowercase())
    }

    /// What the route matched by prefix, for rewrites.
    pub fn prefix(&self) -> Option<&str> {
        match &self.path {
            PathMatch::Prefix(s) | PathMatch::Segments(s) | PathMatch::Exact(s) => Some(s),
            _ => None,
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
        let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
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
