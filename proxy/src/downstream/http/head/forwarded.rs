//! Headers by which proxies tell of each other, as Envoy's connection manager writes them: who the client is, what it connected
//! to, who has passed the message on.
//!
//! Where the manager decides who the client is ([`ClientAddress`]), policies and logs hear it from here and not from a header.

use std::net::{IpAddr, SocketAddr};

use http::Request;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use waypoint_config::model::http::forwarding::{Forwarding, HostForm, StripPort};
use waypoint_filters::service::ClientAddress;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::connection::Connection;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const HTTP: HeaderValue = HeaderValue::from_static("http");
/// What a proxy of the client's own network may say.
const OF_NEIGHBOURS: [HeaderName; 2] = [
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
];

/// Tells the upstream of the client.
pub(crate) fn tell(request: &mut Request<Body>, forwarding: &Forwarding, connection: &Connection) {
    let source = canonical(connection.source);
    let trusted = forwarding.trusted_hops > 0;
    if forwarding.decides_client() {
        let skip = match forwarding.use_remote_address {
            true => forwarding.trusted_hops.checked_sub(1),
            false => Some(forwarding.trusted_hops),
        };
        let said = skip.and_then(|skip| address_before(request.headers(), skip));
        let client = said.unwrap_or(source);
        request.extensions_mut().insert(ClientAddress(client));
        if forwarding.use_remote_address {
            let headers = request.headers_mut();
            for name in OF_NEIGHBOURS {
                headers.remove(name);
            }
            if let Ok(value) = HeaderValue::from_str(&client.to_string()) {
                headers.insert(EXTERNAL_ADDRESS, value);
            }
        }
    }
    let headers = request.headers_mut();
    if forwarding.use_remote_address {
        if !forwarding.skip_append {
            append(headers, X_FORWARDED_FOR, &source.to_string(), ",");
        }
        if !trusted {
            headers.insert(X_FORWARDED_PROTO, HTTP);
        }
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HTTP);
    let unbelieved = forwarding.use_remote_address && !trusted;
    if forwarding.port && (unbelieved || !headers.contains_key(X_FORWARDED_PORT)) {
        headers.insert(X_FORWARDED_PORT, connection.destination.port().into());
    }
    if let Some(via) = &forwarding.via {
        append(headers, header::VIA, via.to_str().unwrap_or_default(), ", ");
    }
}

/// Adds to a list, which is one line then.
pub(crate) fn append(headers: &mut HeaderMap, name: HeaderName, last: &str, comma: &str) {
    let mut all: Vec<u8> = Vec::new();
    for value in headers.get_all(&name) {
        all.extend_from_slice(value.as_bytes());
        all.extend_from_slice(comma.as_bytes());
    }
    all.extend_from_slice(last.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(name, value);
    }
}

/// The address in `x-forwarded-for` that so many others follow.
fn address_before(headers: &HeaderMap, others: usize) -> Option<IpAddr> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let texts = lines.filter_map(|value| value.to_str().ok());
    let mut addresses = texts.flat_map(|text| text.rsplit(','));
    addresses.nth(others)?.trim().parse().ok()
}

fn canonical(source: SocketAddr) -> IpAddr {
    source.ip().to_canonical()
}

/// Brings the authority into its form, where there is one.
pub(crate) fn shape_host(headers: &mut HeaderMap, form: HostForm, port: u16) {
    if form == HostForm::default() {
        return;
    }
    let shaped = headers.get(header::HOST).and_then(|host| {
        let host = host.to_str().ok()?;
        let (mut name, mut rest) = parts(host);
        if form.strip_trailing_dot {
            name = name.strip_suffix('.').unwrap_or(name);
        }
        let strips = match form.strip_port {
            StripPort::No => false,
            StripPort::Matching => {
                rest.strip_prefix(':').and_then(|p| p.parse().ok()) == Some(port)
            }
            StripPort::Any => rest.starts_with(':'),
        };
        if strips {
            rest = "";
        }
        let shaped = format!("{name}{rest}");
        (shaped != host).then(|| HeaderValue::from_str(&shaped).ok())?
    });
    if let Some(shaped) = shaped {
        headers.insert(header::HOST, shaped);
    }
}

/// The host, and its port with the colon.
fn parts(authority: &str) -> (&str, &str) {
    let after_address = authority.rfind(']').map_or(0, |end| end + 1);
    match authority
        .get(after_address..)
        .and_then(|rest| rest.find(':'))
    {
        Some(colon) => authority.split_at(after_address + colon),
        None => (authority, ""),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_counted_from_the_end() {
        let mut headers = HeaderMap::new();
        headers.append(
            X_FORWARDED_FOR,
            HeaderValue::from_static("10.0.0.1, 10.0.0.2"),
        );
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("x,10.0.0.3"));
        let nth = |others| address_before(&headers, others).map(|a| a.to_string());
        assert_eq!(nth(0).as_deref(), Some("10.0.0.3"));
        assert_eq!(nth(1), None, "no address");
        assert_eq!(nth(2).as_deref(), Some("10.0.0.2"));
        assert_eq!(nth(4), None);
    }

    #[test]
    fn hosts_have_one_form() {
        let shaped = |host: &str, strip_port, strip_trailing_dot| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            let form = HostForm {
                strip_port,
                strip_trailing_dot,
            };
            shape_host(&mut headers, form, 80);
            headers[header::HOST].to_str().unwrap().to_owned()
        };
        assert_eq!(shaped("a:80", StripPort::Matching, false), "a");
        assert_eq!(shaped("a:81", StripPort::Matching, false), "a:81");
        assert_eq!(shaped("a:81", StripPort::Any, false), "a");
        assert_eq!(shaped("[::1]:80", StripPort::Matching, false), "[::1]");
        assert_eq!(shaped("[::1]", StripPort::Any, false), "[::1]");
        assert_eq!(shaped("a.:81", StripPort::No, true), "a:81");
        assert_eq!(shaped("a.:80", StripPort::Matching, true), "a");
        assert_eq!(shaped("a.", StripPort::No, false), "a.");
    }
}
