//! Keys that are trusted, with the tokens that they have verified.

use std::sync::Arc;

use crate::security::jwt::failure::Failure;
use crate::security::jwt::keys::key_set::KeySet;
use crate::security::jwt::token::Token;
use crate::security::jwt::token::output::{Given, Outputs};
use crate::security::jwt::token::verified::{Limits, Remembered, Room, VerifiedTokens};

/// How long a token that never expires is remembered without being looked at is up to the room that it takes.
const FOREVER: u64 = u64::MAX;
/// Seconds that clocks may differ by at most when what is over is let go.
const SLACK: u64 = 3600;

/// A token whose signature is good, and what it gives.
#[derive(Debug)]
pub struct Verified {
    pub token: Arc<Token>,
    pub given: Given,
}

impl Remembered for Verified {
    fn text(&self) -> &str {
        self.token.text()
    }

    fn bytes(&self) -> usize {
        // The text, its claims as values and once more as metadata.
        1024 + 8 * self.token.text().len()
    }

    fn is_over(&self, now: u64) -> bool {
        let expiration = self.token.claims.expiration.unwrap_or(FOREVER);
        now > expiration.saturating_add(SLACK)
    }
}

/// A key set at work.
pub struct TrustedKeys {
    set: KeySet,
    verified: VerifiedTokens<Verified>,
}

impl TrustedKeys {
    pub fn new(set: KeySet, limits: Limits, room: &Arc<Room>) -> TrustedKeys {
        TrustedKeys {
            set,
            verified: VerifiedTokens::new(limits, room),
        }
    }

    /// The token with this text, if it was verified before.
    pub fn known(&self, text: &str) -> Option<Arc<Verified>> {
        self.verified.get(text)
    }

    /// Looks at a token's signature, unless it is known.
    ///
    /// # Errors
    /// None of the keys signed it.
    pub fn verify(&self, token: &Arc<Token>, outputs: &Outputs) -> Result<Arc<Verified>, Failure> {
        if let Some(known) = self.known(token.text()) {
            return Ok(known);
        }
        self.set.verify(token)?;
        let verified = Arc::new(Verified {
            token: token.clone(),
            given: outputs.of(token),
        });
        self.verified.insert(verified.clone());
        Ok(verified)
    }

    pub fn sweep(&self, now: u64) {
        self.verified.sweep(now);
    }
}

impl std::fmt::Debug for TrustedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TrustedKeys").field(&self.set).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::security::jwt::keys::key::tests::{P256_SIGNATURE, PAYLOAD, p256_jwk};

    #[test]
    fn a_repeated_token_costs_no_signature_check() {
        let set = KeySet::parse(json!({"keys": [p256_jwk()]}).to_string().as_bytes());
        let limits = Limits {
            tokens: 10,
            token_bytes: 4096,
        };
        let keys = TrustedKeys::new(set.unwrap(), limits, &Arc::default());
        let outputs = Outputs::from_proto(&Default::default()).unwrap();
        let text = format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}.{P256_SIGNATURE}");
        let token = Arc::new(Token::parse(&text).unwrap());
        assert!(keys.known(&text).is_none());
        let first = keys.verify(&token, &outputs).unwrap();
        let second = keys.verify(&token, &outputs).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        keys.sweep(1_300_819_380);
        assert!(keys.known(&text).is_some());
        keys.sweep(1_300_819_380 + SLACK + 1);
        assert!(keys.known(&text).is_none());
        let forged = text.replace("DtEh", "DtEi");
        let token = Arc::new(Token::parse(&forged).unwrap());
        for _ in 0..2 {
            let failure = keys.verify(&token, &outputs).err();
            assert_eq!(failure, Some(Failure::NotVerified));
        }
        assert!(keys.known(&forged).is_none());
    }
}
