//! `StringMatch`: a text as it is, its beginning, an expression for all of it; `{}` asks for nothing but that there is one.

use serde::Deserialize;

use crate::standalone::kinds::gateway_api::http_route_match::check_regex;
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub enum StringMatch {
    Exact(String),
    Prefix(String),
    Regex(String),
    /// Any text.
    Present,
}

/// Its three forms, of which one is given at most.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<String>,
}

impl TryFrom<Written> for StringMatch {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<StringMatch, Self::Error> {
        match (written.exact, written.prefix, written.regex) {
            (Some(exact), None, None) => Ok(StringMatch::Exact(exact)),
            (None, Some(prefix), None) => Ok(StringMatch::Prefix(prefix)),
            (None, None, Some(regex)) => Ok(StringMatch::Regex(regex)),
            (None, None, None) => Ok(StringMatch::Present),
            _ => Err("only one of exact, prefix and regex may be given"),
        }
    }
}

impl StringMatch {
    /// Of a URI; its prefix may be empty.
    pub(super) fn check_uri(&self, field: &str) -> Result<(), Refusal> {
        match self {
            StringMatch::Regex(regex) => expression(field, regex),
            _ => Ok(()),
        }
    }

    pub(super) fn check(&self, field: &str) -> Result<(), Refusal> {
        match self {
            StringMatch::Prefix(prefix) if prefix.is_empty() => {
                Err(refusal(field, "an empty prefix says nothing"))
            }
            found => found.check_uri(field),
        }
    }

    /// Whether any text will do. (`*` is no expression: Istio takes it for this.)
    pub(crate) fn is_present(&self) -> bool {
        match self {
            StringMatch::Present => true,
            StringMatch::Regex(regex) => regex == "*",
            _ => false,
        }
    }

    /// Whether a delegate's match can't be a narrower one than its root's.
    pub(super) fn conflicts(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
        use StringMatch::{Exact, Prefix, Regex};
        let (Some(root), Some(leaf)) = (root, leaf) else {
            return false;
        };
        // As in Istio's own representation, where an empty text is none.
        match (root, leaf) {
            (Exact(root), Exact(leaf)) if !root.is_empty() => root != leaf,
            (Prefix(root), Prefix(leaf) | Exact(leaf)) if !root.is_empty() && !leaf.is_empty() => {
                !leaf.starts_with(root.as_str())
            }
            (Regex(_), _) | (_, Regex(_)) => true,
            _ => true,
        }
    }
}

/// An expression, of a length that Istio grants.
pub(super) fn expression(field: &str, regex: &str) -> Result<(), Refusal> {
    if regex.is_empty() || regex.len() > 1024 {
        return Err(refusal(field, "an expression has 1 to 1024 characters"));
    }
    check_regex(field, regex)
}
