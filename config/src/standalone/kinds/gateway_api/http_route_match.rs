//! Matches of an HTTPRoute, as the Gateway API's CRD lets them through.

use serde::Deserialize;

use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Match {
    pub path: PathMatch,
    pub headers: Vec<ValueMatch>,
    pub query_params: Vec<ValueMatch>,
    pub method: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathMatch {
    pub r#type: PathMatchType,
    pub value: String,
}

impl Default for PathMatch {
    fn default() -> PathMatch {
        PathMatch {
            r#type: PathMatchType::PathPrefix,
            value: "/".to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PathMatchType {
    Exact,
    PathPrefix,
    RegularExpression,
}

/// Match of a header or query parameter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueMatch {
    #[serde(default)]
    pub r#type: ValueMatchType,
    pub name: String,
    pub value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ValueMatchType {
    #[default]
    Exact,
    RegularExpression,
}

impl Match {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let value = &self.path.value;
        if self.path.r#type == PathMatchType::RegularExpression {
            check_regex("path.value", value)?;
        } else {
            if !value.starts_with('/') {
                return Err(refusal("path.value", "must begin with /"));
            }
            let lower = value.to_ascii_lowercase();
            let odd = ["//", "/./", "/../", "%2f", "#"]
                .iter()
                .find(|part| lower.contains(**part));
            if odd.is_some()
                || value.ends_with("/..")
                || value.ends_with("/.")
                || value.len() > 1024
            {
                return Err(refusal(
                    "path.value",
                    format!("{value:?} is not allowed as a path"),
                ));
            }
            if !is_path(value) {
                let reason =
                    format!("{value:?} has characters that a path can't have: escape them");
                return Err(refusal("path.value", reason));
            }
        }
        self.check_values()?;
        const METHODS: &[&str] = &[
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ];
        match &self.method {
            Some(method) if !METHODS.contains(&method.as_str()) => {
                Err(refusal("method", format!("{method:?} is no HTTP method")))
            }
            _ => Ok(()),
        }
    }

    /// The headers and query parameters.
    pub(crate) fn check_values(&self) -> Result<(), Refusal> {
        for (list, matches) in [
            ("headers", &self.headers),
            ("queryParams", &self.query_params),
        ] {
            check_unique(
                list,
                list == "headers",
                matches.iter().map(|found| found.name.as_str()),
            )?;
            for (index, found) in matches.iter().enumerate() {
                let at = |field: &str| format!("{list}[{index}].{field}");
                if !is_header_name(&found.name) {
                    return Err(refusal(at("name"), format!("{:?} is no name", found.name)));
                }
                if found.value.is_empty() || found.value.len() > 4096 {
                    return Err(refusal(at("value"), "must have 1 to 4096 characters"));
                }
                if found.r#type == ValueMatchType::RegularExpression {
                    check_regex(&at("value"), &found.value)?;
                }
            }
        }
        Ok(())
    }
}

/// Characters of a path (RFC 3986), and escapes.
pub(crate) fn is_path(text: &str) -> bool {
    let mut rest = text.bytes();
    while let Some(c) = rest.next() {
        let known = match c {
            b'%' => [rest.next(), rest.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            c => c.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&c),
        };
        if !known {
            return false;
        }
    }
    !text.is_empty()
}

pub(crate) fn check_regex(field: &str, value: &str) -> Result<(), Refusal> {
    match regex::Regex::new(value) {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal(field, error.to_string())),
    }
}

/// Names must differ. The CRD compares them as they are written; two spellings of one header's name are
/// refused, too, since only one of them could be honoured.
pub(crate) fn check_unique<'a>(
    list: &str,
    any_case: bool,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Refusal> {
    let mut seen: Vec<&str> = Vec::new();
    for (index, name) in names.enumerate() {
        let twin = |other: &&str| *other == name || (any_case && other.eq_ignore_ascii_case(name));
        if seen.iter().any(twin) {
            return Err(refusal(
                format!("{list}[{index}].name"),
                format!("{name:?} is given twice"),
            ));
        }
        seen.push(name);
    }
    Ok(())
}

pub(crate) fn is_header_name(name: &str) -> bool {
    http::HeaderName::from_bytes(name.as_bytes()).is_ok()
}
