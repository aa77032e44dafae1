//! `ValueMatcher`: compares a structured value of metadata.

use std::fmt;

use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListMatcher, ValueMatcher as ValueMatcherProto, double_matcher, list_matcher,
    value_matcher::MatchPattern,
};
use serde_json::Value;

use crate::matcher::string::{STRING_MATCHER, StringMatcher};
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::coverage::well_known::DOUBLE_RANGE;
use crate::xds::rejected::Refusal;

/// Compares one value.
#[derive(Clone, Debug)]
pub enum ValueMatcher {
    Null,
    Exact(f64),
    /// Start (inclusive) and end (exclusive).
    Range(f64, f64),
    Text(StringMatcher),
    Bool(bool),
    Present(bool),
    /// One element of a list.
    OneOf(Box<ValueMatcher>),
    Or(Box<[ValueMatcher]>),
}

pub static VALUE_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.ValueMatcher",
    fields: &[
        honoured(1, "null_match").of(&NULL_MATCH),
        honoured(2, "double_match").of(&DOUBLE_MATCHER),
        honoured(3, "string_match").of(&STRING_MATCHER),
        honoured(4, "bool_match"),
        honoured(5, "present_match"),
        honoured(6, "list_match").of(&LIST_MATCHER),
        honoured(7, "or_match").of(&OR_MATCHER),
    ],
    refused: "",
    required: &[required("match_pattern", &[1, 2, 3, 4, 5, 6, 7])],
};

static NULL_MATCH: Table = Table {
    name: "envoy.type.matcher.v3.ValueMatcher.NullMatch",
    fields: &[],
    refused: "",
    required: &[],
};

static DOUBLE_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.DoubleMatcher",
    fields: &[honoured(1, "range").of(&DOUBLE_RANGE), honoured(2, "exact")],
    refused: "",
    required: &[required("match_pattern", &[1, 2])],
};

static LIST_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.ListMatcher",
    fields: &[honoured(1, "one_of").of(&VALUE_MATCHER)],
    refused: "",
    required: &[required("match_pattern", &[1])],
};

static OR_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.OrMatcher",
    fields: &[honoured(1, "value_matchers").list().of(&VALUE_MATCHER)],
    refused: "",
    required: &[required("value_matchers", &[1])],
};

/// A matcher nested deeper than this is refused.
const MAX_DEPTH: usize = 16;

/// What it asks for.
impl fmt::Display for ValueMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueMatcher::Null => f.write_str("null"),
            ValueMatcher::Exact(number) => write!(f, "{number}"),
            ValueMatcher::Range(start, end) => write!(f, "in [{start}, {end})"),
            ValueMatcher::Text(matcher) => matcher.fmt(f),
            ValueMatcher::Bool(value) => value.fmt(f),
            ValueMatcher::Present(true) => f.write_str("there"),
            ValueMatcher::Present(false) => f.write_str("not there"),
            ValueMatcher::OneOf(inner) => write!(f, "a list with {inner}"),
            ValueMatcher::Or(any) => {
                for (i, matcher) in any.iter().enumerate() {
                    let or = if i > 0 { " or " } else { "" };
                    write!(f, "{or}{matcher}")?;
                }
                Ok(())
            }
        }
    }
}

impl ValueMatcher {
    pub fn from_proto(proto: &ValueMatcherProto) -> Result<ValueMatcher, Refusal> {
        ValueMatcher::at_depth(proto, 0)
    }

    fn at_depth(proto: &ValueMatcherProto, depth: usize) -> Result<ValueMatcher, Refusal> {
        if depth > MAX_DEPTH {
            return Err(Refusal::new("value", "is nested too deeply"));
        }
        Ok(match &proto.match_pattern {
            None => return Err(Refusal::missing("match_pattern")),
            Some(MatchPattern::NullMatch(_)) => ValueMatcher::Null,
            Some(MatchPattern::BoolMatch(b)) => ValueMatcher::Bool(*b),
            Some(MatchPattern::PresentMatch(p)) => ValueMatcher::Present(*p),
            Some(MatchPattern::StringMatch(m)) => ValueMatcher::Text(
                StringMatcher::from_proto(m).map_err(|e| e.within("string_match"))?,
            ),
            Some(MatchPattern::DoubleMatch(m)) => match &m.match_pattern {
                Some(double_matcher::MatchPattern::Exact(d)) => ValueMatcher::Exact(*d),
                Some(double_matcher::MatchPattern::Range(r)) => ValueMatcher::Range(r.start, r.end),
                None => return Err(Refusal::missing("double_match.match_pattern")),
            },
            Some(MatchPattern::ListMatch(m)) => {
                let ListMatcher { match_pattern } = &**m;
                match match_pattern {
                    Some(list_matcher::MatchPattern::OneOf(inner)) => {
                        ValueMatcher::OneOf(Box::new(ValueMatcher::at_depth(inner, depth + 1)?))
                    }
                    None => return Err(Refusal::missing("list_match.match_pattern")),
                }
            }
            Some(MatchPattern::OrMatch(m)) => ValueMatcher::Or(
                m.value_matchers
                    .iter()
                    .map(|inner| ValueMatcher::at_depth(inner, depth + 1))
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    /// `None`: there is no such value.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (ValueMatcher::Present(wanted), value) => value.is_some() == *wanted,
            (ValueMatcher::Or(any), value) => any.iter().any(|m| m.matches(value)),
            (ValueMatcher::Null, Some(Value::Null)) => true,
            (ValueMatcher::Bool(b), Some(Value::Bool(v))) => b == v,
            (ValueMatcher::Exact(d), Some(Value::Number(n))) => n.as_f64() == Some(*d),
            (ValueMatcher::Range(start, end), Some(Value::Number(n))) => {
                n.as_f64().is_some_and(|n| (*start..*end).contains(&n))
            }
            (ValueMatcher::Text(m), Some(Value::String(s))) => m.matches(s),
            (ValueMatcher::OneOf(m), Some(Value::Array(list))) => {
                list.iter().any(|value| m.matches(Some(value)))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_match_as_text_or_in_a_list() {
        let text = || ValueMatcher::Text(StringMatcher::exact("admin"));
        let matcher = ValueMatcher::Or(Box::new([ValueMatcher::OneOf(Box::new(text())), text()]));
        assert!(matcher.matches(Some(&json!("admin"))));
        assert!(matcher.matches(Some(&json!(["user", "admin"]))));
        assert!(!matcher.matches(Some(&json!(["user"]))));
        assert!(!matcher.matches(None));
    }
}
