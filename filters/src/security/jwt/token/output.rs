//! What a token that proved true gives to the request: headers and metadata. Made once, with the token.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtClaimToHeader, JwtProvider,
};
use http::{HeaderName, HeaderValue, header};
use serde_json::{Map, Value};

use crate::security::jwt::token::Token;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static NORMALIZE_PAYLOAD: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.NormalizePayload",
    fields: &[honoured(1, "space_delimited_claims").list()],
    refused: "",
    required: &[],
};

pub(crate) static CLAIM_TO_HEADER: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader",
    fields: &[
        honoured(1, "header_name"),
        honoured(2, "claim_name"),
        honoured(3, "claim_path").list().of(&PATH_SEGMENT),
    ],
    refused: "",
    // One of `claim_name` and `claim_path`, too, which the conversion sees to.
    required: &[required("header_name", &[1])],
};

static PATH_SEGMENT: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader.PathSegment",
    fields: &[honoured(1, "key")],
    refused: "",
    required: &[required("key", &[1])],
};

/// What is to be given.
#[derive(Debug)]
pub struct Outputs {
    payload_header: Option<(HeaderName, Padding)>,
    claims: Box<[(HeaderName, Box<[String]>)]>,
    payload_key: String,
    header_key: String,
    /// Claims that are lists written with spaces between.
    lists: Box<[String]>,
    clear_route: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Padding {
    No,
    Yes,
}

/// What one token gives.
#[derive(Debug, Default)]
pub struct Given {
    pub headers: Box<[(HeaderName, HeaderValue)]>,
    /// An object for the filter's namespace.
    pub metadata: Option<Arc<Value>>,
    /// Whether the route is to be chosen anew.
    pub clear_route: bool,
}

impl Outputs {
    pub fn from_proto(proto: &JwtProvider) -> Result<Outputs, Refusal> {
        let payload_header = match proto.forward_payload_header.as_str() {
            "" => None,
            name => {
                let padding = match proto.pad_forward_payload_header {
                    true => Padding::Yes,
                    false => Padding::No,
                };
                Some((header_name(name, "forward_payload_header")?, padding))
            }
        };
        let claims = proto.claim_to_headers.iter().enumerate().map(|(i, claim)| {
            claim_header(claim).map_err(|e| e.within(format!("claim_to_headers[{i}]")))
        });
        let normalize = proto.normalize_payload_in_metadata.as_ref();
        Ok(Outputs {
            payload_header,
            claims: claims.collect::<Result<_, _>>()?,
            payload_key: proto.payload_in_metadata.clone(),
            header_key: proto.header_in_metadata.clone(),
            lists: normalize.map_or_else(Box::default, |n| n.space_delimited_claims.clone().into()),
            clear_route: proto.clear_route_cache,
        })
    }

    /// The headers that only a token may fill: a client's are removed.
    pub fn reserved(&self) -> impl Iterator<Item = &HeaderName> {
        let payload = self.payload_header.iter().map(|(name, _)| name);
        payload.chain(self.claims.iter().map(|(name, _)| name))
    }

    /// What this token gives.
    pub fn of(&self, token: &Token) -> Given {
        let payload = self.payload_header.iter().filter_map(|(name, padding)| {
            let mut value = token.encoded_payload().to_owned();
            while *padding == Padding::Yes && !value.len().is_multiple_of(4) {
                value.push('=');
            }
            Some((name.clone(), HeaderValue::try_from(value).ok()?))
        });
        let mut headers: Vec<_> = payload.collect();
        let of_payload = headers.len();
        headers.extend(self.claims.iter().filter_map(|(name, path)| {
            let text = header_text(at(&token.payload, path)?)?;
            // A text that no header can carry is left out, as an empty one is.
            let value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
            Some((name.clone(), value))
        }));
        let has_claims = headers.len() > of_payload;
        Given {
            headers: headers.into(),
            metadata: self.metadata(token),
            clear_route: self.clear_route && (has_claims || !self.payload_key.is_empty()),
        }
    }

    fn metadata(&self, token: &Token) -> Option<Arc<Value>> {
        let mut object = Map::new();
        if !self.header_key.is_empty() {
            let header = Value::Object(token.header.clone());
            object.insert(self.header_key.clone(), header);
        }
        if !self.payload_key.is_empty() {
            let mut payload = token.payload.clone();
            for claim in &self.lists {
                if let Some(Value::String(text)) = payload.get(claim)
                    && let Some(list) = words(text)
                {
                    payload.insert(claim.clone(), list);
                }
            }
            object.insert(self.payload_key.clone(), Value::Object(payload));
        }
        (!object.is_empty()).then(|| Arc::new(Value::Object(object)))
    }
}

fn claim_header(proto: &JwtClaimToHeader) -> Result<(HeaderName, Box<[String]>), Refusal> {
    let name = header_name(&proto.header_name, "header_name")?;
    let path: Box<[String]> = match (proto.claim_name.as_str(), &*proto.claim_path) {
        ("", []) => return Err(Refusal::missing("claim_name")),
        (text, []) => text.split('.').map(str::to_owned).collect(),
        ("", path) => path.iter().map(|segment| segment.key.clone()).collect(),
        _ => {
            return Err(Refusal::new(
                "claim_path",
                "is set together with claim_name",
            ));
        }
    };
    Ok((name, path))
}

/// The name of a header that a token may fill: none that says where a message goes or where it ends.
fn header_name(name: &str, field: &str) -> Result<HeaderName, Refusal> {
    let parsed = HeaderName::try_from(name)
        .map_err(|_| Refusal::new(field, format!("{name:?} is not a header name")))?;
    let framing = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
    ];
    if framing.contains(&parsed) {
        return Err(Refusal::new(
            field,
            format!("{name:?} is not for tokens to fill"),
        ));
    }
    Ok(parsed)
}

/// The claim at a path through objects.
fn at<'a>(payload: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(payload.get(first)?, |value, key| {
        value.as_object()?.get(key)
    })
}

/// A claim as a header has it; `None`: it has nothing to say there.
fn header_text(claim: &Value) -> Option<String> {
    let text = match claim {
        Value::Null => return None,
        Value::Bool(value) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number_text(number)?,
        Value::Array(_) | Value::Object(_) => STANDARD.encode(claim.to_string()),
    };
    (!text.is_empty()).then_some(text)
}

/// Whole numbers as they are; of others six digits, as Envoy prints them.
fn number_text(number: &serde_json::Number) -> Option<String> {
    if let Some(whole) = number.as_u64() {
        return Some(whole.to_string());
    }
    let value = number.as_f64()?;
    if value >= 0.0 && value.fract() == 0.0 && value < 18_446_744_073_709_551_616.0 {
        return Some(format!("{value:.0}"));
    }
    Some(format!("{value:.6}"))
}

/// The words of a text; `None`: it has none.
fn words(text: &str) -> Option<Value> {
    let words: Vec<Value> = text
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(Value::from)
        .collect();
    (!words.is_empty()).then_some(Value::Array(words))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_claim_to_header::PathSegment;
    use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::NormalizePayload;
    use serde_json::json;

    use super::*;

    fn token(payload: &Value) -> Token {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(&json!({"alg": "ES256", "kid": "k"}));
        Token::parse(&format!("{header}.{}.c2ln", part(payload))).unwrap()
    }

    fn claim(header: &str, name: &str) -> JwtClaimToHeader {
        JwtClaimToHeader {
            header_name: header.into(),
            claim_name: name.into(),
            claim_path: Vec::new(),
        }
    }

    fn headers(given: &Given) -> Vec<String> {
        let text = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        given.headers.iter().map(text).collect()
    }

    #[test]
    fn claims_become_headers_as_envoy_writes_them() {
        let proto = JwtProvider {
            claim_to_headers: [
                "s", "i", "neg", "frac", "b", "o.x", "list", "null", "empty", "bad", "no.x", "s.x",
            ]
            .map(|name| claim(&format!("x-{}", name.replace('.', "-")), name))
            .into(),
            ..JwtProvider::default()
        };
        let given = Outputs::from_proto(&proto).unwrap().of(&token(&json!({
            "s": "text", "i": 7, "neg": -1, "frac": 0.5, "b": true, "o": {"x": "inner"}, "list": ["a", 1],
            "null": null, "empty": "", "bad": "a\nb",
        })));
        let list = format!("x-list: {}", STANDARD.encode(r#"["a",1]"#));
        assert_eq!(
            headers(&given),
            [
                "x-s: text",
                "x-i: 7",
                "x-neg: -1.000000",
                "x-frac: 0.500000",
                "x-b: true",
                "x-o-x: inner",
                &list,
            ]
        );
        assert!(given.metadata.is_none() && !given.clear_route);
    }

    #[test]
    fn a_claim_with_dots_in_its_name_has_a_path() {
        let key = |key: &str| PathSegment { key: key.into() };
        let path = JwtClaimToHeader {
            claim_name: String::new(),
            claim_path: vec![key("a.b"), key("c")],
            ..claim("x-p", "")
        };
        let proto = JwtProvider {
            claim_to_headers: vec![path.clone()],
            clear_route_cache: true,
            ..JwtProvider::default()
        };
        let outputs = Outputs::from_proto(&proto).unwrap();
        let given = outputs.of(&token(&json!({"a.b": {"c": "d"}})));
        assert_eq!(headers(&given), ["x-p: d"]);
        assert!(given.clear_route);
        assert!(!outputs.of(&token(&json!({}))).clear_route);
        let both = JwtClaimToHeader {
            claim_name: "a".into(),
            ..path
        };
        assert!(claim_header(&both).is_err());
        assert!(claim_header(&claim("x", "")).is_err());
        assert!(claim_header(&claim("host", "a")).is_err());
        assert!(claim_header(&claim(":path", "a")).is_err());
    }

    #[test]
    fn the_payload_goes_into_a_header_and_into_metadata() {
        let proto = JwtProvider {
            forward_payload_header: "x-payload".into(),
            pad_forward_payload_header: true,
            payload_in_metadata: "payload".into(),
            header_in_metadata: "header".into(),
            normalize_payload_in_metadata: Some(NormalizePayload {
                space_delimited_claims: ["scope", "permission", "aud"].map(String::from).into(),
            }),
            clear_route_cache: true,
            ..JwtProvider::default()
        };
        let outputs = Outputs::from_proto(&proto).unwrap();
        let reserved: Vec<_> = outputs.reserved().map(HeaderName::as_str).collect();
        assert_eq!(reserved, ["x-payload"]);
        let given = outputs.of(&token(&json!({
            "iss": "me", "scope": " read  write", "permission": " ", "nested": {"a": [1, 2]}, "aud": ["a b"],
        })));
        let (_, value) = &given.headers[0];
        assert_eq!(value.len() % 4, 0);
        assert_eq!(
            *given.metadata.unwrap(),
            json!({
                "payload": {
                    "iss": "me", "scope": ["read", "write"], "permission": " ", "nested": {"a": [1, 2]},
                    "aud": ["a b"],
                },
                "header": {"alg": "ES256", "kid": "k"},
            })
        );
        assert!(given.clear_route);
    }
}
