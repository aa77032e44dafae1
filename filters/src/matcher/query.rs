//! `QueryParameterMatcher`: the first value of a query parameter, as it stands: Envoy decodes no escapes here.

use std::fmt;

use envoy_types::pb::envoy::config::route::v3::{
    QueryParameterMatcher as QueryParameterMatcherProto,
    query_parameter_matcher::QueryParameterMatchSpecifier,
};

use crate::matcher::exact_value::{Subject, query_value};
use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::rejected::Refusal;

/// Compares one query parameter.
#[derive(Clone, Debug)]
pub struct QueryParameterMatcher {
    name: Box<str>,
    /// `None`: it only has to be there.
    value: Option<StringMatcher>,
    present: bool,
}

pub static QUERY_PARAMETER_MATCHER: Table = Table {
    name: "envoy.config.route.v3.QueryParameterMatcher",
    fields: &[
        honoured(1, "name"),
        honoured(5, "string_match").of(&STRING_MATCHER),
        honoured(6, "present_match"),
    ],
    refused: "",
    required: &[required("name", &[1])],
};

impl QueryParameterMatcher {
    pub fn from_proto(
        proto: &QueryParameterMatcherProto,
    ) -> Result<QueryParameterMatcher, Refusal> {
        let (value, present) = match &proto.query_parameter_match_specifier {
            None => (None, true),
            Some(QueryParameterMatchSpecifier::PresentMatch(present)) => (None, *present),
            Some(QueryParameterMatchSpecifier::StringMatch(m)) => {
                let matcher = StringMatcher::from_proto(m).map_err(|e| e.within("string_match"))?;
                (Some(matcher), true)
            }
        };
        Ok(QueryParameterMatcher {
            name: proto.name.as_str().into(),
            value,
            present,
        })
    }

    /// `query` is what follows the `?`.
    pub fn matches(&self, query: Option<&str>) -> bool {
        match (&self.value, query_value(query, &self.name)) {
            (None, found) => found.is_some() == self.present,
            (Some(matcher), Some(value)) => matcher.matches(value),
            (Some(_), None) => false,
        }
    }

    /// The exact value that it asks for, if it does.
    pub(super) fn exact(&self) -> Option<(Subject, &str)> {
        let value = self.value.as_ref()?.as_exact()?;
        Some((Subject::Query(self.name.clone()), value))
    }
}

/// What it asks for.
impl fmt::Display for QueryParameterMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (&self.value, self.present) {
            (Some(value), _) => write!(f, "query parameter {name} is {value}"),
            (None, true) => write!(f, "query parameter {name} is there"),
            (None, false) => write!(f, "query parameter {name} is not there"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::{
        StringMatcher as StringMatcherProto, string_matcher::MatchPattern,
    };

    use super::*;

    #[test]
    fn the_first_value_counts_as_it_stands() {
        let matcher = QueryParameterMatcher::from_proto(&QueryParameterMatcherProto {
            name: "ver".into(),
            query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(
                StringMatcherProto {
                    match_pattern: Some(MatchPattern::Exact("a%20b".into())),
                    ignore_case: false,
                },
            )),
        })
        .unwrap();
        assert!(matcher.matches(Some("x=1&ver=a%20b&ver=c")));
        assert!(!matcher.matches(Some("ver=c&ver=a%20b")));
        assert!(!matcher.matches(Some("ver=a b")), "no escape is decoded");
        assert!(!matcher.matches(None));
    }
}
