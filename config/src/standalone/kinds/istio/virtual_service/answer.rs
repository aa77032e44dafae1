//! What is answered without asking anybody: redirects and direct responses.

use serde::Deserialize;

use crate::standalone::kinds::istio::virtual_service::gateways::check_port;
use crate::standalone::kinds::istio::virtual_service::http_match::HttpMatch;
use crate::standalone::kinds::istio::virtual_service::string_match::StringMatch;
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// Istio grants a body so many bytes.
const MAX_BODY: usize = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Redirect {
    pub uri: String,
    pub prefix_rewrite: String,
    pub authority: String,
    pub port: Option<u32>,
    pub derive_port: Option<DerivePort>,
    pub scheme: String,
    pub redirect_code: u32,
}

/// Which port a redirect leads to that names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DerivePort {
    FromProtocolDefault,
    FromRequestPort,
}

impl Redirect {
    pub(super) fn check(&self, matches: &[HttpMatch]) -> Result<(), Refusal> {
        if !self.uri.is_empty() && !self.prefix_rewrite.is_empty() {
            return Err(refusal(
                "",
                "only one of uri and prefixRewrite may be given",
            ));
        }
        let is_prefix = |found: &HttpMatch| {
            let uri = found.uri.as_ref();
            uri.is_none_or(|uri| matches!(uri, StringMatch::Prefix(_)))
        };
        if !self.prefix_rewrite.is_empty() && !matches.iter().all(is_prefix) {
            return Err(refusal(
                "prefixRewrite",
                "all matches of uri must be prefixes",
            ));
        }
        let texts = [
            &self.uri,
            &self.prefix_rewrite,
            &self.authority,
            &self.scheme,
        ];
        let has_port = self.port.is_some() || self.derive_port.is_some();
        if texts.iter().all(|text| text.is_empty()) && !has_port {
            return Err(refusal("", "must have uri, authority, scheme or port"));
        }
        if self.port.is_some() && self.derive_port.is_some() {
            return Err(refusal("", "only one of port and derivePort may be given"));
        }
        if self.redirect_code != 0 && !(300..400).contains(&self.redirect_code) {
            let reason = format!("{} is not between 300 and 399", self.redirect_code);
            return Err(refusal("redirectCode", reason));
        }
        if !matches!(self.scheme.as_str(), "" | "http" | "https") {
            return Err(refusal("scheme", "must be http or https"));
        }
        match self.port {
            Some(port) if port > 0 => check_port("port", port),
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectResponse {
    pub status: u32,
    #[serde(default)]
    pub body: Body,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "WrittenBody")]
pub enum Body {
    #[default]
    None,
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBody {
    string: Option<String>,
    bytes: Option<String>,
}

impl TryFrom<WrittenBody> for Body {
    type Error = &'static str;

    fn try_from(written: WrittenBody) -> Result<Body, Self::Error> {
        match (written.string, written.bytes) {
            (None, None) => Ok(Body::None),
            (Some(text), None) => Ok(Body::Text(text)),
            (None, Some(text)) => base64(&text).map(Body::Bytes).ok_or("bytes are no base64"),
            _ => Err("only one of string and bytes may be given"),
        }
    }
}

/// Bytes that are written in base64, with or without what fills up the end.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    if text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for four in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for c in four {
            let value = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let missing = 4_usize.saturating_sub(four.len());
        bits <<= 6 * missing;
        let [_, whole @ ..] = bits.to_be_bytes();
        bytes.extend(whole.iter().take(3_usize.saturating_sub(missing)));
    }
    Some(bytes)
}

impl DirectResponse {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let length = match &self.body {
            Body::None => 0,
            Body::Text(text) => text.len(),
            Body::Bytes(bytes) => bytes.len(),
        };
        if length > MAX_BODY {
            return Err(refusal("body", "must have 1048576 bytes at most"));
        }
        if !(200..=600).contains(&self.status) {
            let reason = format!("{} is not between 200 and 599", self.status);
            return Err(refusal("status", reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("aGk=", Some(b"hi")),
            ("aGk", Some(b"hi")),
            ("aGkh", Some(b"hi!")),
            ("/+8A", Some(b"\xff\xef\x00")),
            ("aGkha", None),
            ("a k=", None),
        ] {
            assert_eq!(base64(text).as_deref(), expected, "{text}");
        }
    }
}
