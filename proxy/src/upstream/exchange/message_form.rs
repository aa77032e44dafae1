//! Requests in the form of the version that carries them, and answers that no request may get.

use http::{HeaderValue, Method, StatusCode, Uri, header, uri};
use waypoint_filters::service::body::Body;
use waypoint_hbone::messages::client::Protocol;

/// An answer that nobody asked for: a switch of protocols.
pub(crate) fn is_unasked<B>(response: &http::Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// An answer that two readers may take for different ones (RFC 9112 §6.3).
pub(crate) fn has_two_lengths<B>(response: &http::Response<B>) -> bool {
    let headers = response.headers();
    headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH)
}

/// A request whose method may have a body says that there is none (RFC 9110 §8.6), and one whose body's
/// length nobody knows is chunked, whatever its method: hyper wouldn't send the body of a GET otherwise.
pub(crate) fn say_how_it_is_framed(request: &mut http::Request<Body>) {
    let bodiless = [
        Method::GET,
        Method::HEAD,
        Method::DELETE,
        Method::CONNECT,
        Method::TRACE,
    ];
    if request.headers().contains_key(header::CONTENT_LENGTH) {
        return;
    }
    let (name, value) = if !request.body().is_empty() {
        (header::TRANSFER_ENCODING, "chunked")
    } else if !bodiless.contains(request.method()) {
        (header::CONTENT_LENGTH, "0")
    } else {
        return;
    };
    let value = HeaderValue::from_static(value);
    request.headers_mut().insert(name, value);
}

/// The target in absolute form: HTTP/2 has its authority there.
pub(crate) fn to_http2(request: &mut http::Request<Body>) {
    *request.version_mut() = http::Version::HTTP_2;
    let Some(host) = request.headers_mut().remove(header::HOST) else {
        return;
    };
    let mut parts = uri::Parts::default();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = uri::Authority::try_from(host.as_bytes()).ok();
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// An upgrade as HTTP/2 has it (RFC 8441); the protocol that it asks for.
pub(crate) fn to_extended_connect(request: &mut http::Request<Body>) -> Option<HeaderValue> {
    to_http2(request);
    request.headers_mut().remove(header::CONNECTION);
    let protocol = request.headers_mut().remove(header::UPGRADE);
    if let Some(name) = protocol.as_ref().and_then(|name| name.to_str().ok()) {
        *request.method_mut() = Method::CONNECT;
        let name = Protocol::from(name);
        request.extensions_mut().insert(name);
    }
    protocol
}

/// Back again, for an attempt that may speak HTTP/1.
pub(crate) fn to_http1(request: &mut http::Request<Body>) {
    let authority = request
        .uri()
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(authority) = authority {
        request.headers_mut().insert(header::HOST, authority);
        if let Some(target) = request.uri().path_and_query().cloned() {
            *request.uri_mut() = Uri::from(target);
        }
    }
}
