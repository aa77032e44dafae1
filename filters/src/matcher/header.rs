//! `HeaderMatcher`: a header, or a pseudo header, of a request's head.
//!
//! Several values of one name: policies look at each (Envoy 1.40), for joined by `,` they would be another value that no
//! rule means, and a rule for what a header is not would be met by it. Routes take one of them or all joined, as Envoy
//! did before. `:path` is path and query.

use std::borrow::Cow;
use std::fmt;

use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher as HeaderMatcherProto, header_matcher::HeaderMatchSpecifier,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use crate::matcher::exact_value::Subject;
use crate::matcher::regex::REGEX_MATCHER;
use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::stream::format_context::FormatContext;
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::coverage::well_known::INT64_RANGE;
use crate::xds::rejected::Refusal;

/// The head of a request, as it is or as it was kept.
pub trait RequestHead {
    /// The values under a name, in order.
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a HeaderValue>;
    fn method(&self) -> Option<&str>;
    /// Path and query.
    fn target(&self) -> Option<&str>;
}

impl<B> RequestHead for Request<B> {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a HeaderValue> {
        self.headers().get_all(name).iter()
    }

    fn method(&self) -> Option<&str> {
        Some(Request::method(self).as_str())
    }

    fn target(&self) -> Option<&str> {
        let target = self.uri().path_and_query();
        Some(target.map_or("/", |target| target.as_str()))
    }
}

/// An answer's headers: it has no first line that a matcher could ask for.
impl RequestHead for HeaderMap {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a HeaderValue> {
        self.get_all(name).iter()
    }

    fn method(&self) -> Option<&str> {
        None
    }

    fn target(&self) -> Option<&str> {
        None
    }
}

/// Of a stream that has ended, or is on its way.
impl RequestHead for FormatContext<'_> {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a HeaderValue> {
        let host = (*name == header::HOST && self.request.is_none())
            .then_some(self.captured().authority.as_ref())
            .flatten();
        host.into_iter().chain(self.request_headers(name))
    }

    fn method(&self) -> Option<&str> {
        let live = self.request.map(|request| request.method);
        let method = live.or(self.captured().method.as_ref());
        method.map(|method| method.as_str())
    }

    fn target(&self) -> Option<&str> {
        let live = self
            .request
            .and_then(|request| request.uri.path_and_query());
        let target = live.or(self.captured().path.as_ref());
        target.map(|target| target.as_str())
    }
}

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

    /// The header that it looks at; `None`: at the request's first line, or its host.
    pub fn header(&self) -> Option<&HeaderName> {
        match &self.name {
            Name::Header(name) => Some(name),
            _ => None,
        }
    }

    /// The exact value that it asks for, if it does, and a request without one doesn't match.
    pub(super) fn exact(&self) -> Option<(Subject, &str)> {
        let subject = match &self.name {
            Name::Header(name) => Subject::Header(name.clone()),
            Name::Method => Subject::Method,
            Name::Authority => Subject::Host,
            Name::Path | Name::Scheme => return None,
        };
        match &self.check {
            Check::Text(matcher) if !self.invert && !self.missing_as_empty => {
                Some((subject, matcher.as_exact()?))
            }
            _ => None,
        }
    }

    /// Whether it matches one value, as policies have it.
    pub fn matches_one(&self, request: &impl RequestHead) -> bool {
        let (Name::Header(name), false) = (&self.name, matches!(self.check, Check::Present(_)))
        else {
            return self.matches(request);
        };
        let mut values = request.values(name).map(HeaderValue::as_bytes).peekable();
        let empty = (self.missing_as_empty && values.peek().is_none()).then_some(&b""[..]);
        let mut values = values.chain(empty).peekable();
        // A missing header matches nothing, inverted or not.
        values.peek().is_some() && values.any(|value| self.check.takes(value)) != self.invert
    }

    /// Whether it matches one value, or all joined.
    pub fn matches(&self, request: &impl RequestHead) -> bool {
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
            (check, Some(value)) => check.takes(&value),
        };
        matched != self.invert
    }
}

impl Check {
    /// Whether a value that is there is as wanted.
    fn takes(&self, value: &[u8]) -> bool {
        match self {
            Check::Present(wanted) => *wanted,
            Check::Text(matcher) => matcher.matches_bytes(value),
            Check::Range(start, end) => {
                let number = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                number.is_some_and(|number: i64| (*start..*end).contains(&number))
            }
        }
    }
}

/// What it asks for, as `header x-user: "jason"`.
impl fmt::Display for HeaderMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (&self.check, self.invert) {
            (Check::Present(wanted), invert) if *wanted != invert => write!(f, "{name} is there"),
            (Check::Present(_), _) => write!(f, "{name} is not there"),
            (Check::Text(matcher), false) => write!(f, "{name} is {matcher}"),
            (Check::Text(matcher), true) => write!(f, "{name} is not {matcher}"),
            (Check::Range(start, end), false) => write!(f, "{name} is in [{start}, {end})"),
            (Check::Range(start, end), true) => write!(f, "{name} is not in [{start}, {end})"),
        }
    }
}

impl HeaderMatcher {
    /// What it would look at, as text; `None`: the request has no such header.
    pub fn seen<B>(&self, request: &Request<B>) -> Option<String> {
        let value = self.name.value(request)?;
        Some(String::from_utf8_lossy(&value).into_owned())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Header(name) => write!(f, "header {name}"),
            Name::Method => f.write_str("method"),
            Name::Path => f.write_str("path with query"),
            Name::Authority => f.write_str("host"),
            Name::Scheme => f.write_str("scheme"),
        }
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
    fn any(&self, request: &impl RequestHead, matcher: &StringMatcher) -> bool {
        let Name::Header(name) = self else {
            return false;
        };
        let mut values = request.values(name);
        values.any(|value| matcher.matches_bytes(value.as_bytes()))
    }

    fn value<'a>(&'a self, request: &'a impl RequestHead) -> Option<Cow<'a, [u8]>> {
        match self {
            Name::Header(name) => join(request.values(name)),
            Name::Method => Some(Cow::Borrowed(request.method()?.as_bytes())),
            Name::Path => Some(Cow::Borrowed(request.target()?.as_bytes())),
            Name::Authority => join(request.values(&header::HOST)),
            Name::Scheme => request.method().map(|_| Cow::Borrowed(&b"http"[..])),
        }
    }
}

/// The header's values, joined by `,`.
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    join(headers.get_all(name).iter())
}

/// Values joined by `,`; nothing is copied where there is one.
pub fn join<'a>(mut values: impl Iterator<Item = &'a HeaderValue>) -> Option<Cow<'a, [u8]>> {
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
    fn policies_look_at_each_value() {
        let exact = |s: &str| HeaderMatchSpecifier::ExactMatch(s.into());
        let r = request();
        let matches =
            |specifier, invert| matcher("x-many", specifier, invert, false).matches_one(&r);
        assert!(matches(exact("1"), false) && matches(exact("2"), false));
        assert!(!matches(exact("1,2"), false), "nobody sent that");
        assert!(matches(exact("1,2"), true));
        assert!(!matches(exact("2"), true));
        let missing = |invert, empty| matcher("x-none", exact(""), invert, empty).matches_one(&r);
        assert!(!missing(false, false) && !missing(true, false));
        assert!(missing(false, true) && !missing(true, true));
        assert!(matcher(":method", exact("GET"), false, false).matches_one(&r));
        let present = HeaderMatchSpecifier::PresentMatch;
        assert!(matcher("x-none", present(false), false, false).matches_one(&r));
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
