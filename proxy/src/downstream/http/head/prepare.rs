//! What a connection manager does to a request's head before any filter sees it, and to a response's
//! head after all have: the rules of RFC 9110 §7.6.1 (hop-by-hop) and of Envoy's connection manager.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, StatusCode, Uri, Version};
use waypoint_config::model::http::codec::HeadersWithUnderscores;
use waypoint_config::model::http::connection_manager::{HttpConnectionManager, XFCC};
use waypoint_config::model::http::forwarding::Server;
use waypoint_filters::service::SaidScheme;
use waypoint_filters::service::body::Body;
use waypoint_filters::service::local_reply::{Closing, LocalReply};
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::uuid;
use waypoint_hbone::messages::client::Protocol;
use waypoint_hbone::messages::fields::{KEEP_ALIVE, PROXY_CONNECTION, is_connections};

use crate::downstream::http::head::forwarded::{self, shape_host};
use crate::downstream::http::head::path_normalization::Normalized;
use crate::downstream::http::head::path_normalization::normalize;
use crate::upstream::exchange::agreed_upgrade::Upgrade;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Why a request is not let in.
#[derive(Debug)]
pub(crate) enum EarlyAnswer {
    Reply(LocalReply),
    Redirect(String),
}

fn bad_request(details: &'static str) -> EarlyAnswer {
    EarlyAnswer::Reply(LocalReply::new(StatusCode::BAD_REQUEST, "", details).closing())
}

/// What Envoy's codec answers to bytes that are no request.
fn codec_error(details: &'static str) -> EarlyAnswer {
    let reply = LocalReply::new(StatusCode::BAD_REQUEST, "Bad Request", details);
    EarlyAnswer::Reply(reply.closing())
}

/// Brings a request's head into the one form that policy, routes and the upstream see: an origin-form
/// target with a canonical path, the authority in `host`, no hop-by-hop headers, nothing that only a
/// trusted proxy may say.
pub(crate) fn prepare(
    request: &mut Request<Body>,
    manager: &HttpConnectionManager,
    connection: &Connection,
) -> Result<(), EarlyAnswer> {
    let extended = take_extended_connect(request);
    if request.method() == Method::CONNECT {
        // Nothing routes a CONNECT inside a tunnel.
        return Err(EarlyAnswer::Reply(
            LocalReply::new(StatusCode::NOT_FOUND, "", "route_not_found").closing(),
        ));
    }
    if request.version() == Version::HTTP_10 && !manager.codec.accept_http_10 {
        let reply = LocalReply::new(
            StatusCode::UPGRADE_REQUIRED,
            "Upgrade Required",
            "low_version",
        );
        return Err(EarlyAnswer::Reply(reply.closing()));
    }
    if request.version() == Version::HTTP_2 {
        refuse_malformed(request.headers())?;
    }
    set_authority(request)?;
    let forwarding = &manager.forwarding;
    shape_host(
        request.headers_mut(),
        forwarding.host,
        connection.destination.port(),
    );
    normalize_path(request, manager)?;
    let upgrade = upgrade_wanted(request, manager, extended)?;
    strip(request.headers_mut(), upgrade, manager)?;
    if upgrade {
        request.extensions_mut().insert(Upgrade);
    }
    let http2 = request.version() == Version::HTTP_2;
    let headers = request.headers_mut();
    if http2 {
        join_cookies(headers);
    }
    if !manager.proxy_100_continue && expects_continue(headers) {
        // hyper says it.
        headers.remove(header::EXPECT);
    }
    if !manager.keep_client_cert_header {
        headers.remove(XFCC);
    }
    let ids = forwarding.request_id;
    if ids.generate && (ids.replace || !headers.contains_key(X_REQUEST_ID)) {
        headers.insert(X_REQUEST_ID, request_id(fastrand::u128(..)));
    }
    forwarded::tell(request, forwarding, connection);
    Ok(())
}

/// Over HTTP/2 an upgrade is a CONNECT with a protocol (RFC 8441), where the chain lets it in. From here on it is what it would be
/// over HTTP/1.1. Says whether it was one.
fn take_extended_connect(request: &mut Request<Body>) -> bool {
    if request.method() != Method::CONNECT {
        return false;
    }
    let protocol = request.extensions_mut().remove::<Protocol>();
    let Some(protocol) = protocol.and_then(|p| HeaderValue::from_str(p.as_str()).ok()) else {
        return false;
    };
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol);
    true
}

/// HTTP/2 may send a cookie in crumbs; whoever reads one header shall see them all (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Fields that HTTP/2's reader takes and no HTTP/1 reader does, or takes for others. A value with whitespace
/// around it (RFC 9113 §8.2.1) would pass a rule for the value, and lose the whitespace on its way up. A `"` is in
/// no name. An empty length is 0 to some and none to others, and so is the second of two.
fn refuse_malformed(headers: &HeaderMap) -> Result<(), EarlyAnswer> {
    for (name, value) in headers {
        let value = value.as_bytes();
        let malformed = value.trim_ascii() != value
            || name.as_str().contains('"')
            || *name == header::CONTENT_LENGTH && value.is_empty();
        if malformed {
            return Err(codec_error("http1.codec_error"));
        }
    }
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(codec_error("http1.codec_error"));
    }
    Ok(())
}

/// Moves the authority into `host` and makes the target origin-form. A target's authority wins over
/// the header (RFC 9112 §3.2.2).
fn set_authority(request: &mut Request<Body>) -> Result<(), EarlyAnswer> {
    if let Some(authority) = request.uri().authority() {
        if request.uri().scheme().is_none() {
            // The form of a CONNECT's target, which this is not.
            return Err(codec_error("http1.codec_error"));
        }
        refuse_user(authority.as_str().as_bytes())?;
        let value = HeaderValue::from_str(authority.as_str())
            .map_err(|_| bad_request("invalid_authority"))?;
        request.headers_mut().insert(header::HOST, value);
        if let Some(scheme) = request.uri().scheme().filter(|s| **s != Scheme::HTTP) {
            let said = SaidScheme(scheme.clone());
            request.extensions_mut().insert(said);
        }
        let target = request
            .uri()
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(target);
        return Ok(());
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            if host.is_empty() || Authority::try_from(host.as_bytes()).is_err() {
                return Err(bad_request("invalid_authority"));
            }
            refuse_user(host.as_bytes())
        }
        (None, _) => Err(bad_request("missing_host_header")),
        // Two hosts: whoever routes by one may be followed by somebody who reads the other.
        (Some(_), Some(_)) => Err(bad_request("invalid_authority")),
    }
}

/// `user@host` names a host to some and another to others; HTTP has no such authority (RFC 9110 §4.2.4).
fn refuse_user(authority: &[u8]) -> Result<(), EarlyAnswer> {
    if authority.contains(&b'@') {
        return Err(bad_request("invalid_authority"));
    }
    Ok(())
}

fn normalize_path(
    request: &mut Request<Body>,
    manager: &HttpConnectionManager,
) -> Result<(), EarlyAnswer> {
    let uri = request.uri();
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    if request.version() != Version::HTTP_2 && !target.is_ascii() {
        // HTTP/2 carries such bytes: a path's are escaped, a query's go on.
        return Err(codec_error("http1.codec_error"));
    }
    if uri.path() == "*" && request.method() == Method::OPTIONS {
        return Ok(());
    }
    let changed = match normalize(uri.path(), manager.path_normalization) {
        Normalized::Path(std::borrow::Cow::Borrowed(_)) => return Ok(()),
        Normalized::Reject => return Err(bad_request("path_normalization_failed")),
        Normalized::Redirect(path) => {
            return Err(EarlyAnswer::Redirect(with_query(path, uri.query())));
        }
        Normalized::Path(path) => with_query(path.into_owned(), uri.query()),
    };
    *request.uri_mut() =
        Uri::try_from(changed).map_err(|_| bad_request("path_normalization_failed"))?;
    Ok(())
}

pub(crate) fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// Whether the request asks for an upgrade that this chain allows. Others are refused as Envoy does;
/// `h2c` is ignored, as RFC 9113 §3.1 asks.
fn upgrade_wanted(
    request: &Request<Body>,
    manager: &HttpConnectionManager,
    extended: bool,
) -> Result<bool, EarlyAnswer> {
    let headers = request.headers();
    let Some(protocol) = headers.get(header::UPGRADE) else {
        return Ok(false);
    };
    let http2 = request.version() == Version::HTTP_2 && !extended;
    if http2 || !lists(headers, header::CONNECTION, "upgrade") {
        return Ok(false);
    }
    let protocol = protocol.to_str().unwrap_or_default();
    if protocol.eq_ignore_ascii_case("h2c") {
        return Ok(false);
    }
    if manager
        .upgrades
        .iter()
        .any(|allowed| allowed.eq_ignore_ascii_case(protocol))
    {
        return Ok(true);
    }
    Err(EarlyAnswer::Reply(
        LocalReply::new(StatusCode::FORBIDDEN, "", "upgrade_failed").closing(),
    ))
}

/// Whether a comma-separated header names `token`.
pub(crate) fn lists(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value
            .to_str()
            .unwrap_or_default()
            .split(',')
            .any(|t| t.trim().eq_ignore_ascii_case(token))
    })
}

/// Removes hop-by-hop headers, those that `connection` names, and `x-envoy-*` commands to a proxy.
fn strip(
    headers: &mut HeaderMap,
    upgrade: bool,
    manager: &HttpConnectionManager,
) -> Result<(), EarlyAnswer> {
    let mut doomed: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        let text = name.as_str();
        if hop_by_hop(name) || is_command(text) {
            doomed.push(name.clone());
        } else if text.contains('_') {
            match manager.headers_with_underscores {
                HeadersWithUnderscores::Allow => {}
                HeadersWithUnderscores::DropHeader => doomed.push(name.clone()),
                HeadersWithUnderscores::RejectRequest => {
                    return Err(codec_error("http1.unexpected_underscore"));
                }
            }
        }
    }
    if doomed.is_empty() {
        return Ok(());
    }
    for value in headers.get_all(header::CONNECTION) {
        for token in value.to_str().unwrap_or_default().split(',') {
            if token.trim().starts_with(':') {
                return Err(codec_error("http1.codec_error"));
            }
            let Ok(name) = HeaderName::try_from(token.trim()) else {
                continue;
            };
            // Whoever names these wants them away from whoever is next; Envoy refuses it, too.
            match name.as_str() {
                "host" => return Err(bad_request("missing_host_header")),
                "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" => {
                    return Err(codec_error("http1.codec_error"));
                }
                _ => doomed.push(name),
            }
        }
    }
    let trailers = lists(headers, header::TE, "trailers");
    let protocol = headers.get(header::UPGRADE).cloned();
    for name in doomed {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let (true, Some(protocol)) = (upgrade, protocol) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    Ok(())
}

fn hop_by_hop(name: &HeaderName) -> bool {
    is_connections(name) || *name == header::TE || *name == HTTP2_SETTINGS
}

/// Headers by which a trusted client commands Envoy's router. Nobody is trusted to here.
fn is_command(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("x-envoy-") else {
        return false;
    };
    matches!(
        rest,
        "expected-rq-timeout-ms"
            | "force-trace"
            | "hedge-on-per-try-timeout"
            | "internal"
            | "ip-tags"
            | "max-retries"
            | "retriable-header-names"
            | "retriable-status-codes"
            | "retry-grpc-on"
            | "retry-on"
            | "upstream-alt-stat-name"
            | "upstream-rq-per-try-timeout-ms"
            | "upstream-rq-timeout-alt-response"
            | "upstream-rq-timeout-ms"
            | "upstream-stream-duration-ms"
            | "original-path"
            | "original-host"
            | "decorator-operation"
    )
}

/// A version 4 UUID. Its 15th character stays `4`, Envoy's mark of a request that is not traced.
fn request_id(random: u128) -> HeaderValue {
    HeaderValue::from_bytes(&uuid::v4(random)).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Brings a response's head into the form that the client gets. `request_id` is the request's, where answers say it.
pub(crate) fn finish(
    response: &mut http::response::Parts,
    manager: &HttpConnectionManager,
    request_id: Option<HeaderValue>,
) {
    let upgraded = response.status == StatusCode::SWITCHING_PROTOCOLS;
    let headers = &mut response.headers;
    if !upgraded {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
        headers.remove(KEEP_ALIVE);
        headers.remove(PROXY_CONNECTION);
    }
    headers.remove(header::TRANSFER_ENCODING);
    if response.extensions.get::<Closing>().is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(id) = request_id {
        headers.insert(X_REQUEST_ID, id);
    }
    if let Some(via) = &manager.forwarding.via {
        let via = via.to_str().unwrap_or_default();
        forwarded::append(headers, header::VIA, via, ", ");
    }
    match &manager.forwarding.server {
        Server::PassThrough => {}
        Server::Overwrite(server) => {
            headers.insert(header::SERVER, server.clone());
        }
        Server::IfAbsent(server) => {
            headers.entry(header::SERVER).or_insert(server.clone());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_other_envoy_headers() {
        assert!(is_command("x-envoy-retry-on"));
        assert!(!is_command("x-envoy-external-address"));
        assert!(!is_command("x-request-id"));
    }

    #[test]
    fn tokens_are_found_in_lists() {
        let mut headers = HeaderMap::new();
        headers.append(
            header::CONNECTION,
            HeaderValue::from_static("keep-alive, Upgrade"),
        );
        assert!(lists(&headers, header::CONNECTION, "upgrade"));
        assert!(!lists(&headers, header::CONNECTION, "up"));
    }
}
