//! Regular expressions as Envoy uses them: RE2 syntax, linear time, always matching the whole value.

use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;

use crate::xds::coverage::Table;
use crate::xds::coverage::harmless;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::rejected::Refusal;

/// Compiled programs are bounded; a pattern that needs more is refused.
const MAX_PROGRAM_BYTES: usize = 1 << 20;

pub static REGEX_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.RegexMatcher",
    fields: &[
        harmless(
            1,
            "google_re2",
            "the engine is always linear in time, and bounded",
        ),
        honoured(2, "regex"),
    ],
    refused: "",
    required: &[required("regex", &[2])],
};

pub static SUBSTITUTION: Table = Table {
    name: "envoy.type.matcher.v3.RegexMatchAndSubstitute",
    fields: &[
        honoured(1, "pattern").of(&REGEX_MATCHER),
        honoured(2, "substitution"),
    ],
    refused: "",
    required: &[required("pattern", &[1])],
};

/// Compiles `pattern` to match whole values.
pub fn full_match(pattern: &str) -> Result<regex::Regex, Refusal> {
    compile(&format!("^(?:{pattern})$"))
}

/// Compiles `pattern` to be searched for (substitutions).
pub fn search(pattern: &str) -> Result<regex::Regex, Refusal> {
    compile(pattern)
}

/// What a regular expression for whole values was written as.
pub fn written(regex: &regex::Regex) -> &str {
    let whole = regex.as_str();
    let inner = whole
        .strip_prefix("^(?:")
        .and_then(|w| w.strip_suffix(")$"));
    inner.unwrap_or(whole)
}

/// What every value that it matches begins with, as far as that can be read off it; of one with alternatives nothing.
pub fn beginning(regex: &regex::Regex) -> &str {
    let text = written(regex);
    if text.contains('|') {
        return "";
    }
    let is_literal = |c: char| c.is_ascii_alphanumeric() || "/-_~ ,;:=@%".contains(c);
    let end = text.find(|c| !is_literal(c)).unwrap_or(text.len());
    let (literal, rest) = text.split_at(end);
    match rest.chars().next() {
        // The last character may not be there.
        Some('*' | '?' | '{') => literal.get(..end.saturating_sub(1)).unwrap_or_default(),
        _ => literal,
    }
}

/// As [`search`], in values that need not be text.
pub fn search_bytes(pattern: &str) -> Result<regex::bytes::Regex, Refusal> {
    regex::bytes::RegexBuilder::new(pattern)
        .size_limit(MAX_PROGRAM_BYTES)
        .dot_matches_new_line(false)
        .build()
        .map_err(|error| Refusal::new("regex", format!("{pattern:?} is not valid: {error}")))
}

/// From proto; the engine is always RE2's.
pub fn from_proto(proto: &RegexMatcher) -> Result<regex::Regex, Refusal> {
    full_match(&proto.regex)
}

fn compile(pattern: &str) -> Result<regex::Regex, Refusal> {
    regex::RegexBuilder::new(pattern)
        .size_limit(MAX_PROGRAM_BYTES)
        .dot_matches_new_line(false)
        .build()
        .map_err(|error| Refusal::new("regex", format!("{pattern:?} is not valid: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_values_begin_with() {
        for (pattern, beginning) in [
            ("/item/[0-9]+", "/item/"),
            ("/a/b", "/a/b"),
            ("/ab*", "/a"),
            ("/ab?c", "/a"),
            ("/ab{0}", "/a"),
            ("/ab+", "/ab"),
            ("/a|/b", ""),
            ("(?i)/a", ""),
            (r"/a\.b", "/a"),
            ("/.*", "/"),
            ("", ""),
        ] {
            let regex = full_match(pattern).unwrap();
            assert_eq!(super::beginning(&regex), beginning, "{pattern}");
        }
    }

    #[test]
    fn matches_the_whole_value_only() {
        let regex = full_match("a|ab");
        assert!(regex.is_ok_and(|r| r.is_match("ab") && !r.is_match("abc") && !r.is_match("xa")));
        assert!(full_match("(").is_err());
        assert!(full_match("(?:a{1000}){1000}").is_err());
    }
}
