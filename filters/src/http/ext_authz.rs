//! `envoy.filters.http.ext_authz`: a service says whether a request may pass, what of it is changed, or what its client gets.
//!
//! The check waits for the request's body where that is to be told; the request waits for the check, and takes it along
//! when it goes. What the service sets, it sets after the client: no client can say it. Of routes, only the one that the
//! request has counts, not its virtual host.

use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::ApiVersion;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode as StatusCodeProto};
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::callout::grpc_service::GRPC_SERVICE;
use crate::format::RequestView;
use crate::http::filter::{Config, PerRoute, Registration};
use crate::http::{FilterContext, HttpFilter};
use crate::matcher::metadata::METADATA_MATCHER;
use crate::security::ext_authz::check::check_request::{
    self, ToldBody, ToldRequest, ToldStream, selected,
};
use crate::security::ext_authz::check::check_response;
use crate::security::ext_authz::counters::Counters;
use crate::security::ext_authz::enabled::{Asked, Enabled, FEATURE_FLAG, RUNTIME_FRACTION};
use crate::security::ext_authz::header_names::LIST_STRING_MATCHER;
use crate::security::ext_authz::of_route::{OfRoute, PER_ROUTE_CONFIG};
use crate::security::ext_authz::request_body::{BUFFER_SETTINGS, BufferedBody, Buffering, Unread};
use crate::security::ext_authz::service::Service;
use crate::security::ext_authz::service::http_service::HTTP_SERVICE;
use crate::security::ext_authz::told_headers::ToldHeaders;
use crate::security::ext_authz::verdict::denial::Denial;
use crate::security::ext_authz::verdict::{Failure, Outcome, Verdict};
use crate::service::body::Body;
use crate::service::local_reply::LocalReply;
use crate::service::{HttpCall, HttpRequest, HttpService, Response, ResponseFuture};
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::well_known::BOOL_VALUE;
use crate::xds::coverage::{OWN_COUNTERS, Table, decode_any, harmless, honoured, required};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |config, context| build(&decode_any(config)?, context),
    },
    per_route: Some(PerRoute {
        table: &PER_ROUTE_CONFIG,
        build: |config| Ok(Arc::new(OfRoute::from_proto(decode_any(config)?)?)),
    }),
};

const NAMESPACE: &str = "envoy.filters.http.ext_authz";
/// Tells the upstream that nobody was there to say no.
const FAILURE_MODE_ALLOWED: HeaderName =
    HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

const DENIED: &str = "ext_authz_denied";
const ERROR: &str = "ext_authz_error";
const INVALID: &str = "ext_authz_invalid";

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    fields: &[
        honoured(1, "grpc_service").of(&GRPC_SERVICE),
        honoured(2, "failure_mode_allow"),
        honoured(3, "http_service").of(&HTTP_SERVICE),
        honoured(5, "with_request_body").of(&BUFFER_SETTINGS),
        honoured(6, "clear_route_cache"),
        honoured(7, "status_on_error").of(&HTTP_STATUS),
        honoured(8, "metadata_context_namespaces").list(),
        honoured(9, "filter_enabled").of(&RUNTIME_FRACTION),
        honoured(10, "include_peer_certificate"),
        honoured(11, "deny_at_disable").of(&FEATURE_FLAG),
        honoured(12, "transport_api_version").only("`V3`"),
        honoured(13, "stat_prefix"),
        honoured(14, "filter_enabled_metadata").of(&METADATA_MATCHER),
        honoured(17, "allowed_headers").of(&LIST_STRING_MATCHER),
        honoured(18, "include_tls_session"),
        honoured(19, "failure_mode_allow_header_add"),
        harmless(20, "charge_cluster_response_stats", OWN_COUNTERS),
        honoured(21, "route_metadata_context_namespaces").list(),
        honoured(23, "encode_raw_headers"),
        harmless(
            24,
            "validate_mutations",
            "what a service wants changed is validated always",
        ),
        honoured(25, "disallowed_headers").of(&LIST_STRING_MATCHER),
        honoured(27, "enable_dynamic_metadata_ingestion").of(&BOOL_VALUE),
        honoured(30, "max_denied_response_body_bytes"),
        harmless(33, "emit_client_span", "checks have no spans of their own"),
    ],
    refused: "15 bootstrap_metadata_labels_key, 16 typed_metadata_context_namespaces, \
              22 route_typed_metadata_context_namespaces, 26 decoder_header_mutation_rules, 28 filter_metadata, \
              29 emit_filter_state_stats, 31 enforce_response_header_limits, 32 shadow_mode",
    required: &[
        required("services", &[1, 3]),
        required("transport_api_version", &[12]),
    ],
};

static HTTP_STATUS: Table = Table {
    name: "envoy.type.v3.HttpStatus",
    fields: &[honoured(1, "code").only("final ones")],
    refused: "",
    required: &[],
};

/// A compiled `ExtAuthz`.
struct Settings {
    service: Service,
    enabled: Enabled,
    body: Option<Buffering>,
    headers: ToldHeaders,
    stream: ToldStream,
    /// Namespaces of the route's metadata.
    route_metadata: Vec<String>,
    failure_mode_allow: bool,
    failure_mode_told: bool,
    status_on_error: StatusCode,
    clears_route: bool,
    takes_metadata: bool,
    /// Bytes of a denial's body.
    most_denied: Option<usize>,
    counters: Counters,
}

fn build(proto: &ExtAuthz, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    let settings = Arc::new(Settings::from_proto(proto, context)?);
    let position = context.position;
    Ok(HttpFilter::layer(tower::layer::layer_fn(move |inner| {
        HttpService::new(Filter(Arc::new(Checked {
            settings: settings.clone(),
            position,
            inner,
        })))
    })))
}

impl Settings {
    fn from_proto(proto: &ExtAuthz, context: &FilterContext<'_>) -> Result<Settings, Refusal> {
        if proto.transport_api_version != ApiVersion::V3 as i32 {
            return Err(Refusal::new("transport_api_version", "only V3 is spoken"));
        }
        let service = Service::from_proto(proto, &|name| context.cluster(name))?;
        let counters = Counters::new(
            context.host.metrics(),
            "http",
            &proto.stat_prefix,
            &service.cluster().into(),
        );
        let body = proto.with_request_body.as_ref().map(Buffering::from_proto);
        let ingestion = proto.enable_dynamic_metadata_ingestion;
        let most_denied = usize::try_from(proto.max_denied_response_body_bytes);
        Ok(Settings {
            headers: service.told_headers(proto)?,
            service,
            enabled: Enabled::from_proto(
                proto.filter_enabled.as_ref(),
                proto.filter_enabled_metadata.as_ref(),
                proto.deny_at_disable.as_ref(),
            )?,
            body: body
                .transpose()
                .map_err(|e| e.within("with_request_body"))?,
            stream: ToldStream {
                peer_certificate: proto.include_peer_certificate,
                tls_session: proto.include_tls_session,
                metadata: proto.metadata_context_namespaces.clone(),
            },
            route_metadata: proto.route_metadata_context_namespaces.clone(),
            failure_mode_allow: proto.failure_mode_allow,
            failure_mode_told: proto.failure_mode_allow_header_add,
            status_on_error: status_on_error(proto.status_on_error.as_ref())
                .map_err(|e| e.within("status_on_error"))?,
            clears_route: proto.clear_route_cache,
            takes_metadata: ingestion.is_none_or(|ingestion| ingestion.value),
            most_denied: most_denied.ok().filter(|most| *most > 0),
            counters,
        })
    }
}

fn status_on_error(proto: Option<&HttpStatus>) -> Result<StatusCode, Refusal> {
    let code = proto.map_or(0, |status| status.code);
    if code == StatusCodeProto::Empty as i32 {
        return Ok(StatusCode::FORBIDDEN);
    }
    let known = StatusCodeProto::try_from(code).is_ok() && code >= 200;
    let status = u16::try_from(code).ok().filter(|_| known);
    status
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| Refusal::new("code", format!("{code} is no final status")))
}

struct Filter(Arc<Checked>);

/// The filter with what is behind it.
struct Checked {
    settings: Arc<Settings>,
    position: usize,
    inner: HttpService,
}

impl HttpCall for Filter {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let Checked {
            settings, inner, ..
        } = &*self.0;
        let of_route = request.per_route::<OfRoute>(self.0.position);
        if of_route.as_ref().is_some_and(|route| route.disabled) {
            return inner.call(request);
        }
        match settings.enabled.asks(&request.stream, fastrand::u64(..)) {
            Asked::Yes if request.stream.explanation().is_some() => {
                settings.explain(&request.stream);
                inner.call(request)
            }
            Asked::Yes => {
                let checked = self.0.clone();
                ResponseFuture::boxed(async move { checked.serve(request, of_route).await })
            }
            Asked::No => {
                settings.counters.disabled.add(1);
                inner.call(request)
            }
            Asked::Denied => {
                settings.counters.disabled.add(1);
                let denial = Denial::new(settings.status_on_error);
                let headers = request.http.headers();
                ResponseFuture::ready(denial.respond(ERROR, &request.stream, headers))
            }
        }
    }
}

impl Settings {
    /// Writes down who would be asked: nobody is, and the answer may be another than the one that is taken for given.
    fn explain(&self, stream: &StreamInfo) {
        if let Some(explanation) = stream.explanation() {
            let cluster = match &self.service {
                Service::Grpc(service) => &service.cluster,
                Service::Http(service) => &service.cluster,
            };
            explanation.note(format!(
                "{cluster} would be asked, and is taken to let it pass"
            ));
        }
    }
}

impl Checked {
    async fn serve(&self, mut request: HttpRequest, of_route: Option<Arc<OfRoute>>) -> Response {
        let settings = &self.settings;
        let of_route = of_route.as_deref();
        let buffering = of_route
            .and_then(|route| route.body)
            .unwrap_or(settings.body);
        let body = match read(&mut request, buffering).await {
            Ok(body) => body,
            Err(unread) => return answer_unread(unread, &request),
        };
        let told = buffering
            .zip(body.as_ref())
            .map(|(buffering, body)| ToldBody {
                data: body.beginning(buffering.most),
                partial: body.is_longer_than(buffering.most),
                as_bytes: buffering.as_bytes,
            });
        if let Some(body) = body {
            *request.http.body_mut() = body.into_body();
        }
        let begun = Instant::now();
        let mut verdict = settings.ask(&mut request, told, of_route).await;
        settings.note(&mut verdict, &request.stream, begun);
        self.obey(verdict.outcome, request).await
    }

    async fn obey(&self, outcome: Outcome, mut request: HttpRequest) -> Response {
        let Settings { counters, .. } = &*self.settings;
        let changes = match outcome {
            Outcome::Allowed(changes) => changes,
            Outcome::Denied(denial) => {
                counters.denied.add(1);
                let denial = denial.shortened(self.settings.most_denied);
                return denial.respond(DENIED, &request.stream, request.http.headers());
            }
            Outcome::Failed(failure) => return self.fail(failure, request).await,
            Outcome::Invalid(what) => return self.refuse(&what.0, &request),
        };
        if let Err(what) = changes.apply_to_request(&mut request.http) {
            return self.refuse(&what.0, &request);
        }
        counters.ok.add(1);
        if changes.of_request() {
            request.stream.state().request.renew(&request.http);
            if self.settings.clears_route {
                request.clear_route();
            }
        }
        let Ok(mut response) = self.inner.call(request).await;
        changes.apply_to_response(response.headers_mut());
        response
    }

    /// There is no answer that says yes or no.
    async fn fail(&self, failure: Option<Box<Failure>>, mut request: HttpRequest) -> Response {
        let settings = &self.settings;
        settings.counters.error.add(1);
        if settings.failure_mode_allow {
            settings.counters.failure_mode_allowed.add(1);
            if settings.failure_mode_told {
                let headers = request.http.headers_mut();
                headers.append(FAILURE_MODE_ALLOWED, HeaderValue::from_static("true"));
            }
            let Ok(response) = self.inner.call(request).await;
            return response;
        }
        let denial = match failure.map(|failure| *failure) {
            None => Denial::new(settings.status_on_error),
            Some(Failure { has_status, denial }) => denial
                .or_status(has_status, settings.status_on_error)
                .shortened(settings.most_denied),
        };
        denial.respond(ERROR, &request.stream, request.http.headers())
    }

    /// The service is there, and wants what can't be done.
    fn refuse(&self, what: &str, request: &HttpRequest) -> Response {
        let cluster = self.settings.service.cluster();
        tracing::debug!(cluster, what, "a check's answer is invalid");
        self.settings.counters.invalid.add(1);
        let denial = Denial::new(StatusCode::INTERNAL_SERVER_ERROR);
        denial.respond(INVALID, &request.stream, request.http.headers())
    }
}

/// Reads the request's body, if that is wanted and there is one. An upgrade's doesn't end.
async fn read(
    request: &mut HttpRequest,
    buffering: Option<Buffering>,
) -> Result<Option<BufferedBody>, Unread> {
    let upgrade = request.http.headers().contains_key(header::UPGRADE);
    match buffering {
        Some(buffering) if !upgrade && !request.http.body().is_empty() => {
            let body = std::mem::take(request.http.body_mut());
            buffering.read(body, &request.stream).await.map(Some)
        }
        _ => Ok(None),
    }
}

fn answer_unread(unread: Unread, request: &HttpRequest) -> Response {
    let stream = &request.stream;
    let reply = match unread {
        Unread::TooLarge => LocalReply::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Payload Too Large",
            "request_payload_too_large",
        )
        .closing(),
        Unread::Broken if stream.is_malformed() => {
            LocalReply::new(StatusCode::BAD_REQUEST, "Bad Request", "http1.codec_error").closing()
        }
        // The client is gone.
        Unread::Broken => return Response::new(Body::empty()),
    };
    reply.respond(stream, request.http.headers())
}

impl Settings {
    async fn ask(
        &self,
        request: &mut HttpRequest,
        body: Option<ToldBody>,
        of_route: Option<&OfRoute>,
    ) -> Verdict {
        let grpc = match &self.service {
            Service::Grpc(grpc) => grpc,
            Service::Http(service) => {
                let HttpRequest { http, stream, .. } = &*request;
                return match service.check(http, stream, &self.headers, body) {
                    Some(check) => service.ask(check).await,
                    None => Verdict::failed(),
                };
            }
        };
        let route = request.route().map(|route| &route.info().metadata);
        let metadata = route.map(|route| selected(route, &self.route_metadata));
        let HttpRequest { http, stream, .. } = &*request;
        let check = {
            let told = ToldRequest {
                http,
                headers: &self.headers,
                body,
                random: fastrand::u64(..),
                route_metadata: metadata.unwrap_or_default(),
                extensions: of_route.map(|of_route| &of_route.extensions),
            };
            self.stream.check_request(stream, &told)
        };
        let view = RequestView {
            method: http.method(),
            uri: http.uri(),
            headers: http.headers(),
        };
        let call = grpc.call(check_request::METHOD, check, stream, Some(view));
        match call.await {
            Ok(answer) => check_response::verdict(answer),
            Err(error) => {
                tracing::debug!(cluster = grpc.cluster, %error, "a check failed");
                Verdict::failed()
            }
        }
    }

    /// Keeps what the service says for filters and logs, and how long it took to say it.
    fn note(&self, verdict: &mut Verdict, stream: &StreamInfo, begun: Instant) {
        let metadata = std::mem::take(&mut verdict.metadata);
        if metadata.is_empty() || !self.takes_metadata {
            return;
        }
        let noted = &mut stream.state().metadata;
        for (key, value) in metadata {
            noted.set(NAMESPACE, &key, value);
        }
        if let Outcome::Allowed(_) = verdict.outcome {
            let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            noted.set(NAMESPACE, "ext_authz_duration", millis.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_a_final_status() {
        let of = |code| status_on_error(Some(&HttpStatus { code }));
        assert_eq!(status_on_error(None), Ok(StatusCode::FORBIDDEN));
        assert_eq!(of(0), Ok(StatusCode::FORBIDDEN));
        assert_eq!(of(503), Ok(StatusCode::SERVICE_UNAVAILABLE));
        for code in [100, 999, 70_000, -1] {
            assert!(of(code).is_err(), "{code}");
        }
    }
}
