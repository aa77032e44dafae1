//! A collector that is sent spans over HTTP (`HttpService`): where it is, and how a batch is put to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::HttpService;
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};

use crate::callout::added_headers::{AddedHeaders, HEADER_VALUE};
use crate::callout::grpc_service::nobodys_stream;
use crate::callout::{Answer, Callout, CalloutError, CalloutLimits, Content};
use crate::xds::coverage::well_known::{BOOL_VALUE, DURATION};
use crate::xds::coverage::{Table, harmless, honoured, required};
use crate::xds::duration;
use crate::xds::rejected::Refusal;

pub(crate) static HTTP_SERVICE: Table = Table {
    name: "envoy.config.core.v3.HttpService",
    fields: &[
        honoured(1, "http_uri").of(&HTTP_URI),
        honoured(2, "request_headers_to_add")
            .list()
            .of(&HEADER_VALUE_OPTION),
    ],
    refused: "3 formatters",
    required: &[required("http_uri", &[1])],
};

static HTTP_URI: Table = Table {
    name: "envoy.config.core.v3.HttpUri",
    fields: &[
        honoured(1, "uri"),
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

static HEADER_VALUE_OPTION: Table = Table {
    name: "envoy.config.core.v3.HeaderValueOption",
    fields: &[
        honoured(1, "header").of(&HEADER_VALUE),
        harmless(2, "append", ONCE).of(&BOOL_VALUE),
        harmless(3, "append_action", ONCE),
    ],
    refused: "4 keep_empty_value",
    required: &[required("header", &[1])],
};

const ONCE: &str = "there is no such header before";

/// Where batches are posted.
#[derive(Debug)]
pub(crate) struct HttpCollector {
    pub(crate) cluster: Arc<str>,
    callout: Callout,
    path: Uri,
    host: HeaderValue,
    content_type: HeaderValue,
    time: Duration,
    headers: AddedHeaders,
}

/// Why a batch wasn't taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error("{0}")]
    Callout(CalloutError),
    #[error("the collector answered {0}")]
    Status(StatusCode),
}

impl HttpCollector {
    pub(crate) fn from_proto(
        proto: &HttpService,
        content_type: &'static str,
        cluster: &dyn Fn(&str) -> Callout,
    ) -> Result<HttpCollector, Refusal> {
        let http = proto
            .http_uri
            .as_ref()
            .ok_or_else(|| Refusal::missing("http_uri"))?;
        let Some(HttpUpstreamType::Cluster(name)) = &http.http_upstream_type else {
            return Err(Refusal::missing("http_uri.http_upstream_type"));
        };
        let time = duration::optional(&http.timeout, "http_uri.timeout")?;
        let time = time.filter(|time| !time.is_zero()).ok_or_else(|| {
            Refusal::new("http_uri.timeout", "a collector needs a limit of its time")
        })?;
        // With a scheme or without, as istiod writes it.
        let uri = http
            .uri
            .split_once("://")
            .map_or(&*http.uri, |(_, rest)| rest);
        let (host, path) = match uri.find('/') {
            Some(at) => uri.split_at(at),
            None => (uri, "/"),
        };
        let added: Vec<_> = proto
            .request_headers_to_add
            .iter()
            .filter_map(|option| option.header.clone())
            .collect();
        let collector = HttpCollector::new(name, host, path, content_type, time, cluster)
            .map_err(|e| e.within("http_uri"))?;
        Ok(HttpCollector {
            headers: AddedHeaders::from_proto(&added, "request_headers_to_add")?,
            ..collector
        })
    }

    pub(crate) fn new(
        name: &str,
        host: &str,
        path: &str,
        content_type: &'static str,
        time: Duration,
        cluster: &dyn Fn(&str) -> Callout,
    ) -> Result<HttpCollector, Refusal> {
        let no_uri = || Refusal::new("uri", format!("{host:?}, {path:?}: no host and path"));
        let authority = Authority::try_from(host).map_err(|_| no_uri())?;
        let path = PathAndQuery::try_from(path).map_err(|_| no_uri())?;
        Ok(HttpCollector {
            cluster: name.into(),
            callout: cluster(name),
            path: Uri::from(path),
            host: HeaderValue::try_from(authority.as_str()).map_err(|_| no_uri())?,
            content_type: HeaderValue::from_static(content_type),
            time,
            headers: AddedHeaders::default(),
        })
    }

    pub(crate) async fn post(&self, body: Vec<u8>) -> Result<Bytes, PostError> {
        let data = Bytes::from(body);
        let mut request = Request::new(Content {
            data: data.clone(),
            trailers: None,
        });
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        headers.insert(header::CONTENT_LENGTH, data.len().into());
        self.headers.set(&nobodys_stream(), None, headers);
        let limits = CalloutLimits {
            time: self.time,
            answer: Answer::Kept { most: 64 * 1024 },
        };
        let answer = self.callout.call(request, limits).await;
        let answer = answer.map_err(PostError::Callout)?;
        match answer.status().is_success() {
            true => Ok(answer.into_body().data),
            false => Err(PostError::Status(answer.status())),
        }
    }
}
