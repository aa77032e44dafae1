//! `StringMatcher`: exact, prefix, suffix, contains, or a regular expression for the whole value.
//!
//! istiod writes many expressions whose shape is a literal between `.*`: they are recognised and
//! compared without a regular expression.

use std::fmt;

use envoy_types::pb::envoy::r#type::matcher::v3::{
    StringMatcher as StringMatcherProto, string_matcher::MatchPattern,
};

use crate::matcher::regex::{self, REGEX_MATCHER};
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::rejected::Refusal;

/// Compares a string.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    pattern: Pattern,
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum Pattern {
    Any,
    /// Any value that isn't empty (`.+`).
    Present,
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    Regex(::regex::Regex),
}

pub static STRING_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.StringMatcher",
    fields: &[
        honoured(1, "exact"),
        honoured(2, "prefix"),
        honoured(3, "suffix"),
        honoured(5, "safe_regex").of(&REGEX_MATCHER),
        honoured(6, "ignore_case"),
        honoured(7, "contains"),
    ],
    refused: "8 custom",
    required: &[required("match_pattern", &[1, 2, 3, 5, 7])],
};

impl StringMatcher {
    pub fn from_proto(proto: &StringMatcherProto) -> Result<StringMatcher, Refusal> {
        let ignore_case = proto.ignore_case;
        let text = |s: &str| -> Box<str> {
            if ignore_case {
                s.to_ascii_lowercase().into()
            } else {
                s.into()
            }
        };
        let pattern = match &proto.match_pattern {
            Some(MatchPattern::Exact(s)) => Pattern::Exact(text(s)),
            Some(MatchPattern::Prefix(s)) => Pattern::Prefix(text(s)),
            Some(MatchPattern::Suffix(s)) => Pattern::Suffix(text(s)),
            Some(MatchPattern::Contains(s)) => Pattern::Contains(text(s)),
            Some(MatchPattern::SafeRegex(r)) => {
                return StringMatcher::regex(&r.regex).map_err(|e| e.within("safe_regex"));
            }
            Some(MatchPattern::Custom(_)) => return Err(Refusal::unsupported("custom")),
            None => return Err(Refusal::missing("match_pattern")),
        };
        Ok(StringMatcher {
            pattern,
            ignore_case,
        })
    }

    pub fn exact(text: &str) -> StringMatcher {
        StringMatcher {
            pattern: Pattern::Exact(text.into()),
            ignore_case: false,
        }
    }

    pub fn prefix(text: &str) -> StringMatcher {
        StringMatcher {
            pattern: Pattern::Prefix(text.into()),
            ignore_case: false,
        }
    }

    pub fn suffix(text: &str) -> StringMatcher {
        StringMatcher {
            pattern: Pattern::Suffix(text.into()),
            ignore_case: false,
        }
    }

    pub fn contains(text: &str) -> StringMatcher {
        StringMatcher {
            pattern: Pattern::Contains(text.into()),
            ignore_case: false,
        }
    }

    /// A regular expression for the whole value; always case-sensitive, as Envoy's.
    pub fn regex(pattern: &str) -> Result<StringMatcher, Refusal> {
        let compiled = regex::full_match(pattern)?;
        Ok(StringMatcher {
            pattern: literal_shape(pattern).unwrap_or(Pattern::Regex(compiled)),
            ignore_case: false,
        })
    }

    /// The one value that matches, if there is but one.
    pub(super) fn as_exact(&self) -> Option<&str> {
        match &self.pattern {
            Pattern::Exact(text) if !self.ignore_case => Some(text),
            _ => None,
        }
    }

    pub fn matches(&self, value: &str) -> bool {
        if self.ignore_case {
            let value = value.to_ascii_lowercase();
            return self.pattern.matches(&value);
        }
        self.pattern.matches(value)
    }

    /// As [`matches`](StringMatcher::matches), for a header's value. One that isn't text is compared by its bytes, each a
    /// character to expressions: a byte that is none mustn't get its header past a denial.
    pub fn matches_bytes(&self, value: &[u8]) -> bool {
        match std::str::from_utf8(value) {
            Ok(value) => self.matches(value),
            Err(_) if self.ignore_case => self.pattern.matches_opaque(&value.to_ascii_lowercase()),
            Err(_) => self.pattern.matches_opaque(value),
        }
    }
}

/// In the notation of Istio's policies: `*` is anything. Regular expressions stand between slashes.
impl fmt::Display for StringMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            Pattern::Any => f.write_str("anything"),
            Pattern::Present => f.write_str("not empty"),
            Pattern::Exact(s) => write!(f, "{s:?}"),
            Pattern::Prefix(s) => write!(f, "\"{s}*\""),
            Pattern::Suffix(s) => write!(f, "\"*{s}\""),
            Pattern::Contains(s) => write!(f, "\"*{s}*\""),
            Pattern::Regex(r) => write!(f, "/{}/", regex::written(r)),
        }?;
        match self.ignore_case {
            true => f.write_str(" in any case"),
            false => Ok(()),
        }
    }
}

impl Pattern {
    fn matches(&self, value: &str) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Present => !value.is_empty(),
            Pattern::Exact(s) => value == &**s,
            Pattern::Prefix(s) => value.starts_with(&**s),
            Pattern::Suffix(s) => value.ends_with(&**s),
            Pattern::Contains(s) => value.contains(&**s),
            Pattern::Regex(r) => r.is_match(value),
        }
    }

    /// Of bytes that are no UTF-8.
    fn matches_opaque(&self, value: &[u8]) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Present => !value.is_empty(),
            Pattern::Exact(s) => value == s.as_bytes(),
            Pattern::Prefix(s) => value.starts_with(s.as_bytes()),
            Pattern::Suffix(s) => value.ends_with(s.as_bytes()),
            Pattern::Contains(s) => {
                let wanted = s.as_bytes();
                wanted.is_empty() || value.windows(wanted.len()).any(|part| part == wanted)
            }
            Pattern::Regex(r) => {
                let text: String = value.iter().map(|byte| char::from(*byte)).collect();
                r.is_match(&text)
            }
        }
    }
}

/// The literal comparison that a regular expression amounts to, if it is one. `.` doesn't match a
/// newline, but no value compared here (a header, a path, an identity) can hold one.
fn literal_shape(pattern: &str) -> Option<Pattern> {
    match pattern {
        ".*" => return Some(Pattern::Any),
        ".+" => return Some(Pattern::Present),
        _ => {}
    }
    let (open, rest) = match pattern.strip_prefix(".*") {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (close, literal) = match rest.strip_suffix(".*") {
        Some(literal) => (true, literal),
        None => (false, rest),
    };
    let literal = unescape(literal)?;
    Some(match (open, close) {
        (true, true) => Pattern::Contains(literal),
        (true, false) => Pattern::Suffix(literal),
        (false, true) => Pattern::Prefix(literal),
        (false, false) => Pattern::Exact(literal),
    })
}

/// The text that a pattern without operators stands for.
fn unescape(pattern: &str) -> Option<Box<str>> {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let escaped = chars.next()?;
                if escaped.is_alphanumeric() {
                    return None;
                }
                out.push(escaped);
            }
            '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => {
                return None;
            }
            c => out.push(c),
        }
    }
    Some(out.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn proto(pattern: MatchPattern, ignore_case: bool) -> StringMatcherProto {
        StringMatcherProto {
            ignore_case,
            match_pattern: Some(pattern),
        }
    }

    #[test]
    fn the_patterns_mean_what_they_say() {
        let m = |p, i| StringMatcher::from_proto(&proto(p, i)).unwrap();
        assert!(m(MatchPattern::Exact("a".into()), false).matches("a"));
        assert!(!m(MatchPattern::Exact("a".into()), false).matches("A"));
        assert!(m(MatchPattern::Exact("Abc".into()), true).matches("aBC"));
        assert!(m(MatchPattern::Prefix("a".into()), false).matches("ab"));
        assert!(m(MatchPattern::Suffix("b".into()), false).matches("ab"));
        assert!(m(MatchPattern::Contains("b".into()), false).matches("abc"));
        assert!(StringMatcher::from_proto(&StringMatcherProto::default()).is_err());
    }

    #[test]
    fn a_value_that_is_no_text_is_compared_by_its_bytes() {
        let pattern = |pattern, ignore_case| {
            StringMatcher::from_proto(&StringMatcherProto {
                ignore_case,
                match_pattern: Some(pattern),
            })
            .unwrap()
        };
        let regex = |regex: &str| StringMatcher::regex(regex).unwrap();
        for (matcher, value, matches) in [
            (StringMatcher::prefix("adm"), &b"adm\xff"[..], true),
            (StringMatcher::prefix("adm"), b"\xffadm", false),
            (StringMatcher::suffix("min"), b"\xffmin", true),
            (StringMatcher::contains("dm"), b"\xffdm\xff", true),
            (StringMatcher::contains("dn"), b"\xffdm\xff", false),
            (StringMatcher::exact("admin"), b"admin\xff", false),
            (
                pattern(MatchPattern::Prefix("Adm".into()), true),
                b"aDM\xff",
                true,
            ),
            (regex("ad[mn]..*"), b"adm\xff", true),
            (regex("ad[mn]."), b"adm\xff\xff", false),
            (regex(".+"), b"\xff", true),
            (regex("[^a]*"), b"a\xff", false),
        ] {
            assert_eq!(matcher.matches_bytes(value), matches, "{matcher} {value:?}");
        }
    }

    #[test]
    fn literal_shapes_agree_with_the_regular_expression() {
        let values = [
            "",
            "spiffe://td/ns/default/sa/x",
            "spiffe://td/ns/defaults/sa/x",
            "a.b",
            "axb",
            "/ns/default/",
        ];
        for pattern in [
            ".*/ns/default/.*",
            "a\\.b",
            "a.b",
            ".*",
            ".+",
            "spiffe://td/.*",
            ".*/sa/x",
            "a|b",
            "",
            "spiffe://.+/ns/default/(.+/|)sa/x(/.+)?",
        ] {
            let reference = regex::full_match(pattern).unwrap();
            let matcher = StringMatcher::regex(pattern).unwrap();
            for value in values {
                assert_eq!(
                    matcher.matches(value),
                    reference.is_match(value),
                    "{pattern} on {value}"
                );
            }
        }
        assert!(matches!(
            StringMatcher::regex(".*/ns/default/.*").unwrap().pattern,
            Pattern::Contains(_)
        ));
    }
}
