//! Where the keys of a token's issuer come from: a set in the manifest itself, or an address.
//!
//! A set is checked as istiod's admission check does it: the members that each kind of key must have (RFC 7518). What
//! of a sound set a waypoint can't use is what the filter says of it.

use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use crate::standalone::input::schema::is_subdomain;

/// Kind of key, the members that it must have.
const KINDS: &[(&str, &[&str])] = &[
    ("RSA", &["n", "e"]),
    ("EC", &["crv", "x", "y"]),
    ("OKP", &["crv", "x"]),
    ("oct", &["k"]),
];
/// Characters of an address, at most.
const MAX_URI: usize = 2048;

/// An address of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUri {
    /// As it was written.
    pub text: String,
    pub tls: bool,
    pub host: Host,
    pub port: u16,
}

/// Who serves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// In lower case.
    Name(String),
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(address) => write!(f, "{address}"),
        }
    }
}

impl JwksUri {
    pub fn parse(text: &str) -> Result<JwksUri, String> {
        if text.len() > MAX_URI {
            return Err(format!("must have {MAX_URI} characters at most"));
        }
        let uri: http::Uri = text
            .parse()
            .map_err(|error| format!("{text:?} is no address: {error}"))?;
        let (tls, standard) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(format!("{text:?} begins with neither http:// nor https://")),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        // A host may be followed by a colon and nothing.
        let (_, after) = authority.rsplit_once(']').unwrap_or(("", authority));
        let port = match after.rsplit_once(':') {
            None | Some((_, "")) => standard,
            Some((_, port)) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| format!("{port:?} is no port"))?,
        };
        let written = uri.host().unwrap_or_default();
        let bare = written.trim_start_matches('[').trim_end_matches(']');
        let name = bare.trim_end_matches('.').to_ascii_lowercase();
        let host = match bare.parse() {
            Ok(address) => Host::Address(address),
            Err(_) if is_subdomain(&name) && !authority.contains('@') => Host::Name(name),
            Err(_) => return Err(format!("{authority:?} is no host")),
        };
        Ok(JwksUri {
            text: text.to_owned(),
            tls,
            host,
            port,
        })
    }
}

/// What istiod's admission check has against a set of keys.
pub(super) fn check(text: &str) -> Result<(), String> {
    let value = parse(text)?;
    for (index, key) in keys(&value).enumerate() {
        let at = match value.get("keys") {
            Some(_) => format!("key {index}: "),
            None => String::new(),
        };
        let member = |name: &str| key.get(name).and_then(Value::as_str);
        let Some(kind) = member("kty") else {
            return Err(format!("{at}kty is required"));
        };
        let Some((_, members)) = KINDS.iter().find(|(known, _)| *known == kind) else {
            return Err(format!("{at}kty {kind:?} is no kind of key"));
        };
        let missing = |name: &&&str| member(name).is_none_or(str::is_empty);
        if let Some(name) = members.iter().find(missing) {
            return Err(format!("{at}{name} is required"));
        }
    }
    Ok(())
}

/// The keys of a set that was checked which say more than they should.
pub fn private_keys(text: &str) -> Vec<usize> {
    let Ok(value) = parse(text) else {
        return Vec::new();
    };
    let all = keys(&value).enumerate();
    let private = all.filter(|(_, key)| key.get("d").is_some());
    private.map(|(index, _)| index).collect()
}

fn parse(text: &str) -> Result<Value, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("is no set of keys: {error}"))?;
    match value.get("keys") {
        Some(Value::Array(_)) => Ok(value),
        None if value.is_object() => Ok(value),
        _ => Err("is no set of keys {\"keys\": […]}".to_owned()),
    }
}

/// The keys of a set, or the only one, which may stand alone.
fn keys(value: &Value) -> impl Iterator<Item = &Value> {
    let all = value.get("keys").and_then(Value::as_array);
    let alone = all.is_none().then_some(value);
    all.into_iter().flatten().chain(alone)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let name = |host: &str| Host::Name(host.to_owned());
        for (text, tls, host, port) in [
            ("http://a.test/keys", false, name("a.test"), 80),
            ("https://A.test:8443", true, name("a.test"), 8443),
            ("https://a.test.:/x?y=z", true, name("a.test"), 443),
            (
                "http://[::1]:81/",
                false,
                Host::Address("::1".parse().unwrap()),
                81,
            ),
            (
                "http://10.0.0.1",
                false,
                Host::Address("10.0.0.1".parse().unwrap()),
                80,
            ),
        ] {
            let found = JwksUri::parse(text).unwrap();
            assert_eq!(
                (found.tls, found.host, found.port),
                (tls, host, port),
                "{text}"
            );
        }
        for text in [
            "",
            "a.test/keys",
            "/keys",
            "ftp://a.test",
            "http://",
            "http://a_b.test",
            "http://u@a.test/",
            "http://a.test:0/",
            "http://a.test:70000/",
            "http://a test/",
        ] {
            assert!(JwksUri::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sets_of_keys() {
        for sound in [
            r#"{"keys": []}"#,
            r#"{"keys": [{"kty": "RSA", "n": "a", "e": "AQAB"}, {"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}]}"#,
            r#"{"kty": "oct", "k": "a"}"#,
        ] {
            assert_eq!(check(sound), Ok(()), "{sound}");
        }
        for (broken, reason) in [
            ("", "no set of keys"),
            ("[]", "no set of keys"),
            (r#"{"keys": {}}"#, "no set of keys"),
            ("{}", "kty is required"),
            (r#"{"keys": [{}]}"#, "key 0: kty is required"),
            (r#"{"keys": [{"kty": "XY"}]}"#, "no kind of key"),
            (
                r#"{"keys": [{"kty": "RSA", "n": "a"}]}"#,
                "key 0: e is required",
            ),
        ] {
            let error = check(broken).unwrap_err();
            assert!(error.contains(reason), "{broken}: {error}");
        }
    }

    #[test]
    fn keys_that_say_too_much() {
        let key = r#"{"kty": "RSA", "n": "a", "e": "b"}"#;
        let private = key.replace('}', r#", "d": "c"}"#);
        assert_eq!(
            private_keys(&format!(r#"{{"keys": [{key}, {private}]}}"#)),
            [1]
        );
        assert_eq!(private_keys(key), [0_usize; 0]);
    }
}
