//! A token in the compact form: header, payload and signature, each in base64url, parted by dots (RFC 7515, section 7.1).
//!
//! Reading one proves nothing yet. Envoy also takes spaces within, and more dots in a row.

pub mod claims;
pub mod output;
pub mod verified;

use std::ops::Range;

use serde_json::{Map, Value};

use crate::security::jwt::algorithm::Named;
use crate::security::jwt::base64url;
use crate::security::jwt::failure::Failure;
use crate::security::jwt::token::claims::Claims;

/// Bytes of a token at most. Heads of requests are bounded, too, and mostly by less.
pub const MAX_TOKEN: usize = 64 * 1024;

/// A token that is whole. Nobody has said yet that it is true.
#[derive(Debug)]
pub struct Token {
    text: Box<str>,
    payload_at: Range<usize>,
    signature: Box<[u8]>,
    /// `alg` as it stands.
    pub algorithm_name: Box<str>,
    pub algorithm: Named,
    /// `kid`; empty: it has none.
    pub key_id: Box<str>,
    pub header: Map<String, Value>,
    pub payload: Map<String, Value>,
    pub claims: Claims,
}

impl Token {
    /// # Errors
    /// It is no token, or one that asks for what isn't known here.
    pub fn parse(text: &str) -> Result<Token, Failure> {
        if text.len() > MAX_TOKEN {
            return Err(Failure::TooLarge);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::BadFormat);
        };
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(Failure::BadFormat);
        }
        let payload_at = header.len() + 1..header.len() + 1 + payload.len();
        let header = object(header, Failure::HeaderBase64, Failure::HeaderJson)?;
        let Some(Value::String(algorithm_name)) = header.get("alg") else {
            return Err(Failure::NoAlgorithm);
        };
        let algorithm_name: Box<str> = algorithm_name.as_str().into();
        let algorithm = Named::parse(&algorithm_name).ok_or(Failure::UnknownAlgorithm)?;
        let key_id = match header.get("kid") {
            None => Box::default(),
            Some(Value::String(id)) => id.as_str().into(),
            Some(_) => return Err(Failure::KeyIdNotString),
        };
        if header.contains_key("crit") {
            return Err(Failure::Critical);
        }
        let payload = object(payload, Failure::PayloadBase64, Failure::PayloadJson)?;
        let claims = Claims::of(&payload)?;
        let signature = base64url::decode(signature);
        Ok(Token {
            text: text.into(),
            payload_at,
            signature: signature.ok_or(Failure::SignatureBase64)?.into(),
            algorithm_name,
            algorithm,
            key_id,
            header,
            payload,
            claims,
        })
    }

    /// The token as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is signed: header and payload as they came.
    pub fn signed(&self) -> &[u8] {
        self.text
            .get(..self.payload_at.end)
            .unwrap_or_default()
            .as_bytes()
    }

    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The payload as it came, in base64url.
    pub fn encoded_payload(&self) -> &str {
        self.text.get(self.payload_at.clone()).unwrap_or_default()
    }
}

fn object(
    part: &str,
    no_base64: Failure,
    no_object: Failure,
) -> Result<Map<String, Value>, Failure> {
    let json = base64url::decode(part).ok_or(no_base64)?;
    serde_json::from_slice(&json).map_err(|_| no_object)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::security::jwt::algorithm::Algorithm;

    fn written(header: &Value, payload: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(header), part(payload))
    }

    #[test]
    fn the_token_of_rfc_7519_section_3_1() {
        let text = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                    dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let token = Token::parse(text).unwrap();
        assert_eq!(token.algorithm, Named::Secret);
        assert_eq!(&*token.claims.issuer, "joe");
        assert_eq!(token.claims.expiration, Some(1_300_819_380));
        assert_eq!(token.payload["http://example.com/is_root"], json!(true));
        assert_eq!(token.signature().len(), 32);
        assert!(text.starts_with(std::str::from_utf8(token.signed()).unwrap()));
        assert!(token.encoded_payload().starts_with("eyJpc3MiOiJqb2Ui"));
        assert!(token.signed().ends_with(b"jp0cnVlfQ"));
    }

    #[test]
    fn what_is_no_token() {
        let good = written(&json!({"alg": "RS256"}), &json!({"iss": "me"}));
        assert!(Token::parse(&good).is_ok());
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let header = part(br#"{"alg":"RS256"}"#);
        for (text, failure) in [
            (String::new(), Failure::BadFormat),
            ("a".into(), Failure::BadFormat),
            ("a.b".into(), Failure::BadFormat),
            ("..".into(), Failure::BadFormat),
            (format!("{good}.x"), Failure::BadFormat),
            (format!("{header}.e30."), Failure::BadFormat),
            (format!("{header}..e30.e30"), Failure::BadFormat),
            ("!.e30.e30".into(), Failure::HeaderBase64),
            (format!("{header} .e30.e30"), Failure::HeaderBase64),
            (format!("{}.e30.e30", part(b"[]")), Failure::HeaderJson),
            (format!("{}.e30.e30", part(b"{")), Failure::HeaderJson),
            (format!("{}.e30.e30", part(b"\xff")), Failure::HeaderJson),
            (format!("{header}.+.e30"), Failure::PayloadBase64),
            (format!("{header}.{}.e30", part(b"7")), Failure::PayloadJson),
            (format!("{header}.e30.a"), Failure::SignatureBase64),
            (written(&json!({}), &json!({})), Failure::NoAlgorithm),
            (
                written(&json!({"alg": 1}), &json!({})),
                Failure::NoAlgorithm,
            ),
            (
                written(&json!({"alg": "none"}), &json!({})),
                Failure::UnknownAlgorithm,
            ),
            (
                written(&json!({"alg": "ES256", "kid": 1}), &json!({})),
                Failure::KeyIdNotString,
            ),
            (
                written(&json!({"alg": "ES256", "crit": ["exp"]}), &json!({})),
                Failure::Critical,
            ),
            (
                written(&json!({"alg": "ES256"}), &json!({"iss": 3})),
                Failure::IssuerNotString,
            ),
        ] {
            assert_eq!(Token::parse(&text).err(), Some(failure), "{text}");
        }
        let large = written(
            &json!({"alg": "ES256"}),
            &json!({"x": "y".repeat(MAX_TOKEN)}),
        );
        assert_eq!(Token::parse(&large).err(), Some(Failure::TooLarge));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(9999), "]".repeat(9999));
        let deep = format!("{header}.{}.e30", part(deep.as_bytes()));
        assert_eq!(Token::parse(&deep).err(), Some(Failure::PayloadJson));
    }

    #[test]
    fn whatever_comes_is_a_token_or_is_not() {
        let mut random = fastrand::Rng::with_seed(7519);
        let good = written(
            &json!({"alg": "RS256", "kid": "k"}),
            &json!({"iss": "me", "aud": ["a"], "exp": 7}),
        );
        for _ in 0..20_000 {
            let mut bytes = good.clone().into_bytes();
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, b'.'),
                }
            }
            if let Ok(token) = Token::parse(&String::from_utf8_lossy(&bytes)) {
                assert!(token.text().contains(token.encoded_payload()));
                assert!(token.signed().len() < token.text().len());
            }
        }
    }

    #[test]
    fn the_header_says_how_and_by_whom_it_is_signed() {
        let token = written(&json!({"alg": "ES384", "kid": "k1"}), &json!({}));
        let token = Token::parse(&token).unwrap();
        assert_eq!(token.algorithm, Named::Known(Algorithm::Es384));
        assert_eq!((&*token.algorithm_name, &*token.key_id), ("ES384", "k1"));
        assert_eq!(token.claims, Claims::default());
    }
}
