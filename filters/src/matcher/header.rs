//! `HeaderMatcher`: a header, or a pseudo header, of a request's head.
//!
//! Several values of one name match if one of them does (Envoy 1.40), or all joined by `,` (Envoy before
//! that): no way to write a header gets around a rule that denies it. `:path` is path and query.

use std::borrow::Cow;

use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher as HeaderMatcherProto, header_matcher::HeaderMatchSpecifier,
};
use http::{HeaderMap, HeaderName, Request, header};

use crate::matcher::regex::REGEX_MATCHER;
use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::coverage::well_known::INT64_RANGE;
use crate::xds::rejected::Refusal;

/// Compares one header.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    name: Name,
    check: Check,
    invert: bool,
    missing_as_empty: bool,
}

#[derive(Clone, Debug)]
enum Name {
    Header(HeaderName),
    Method,
    Path,
    Authority,
    Scheme,
}

#[derive(Clone, Debug)]
enum Check {
    Present(bool),
    Text(StringMatcher),
    /// Start (inclusive) and end (exclusive).
    Range(i64, i64),
}

pub static HEADER_MATCHER: Table = Table {
    name: "envoy.config.route.v3.HeaderMatcher",
    fields: &[
        honoured(1, "name"),
        honoured(4, "exact_match"),
        honoured(6, "range_match").of(&INT64_RANGE),
        honoured(7, "present_match"),
        honoured(8, "invert_match"),
        honoured(9, "prefix_match"),
        honoured(10, "suffix_match"),
        honoured(11, "safe_regex_match").of(&REGEX_MATCHER),
        honoured(12, "contains_match"),
        honoured(13, "string_match").of(&STRING_MATCHER),
        honoured(14, "treat_missing_header_as_empty"),
    ],
    refused: "",
    required: &[required("name", &[1])],
};

impl HeaderMatcher {
    pub fn from_proto(proto: &HeaderMatcherProto) -> Result<HeaderMatcher, Refusal> {
        let check = match &proto.header_match_specifier {
            // Envoy: no specifier means that the header is there.
            None => Check::Present(true),
            Some(HeaderMatchSpecifier::PresentMatch(present)) => Check::Present(*present),
            Some(HeaderMatchSpecifier::StringMatch(m)) => {
                Check::Text(StringMatcher::from_proto(m).map_err(|e| e.within("string_match"))?)
            }
            Some(HeaderMatchSpecifier::ExactMatch(s)) => Check::Text(StringMatcher::exact(s)),
            Some(HeaderMatchSpecifier::PrefixMatch(s)) => Check::Text(StringMatcher::prefix(s)),
            Some(HeaderMatchSpecifier::SuffixMatch(s)) => Check::Text(StringMatcher::suffix(s)),
            Some(HeaderMatchSpecifier::ContainsMatch(s)) => Check::Text(StringMatcher::contains(s)),
            Some(HeaderMatchSpecifier::SafeRegexMatch(r)) => Check::Text(
                StringMatcher::regex(&r.regex).map_err(|e| e.within("safe_regex_match"))?,
            ),
            Some(HeaderMatchSpecifier::RangeMatch(r)) => Check::Range(r.start, r.end),
        };
        Ok(HeaderMatcher {
            name: Name::parse(&proto.name)?,
            check,
            invert: proto.invert_match,
            missing_as_empty: proto.treat_missing_header_as_empty,
        })
    }

    pub fn matches<B>(&self, request: &Request<B>) -> bool {
        let value = self.name.value(request).or(if self.missing_as_empty {
            Some(Cow::Borrowed(&b""[..]))
        } else {
            None
        });
        let matched = match (&self.check, value) {
            (Check::Present(wanted), value) => value.is_some() == *wanted,
            // A missing header matches nothing, inverted or not (Envoy's order of checks).
            (_, None) => return false,
            (Check::Text(matcher), Some(value)) => {
                matcher.matches_bytes(&value)
                    || matches!(value, Cow::Owned(_)) && self.name.any(request, matcher)
            }
            (Check::Range(start, end), Some(value)) => std::str::from_utf8(&value)
                .ok()
                .and_then(|v| v.parse::<i64>().ok())
                .is_some_and(|v| (*start..*end).contains(&v)),
        };
        matched != self.invert
    }
}

impl Name {
    fn parse(name: &str) -> Result<Name, Refusal> {
        Ok(match name {
            ":method" => Name::Method,
            ":path" => Name::Path,
            ":authority" => Name::Authority,
            ":scheme" => Name::Scheme,
            name if name.eq_ignore_ascii_case("host") => Name::Authority,
            name => Name::Header(
                HeaderName::try_from(name)
                    .map_err(|_| Refusal::new("name", format!("{name:?} is not a header name")))?,
            ),
        })
    }

    /// Whether one value of a header matches.
    fn any<B>(&self, request: &Request<B>, matcher: &StringMatcher) -> bool {
        let Name::Header(name) = self else {
            return false;
        };
        let mut values = request.headers().get_all(name).iter();
        values.any(|value| matcher.matches_bytes(value.as_bytes()))
    }

    fn value<'a, B>(&self, request: &'a Request<B>) -> Option<Cow<'a, [u8]>> {
        match self {
            Name::Header(name) => joined(request.headers(), name),
            Name::Method => Some(Cow::Borrowed(request.method().as_str().as_bytes())),
            Name::Path => Some(Cow::Borrowed(
                request
                    .uri()
                    .path_and_query()
                    .map_or("/", |target| target.as_str())
                    .as_bytes(),
            )),
            Name::Authority => joined(request.headers(), &header::HOST),
            Name::Scheme => Some(Cow::Borrowed(&b"http"[..])),
        }
    }
}

/// The header's values, joined by `,`.
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first.as_bytes()));
    };
    let mut all = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn matcher(
        name: &str,
        specifier: HeaderMatchSpecifier,
        invert: bool,
        empty: bool,
    ) -> HeaderMatcher {
        HeaderMatcher::from_proto(&HeaderMatcherProto {
            name: name.into(),
            invert_match: invert,
            treat_missing_header_as_empty: empty,
            header_match_specifier: Some(specifier),
        })
        .unwrap()
    }

    fn request() -> Request<()> {
        Request::builder()
            .method("GET")
            .uri("/a?b=1")
            .header("host", "reviews:9080")
            .header("x-many", "1")
            .header("x-many", "2")
            .body(())
            .unwrap()
    }

    #[test]
    fn pseudo_headers_and_joined_values() {
        let exact = |s: &str| HeaderMatchSpecifier::ExactMatch(s.into());
        let r = request();
        assert!(matcher(":method", exact("GET"), false, false).matches(&r));
        assert!(matcher(":path", exact("/a?b=1"), false, false).matches(&r));
        assert!(matcher(":authority", exact("reviews:9080"), false, false).matches(&r));
        assert!(matcher("X-Many", exact("1,2"), false, false).matches(&r));
        let range = |start, end| {
            HeaderMatchSpecifier::RangeMatch(envoy_types::pb::envoy::r#type::v3::Int64Range {
                start,
                end,
            })
        };
        assert!(!matcher("x-many", range(0, 9), false, false).matches(&r));
    }

    #[test]
    fn a_missing_header_matches_only_where_it_counts_as_empty() {
        let exact = |s: &str| HeaderMatchSpecifier::ExactMatch(s.into());
        let r = request();
        assert!(!matcher("x-none", exact("a"), false, false).matches(&r));
        assert!(!matcher("x-none", exact("a"), true, false).matches(&r));
        assert!(matcher("x-none", exact("a"), true, true).matches(&r));
        let present = HeaderMatchSpecifier::PresentMatch;
        assert!(matcher("x-none", present(true), true, false).matches(&r));
        assert!(matcher("x-none", present(false), false, false).matches(&r));
        assert!(!matcher("x-many", present(false), false, false).matches(&r));
    }
}
