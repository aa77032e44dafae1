//! Algorithms of signatures (RFC 7518, section 3; EdDSA of RFC 8037).
//!
//! Only those with a public key. `none` proves nothing, and with an HMAC whoever checks a token could write one: Envoy takes
//! HMACs where a key set holds an `oct` key, here such a key is none.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, VerificationAlgorithm,
};

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

/// Those of RSA keys.
pub(crate) const RSA: [Algorithm; 6] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
];

/// Those that Envoy knows and that a token here can't be signed by.
const SECRET: [&str; 3] = ["HS256", "HS384", "HS512"];

/// What a token's header says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Known(Algorithm),
    /// One of a shared secret: no key here fits it.
    Secret,
}

impl Named {
    /// `None`: nobody knows it.
    pub fn parse(name: &str) -> Option<Named> {
        match Algorithm::parse(name) {
            Some(algorithm) => Some(Named::Known(algorithm)),
            None => SECRET.contains(&name).then_some(Named::Secret),
        }
    }
}

impl Algorithm {
    pub fn parse(name: &str) -> Option<Algorithm> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "ES512" => Algorithm::Es512,
            "EdDSA" => Algorithm::EdDsa,
            _ => return None,
        })
    }

    pub(crate) fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
            Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
            Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
            Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
            Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }

    /// The one whose keys are on this curve, the algorithm at work, and the bytes of a coordinate.
    pub(crate) fn of_curve(
        curve: &str,
    ) -> Option<(Algorithm, &'static EcdsaVerificationAlgorithm, usize)> {
        Some(match curve {
            "P-256" => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32),
            "P-384" => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48),
            "P-521" => (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED, 66),
            _ => return None,
        })
    }

    /// The curve of an elliptic curve's algorithm.
    pub(crate) fn curve(self) -> Option<&'static str> {
        match self {
            Algorithm::Es256 => Some("P-256"),
            Algorithm::Es384 => Some("P-384"),
            Algorithm::Es512 => Some("P-521"),
            _ => None,
        }
    }
}

/// `EdDSA` on its one curve.
pub(crate) fn ed25519() -> &'static dyn VerificationAlgorithm {
    &ED25519
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_that_proves_nothing() {
        for name in ["none", "None", "", "rs256", "HS1", "ES256K", "RSA-OAEP"] {
            assert_eq!(Named::parse(name), None, "{name}");
        }
        assert_eq!(Named::parse("HS256"), Some(Named::Secret));
        assert_eq!(Named::parse("EdDSA"), Some(Named::Known(Algorithm::EdDsa)));
        for algorithm in RSA {
            assert!(algorithm.rsa().is_some() && algorithm.curve().is_none());
        }
    }
}
