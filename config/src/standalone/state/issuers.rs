//! Issuers of tokens whose rule says nothing of keys: what they say of themselves is asked of them (OpenID Connect Discovery),
//! and kept here. Whoever runs the process asks; this only knows what is to be asked, and what was said.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::standalone::kinds::istio::jwks::JwksUri;

/// Bytes of what an issuer says of itself.
pub const MAX_DOCUMENT: usize = 256 * 1024;

/// Where issuers' keys are, by the address that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuers(BTreeMap<String, JwksUri>);

/// An issuer that is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerQuestion {
    pub address: JwksUri,
    /// The cluster that leads there.
    pub cluster: String,
    pub timeout: Duration,
}

impl Issuers {
    /// Where the keys are of an issuer that is asked at this address.
    pub(crate) fn keys(&self, asked: &JwksUri) -> Option<&JwksUri> {
        self.0.get(&asked.text)
    }

    /// Keeps what an issuer says; whether that is new.
    pub fn tell(&mut self, asked: &JwksUri, keys: JwksUri) -> bool {
        let before = self.0.insert(asked.text.clone(), keys.clone());
        before != Some(keys)
    }
}

/// Where the keys are by what an issuer says of itself (`jwks_uri` of its metadata).
///
/// # Errors
/// It doesn't say so.
pub fn keys_address(document: &[u8]) -> Result<JwksUri, String> {
    let document: Value = serde_json::from_slice(document)
        .map_err(|error| format!("what the issuer says of itself is no JSON: {error}"))?;
    let address = document.get("jwks_uri").and_then(Value::as_str);
    let address = address.ok_or("what the issuer says of itself has no jwks_uri")?;
    JwksUri::parse(address).map_err(|reason| format!("the issuer's jwks_uri: {reason}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_says_where_its_keys_are() {
        let said = keys_address(br#"{"issuer": "x", "jwks_uri": "https://keys.test/a"}"#);
        assert_eq!(said.unwrap().text, "https://keys.test/a");
        for (document, why) in [
            ("<html>", "no JSON"),
            ("{}", "no jwks_uri"),
            (r#"{"jwks_uri": 7}"#, "no jwks_uri"),
            (r#"{"jwks_uri": "ftp://a"}"#, "neither http:// nor https://"),
        ] {
            let said = keys_address(document.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_is_said_again_is_not_new() {
        let asked = JwksUri::parse("https://issuer.test/").unwrap();
        let [one, two] = ["https://a.test/", "https://b.test/"].map(|a| JwksUri::parse(a).unwrap());
        let mut issuers = Issuers::default();
        assert!(issuers.keys(&asked).is_none());
        assert!(issuers.tell(&asked, one.clone()));
        assert!(!issuers.tell(&asked, one));
        assert!(issuers.tell(&asked, two.clone()));
        assert_eq!(issuers.keys(&asked), Some(&two));
    }
}
