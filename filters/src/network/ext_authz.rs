//! `envoy.filters.network.ext_authz`: a gRPC service says whether a connection may pass, before anything is connected.
//!
//! (Envoy asks when the first bytes come; by then its upstream is connected, and what that sends first has reached the
//! client.) When its chain changes, an open connection is asked for again only if the filter itself has changed.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::ApiVersion;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz;
use envoy_types::pb::google::protobuf::Any;

use crate::callout::grpc_service::{GRPC_SERVICE, GrpcService};
use crate::http::filter::{Config, FilterContext, Registration};
use crate::matcher::metadata::METADATA_MATCHER;
use crate::network::filter::{BuiltNetworkFilter, Decision, NetworkFilter, Verdict};
use crate::security::ext_authz::check::check_request::{self, ToldStream};
use crate::security::ext_authz::check::check_response;
use crate::security::ext_authz::counters::Counters;
use crate::security::ext_authz::enabled::{Asked, Enabled};
use crate::security::ext_authz::verdict::{Outcome, Verdict as Answer};
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::{Table, decode_any, honoured, required};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration<BuiltNetworkFilter> = Registration {
    config: Config::Message {
        table: &CONFIG,
        build,
    },
    per_route: None,
};

const NAMESPACE: &str = "envoy.filters.network.ext_authz";

const DENIED: &str = "ext_authz_denied";
const ERROR: &str = "ext_authz_error";

/// Configurations that one stream keeps in mind.
const MAX_PASSED: usize = 8;

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
    fields: &[
        honoured(1, "stat_prefix"),
        honoured(2, "grpc_service").of(&GRPC_SERVICE),
        honoured(3, "failure_mode_allow"),
        honoured(4, "include_peer_certificate"),
        honoured(5, "transport_api_version").only("`V3`"),
        honoured(6, "filter_enabled_metadata").of(&METADATA_MATCHER),
        honoured(8, "include_tls_session"),
        honoured(10, "metadata_context_namespaces").list(),
    ],
    refused: "7 bootstrap_metadata_labels_key, 9 send_tls_alert_on_denial, 11 typed_metadata_context_namespaces, \
              12 shadow_mode",
    required: &[
        required("stat_prefix", &[1]),
        required("grpc_service", &[2]),
        required("transport_api_version", &[5]),
    ],
};

#[derive(Debug)]
struct Filter(Arc<Settings>);

/// A compiled `ExtAuthz`.
struct Settings {
    service: GrpcService,
    enabled: Enabled,
    stream: ToldStream,
    failure_mode_allow: bool,
    counters: Counters,
    /// What it is compiled from.
    config: Arc<[u8]>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("service", &self.service)
            .field("enabled", &self.enabled)
            .field("stream", &self.stream)
            .field("failure_mode_allow", &self.failure_mode_allow)
            .finish_non_exhaustive()
    }
}

fn build(config: &Any, context: &FilterContext<'_>) -> Result<BuiltNetworkFilter, Refusal> {
    let proto: ExtAuthz = decode_any(config)?;
    if proto.transport_api_version != ApiVersion::V3 as i32 {
        return Err(Refusal::new("transport_api_version", "only V3 is spoken"));
    }
    let service = proto.grpc_service.as_ref();
    let service = service.ok_or_else(|| Refusal::missing("grpc_service"))?;
    let service = GrpcService::from_proto(service, &|name| context.cluster(name))
        .map_err(|e| e.within("grpc_service"))?;
    let metrics = context.host.metrics();
    let cluster = service.cluster.as_str().into();
    let settings = Settings {
        enabled: Enabled::from_proto(None, proto.filter_enabled_metadata.as_ref(), None)?,
        stream: ToldStream {
            peer_certificate: proto.include_peer_certificate,
            tls_session: proto.include_tls_session,
            metadata: proto.metadata_context_namespaces.clone(),
        },
        failure_mode_allow: proto.failure_mode_allow,
        counters: Counters::new(metrics, "network", &proto.stat_prefix, &cluster),
        config: config.value.as_slice().into(),
        service,
    };
    Ok(BuiltNetworkFilter {
        filter: Some(Box::new(Filter(Arc::new(settings)))),
        ..BuiltNetworkFilter::default()
    })
}

impl NetworkFilter for Filter {
    fn on_connection(&self, stream: &Arc<StreamInfo>) -> Decision {
        let settings = &self.0;
        if stream.state().passed_checks.contains(&settings.config) {
            return Verdict::Continue.into();
        }
        if settings.enabled.asks(stream, 0) != Asked::Yes {
            settings.counters.disabled.add(1);
            return Verdict::Continue.into();
        }
        if let Some(explanation) = stream.explanation() {
            let cluster = &settings.service.cluster;
            explanation.note(format!(
                "{cluster} would be asked, and is taken to let it pass"
            ));
            return Verdict::Continue.into();
        }
        let (settings, stream) = (settings.clone(), stream.clone());
        Decision::Awaited(Box::pin(async move {
            let begun = Instant::now();
            let answer = settings.ask(&stream).await;
            settings.obey(answer, &stream, begun)
        }))
    }
}

impl Settings {
    async fn ask(&self, stream: &StreamInfo) -> Answer {
        let check = self.stream.check(stream);
        let call = self
            .service
            .call(check_request::METHOD, check, stream, None);
        match call.await {
            Ok(answer) => check_response::verdict_on_connection(answer),
            Err(error) => {
                tracing::debug!(cluster = self.service.cluster, %error, "a check failed");
                Answer::failed()
            }
        }
    }

    fn obey(&self, answer: Answer, stream: &StreamInfo, begun: Instant) -> Verdict {
        let mut state = stream.state();
        if !answer.metadata.is_empty() {
            for (key, value) in answer.metadata {
                state.metadata.set(NAMESPACE, &key, value);
            }
            let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            state
                .metadata
                .set(NAMESPACE, "ext_authz_duration", millis.into());
        }
        let details = match answer.outcome {
            Outcome::Allowed(_) => {
                self.counters.ok.add(1);
                None
            }
            Outcome::Denied(_) => {
                self.counters.denied.add(1);
                Some(DENIED)
            }
            Outcome::Failed(_) | Outcome::Invalid(_) => {
                self.counters.error.add(1);
                if self.failure_mode_allow {
                    self.counters.failure_mode_allowed.add(1);
                }
                (!self.failure_mode_allow).then_some(ERROR)
            }
        };
        let Some(details) = details else {
            if state.passed_checks.len() < MAX_PASSED {
                state.passed_checks.push(self.config.clone());
            }
            return Verdict::Continue;
        };
        state
            .flags
            .insert(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
        state.response_code_details = Some(details.into());
        // What was said stands in the details of the answer.
        Verdict::Close("".into())
    }
}
