//! Regular expressions in messages.

use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;

pub(crate) fn regex_matcher(regex: String) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex,
        ..matcher::RegexMatcher::default()
    }
}

/// Quotes a literal for a regular expression, as Go does it.
pub(crate) fn quote(literal: &str) -> String {
    let mut quoted = String::with_capacity(literal.len());
    for c in literal.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_quoted() {
        assert_eq!(quote("a.b*c-d"), r"a\.b\*c-d");
    }
}
