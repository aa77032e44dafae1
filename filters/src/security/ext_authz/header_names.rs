//! Which headers are meant: matchers for their names (`ListStringMatcher`).

use envoy_types::pb::envoy::r#type::matcher::v3::ListStringMatcher;

use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static LIST_STRING_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.ListStringMatcher",
    fields: &[honoured(1, "patterns").list().of(&STRING_MATCHER)],
    refused: "",
    required: &[required("patterns", &[1])],
};

/// Names, each as good as another.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderNames(Vec<StringMatcher>);

impl HeaderNames {
    /// `None` where the list isn't set.
    pub(crate) fn optional(
        proto: Option<&ListStringMatcher>,
        field: &str,
    ) -> Result<Option<HeaderNames>, Refusal> {
        let Some(proto) = proto else { return Ok(None) };
        let patterns = proto.patterns.iter().enumerate();
        let patterns = patterns.map(|(index, pattern)| {
            StringMatcher::from_proto(pattern)
                .map_err(|e| e.within(format!("{field}.patterns[{index}]")))
        });
        Ok(Some(HeaderNames(patterns.collect::<Result<_, _>>()?)))
    }

    /// As [`HeaderNames::optional`]; a list that isn't set has no name in it.
    pub(crate) fn from_proto(
        proto: Option<&ListStringMatcher>,
        field: &str,
    ) -> Result<HeaderNames, Refusal> {
        Ok(HeaderNames::optional(proto, field)?.unwrap_or_default())
    }

    /// These, too.
    #[must_use]
    pub(crate) fn and(mut self, names: &[&str]) -> HeaderNames {
        let names = names.iter().copied().map(StringMatcher::exact);
        self.0.extend(names);
        self
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|matcher| matcher.matches(name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher as StringMatcherProto;
    use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

    use super::*;

    /// A list of names, as they are, and of what names begin with, with a `*` behind it.
    pub(crate) fn names(patterns: &[&str]) -> ListStringMatcher {
        let pattern = |text: &&str| StringMatcherProto {
            ignore_case: true,
            match_pattern: Some(match text.strip_suffix('*') {
                Some(prefix) => MatchPattern::Prefix(prefix.into()),
                None => MatchPattern::Exact((*text).into()),
            }),
        };
        ListStringMatcher {
            patterns: patterns.iter().map(pattern).collect(),
        }
    }

    #[test]
    fn any_of_the_patterns_will_do() {
        let list = names(&["X-User", "x-auth-*"]);
        let list = HeaderNames::from_proto(Some(&list), "allowed").unwrap();
        assert!(list.has("x-user") && list.has("x-auth-token") && !list.has("x-users"));
        let more = list.and(&[":path"]);
        assert!(more.has(":path") && !HeaderNames::default().has(":path"));
        assert!(HeaderNames::optional(None, "allowed").unwrap().is_none());
        let broken = ListStringMatcher {
            patterns: vec![StringMatcherProto::default()],
        };
        let refusal = HeaderNames::from_proto(Some(&broken), "allowed").unwrap_err();
        assert_eq!(refusal.field, "allowed.patterns[0].match_pattern");
    }
}
