//! A public key of a key set (JWK, RFC 7517), and whether it made a signature.
//!
//! What a key may check is fixed by the key, never by the token: its type, its curve, and its `alg` if it says one. Envoy lets
//! the token choose the digest of an elliptic curve's key.

use aws_lc_rs::signature::{ParsedPublicKey, RsaPublicKeyComponents};
use serde_json::{Map, Value};

use crate::security::jwt::algorithm::{Algorithm, RSA, ed25519};
use crate::security::jwt::base64url;

/// Bytes of an RSA key's modulus at most (8192 bits), and at least (2048 bits, RFC 7518, section 3.3).
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
const ED25519_KEY: usize = 32;

/// A key that can be used.
pub struct Key {
    /// `kid`; empty: it has none.
    pub id: Box<str>,
    /// `alg`; empty: it says none.
    pub algorithm_name: Box<str>,
    /// What it can check, ready for it.
    checks: Box<[(Algorithm, ParsedPublicKey)]>,
}

/// Why a key can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("[{0}] is missing or no string")]
    Missing(&'static str),
    #[error("[kty] {0:?} is not supported")]
    Type(String),
    #[error("[crv] {0:?} is not supported")]
    Curve(String),
    #[error("[alg] {0:?} doesn't fit the key")]
    Algorithm(String),
    #[error("[{0}] is no base64url, or of a wrong length")]
    Encoding(&'static str),
    #[error("the key is no valid one")]
    Invalid,
}

impl Key {
    /// # Errors
    /// It isn't a public key for signatures, or none that is known here.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Key, KeyError> {
        let algorithm_name = optional(jwk, "alg");
        let checks = match required(jwk, "kty")? {
            "RSA" => rsa(jwk, algorithm_name)?,
            "EC" => elliptic(jwk, algorithm_name)?,
            "OKP" => edwards(jwk, algorithm_name)?,
            other => return Err(KeyError::Type(other.into())),
        };
        Ok(Key {
            id: optional(jwk, "kid").into(),
            algorithm_name: algorithm_name.into(),
            checks: checks.into(),
        })
    }

    /// Whether it made this signature of `message`, by this algorithm.
    pub fn made(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let mut checks = self.checks.iter();
        checks
            .find(|(of, _)| *of == algorithm)
            .is_some_and(|(_, key)| key.verify_sig(message, signature).is_ok())
    }

    /// Whether it is one of EdDSA.
    pub fn is_edwards(&self) -> bool {
        self.checks.iter().any(|(of, _)| *of == Algorithm::EdDsa)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// One parsed key for each algorithm that it may be used with.
fn rsa(
    jwk: &Map<String, Value>,
    name: &str,
) -> Result<Vec<(Algorithm, ParsedPublicKey)>, KeyError> {
    let mut fitting = RSA.to_vec();
    if !name.is_empty() {
        fitting.retain(|algorithm| Algorithm::parse(name) == Some(*algorithm));
        if fitting.is_empty() {
            return Err(KeyError::Algorithm(name.into()));
        }
    }
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    let leading = n.iter().take_while(|byte| **byte == 0).count();
    let n = n.get(leading..).unwrap_or_default();
    if !MODULUS.contains(&n.len()) {
        return Err(KeyError::Encoding("n"));
    }
    // Envoy takes no others; a large one would cost much to check by.
    if e != [3] && e != [1, 0, 1] {
        return Err(KeyError::Encoding("e"));
    }
    let components = RsaPublicKeyComponents { n, e: &e };
    let parse = |algorithm: Algorithm| {
        let parameters = algorithm.rsa().ok_or(KeyError::Invalid)?;
        let key = components.to_parsed_public_key(parameters);
        Ok((algorithm, key.map_err(|_| KeyError::Invalid)?))
    };
    fitting.into_iter().map(parse).collect()
}

fn elliptic(
    jwk: &Map<String, Value>,
    name: &str,
) -> Result<Vec<(Algorithm, ParsedPublicKey)>, KeyError> {
    let named = match name {
        "" => None,
        name => match Algorithm::parse(name).and_then(Algorithm::curve) {
            Some(curve) => Some(curve),
            None => return Err(KeyError::Algorithm(name.into())),
        },
    };
    // Envoy takes the curve that the algorithm implies, and without either P-256.
    let curve = match jwk.get("crv") {
        None => named.unwrap_or("P-256"),
        Some(_) => required(jwk, "crv")?,
    };
    let Some((algorithm, check, size)) = Algorithm::of_curve(curve) else {
        return Err(KeyError::Curve(curve.into()));
    };
    if named.is_some_and(|of_name| of_name != curve) {
        return Err(KeyError::Algorithm(name.into()));
    }
    let mut point = Vec::with_capacity(1 + 2 * size);
    point.push(4);
    for coordinate in ["x", "y"] {
        let bytes = bytes(jwk, coordinate)?;
        let missing = size
            .checked_sub(bytes.len())
            .ok_or(KeyError::Encoding(coordinate))?;
        point.extend(std::iter::repeat_n(0, missing));
        point.extend_from_slice(&bytes);
    }
    let key = ParsedPublicKey::new(check, point).map_err(|_| KeyError::Invalid)?;
    Ok(vec![(algorithm, key)])
}

/// RFC 8037.
fn edwards(
    jwk: &Map<String, Value>,
    name: &str,
) -> Result<Vec<(Algorithm, ParsedPublicKey)>, KeyError> {
    if !name.is_empty() && name != "EdDSA" {
        return Err(KeyError::Algorithm(name.into()));
    }
    let curve = required(jwk, "crv")?;
    if curve != "Ed25519" {
        return Err(KeyError::Curve(curve.into()));
    }
    let point = bytes(jwk, "x")?;
    if point.len() != ED25519_KEY {
        return Err(KeyError::Encoding("x"));
    }
    let key = ParsedPublicKey::new(ed25519(), point).map_err(|_| KeyError::Invalid)?;
    Ok(vec![(Algorithm::EdDsa, key)])
}

fn required<'a>(jwk: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, KeyError> {
    let value = jwk.get(name).and_then(Value::as_str);
    value.ok_or(KeyError::Missing(name))
}

/// Empty where it isn't there, or no text.
fn optional<'a>(jwk: &'a Map<String, Value>, name: &str) -> &'a str {
    jwk.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn bytes(jwk: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, KeyError> {
    base64url::decode(required(jwk, name)?).ok_or(KeyError::Encoding(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    pub(crate) const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    /// RFC 7515, appendix A.2.
    pub(crate) fn rsa_jwk() -> Value {
        json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"})
    }

    pub(crate) const RSA_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

    /// RFC 7515, appendix A.3.
    pub(crate) fn p256_jwk() -> Value {
        json!({"kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
    }

    pub(crate) const P256_SIGNATURE: &str =
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

    /// RFC 7515, appendix A.4.
    fn p521_jwk() -> Value {
        json!({"kty": "EC", "crv": "P-521",
            "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
            "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"})
    }

    const P521_SIGNATURE: &str = "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";

    /// RFC 8037, appendix A.2.
    fn ed25519_jwk() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    fn key(jwk: &Value) -> Result<Key, KeyError> {
        Key::from_jwk(jwk.as_object().unwrap())
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk[name] = value;
        jwk
    }

    fn signature(encoded: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(encoded).unwrap()
    }

    #[test]
    fn the_examples_of_rfc_7515_and_8037() {
        let message = |header: &str, payload: &str| format!("{header}.{payload}").into_bytes();
        for (jwk, algorithm, message, encoded) in [
            (
                rsa_jwk(),
                Algorithm::Rs256,
                message("eyJhbGciOiJSUzI1NiJ9", PAYLOAD),
                RSA_SIGNATURE,
            ),
            (
                p256_jwk(),
                Algorithm::Es256,
                message("eyJhbGciOiJFUzI1NiJ9", PAYLOAD),
                P256_SIGNATURE,
            ),
            (
                p521_jwk(),
                Algorithm::Es512,
                message("eyJhbGciOiJFUzUxMiJ9", "UGF5bG9hZA"),
                P521_SIGNATURE,
            ),
            (
                ed25519_jwk(),
                Algorithm::EdDsa,
                message(
                    "eyJhbGciOiJFZERTQSJ9",
                    "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
                ),
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ] {
            let (key, mut signature) = (key(&jwk).unwrap(), signature(encoded));
            assert!(key.made(algorithm, &message, &signature), "{jwk}");
            assert!(!key.made(algorithm, &message[1..], &signature), "{jwk}");
            for other in [Algorithm::Rs512, Algorithm::Ps256, Algorithm::Es384] {
                assert!(!key.made(other, &message, &signature), "{jwk}");
            }
            signature.push(0);
            assert!(!key.made(algorithm, &message, &signature), "{jwk}");
            signature.truncate(signature.len() - 2);
            assert!(!key.made(algorithm, &message, &signature), "{jwk}");
            signature[0] ^= 1;
            signature.push(0);
            assert!(!key.made(algorithm, &message, &signature), "{jwk}");
            assert!(!key.made(algorithm, &message, &[]), "{jwk}");
        }
    }

    #[test]
    fn a_key_that_says_its_algorithm_checks_no_other() {
        let message = format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}").into_bytes();
        let signature = signature(RSA_SIGNATURE);
        let says = |name: &str| key(&with(rsa_jwk(), "alg", json!(name))).unwrap();
        assert!(says("RS256").made(Algorithm::Rs256, &message, &signature));
        assert!(!says("RS512").made(Algorithm::Rs256, &message, &signature));
        assert!(!says("PS256").made(Algorithm::Rs256, &message, &signature));
    }

    #[test]
    fn what_is_no_key() {
        let short = URL_SAFE_NO_PAD.encode([0xff; 128]);
        for (jwk, error) in [
            (json!({}), KeyError::Missing("kty")),
            (json!({"kty": 7}), KeyError::Missing("kty")),
            (
                json!({"kty": "oct", "k": "c2VjcmV0"}),
                KeyError::Type("oct".into()),
            ),
            (
                with(rsa_jwk(), "alg", json!("RSA-OAEP")),
                KeyError::Algorithm("RSA-OAEP".into()),
            ),
            (
                with(rsa_jwk(), "alg", json!("HS256")),
                KeyError::Algorithm("HS256".into()),
            ),
            (with(rsa_jwk(), "n", json!(short)), KeyError::Encoding("n")),
            (with(rsa_jwk(), "e", json!("AQ")), KeyError::Encoding("e")),
            (with(rsa_jwk(), "n", json!("a b")), KeyError::Encoding("n")),
            (
                with(p256_jwk(), "alg", json!("ES384")),
                KeyError::Algorithm("ES384".into()),
            ),
            (
                with(p256_jwk(), "crv", json!("secp256k1")),
                KeyError::Curve("secp256k1".into()),
            ),
            (with(p256_jwk(), "crv", json!(1)), KeyError::Missing("crv")),
            (
                with(p256_jwk(), "x", json!(URL_SAFE_NO_PAD.encode([1; 33]))),
                KeyError::Encoding("x"),
            ),
            (with(p256_jwk(), "y", json!("AQ")), KeyError::Invalid),
            (
                with(ed25519_jwk(), "crv", json!("X25519")),
                KeyError::Curve("X25519".into()),
            ),
            (
                with(ed25519_jwk(), "alg", json!("ES256")),
                KeyError::Algorithm("ES256".into()),
            ),
            (
                with(ed25519_jwk(), "x", json!("AQ")),
                KeyError::Encoding("x"),
            ),
        ] {
            assert_eq!(key(&jwk).err(), Some(error), "{jwk}");
        }
    }

    #[test]
    fn a_curve_may_be_implied() {
        let mut jwk = p256_jwk();
        jwk.as_object_mut().unwrap().remove("crv");
        assert!(key(&jwk).is_ok());
        assert!(key(&with(jwk.clone(), "alg", json!("ES256"))).is_ok());
        assert!(key(&with(jwk, "alg", json!("ES512"))).is_err());
    }
}
