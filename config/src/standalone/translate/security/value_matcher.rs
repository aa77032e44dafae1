//! Values of attributes as matchers: `*` is presence, `a*` a prefix, `*a` a suffix, else equality.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use ipnet::IpNet;
use matcher::string_matcher::MatchPattern;

use crate::standalone::translate::proto::packed::uint32;
use crate::standalone::translate::proto::regex::{quote, regex_matcher};
use crate::standalone::translate::security::rbac_rule::CannotTell;

pub(super) fn header(name: &str, value: &str, ignore_case: bool) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier;
    let specifier = if value == "*" {
        HeaderMatchSpecifier::PresentMatch(true)
    } else if let Some(suffix) = value.strip_prefix('*') {
        HeaderMatchSpecifier::StringMatch(pattern(
            MatchPattern::Suffix(suffix.to_owned()),
            ignore_case,
        ))
    } else if let Some(prefix) = value.strip_suffix('*') {
        HeaderMatchSpecifier::StringMatch(pattern(
            MatchPattern::Prefix(prefix.to_owned()),
            ignore_case,
        ))
    } else {
        HeaderMatchSpecifier::StringMatch(pattern(
            MatchPattern::Exact(value.to_owned()),
            ignore_case,
        ))
    };
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..route::HeaderMatcher::default()
    }
}

pub(super) fn string(value: &str) -> matcher::StringMatcher {
    let found = if value == "*" {
        return regex(".+".to_owned());
    } else if let Some(suffix) = value.strip_prefix('*') {
        MatchPattern::Suffix(suffix.to_owned())
    } else if let Some(prefix) = value.strip_suffix('*') {
        MatchPattern::Prefix(prefix.to_owned())
    } else {
        MatchPattern::Exact(value.to_owned())
    };
    pattern(found, false)
}

/// As `string`, for a value that is meant after `spiffe://`.
pub(super) fn spiffe(value: &str) -> matcher::StringMatcher {
    if value == "*" {
        regex(".+".to_owned())
    } else if let Some(suffix) = value.strip_prefix('*') {
        regex(format!("spiffe://.*{}", quote(suffix)))
    } else if let Some(prefix) = value.strip_suffix('*') {
        pattern(MatchPattern::Prefix(format!("spiffe://{prefix}")), false)
    } else {
        pattern(MatchPattern::Exact(format!("spiffe://{value}")), false)
    }
}

pub(super) fn pattern(pattern: MatchPattern, ignore_case: bool) -> matcher::StringMatcher {
    matcher::StringMatcher {
        ignore_case,
        match_pattern: Some(pattern),
    }
}

pub(super) fn regex(regex: String) -> matcher::StringMatcher {
    pattern(MatchPattern::SafeRegex(regex_matcher(regex)), false)
}

pub(super) fn cidr(value: &str) -> Result<core::CidrRange, CannotTell> {
    let net = value
        .parse::<IpNet>()
        .or_else(|_| value.parse::<std::net::IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| CannotTell)?;
    Ok(core::CidrRange {
        address_prefix: net.addr().to_string(),
        prefix_len: uint32(net.prefix_len().into()),
    })
}

pub(super) fn metadata(
    filter: &str,
    keys: &[&str],
    value: matcher::ValueMatcher,
) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::path_segment::Segment;
    let segment = |key: &&str| matcher::metadata_matcher::PathSegment {
        segment: Some(Segment::Key((*key).to_owned())),
    };
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: keys.iter().map(segment).collect(),
        value: Some(value),
        ..matcher::MetadataMatcher::default()
    }
}

pub(super) fn value(pattern: matcher::value_matcher::MatchPattern) -> matcher::ValueMatcher {
    matcher::ValueMatcher {
        match_pattern: Some(pattern),
    }
}

pub(super) fn string_value(string: matcher::StringMatcher) -> matcher::ValueMatcher {
    value(matcher::value_matcher::MatchPattern::StringMatch(string))
}

pub(super) fn list_of(one: matcher::ValueMatcher) -> matcher::ValueMatcher {
    use matcher::list_matcher::MatchPattern as List;
    value(matcher::value_matcher::MatchPattern::ListMatch(Box::new(
        matcher::ListMatcher {
            match_pattern: Some(List::OneOf(Box::new(one))),
        },
    )))
}

pub(super) fn any_value(mut values: Vec<matcher::ValueMatcher>) -> matcher::ValueMatcher {
    match (values.len(), values.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            values.extend(last);
            let any = matcher::OrMatcher {
                value_matchers: values,
            };
            value(matcher::value_matcher::MatchPattern::OrMatch(any))
        }
    }
}

/// A claim may be the value, or a list that holds it.
pub(super) fn list_or(found: matcher::ValueMatcher) -> matcher::ValueMatcher {
    let both = vec![list_of(found.clone()), found];
    value(matcher::value_matcher::MatchPattern::OrMatch(
        matcher::OrMatcher {
            value_matchers: both,
        },
    ))
}
