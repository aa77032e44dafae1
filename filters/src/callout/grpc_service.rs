//! A gRPC service that is asked (`GrpcService`), and a unary call of it: a POST over HTTP/2 whose answer ends in trailers.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::GrpcService as GrpcServiceProto;
use envoy_types::pb::envoy::config::core::v3::grpc_service::TargetSpecifier;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

use crate::callout::added_headers::{AddedHeaders, HEADER_VALUE};
use crate::callout::asking::ask;
use crate::callout::time_limit::time_limit;
use crate::callout::{Answer, Callout, CalloutError, CalloutLimits, Content};
use crate::format::RequestView;
use crate::stream::connection::Connection;
use crate::stream::stream_info::{Protocol, StreamInfo};
use crate::xds::coverage::well_known::DURATION;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::encoding::Fields;
use crate::xds::rejected::Refusal;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Bytes of an answer.
pub(crate) const MAX_ANSWER: usize = 1024 * 1024;

pub(crate) static GRPC_SERVICE: Table = Table {
    name: "envoy.config.core.v3.GrpcService",
    fields: &[
        honoured(1, "envoy_grpc").of(&ENVOY_GRPC),
        honoured(3, "timeout").of(&DURATION).only("longer than 0s"),
        honoured(5, "initial_metadata").list().of(&HEADER_VALUE),
    ],
    refused: "2 google_grpc, 6 retry_policy",
    required: &[required("target_specifier", &[1])],
};

static ENVOY_GRPC: Table = Table {
    name: "envoy.config.core.v3.GrpcService.EnvoyGrpc",
    fields: &[honoured(1, "cluster_name"), honoured(2, "authority")],
    refused: "3 retry_policy, 4 max_receive_message_length, 5 skip_envoy_headers",
    required: &[required("cluster_name", &[1])],
};

/// The way to the service.
#[derive(Debug)]
pub(crate) struct GrpcService {
    pub(crate) cluster: String,
    callout: Callout,
    authority: HeaderValue,
    time: Duration,
    /// `grpc-timeout`.
    time_told: HeaderValue,
    metadata: AddedHeaders,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    Callout(CalloutError),
    /// The status that the call ended with, in gRPC's numbers, or HTTP's where the answer isn't gRPC.
    Status(String),
    /// The answer is no message.
    Malformed(&'static str),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Callout(error) => error.fmt(f),
            CallError::Status(status) => write!(f, "the call ended with status {status}"),
            CallError::Malformed(what) => write!(f, "the answer is malformed: {what}"),
        }
    }
}

impl GrpcService {
    pub(crate) fn from_proto(
        proto: &GrpcServiceProto,
        cluster: &dyn Fn(&str) -> Callout,
    ) -> Result<GrpcService, Refusal> {
        let Some(TargetSpecifier::EnvoyGrpc(grpc)) = &proto.target_specifier else {
            return Err(Refusal::unsupported("google_grpc"));
        };
        let authority =
            authority(&grpc.authority, &grpc.cluster_name).map_err(|e| e.within("envoy_grpc"))?;
        let time = time_limit(proto.timeout.as_ref(), "timeout")?;
        let millis = time.as_millis().clamp(1, 99_999_999);
        Ok(GrpcService {
            cluster: grpc.cluster_name.clone(),
            callout: cluster(&grpc.cluster_name),
            authority,
            time,
            time_told: HeaderValue::try_from(format!("{millis}m"))
                .map_err(|_| Refusal::new("timeout", "is not a valid duration"))?,
            metadata: AddedHeaders::from_proto(&proto.initial_metadata, "initial_metadata")?,
        })
    }

    /// Calls `method` (`/package.Service/Method`) with a message, on behalf of a stream.
    pub(crate) async fn call<R>(
        &self,
        method: &'static str,
        message: Framed,
        stream: &StreamInfo,
        request: Option<RequestView<'_>>,
    ) -> Result<R, CallError>
    where
        R: prost::Message + Default,
    {
        let Framed(mut data) = message;
        if let Some(holder) = &stream.connection.holder {
            data = holder.account().charge(data);
        }
        let answer = self.exchange(method, data, stream, request).await?;
        let message = message_of(answer)?;
        R::decode(message).map_err(|_| CallError::Malformed("no such message"))
    }

    /// Calls `method` on nobody's behalf with the one message of it. Whoever takes a stream of messages needn't answer with
    /// one: that the call ended in order is enough.
    pub(crate) async fn tell(
        &self,
        method: &'static str,
        message: Framed,
    ) -> Result<Option<Bytes>, CallError> {
        let stream = nobodys_stream();
        let answer = self.exchange(method, message.0, &stream, None).await?;
        match answer.body().data.is_empty() {
            true => ended(&answer).map(|()| None),
            false => message_of(answer).map(Some),
        }
    }

    async fn exchange(
        &self,
        method: &'static str,
        data: Bytes,
        stream: &StreamInfo,
        request: Option<RequestView<'_>>,
    ) -> Result<http::Response<Content>, CallError> {
        let call = || {
            let mut call = Request::new(Content {
                data: data.clone(),
                trailers: None,
            });
            *call.method_mut() = Method::POST;
            *call.version_mut() = Version::HTTP_2;
            *call.uri_mut() = Uri::from_static(method);
            let headers = call.headers_mut();
            self.metadata.set(stream, request, headers);
            headers.insert(header::HOST, self.authority.clone());
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            headers.insert(GRPC_TIMEOUT, self.time_told.clone());
            call
        };
        let limits = CalloutLimits {
            time: self.time,
            answer: Answer::Kept { most: MAX_ANSWER },
        };
        let answer = ask(&self.callout, call, limits).await;
        answer.map_err(CallError::Callout)
    }
}

/// A stream for what is sent on nobody's behalf.
pub(crate) fn nobodys_stream() -> Arc<StreamInfo> {
    let nowhere = ([0, 0, 0, 0], 0).into();
    let connection = Connection::new(nowhere, nowhere, Instant::now());
    StreamInfo::new(
        Arc::new(connection),
        Protocol::Http2,
        Instant::now(),
        SystemTime::now(),
    )
}

/// What is said in `:authority`: the cluster's name where nothing else is. Names of Istio's clusters have characters that
/// no authority has.
fn authority(authority: &str, cluster: &str) -> Result<HeaderValue, Refusal> {
    let refused = || Refusal::new("authority", format!("{authority:?} is no authority"));
    let name = match authority {
        "" => cluster.replace(
            |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-'),
            "-",
        ),
        authority => authority.to_owned(),
    };
    Authority::try_from(name.as_str()).map_err(|_| refused())?;
    HeaderValue::try_from(name).map_err(|_| refused())
}

/// A message as gRPC frames it: not compressed, its length, its bytes.
#[derive(Debug)]
pub(crate) struct Framed(Bytes);

/// Of what stands before a message.
const PREFIX: usize = 5;

impl Framed {
    /// A message of these fields, for which there is room for `room` bytes at first.
    pub(crate) fn of(room: usize, write: impl FnOnce(&mut Fields<'_>)) -> Framed {
        let mut data = Vec::with_capacity(PREFIX + room);
        data.extend_from_slice(&[0; PREFIX]);
        write(&mut Fields(&mut data));
        let length = u32::try_from(data.len() - PREFIX).unwrap_or(u32::MAX);
        if let Some((_, told)) = data
            .split_first_chunk_mut::<PREFIX>()
            .and_then(|(prefix, _)| prefix.split_first_mut())
        {
            told.copy_from_slice(&length.to_be_bytes());
        }
        Framed(data.into())
    }

    pub(crate) fn of_message(message: &impl prost::Message) -> Framed {
        // Memory grows as it has to.
        Framed::of(message.encoded_len(), |fields| {
            let _ = message.encode(fields.0);
        })
    }

    /// The message alone.
    #[cfg(test)]
    pub(crate) fn message(&self) -> Bytes {
        self.0.slice(PREFIX..)
    }
}

/// Whether an answer ended in order.
fn ended(answer: &http::Response<Content>) -> Result<(), CallError> {
    if answer.status() != http::StatusCode::OK {
        let code = answer.status().as_u16();
        return Err(CallError::Status(format!("HTTP {code}")));
    }
    // An answer without a message has its status in the head.
    let trailers = answer.body().trailers.as_ref();
    let status = trailers
        .and_then(status_of)
        .or_else(|| status_of(answer.headers()));
    match status {
        Some("0") => Ok(()),
        Some(status) => Err(CallError::Status(status.to_owned())),
        None => Err(CallError::Malformed("there is no grpc-status")),
    }
}

/// The one message of an answer that ended in order.
fn message_of(answer: http::Response<Content>) -> Result<Bytes, CallError> {
    ended(&answer)?;
    let content = answer.into_body();
    let mut data = content.data;
    let Some((prefix, _)) = data.split_first_chunk::<5>() else {
        return Err(CallError::Malformed("there is no message"));
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(CallError::Malformed("the message is compressed"));
    }
    let message = data.split_off(5);
    match usize::try_from(u32::from_be_bytes(length)) {
        Ok(length) if length == message.len() => Ok(message),
        _ => Err(CallError::Malformed("there is not one whole message")),
    }
}

fn status_of(headers: &HeaderMap) -> Option<&str> {
    headers.get("grpc-status")?.to_str().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Response;

    use super::*;

    fn trailers(status: &'static str) -> Option<HeaderMap> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        Some(trailers)
    }

    fn said(data: &'static [u8], trailers: Option<HeaderMap>) -> Result<Bytes, String> {
        let data = Bytes::from_static(data);
        let answer = Response::new(Content { data, trailers });
        message_of(answer).map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_is_one_message_and_a_status() {
        assert_eq!(said(b"\0\0\0\0\x02hi", trailers("0")).unwrap(), "hi");
        assert_eq!(said(b"\0\0\0\0\0", trailers("0")).unwrap(), "");
        for (data, status, why) in [
            (&b"\0\0\0\0\x02hi"[..], trailers("7"), "status 7"),
            (b"\0\0\0\0\x02hi", None, "no grpc-status"),
            (b"", trailers("0"), "no message"),
            (b"\x01\0\0\0\x02hi", trailers("0"), "compressed"),
            (b"\0\0\0\0\x03hi", trailers("0"), "one whole message"),
            (b"\0\0\0\0\x01hi", trailers("0"), "one whole message"),
            (b"\0\xff\xff\xff\xffhi", trailers("0"), "one whole message"),
        ] {
            let said = said(data, status).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let mut answer = Response::new(Content::default());
        *answer.headers_mut() = trailers("14").unwrap();
        assert!(matches!(message_of(answer), Err(CallError::Status(s)) if s == "14"));
        let mut answer = Response::new(Content::default());
        *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        assert!(matches!(message_of(answer), Err(CallError::Status(s)) if s == "HTTP 503"));
    }

    #[test]
    fn a_cluster_is_an_authority_in_a_fashion() {
        assert_eq!(authority("web:80", "x").unwrap(), "web:80");
        let cluster = "outbound|9080||ratings.default.svc";
        assert_eq!(
            authority("", cluster).unwrap(),
            "outbound-9080--ratings.default.svc"
        );
        assert!(authority("a b", "x").is_err());
    }

    #[test]
    fn a_frame_says_how_long_it_is() {
        let framed = Framed::of(0, |fields| fields.number(1, 3));
        assert_eq!(&*framed.0, b"\0\0\0\0\x02\x08\x03");
        assert_eq!(framed.message(), "\x08\x03");
        let framed = Framed::of(9, |fields| fields.bytes(1, [7; 300]));
        assert_eq!(framed.0.get(..5), Some(&b"\0\0\0\x01\x2f"[..]));
    }
}
