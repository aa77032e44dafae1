//! A match of a VirtualService as Envoy's: unlike an HTTPRoute's, its prefixes end anywhere in a path.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use matcher::string_matcher::MatchPattern;
use route::header_matcher::HeaderMatchSpecifier;
use route::query_parameter_matcher::QueryParameterMatchSpecifier;
use route::route_match::PathSpecifier;

use crate::standalone::kinds::istio::virtual_service::http_match::HttpMatch;
use crate::standalone::kinds::istio::virtual_service::string_match::StringMatch;
use crate::standalone::translate::proto::packed::boolean;
use crate::standalone::translate::proto::regex::regex_matcher as regex;

/// The match of a route.
pub(super) fn match_of(found: &HttpMatch) -> route::RouteMatch {
    let path = match &found.uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(path)) => PathSpecifier::SafeRegex(regex(path.clone())),
        Some(StringMatch::Present) | None => PathSpecifier::Prefix("/".to_owned()),
    };
    let with = found
        .headers
        .iter()
        .map(|(name, value)| header(name, value));
    let without = found.without_headers.iter().map(without_header);
    let mut headers: Vec<_> = with.chain(without).collect();
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    for (name, value) in [
        (":method", &found.method),
        (":authority", &found.authority),
        (":scheme", &found.scheme),
    ] {
        headers.extend(value.iter().map(|value| header(name, value)));
    }
    route::RouteMatch {
        case_sensitive: boolean(!found.ignore_uri_case),
        headers,
        query_parameters: query_parameters(&found.query_params),
        path_specifier: Some(path),
        ..route::RouteMatch::default()
    }
}

fn header(name: &str, value: &StringMatch) -> route::HeaderMatcher {
    let specifier = match string(value) {
        Some(string) => HeaderMatchSpecifier::StringMatch(string),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..route::HeaderMatcher::default()
    }
}

/// A header that isn't there counts as an empty one.
fn without_header((name, value): (&String, &StringMatch)) -> route::HeaderMatcher {
    route::HeaderMatcher {
        invert_match: true,
        treat_missing_header_as_empty: !value.is_present(),
        ..header(name, value)
    }
}

fn query_parameters(found: &BTreeMap<String, StringMatch>) -> Vec<route::QueryParameterMatcher> {
    let parameter = |(name, value): (&String, &StringMatch)| route::QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(match string(value) {
            Some(string) => QueryParameterMatchSpecifier::StringMatch(string),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        }),
    };
    found.iter().map(parameter).collect()
}

/// `None`: any text will do.
pub(super) fn string(found: &StringMatch) -> Option<matcher::StringMatcher> {
    let pattern = match found {
        found if found.is_present() => return None,
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(text) => MatchPattern::SafeRegex(regex(text.clone())),
        StringMatch::Present => return None,
    };
    Some(matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..matcher::StringMatcher::default()
    })
}
