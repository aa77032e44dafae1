//! What a browser may ask of the admin port: pages of other sites may not, whatever name they were loaded by.
//!
//! A browser on the machine (or at the end of a port-forward) reaches loopback. So a site that it shows could, too: by a
//! request of its own, which the browser marks (`Sec-Fetch-Site`, `Origin`), or by a name of its own that it lets lead
//! to 127.0.0.1, which only `Host` tells. Programs send no such marks and are not concerned.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Method, StatusCode};

use crate::admin::answer::{Answer, text};

/// Why this request isn't answered; `admin_addr` is where the port listens.
pub(super) fn refuse(
    admin_addr: SocketAddr,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Answer> {
    let reason = reason(admin_addr, method, headers)?;
    Some(text(StatusCode::FORBIDDEN, format!("{reason}\n")))
}

fn reason(admin_addr: SocketAddr, method: &Method, headers: &HeaderMap) -> Option<&'static str> {
    let value = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let host = value(HOST.as_str());
    // A port that others reach anyway may have a name.
    if admin_addr.ip().is_loopback() && host.is_some_and(|host| !is_own(host)) {
        return Some("this port is asked by an address or as localhost, not by another name");
    }
    let foreign = "asked by a page of another site";
    if matches!(value("sec-fetch-site"), Some("cross-site" | "same-site")) {
        let link = method == Method::GET
            && value("sec-fetch-mode") == Some("navigate")
            && value("sec-fetch-dest") == Some("document");
        return (!link).then_some(foreign);
    }
    let origin = value(ORIGIN.as_str())?;
    let own = origin.split_once("://").map(|(_, authority)| authority);
    (own != host).then_some(foreign)
}

/// Whether an authority names this machine in a way that nobody else can give a meaning to.
fn is_own(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host),
    };
    let host = host.to_ascii_lowercase();
    host.parse::<IpAddr>().is_ok() || host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn refused(method: &Method, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        reason(([127, 0, 0, 1], 15000).into(), method, &map).is_some()
    }

    #[test]
    fn addresses_and_localhost_are_our_names_and_no_others() {
        let get = |host| refused(&Method::GET, &[("host", host)]);
        for own in [
            "127.0.0.1:15000",
            "localhost:41234",
            "LOCALHOST",
            "[::1]:15000",
            "10.0.0.7",
        ] {
            assert!(!get(own), "{own}");
        }
        for other in [
            "evil.example:15000",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(get(other), "{other}");
        }
        assert!(!refused(&Method::GET, &[]));
        // Whoever opens the port to the network reaches it by the network's names.
        let mut named = HeaderMap::new();
        named.insert(HOST, HeaderValue::from_static("waypoint:15000"));
        assert_eq!(
            reason(([0, 0, 0, 0], 15000).into(), &Method::GET, &named),
            None
        );
    }

    #[test]
    fn pages_of_other_sites_may_link_and_nothing_else() {
        let host = ("host", "localhost:15000");
        let site = |site| [host, ("sec-fetch-site", site)];
        assert!(!refused(&Method::POST, &site("same-origin")));
        assert!(!refused(&Method::GET, &site("none")));
        assert!(refused(&Method::GET, &site("cross-site")));
        // Another port of the same host is another program.
        assert!(refused(&Method::GET, &site("same-site")));
        let link = [
            host,
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert!(!refused(&Method::GET, &link));
        assert!(refused(&Method::POST, &link));
        assert!(!refused(
            &Method::POST,
            &[host, ("origin", "http://localhost:15000")]
        ));
        assert!(refused(
            &Method::POST,
            &[host, ("origin", "http://evil.example")]
        ));
        assert!(refused(&Method::POST, &[host, ("origin", "null")]));
    }
}
