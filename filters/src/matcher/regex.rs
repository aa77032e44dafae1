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
mod tests {
    use super::*;

    #[test]
    fn matches_the_whole_value_only() {
        let regex = full_match("a|ab");
        assert!(regex.is_ok_and(|r| r.is_match("ab") && !r.is_match("abc") && !r.is_match("xa")));
        assert!(full_match("(").is_err());
        assert!(full_match("(?:a{1000}){1000}").is_err());
    }
}
