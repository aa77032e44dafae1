//! `FilterStateMatcher`: an object that a filter has set for the connection, such as the identity of the client.

use std::fmt;

use envoy_types::pb::envoy::r#type::matcher::v3::FilterStateMatcher as FilterStateMatcherProto;
use envoy_types::pb::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;

use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::stream::filter_state::{FilterState, PEER_PRINCIPAL};
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::rejected::Refusal;

/// Compares one object, as it is printed.
#[derive(Clone, Debug)]
pub struct FilterStateMatcher {
    key: Box<str>,
    value: StringMatcher,
}

pub static FILTER_STATE_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.FilterStateMatcher",
    fields: &[
        honoured(1, "key"),
        honoured(2, "string_match").of(&STRING_MATCHER),
    ],
    refused: "3 address_match",
    required: &[required("key", &[1]), required("matcher", &[2])],
};

impl FilterStateMatcher {
    /// # Errors
    /// It compares with something else than a text.
    pub fn from_proto(proto: &FilterStateMatcherProto) -> Result<FilterStateMatcher, Refusal> {
        let Some(Matcher::StringMatch(value)) = &proto.matcher else {
            return Err(Refusal::unsupported("matcher"));
        };
        Ok(FilterStateMatcher {
            key: proto.key.as_str().into(),
            value: StringMatcher::from_proto(value).map_err(|e| e.within("string_match"))?,
        })
    }

    /// What isn't there matches nothing.
    pub fn matches(&self, state: &FilterState) -> bool {
        match state.string(&self.key) {
            Some(text) => self.value.matches(text),
            None => self
                .seen(state)
                .is_some_and(|object| self.value.matches(&object)),
        }
    }

    /// What it would look at; `None`: there is no such object.
    pub fn seen(&self, state: &FilterState) -> Option<String> {
        state.get(&self.key).map(|object| object.to_plain())
    }
}

/// What it asks for, as `source identity is "…"`.
impl fmt::Display for FilterStateMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.key {
            PEER_PRINCIPAL => write!(f, "source identity is {}", self.value),
            key => write!(f, "{key} is {}", self.value),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher as StringMatcherProto;
    use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

    use super::*;
    use crate::stream::filter_state::{FilterValue, Sharing};

    #[test]
    fn an_identity_is_compared_and_a_missing_one_matches_nothing() {
        let matcher = FilterStateMatcher::from_proto(&FilterStateMatcherProto {
            key: PEER_PRINCIPAL.into(),
            matcher: Some(Matcher::StringMatch(StringMatcherProto {
                match_pattern: Some(MatchPattern::Prefix("spiffe://td/ns/a/sa/".into())),
                ignore_case: false,
            })),
        })
        .unwrap();
        let mut state = FilterState::default();
        assert!(!matcher.matches(&state));
        for (identity, matches) in [
            ("spiffe://td/ns/a/sa/x", true),
            ("spiffe://td/ns/ab/sa/x", false),
        ] {
            let value = FilterValue::String(identity.into());
            state.set(&PEER_PRINCIPAL.into(), value, Sharing::None);
            assert_eq!(matcher.matches(&state), matches, "{identity}");
        }
        let nothing = FilterStateMatcherProto::default();
        assert!(FilterStateMatcher::from_proto(&nothing).is_err());
    }
}
