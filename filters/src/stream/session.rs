//! What a session asks of the choice of an endpoint, and what came of it.
//!
//! Who keeps sessions (`stateful_session`) writes down which endpoint the client was led to before; who chooses endpoints heeds it
//! and writes down which one it was. Endpoints are named as Envoy names them, so that a session holds through either.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use http::StatusCode;

/// Before the address of an endpoint behind HBONE.
const BY_HBONE: &str = "envoy://connect_originate/";

/// An endpoint, as sessions name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionHost {
    pub address: SocketAddr,
    /// Whether it is reached through a ztunnel.
    pub hbone: bool,
}

impl fmt::Display for SessionHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = if self.hbone { BY_HBONE } else { "" };
        write!(f, "{before}{}", self.address)
    }
}

impl FromStr for SessionHost {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<SessionHost, Self::Err> {
        let address = text.strip_prefix(BY_HBONE);
        Ok(SessionHost {
            hbone: address.is_some(),
            address: address.unwrap_or(text).parse()?,
        })
    }
}

/// Where the client was led to before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nowhere: its session begins.
    Nothing,
    Host(SessionHost),
    /// What it says is no endpoint of anybody's.
    Nobody,
}

/// A request's session.
#[derive(Clone, Debug)]
pub struct Session {
    pub wanted: Wanted,
    /// Where the endpoint is gone, or isn't well, no other takes its place.
    pub strict: bool,
    /// What is answered then, where it is gone.
    pub not_found: StatusCode,
    /// Whether it is gone.
    pub is_gone: bool,
    /// The endpoint of the last attempt.
    pub chosen: Option<SessionHost>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_envoys_names() {
        for (text, hbone) in [
            ("10.0.0.1:80", false),
            ("[fd00::1]:80", false),
            ("envoy://connect_originate/10.0.0.1:80", true),
            ("envoy://connect_originate/[fd00::1]:80", true),
        ] {
            let host: SessionHost = text.parse().unwrap();
            assert_eq!((host.hbone, host.to_string()), (hbone, text.to_owned()));
        }
        for text in ["", "10.0.0.1", "envoy://other/10.0.0.1:80", "web:80"] {
            assert!(text.parse::<SessionHost>().is_err(), "{text}");
        }
    }
}
