//! An HTTP service that is asked (`HttpService`): it gets the request's head under a path of its own, and its answer decides.
//!
//! 200 lets pass, and nothing else does, not even another 2xx; 5xx is a failure of the service; whatever else it says, the
//! client gets. What is copied from its answer is listed.

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationResponse, HttpService as HttpServiceProto,
};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};

use crate::callout::added_headers::{AddedHeaders, HEADER_VALUE};
use crate::callout::asking::{ask, copy};
use crate::callout::grpc_service::MAX_ANSWER;
use crate::callout::time_limit::time_limit;
use crate::callout::{Answer, Callout, CalloutLimits, Content};
use crate::format::RequestView;
use crate::security::ext_authz::check::check_request::ToldBody;
use crate::security::ext_authz::header_names::{HeaderNames, LIST_STRING_MATCHER};
use crate::security::ext_authz::told_headers::{PARTIAL_BODY, ToldHeaders, path};
use crate::security::ext_authz::verdict::changes::{Change, Changes, How, Invalid, is_framing};
use crate::security::ext_authz::verdict::denial::Denial;
use crate::security::ext_authz::verdict::{Outcome, Verdict};
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::well_known::DURATION;
use crate::xds::coverage::{Table, harmless, honoured, required};
use crate::xds::rejected::Refusal;

/// What every HTTP service is told.
pub(crate) const TOLD: [&str; 4] = ["authorization", ":method", ":path", ":authority"];
/// What of a denial every client is told, where there is a list.
const DENIAL: [&str; 2] = ["www-authenticate", "location"];
/// In an answer: headers that are to be removed from the request.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

pub(crate) static HTTP_SERVICE: Table = Table {
    name: "envoy.extensions.filters.http.ext_authz.v3.HttpService",
    fields: &[
        honoured(1, "server_uri").of(&HTTP_URI),
        honoured(2, "path_prefix"),
        honoured(7, "authorization_request").of(&AUTHORIZATION_REQUEST),
        honoured(8, "authorization_response").of(&AUTHORIZATION_RESPONSE),
        honoured(10, "path_override"),
    ],
    refused: "9 retry_policy",
    required: &[required("server_uri", &[1])],
};

static HTTP_URI: Table = Table {
    name: "envoy.config.core.v3.HttpUri",
    fields: &[
        harmless(
            1,
            "uri",
            "the cluster says where the service is, and the request's own authority is sent",
        ),
        honoured(2, "cluster"),
        honoured(3, "timeout").of(&DURATION).only("longer than 0s"),
    ],
    refused: "",
    required: &[
        required("uri", &[1]),
        required("http_upstream_type", &[2]),
        required("timeout", &[3]),
    ],
};

static AUTHORIZATION_REQUEST: Table = Table {
    name: "envoy.extensions.filters.http.ext_authz.v3.AuthorizationRequest",
    fields: &[
        honoured(1, "allowed_headers").of(&LIST_STRING_MATCHER),
        honoured(2, "headers_to_add").list().of(&HEADER_VALUE),
    ],
    refused: "",
    required: &[],
};

static AUTHORIZATION_RESPONSE: Table = Table {
    name: "envoy.extensions.filters.http.ext_authz.v3.AuthorizationResponse",
    fields: &[
        honoured(1, "allowed_upstream_headers").of(&LIST_STRING_MATCHER),
        honoured(2, "allowed_client_headers").of(&LIST_STRING_MATCHER),
        honoured(3, "allowed_upstream_headers_to_append").of(&LIST_STRING_MATCHER),
        honoured(4, "allowed_client_headers_on_success").of(&LIST_STRING_MATCHER),
        honoured(5, "dynamic_metadata_from_headers").of(&LIST_STRING_MATCHER),
    ],
    refused: "",
    required: &[],
};

/// The way to the service.
#[derive(Debug)]
pub(crate) struct HttpService {
    pub(crate) cluster: String,
    callout: Callout,
    time: Duration,
    path: Path,
    added: AddedHeaders,
    copied: Copied,
}

/// Where checks go.
#[derive(Debug)]
enum Path {
    /// This, and the request's target behind it.
    Before(String),
    Instead(PathAndQuery),
}

/// What is copied from an answer.
#[derive(Debug, Default)]
struct Copied {
    /// To the request, in place of what is there, and behind it.
    upstream: HeaderNames,
    upstream_added: HeaderNames,
    /// To the client of a denied request; `None`: all.
    client: Option<HeaderNames>,
    client_on_success: HeaderNames,
    metadata: HeaderNames,
}

impl HttpService {
    pub(crate) fn from_proto(
        proto: &HttpServiceProto,
        cluster: &dyn Fn(&str) -> Callout,
    ) -> Result<HttpService, Refusal> {
        let uri = proto.server_uri.as_ref();
        let uri = uri.ok_or_else(|| Refusal::missing("server_uri"))?;
        let Some(HttpUpstreamType::Cluster(name)) = &uri.http_upstream_type else {
            return Err(Refusal::missing("server_uri.cluster"));
        };
        let path = match (proto.path_prefix.as_str(), proto.path_override.as_str()) {
            (prefix, "") => Path::Before(absolute(prefix, "path_prefix")?.to_owned()),
            ("", path) => Path::Instead(
                PathAndQuery::try_from(absolute(path, "path_override")?)
                    .map_err(|_| Refusal::new("path_override", "is not a path"))?,
            ),
            _ => {
                return Err(Refusal::new(
                    "path_override",
                    "only one of it and path_prefix may be set",
                ));
            }
        };
        let added = match &proto.authorization_request {
            Some(request) => AddedHeaders::from_proto(&request.headers_to_add, "headers_to_add")
                .map_err(|e| e.within("authorization_request"))?,
            None => AddedHeaders::default(),
        };
        let copied = proto.authorization_response.as_ref();
        let copied = copied.map_or_else(|| Ok(Copied::default()), Copied::from_proto);
        Ok(HttpService {
            cluster: name.clone(),
            callout: cluster(name),
            time: time_limit(uri.timeout.as_ref(), "server_uri.timeout")?,
            path,
            added,
            copied: copied.map_err(|e| e.within("authorization_response"))?,
        })
    }

    /// Asks whether a request may pass.
    pub(crate) async fn ask(&self, check: Request<Content>) -> Verdict {
        let limits = CalloutLimits {
            time: self.time,
            answer: Answer::Kept { most: MAX_ANSWER },
        };
        match ask(&self.callout, || copy(&check), limits).await {
            Ok(answer) => self.copied.verdict(answer.map(|content| content.data)),
            Err(error) => {
                tracing::debug!(%error, "a check failed");
                Verdict::failed()
            }
        }
    }

    /// What is sent for a request. `None`: the service has no such path.
    pub(crate) fn check<B>(
        &self,
        request: &Request<B>,
        stream: &StreamInfo,
        told: &ToldHeaders,
        body: Option<ToldBody>,
    ) -> Option<Request<Content>> {
        let target = match &self.path {
            Path::Before(prefix) => PathAndQuery::try_from(format!("{prefix}{}", path(request))),
            Path::Instead(path) => Ok(path.clone()),
        };
        let mut check = Request::new(Content::default());
        *check.method_mut() = request.method().clone();
        *check.uri_mut() = Uri::from(target.ok()?);
        let headers = check.headers_mut();
        told.each(request, &mut |name, value| {
            // Pseudo headers are no names, and stand elsewhere.
            let name = HeaderName::try_from(name);
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value))
                && !is_framing(&name)
            {
                headers.append(name, value);
            }
        });
        if let Some(host) = request.headers().get(header::HOST) {
            headers.insert(header::HOST, host.clone());
        }
        let view = RequestView {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
        };
        let mut data = Bytes::new();
        if let Some(body) = body {
            let partial = HeaderValue::from_static(match body.partial {
                true => "true",
                false => "false",
            });
            headers.insert(HeaderName::from_static(PARTIAL_BODY), partial);
            data = body.data.into();
        }
        self.added.set(stream, Some(view), headers);
        headers.insert(header::CONTENT_LENGTH, data.len().into());
        if let Some(holder) = &stream.connection.holder {
            data = holder.account().charge(data);
        }
        check.body_mut().data = data;
        Some(check)
    }
}

fn absolute<'a>(path: &'a str, field: &str) -> Result<&'a str, Refusal> {
    match path.is_empty() || path.starts_with('/') {
        true => Ok(path),
        false => Err(Refusal::new(field, "must begin with a slash")),
    }
}

impl Copied {
    fn from_proto(proto: &AuthorizationResponse) -> Result<Copied, Refusal> {
        let client = proto.allowed_client_headers.as_ref();
        let client = HeaderNames::optional(client, "allowed_client_headers")?;
        Ok(Copied {
            upstream: HeaderNames::from_proto(
                proto.allowed_upstream_headers.as_ref(),
                "allowed_upstream_headers",
            )?,
            upstream_added: HeaderNames::from_proto(
                proto.allowed_upstream_headers_to_append.as_ref(),
                "allowed_upstream_headers_to_append",
            )?,
            client: client.map(|names| names.and(&DENIAL)),
            client_on_success: HeaderNames::from_proto(
                proto.allowed_client_headers_on_success.as_ref(),
                "allowed_client_headers_on_success",
            )?,
            metadata: HeaderNames::from_proto(
                proto.dynamic_metadata_from_headers.as_ref(),
                "dynamic_metadata_from_headers",
            )?,
        })
    }

    fn verdict(&self, mut answer: http::Response<Bytes>) -> Verdict {
        let status = answer.status();
        if status.is_server_error() {
            return Verdict::failed();
        }
        let removed = answer.headers().get_all(TO_REMOVE).iter();
        let removed: Vec<String> = removed
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(',').map(|name| name.trim().to_owned()))
            .collect();
        answer.headers_mut().remove(TO_REMOVE);
        let mut metadata = serde_json::Map::new();
        for (name, value) in answer.headers() {
            if self.metadata.has(name.as_str()) {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                metadata.insert(name.to_string(), value.into());
            }
        }
        let outcome = match status {
            StatusCode::OK => self.allowed(&answer, &removed),
            _ => self.denied(answer),
        };
        Verdict {
            outcome: outcome.into(),
            metadata,
        }
    }

    fn allowed(
        &self,
        answer: &http::Response<Bytes>,
        removed: &[String],
    ) -> Result<Outcome, Invalid> {
        let mut changes = Changes::default();
        for (name, value) in answer.headers() {
            let (name, value) = (name.as_str(), value.as_bytes());
            if self.upstream.has(name) {
                changes.request.push(Change::new(name, value, How::Set)?);
            }
            if self.upstream_added.has(name) {
                changes.request.push(Change::new(name, value, How::Add)?);
            }
            if self.client_on_success.has(name) {
                changes
                    .response
                    .push(Change::of_response(name, value, How::Add)?);
            }
        }
        for name in removed {
            changes.remove(name);
        }
        Ok(Outcome::Allowed(Box::new(changes.ordered())))
    }

    fn denied(&self, answer: http::Response<Bytes>) -> Result<Outcome, Invalid> {
        let (head, body) = answer.into_parts();
        let mut denial = Denial::new(head.status).with_body(body);
        for (name, value) in &head.headers {
            let told = self.client.as_ref();
            if told.is_none_or(|names| names.has(name.as_str())) {
                denial.add(name.as_str(), value.as_bytes())?;
            }
        }
        Ok(Outcome::Denied(Box::new(denial)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Response;

    use super::*;
    use crate::security::ext_authz::header_names::tests::names;

    fn copied() -> Copied {
        Copied::from_proto(&AuthorizationResponse {
            allowed_upstream_headers: Some(names(&["x-set"])),
            allowed_upstream_headers_to_append: Some(names(&["x-add"])),
            allowed_client_headers: Some(names(&["x-client"])),
            allowed_client_headers_on_success: Some(names(&["set-cookie"])),
            dynamic_metadata_from_headers: Some(names(&["x-meta"])),
        })
        .unwrap()
    }

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Response<Bytes> {
        let mut answer = Response::new(Bytes::from_static(b"body"));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_static(value);
            answer.headers_mut().append(*name, value);
        }
        answer
    }

    #[test]
    fn only_200_lets_pass() {
        for status in [201, 204, 206, 302, 401, 403, 404, 429] {
            let Outcome::Denied(denial) = copied().verdict(answer(status, &[])).outcome else {
                panic!("{status}");
            };
            assert_eq!(denial.status, status);
        }
        for status in [500, 503, 599] {
            let outcome = copied().verdict(answer(status, &[])).outcome;
            assert!(matches!(outcome, Outcome::Failed(None)), "{status}");
        }
        let outcome = copied().verdict(answer(200, &[])).outcome;
        assert!(matches!(outcome, Outcome::Allowed(_)));
    }

    #[test]
    fn what_is_listed_is_copied() {
        let headers = [
            ("x-set", "1"),
            ("x-add", "2"),
            ("set-cookie", "a=b"),
            ("x-meta", "m"),
            ("x-other", "o"),
            ("x-envoy-auth-headers-to-remove", "a, host,b"),
            ("x-envoy-auth-headers-to-remove", "c"),
        ];
        let verdict = copied().verdict(answer(200, &headers));
        assert_eq!(verdict.metadata.len(), 1);
        assert_eq!(verdict.metadata["x-meta"], "m");
        let Outcome::Allowed(changes) = verdict.outcome else {
            panic!("{verdict:?}");
        };
        assert_eq!(changes.request.len(), 2);
        assert_eq!(changes.response.len(), 1);
        assert_eq!(changes.remove, ["a", "b", "c"]);
    }

    #[test]
    fn a_client_that_is_denied_is_told_what_is_listed_or_all() {
        let headers = [
            ("x-client", "1"),
            ("www-authenticate", "Basic"),
            ("x-other", "o"),
            ("x-envoy-auth-headers-to-remove", "a"),
        ];
        let expected = |names: &[(&str, &str)]| {
            let mut denial = Denial::new(StatusCode::UNAUTHORIZED).with_body("body");
            for (name, value) in names {
                denial.add(name, value.as_bytes()).unwrap();
            }
            denial
        };
        for (copied, told) in [
            (copied(), &headers[..2]),
            (Copied::default(), &headers[..3]),
        ] {
            let Outcome::Denied(denial) = copied.verdict(answer(401, &headers)).outcome else {
                panic!("not denied");
            };
            assert_eq!(*denial, expected(told));
        }
    }
}
