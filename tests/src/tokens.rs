//! Tokens, and the keys that sign them: by every algorithm, and as wrongly as a story likes.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The algorithms that have a public key.
pub const ALGORITHMS: [&str; 10] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
];

/// A key that signs tokens.
pub struct Signer {
    algorithm: &'static str,
    id: String,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Elliptic(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

impl Signer {
    /// A new key for this algorithm.
    #[must_use]
    pub fn new(algorithm: &'static str, id: &str) -> Signer {
        let rsa = |how| Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), how);
        let elliptic = |how| Key::Elliptic(EcdsaKeyPair::generate(how).unwrap());
        let key = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "ES512" => elliptic(&ECDSA_P521_SHA512_FIXED_SIGNING),
            "EdDSA" => Key::Edwards(Ed25519KeyPair::generate().unwrap()),
            other => panic!("{other} is no algorithm here"),
        };
        Signer {
            algorithm,
            id: id.into(),
            key,
        }
    }

    /// The key of RFC 7517, appendix A, which the recorded configuration trusts.
    #[must_use]
    pub fn of_rfc_7517(id: &str) -> Signer {
        let x = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
        let y = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM";
        let d = "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE";
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let point = [vec![4], bytes(x), bytes(y)].concat();
        let how: &'static EcdsaSigningAlgorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_private_key_and_public_key(how, &bytes(d), &point).unwrap();
        Signer {
            algorithm: "ES256",
            id: id.into(),
            key: Key::Elliptic(key),
        }
    }

    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The public key as a JWK, without `alg`.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.key {
            Key::Rsa(key, _) => {
                // `RSAPublicKey` of 2048 bits: heads of nine bytes and a modulus of 256, then the usual exponent.
                let der = key.public_key().as_ref();
                assert!(der.ends_with(&[2, 3, 1, 0, 1]));
                json!({"kty": "RSA", "n": encoded(&der[9..265]), "e": "AQAB"})
            }
            Key::Elliptic(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = match self.algorithm {
                    "ES256" => "P-256",
                    "ES384" => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y)})
            }
            Key::Edwards(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(key.public_key().as_ref())})
            }
        };
        jwk["kid"] = json!(self.id);
        jwk
    }

    /// A good token with these claims.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.with_header(&json!({"alg": self.algorithm, "kid": self.id}), claims)
    }

    /// As [`Signer::token`], with a header of the story's own.
    #[must_use]
    pub fn with_header(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key, how) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*how, &random, message, &mut signature).unwrap();
                signature
            }
            Key::Elliptic(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Edwards(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token whose secret is this key's public part, as it stands in the key set.
    #[must_use]
    pub fn with_public_key_as_secret(&self, claims: &Value) -> String {
        let signed = unsigned(&json!({"alg": "HS256", "kid": self.id}), claims);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, self.jwk().to_string().as_bytes());
        let tag = hmac::sign(&secret, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

/// Header and payload, without a signature.
#[must_use]
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// A key set of these keys.
#[must_use]
pub fn key_set(signers: &[&Signer]) -> String {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({"keys": keys}).to_string()
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Claims of an issuer for a subject, good for an hour.
#[must_use]
pub fn claims(issuer: &str, subject: &str) -> Value {
    json!({"iss": issuer, "sub": subject, "exp": now() + 3600})
}
