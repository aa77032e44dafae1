//! `UriTemplateMatchConfig`: Istio's paths with `{*}` and `{**}`, which it sends as `*` and `**`.
//!
//! `*` is one segment that isn't empty, `**` any number of characters and segments, `{name}` one segment
//! (Envoy's `envoy.path.match.uri_template`). Compiled to one regular expression. As in Envoy, `[` and `]`, which
//! normalizing leaves raw, are in no segment, and a template with a character that no normalized path has is
//! refused: it would match nothing.

use std::fmt;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;

use crate::matcher::regex;
use crate::xds::coverage::Table;
use crate::xds::coverage::decode_any;
use crate::xds::coverage::harmless;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::rejected::Refusal;

/// One segment: the characters of RFC 3986's `pchar` (which has `*`).
const SEGMENT: &str = r"[a-zA-Z0-9\-._~%!$&'()*+,;=:@]+";
const TEXT: &str = r"[a-zA-Z0-9\-._~%!$&'()*+,;=:@/]*";

pub(crate) static URI_TEMPLATE: Table = Table {
    name: "envoy.config.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&MATCH_CONFIG]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

static MATCH_CONFIG: Table = Table {
    name: "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
    fields: &[honoured(1, "path_template")],
    refused: "",
    required: &[required("path_template", &[1])],
};

/// Compares a path with a template.
#[derive(Clone, Debug)]
pub struct UriTemplateMatcher {
    template: Box<str>,
    regex: ::regex::Regex,
}

impl fmt::Display for UriTemplateMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the template {:?}", self.template)
    }
}

impl UriTemplateMatcher {
    pub fn from_extension(proto: &TypedExtensionConfig) -> Result<UriTemplateMatcher, Refusal> {
        let any = proto
            .typed_config
            .as_ref()
            .ok_or_else(|| Refusal::missing("typed_config"))?;
        let config: UriTemplateMatchConfig = decode_any(any)?;
        UriTemplateMatcher::new(&config.path_template).map_err(|e| e.within("path_template"))
    }

    pub fn new(template: &str) -> Result<UriTemplateMatcher, Refusal> {
        let invalid = |why: &str| Refusal::new("", format!("{template:?} {why}"));
        let path = template
            .strip_prefix('/')
            .ok_or_else(|| invalid("does not begin with /"))?;
        let mut pattern = String::new();
        let (mut segments, mut ended) = (path.split('/').peekable(), false);
        while let Some(segment) = segments.next() {
            if segment.is_empty() && segments.peek().is_some() {
                return Err(invalid("has an empty segment"));
            }
            if ended && segment.contains('*') {
                return Err(invalid("has an operator after **"));
            }
            ended |= segment.contains("**");
            pattern.push('/');
            pattern.push_str(
                &compile_segment(segment).ok_or_else(|| invalid("is no valid template"))?,
            );
        }
        Ok(UriTemplateMatcher {
            template: template.into(),
            regex: regex::full_match(&pattern)?,
        })
    }

    /// `path` has no query.
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }
}

/// Whether a template may have the character as itself: those of a segment but `*`.
#[must_use]
pub fn is_literal(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~%!$&'()+,;=:@".contains(c)
}

fn compile_segment(segment: &str) -> Option<String> {
    let mut pattern = String::new();
    let mut rest = segment;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**") {
            pattern.push_str(TEXT);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            pattern.push_str(SEGMENT);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (name, after) = after.split_once('}')?;
            let variable = name.split_once('=').map_or("*", |(_, value)| value);
            pattern.push_str(match variable {
                "**" => TEXT,
                "*" => SEGMENT,
                _ => return None,
            });
            rest = after;
        } else if !is_literal(c) {
            return None;
        } else {
            pattern.push_str(&::regex::escape(c.encode_utf8(&mut [0; 4])));
            rest = rest.get(c.len_utf8()..)?;
        }
    }
    Some(pattern)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_segment_or_any_number() {
        let one = UriTemplateMatcher::new("/api/*/get").unwrap();
        assert!(one.matches("/api/v1/get") && one.matches("/api/*/get"));
        assert!(!one.matches("/api/v1/x/get") && !one.matches("/api//get"));
        let many = UriTemplateMatcher::new("/api/**").unwrap();
        assert!(many.matches("/api/") && many.matches("/api/a/b"));
        assert!(!many.matches("/ap"));
        let mixed = UriTemplateMatcher::new("/a.b/{x}/c").unwrap();
        assert!(mixed.matches("/a.b/1/c") && !mixed.matches("/aXb/1/c"));
        let last = UriTemplateMatcher::new("/a/**/end").unwrap();
        assert!(last.matches("/a//end") && last.matches("/a/b/c/end") && !last.matches("/a/end"));
    }

    /// Asked of Envoy 1.40, character by character.
    #[test]
    fn a_segment_has_what_envoy_lets_it_have() {
        let one = UriTemplateMatcher::new("/t/*/e").unwrap();
        let many = UriTemplateMatcher::new("/t/**/e").unwrap();
        for byte in 0x21..=0xffu8 {
            let c = char::from(byte);
            let path = format!("/t/a{c}b/e");
            let taken = !"\"#<>?[\\]^`{|}/\u{7f}".contains(c) && c.is_ascii();
            assert_eq!(one.matches(&path), taken, "{path}");
            assert_eq!(many.matches(&path), taken || c == '/', "{path}");
        }
    }

    #[test]
    fn what_envoy_refuses_is_refused() {
        for c in "\"#<>?[]\\^`{|} \té".chars() {
            assert!(
                UriTemplateMatcher::new(&format!("/a{c}b/*")).is_err(),
                "{c:?}"
            );
        }
        for c in "-._~%!$&'()+,;=:@".chars() {
            assert!(
                UriTemplateMatcher::new(&format!("/a{c}b/*")).is_ok(),
                "{c:?}"
            );
        }
        for template in [
            "api", "", "*", "/{a", "/a}", "//a", "/a//b/*", "/**/a/**", "/**/*",
        ] {
            assert!(UriTemplateMatcher::new(template).is_err(), "{template}");
        }
        let error = UriTemplateMatcher::new("/a|b/*").unwrap_err().to_string();
        assert!(error.contains("\"/a|b/*\" is no valid template"), "{error}");
    }
}
