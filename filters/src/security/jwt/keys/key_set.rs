//! A key set (JWK Set, RFC 7517, section 5): whose signature on a token is believed.
//!
//! As with Envoy, a key that can't be used is left out, and one without `kid` or `alg` stands for any. Certificates by key id,
//! which Envoy takes in place of `keys`, aren't a key set here.

use serde_json::{Map, Value};

use crate::security::jwt::algorithm::{Algorithm, Named};
use crate::security::jwt::failure::Failure;
use crate::security::jwt::keys::key::{Key, KeyError};
use crate::security::jwt::token::Token;

/// Bytes of a key set at most; certificates in it (`x5c`) may make it long.
pub const MAX_BYTES: usize = 512 * 1024;
/// Keys at most. A token that doesn't name its key is held against all that fit.
pub const MAX_KEYS: usize = 100;

const ED25519_SIGNATURE: usize = 64;

/// The keys of one issuer. At least one of them can be used.
#[derive(Debug)]
pub struct KeySet {
    keys: Box<[Key]>,
    /// Why others were left out.
    pub left_out: Box<[KeyError]>,
}

/// Why there is no key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("the key set has more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the key set is no JSON object")]
    NoObject,
    #[error("the key set has no list [keys]")]
    NoKeys,
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("the key set has no key that can be used{}", first(.0))]
    NoneValid(Option<KeyError>),
}

impl KeySet {
    /// # Errors
    /// It is none, or no token could be verified by it.
    pub fn parse(json: &[u8]) -> Result<KeySet, KeySetError> {
        if json.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let set: Map<String, Value> =
            serde_json::from_slice(json).map_err(|_| KeySetError::NoObject)?;
        let Some(Value::Array(all)) = set.get("keys") else {
            return Err(KeySetError::NoKeys);
        };
        if all.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for jwk in all.iter().filter_map(Value::as_object) {
            match Key::from_jwk(jwk) {
                Ok(key) => keys.push(key),
                Err(error) => left_out.push(error),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoneValid(left_out.into_iter().next()));
        }
        Ok(KeySet {
            keys: keys.into(),
            left_out: left_out.into(),
        })
    }

    /// Whether one of the keys signed the token.
    ///
    /// # Errors
    /// None of them did.
    pub fn verify(&self, token: &Token) -> Result<(), Failure> {
        let mut fitted = false;
        for key in self.keys.iter().filter(|key| fits(key, token)) {
            fitted = true;
            let Named::Known(algorithm) = token.algorithm else {
                continue;
            };
            if algorithm == Algorithm::EdDsa
                && key.is_edwards()
                && token.signature().len() != ED25519_SIGNATURE
            {
                return Err(Failure::Ed25519SignatureLength);
            }
            if key.made(algorithm, token.signed(), token.signature()) {
                return Ok(());
            }
        }
        Err(if fitted {
            Failure::NotVerified
        } else {
            Failure::NoFittingKey
        })
    }
}

/// Whether key and token don't name different keys or algorithms.
fn fits(key: &Key, token: &Token) -> bool {
    let agree = |key: &str, token: &str| key.is_empty() || token.is_empty() || key == token;
    agree(&key.id, &token.key_id) && agree(&key.algorithm_name, &token.algorithm_name)
}

fn first(error: &Option<KeyError>) -> String {
    let told = error.as_ref().map(|error| format!("; the first: {error}"));
    told.unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::security::jwt::keys::key::tests::{
        P256_SIGNATURE, PAYLOAD, RSA_SIGNATURE, p256_jwk, rsa_jwk,
    };

    fn set(keys: Value) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
    }

    fn with(mut jwk: Value, name: &str, value: &str) -> Value {
        jwk[name] = json!(value);
        jwk
    }

    fn rs256() -> Token {
        Token::parse(&format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}.{RSA_SIGNATURE}")).unwrap()
    }

    fn es256() -> Token {
        Token::parse(&format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}.{P256_SIGNATURE}")).unwrap()
    }

    /// The signature doesn't fit what is said here.
    fn saying(header: &Value, signature: &str) -> Token {
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        Token::parse(&format!("{header}.{PAYLOAD}.{signature}")).unwrap()
    }

    #[test]
    fn a_token_without_a_key_id_is_held_against_all_keys_that_fit() {
        let both = set(json!([p256_jwk(), with(rsa_jwk(), "kid", "rsa")])).unwrap();
        assert_eq!(both.verify(&rs256()), Ok(()));
        assert_eq!(both.verify(&es256()), Ok(()));
        let rsa = set(json!([rsa_jwk()])).unwrap();
        assert_eq!(rsa.verify(&es256()), Err(Failure::NotVerified));
        let says = set(json!([with(rsa_jwk(), "alg", "RS512")])).unwrap();
        assert_eq!(says.verify(&rs256()), Err(Failure::NoFittingKey));
    }

    #[test]
    fn key_ids_choose() {
        let named = set(json!([with(rsa_jwk(), "kid", "a")])).unwrap();
        let token = saying(&json!({"alg": "RS256", "kid": "b"}), RSA_SIGNATURE);
        assert_eq!(named.verify(&token), Err(Failure::NoFittingKey));
        let token = saying(&json!({"alg": "RS256", "kid": "a"}), RSA_SIGNATURE);
        assert_eq!(named.verify(&token), Err(Failure::NotVerified));
        let unnamed = set(json!([rsa_jwk()])).unwrap();
        assert_eq!(unnamed.verify(&token), Err(Failure::NotVerified));
    }

    #[test]
    fn a_public_key_is_no_secret() {
        let both = set(json!([p256_jwk(), rsa_jwk()])).unwrap();
        for algorithm in ["HS256", "ES384", "PS256", "EdDSA"] {
            for signature in [RSA_SIGNATURE, P256_SIGNATURE] {
                let token = saying(&json!({"alg": algorithm}), signature);
                assert_eq!(
                    both.verify(&token),
                    Err(Failure::NotVerified),
                    "{algorithm}"
                );
            }
        }
        let says = set(json!([with(rsa_jwk(), "alg", "RS256")])).unwrap();
        let token = saying(&json!({"alg": "HS256"}), RSA_SIGNATURE);
        assert_eq!(says.verify(&token), Err(Failure::NoFittingKey));
    }

    #[test]
    fn a_short_signature_of_eddsa_is_told_of() {
        let edwards = json!({"kty": "OKP", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let set = set(json!([edwards, rsa_jwk()])).unwrap();
        let token = saying(&json!({"alg": "EdDSA"}), "AAAA");
        assert_eq!(set.verify(&token), Err(Failure::Ed25519SignatureLength));
        assert_eq!(set.verify(&rs256()), Ok(()));
    }

    #[test]
    fn what_is_no_key_set() {
        for (json, error) in [
            (String::new(), KeySetError::NoObject),
            ("[]".into(), KeySetError::NoObject),
            ("{}".into(), KeySetError::NoKeys),
            (r#"{"keys": {}}"#.into(), KeySetError::NoKeys),
            (r#"{"keys": []}"#.into(), KeySetError::NoneValid(None)),
            (
                r#"{"keys": [1, null]}"#.into(),
                KeySetError::NoneValid(None),
            ),
            (
                r#"{"keys": [{"kty": "oct"}]}"#.into(),
                KeySetError::NoneValid(Some(KeyError::Type("oct".into()))),
            ),
            (" ".repeat(MAX_BYTES + 1), KeySetError::TooLarge),
            (
                json!({"keys": vec![p256_jwk(); MAX_KEYS + 1]}).to_string(),
                KeySetError::TooMany,
            ),
        ] {
            assert_eq!(KeySet::parse(json.as_bytes()).err(), Some(error));
        }
        let mixed = set(json!([{"kty": "oct"}, p256_jwk()])).unwrap();
        assert_eq!(*mixed.left_out, [KeyError::Type("oct".into())]);
    }
}
