//! Checks by `grpc.health.v1.Health/Check`: only a service that says that it is serving passes.

use bytes::BytesMut;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use waypoint_config::model::active_health::CheckOutcome;
use waypoint_config::model::cluster::health_check::grpc::{GrpcCheck, is_serving};
use waypoint_filters::service::body::Body;

use crate::upstream::error::UpstreamError;
use crate::upstream::health::check::Check;
use crate::upstream::health::client::{Answered, Client, HttpClient, exchange};
use crate::upstream::health::request::Asked;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// The message is a few bytes.
const MAX_ANSWER: usize = 16 * 1024;

pub(super) async fn ask(
    check: &Check<'_>,
    what: &GrpcCheck,
    client: Option<HttpClient>,
) -> Answered {
    let name = check.name(what.authority.as_deref());
    let request = || request(check, what);
    let (client, response) = exchange(check, name, true, client, request).await?;
    let (parts, mut body) = response.into_parts();
    let mut message = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| UpstreamError::of(&*error))?;
        match frame.into_data() {
            Ok(data) if data.len() > MAX_ANSWER - message.len() => {
                return Ok((CheckOutcome::Refused, None));
            }
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let trailers = trailers.as_ref().unwrap_or(&parts.headers);
    let is_grpc = parts.status == StatusCode::OK && is_grpc(&parts.headers);
    let passed = is_grpc && is_ok(trailers) && is_serving(&message);
    let outcome = match passed {
        true => CheckOutcome::Passed,
        false => CheckOutcome::Refused,
    };
    Ok((outcome, Some(Client::Http(client))))
}

fn request(check: &Check<'_>, what: &GrpcCheck) -> Request<Body> {
    let mut request = check.request(Asked {
        method: Method::POST,
        path: PathAndQuery::from_static(PATH),
        name: what.authority.as_deref(),
        http2: true,
        body: Body::full(what.request.clone()),
        changes: &what.metadata,
    });
    let headers = request.headers_mut();
    let content = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, content);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE);
    content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}

fn is_ok(trailers: &HeaderMap) -> bool {
    trailers
        .get("grpc-status")
        .is_some_and(|status| status == "0")
}
