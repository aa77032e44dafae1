//! `envoy.filters.http.grpc_web`: gRPC for browsers, which have no trailers and often no bytes.
//!
//! Requests become gRPC; answers get their trailers as the last frame of their body, and all of it as text where the client
//! wants that (`accept: application/grpc-web-text`). What is no gRPC, such as an answer that the waypoint gives itself, is told in
//! `grpc-status` and `grpc-message` beside its HTTP status. istiod puts the filter on ports that are called `grpc-web`. What stands
//! before it, as policies do, answers in plain HTTP, as in Envoy.

mod decoded;
mod encoded;

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;

use crate::http::HttpFilter;
use crate::http::filter::{Config, Registration};
use crate::http::grpc_web::decoded::{DecodedBody, Invalid};
use crate::http::grpc_web::encoded::EncodedBody;
use crate::service::body::Body;
use crate::service::local_reply::{Local, LocalReply, grpc_status, is_grpc_type, percent_encode};
use crate::service::{HttpCall, HttpRequest, HttpService, Response, ResponseFuture};
use crate::xds::coverage::Table;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |_, _| {
            Ok(HttpFilter::layer(tower::layer::layer_fn(|inner| {
                HttpService::new(GrpcWeb(inner))
            })))
        },
    },
    per_route: None,
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    fields: &[],
    refused: "",
    required: &[],
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const BINARY: HeaderValue = HeaderValue::from_static("application/grpc-web+proto");
const TEXT: HeaderValue = HeaderValue::from_static("application/grpc-web-text+proto");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// What of an answer that is no gRPC becomes its message, at most.
const MAX_MESSAGE: usize = 16 * 1024;

struct GrpcWeb(HttpService);

/// How messages are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    Text,
}

impl Form {
    /// `None`: it is no gRPC-Web.
    fn of(content_type: &HeaderValue) -> Option<Form> {
        match content_type.as_bytes() {
            b"application/grpc-web" | b"application/grpc-web+proto" => Some(Form::Binary),
            b"application/grpc-web-text" | b"application/grpc-web-text+proto" => Some(Form::Text),
            _ => None,
        }
    }
}

impl HttpCall for GrpcWeb {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let headers = request.http.headers_mut();
        let Some(form) = headers.get(header::CONTENT_TYPE).and_then(Form::of) else {
            return self.0.call(request);
        };
        let wanted = headers.get(header::ACCEPT).and_then(Form::of);
        let wanted = wanted.unwrap_or(Form::Binary);
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, GRPC);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers
            .entry(GRPC_ACCEPT_ENCODING)
            .or_insert(HeaderValue::from_static("identity"));
        let stream = request.stream.clone();
        let mut invalid = None;
        if form == Form::Text && !request.http.body().is_empty() {
            let (tell, told) = oneshot::channel();
            let body = std::mem::take(request.http.body_mut());
            *request.http.body_mut() = Body::boxed(DecodedBody::new(body, tell));
            invalid = Some(told);
        }
        let inner = self.0.clone();
        ResponseFuture::boxed(async move {
            let response = inner.call(request);
            let response = match invalid {
                None => {
                    let Ok(response) = response.await;
                    response
                }
                Some(told) => match unless_invalid(response, told).await {
                    Ok(response) => response,
                    Err(Invalid(details)) => {
                        const TEXT: &str = "Bad gRPC-web request, invalid base64 data.";
                        LocalReply::new(StatusCode::BAD_REQUEST, TEXT, details)
                            .respond_as(&stream, false)
                    }
                },
            };
            answer(response, wanted).await
        })
    }
}

/// The answer, unless the request turns out to be none before it begins.
async fn unless_invalid(
    response: ResponseFuture,
    told: oneshot::Receiver<Invalid>,
) -> Result<Response, Invalid> {
    let mut told = pin!(told);
    let mut response = pin!(response);
    tokio::select! {
        biased;
        Ok(invalid) = &mut told => return Err(invalid),
        Ok(answer) = &mut response => {
            // That the request broke off may be what is answered.
            return match told.try_recv() {
                Ok(invalid) => Err(invalid),
                Err(_) => Ok(answer),
            };
        }
        else => {}
    }
    // The request was whole, and is gone.
    let Ok(answer) = response.await;
    Ok(answer)
}

async fn answer(mut response: Response, wanted: Form) -> Response {
    if let Some(local) = response.extensions().get::<Local>() {
        // It was told as gRPC is; its own status goes to the client.
        *response.status_mut() = local.status;
    }
    let ends = http_body::Body::is_end_stream(response.body());
    let foreign = !is_grpc(&response, ends) && !is_binary(&response);
    let content_type = match wanted {
        Form::Binary => BINARY,
        Form::Text => TEXT,
    };
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    if ends {
        return response;
    }
    if foreign {
        return as_status(response).await;
    }
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.map(|body| Body::boxed(EncodedBody::new(body, wanted == Form::Text)))
}

fn is_grpc(response: &Response, ends: bool) -> bool {
    if ends {
        return response.headers().contains_key(GRPC_STATUS);
    }
    let content_type = response.headers().get(header::CONTENT_TYPE);
    response.status() == StatusCode::OK && content_type.is_some_and(is_grpc_type)
}

/// Whether the upstream speaks gRPC-Web itself.
fn is_binary(response: &Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let form = content_type.and_then(|value| {
        let essence = value.to_str().ok()?.split(';').next()?.trim_end();
        let value = HeaderValue::from_str(&essence.to_ascii_lowercase()).ok()?;
        Form::of(&value)
    });
    response.status() == StatusCode::OK && form == Some(Form::Binary)
}

/// What is no gRPC, as a status with a message.
async fn as_status(response: Response) -> Response {
    let (mut parts, mut body) = response.into_parts();
    let mut text = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            let room = MAX_MESSAGE.saturating_sub(text.len());
            text.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        }
    }
    set_status(&mut parts.headers, parts.status, &text.freeze());
    http::Response::from_parts(parts, Body::empty())
}

fn set_status(headers: &mut HeaderMap, status: StatusCode, text: &Bytes) {
    if let Ok(message) = HeaderValue::from_str(&percent_encode(text)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    headers.insert(GRPC_STATUS, grpc_status(status).into());
    headers.insert(header::CONTENT_LENGTH, 0.into());
}
