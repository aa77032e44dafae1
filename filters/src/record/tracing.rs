//! `HttpConnectionManager.Tracing`: which requests of a chain are traced, what their spans say, and to whom.
//!
//! A tracer that isn't built is left out and told of, and so is a tag: traffic doesn't depend on them. What the
//! configuration says of sampling marks request ids in any case.

use std::fmt;
use std::sync::Arc;

use envoy_types::pb::envoy::config::trace::v3::tracing::http::ConfigType;
use envoy_types::pb::envoy::config::trace::v3::tracing::Http;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing as TracingProto;
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use http::HeaderMap;
use prost::Message as _;

use crate::callout::{Callout, CalloutCluster};
use crate::host::Host;
use crate::record::spans::SpanRecorder;
use crate::stream::recorder::Recorder;
use crate::stream::request_trace::{Propagation, RequestTrace};
use crate::telemetry::trace::context;
use crate::telemetry::trace::custom_tag::{CUSTOM_TAG, CustomTags};
use crate::telemetry::trace::opentelemetry::{self, OPENTELEMETRY};
use crate::telemetry::trace::providers::Provider;
use crate::telemetry::trace::sampling::{Sampling, share};
use crate::telemetry::trace::zipkin::{self, ZIPKIN};
use crate::xds::coverage::well_known::{BOOL_VALUE, PERCENT, UINT32_VALUE};
use crate::xds::coverage::{self, Table, harmless, honoured, left_out};
use crate::xds::omitted::{Omissions, OmittedKind};
use crate::xds::rejected::Refusal;

pub static TRACING: Table = Table {
    name: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing",
    fields: &[
        honoured(3, "client_sampling").of(&PERCENT),
        honoured(4, "random_sampling").of(&PERCENT),
        honoured(5, "overall_sampling").of(&PERCENT),
        left_out(6, "verbose", "spans have no timed events"),
        honoured(7, "max_path_tag_length").of(&UINT32_VALUE),
        honoured(8, "custom_tags").named(1).of(&CUSTOM_TAG),
        honoured(9, "provider").of(&PROVIDER),
        honoured(10, "spawn_upstream_span").of(&BOOL_VALUE),
        left_out(11, "operation", "spans are named by their routes"),
        left_out(
            12,
            "upstream_operation",
            "spans of tries are named by their clusters",
        ),
        honoured(13, "no_context_propagation"),
    ],
    refused: "",
    required: &[],
};

static PROVIDER: Table = Table {
    name: "envoy.config.trace.v3.Tracing.Http",
    fields: &[
        harmless(1, "name", "the type decides"),
        left_out(
            3,
            "typed_config",
            "spans are sent to OpenTelemetry's and Zipkin's collectors only",
        )
        .any(&[&[&OPENTELEMETRY, &ZIPKIN]]),
    ],
    refused: "",
    required: &[],
};

/// Bytes of a path in a span where nothing is said.
const MAX_PATH: u32 = 256;

/// A compiled `Tracing`.
pub struct Tracing {
    sampling: Sampling,
    spans_of_tries: bool,
    propagates: bool,
    custom_tags: Arc<CustomTags>,
    tracer: Option<Arc<SpanRecorder>>,
}

/// What tracing is compiled with.
pub struct TracingContext<'a> {
    pub host: &'a Arc<dyn Host>,
    pub clusters: &'a dyn Fn(&str) -> Arc<dyn CalloutCluster>,
    pub omissions: &'a Omissions,
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing")
            .field("sampling", &self.sampling)
            .field("spans_of_tries", &self.spans_of_tries)
            .field("propagates", &self.propagates)
            .field("custom_tags", &self.custom_tags)
            .field("tracer", &self.tracer)
            .finish()
    }
}

impl Tracing {
    pub fn from_proto(
        proto: &TracingProto,
        request_id: &UuidRequestIdConfig,
        context: &TracingContext<'_>,
    ) -> Result<Tracing, Refusal> {
        let leave_out = |refusal: Refusal| {
            let refusal = refusal.within("tracing");
            context.omissions.add(OmittedKind::Tracer, refusal);
        };
        let of_client = share(proto.client_sampling.as_ref(), true, "client_sampling")?;
        let of_all = share(proto.overall_sampling.as_ref(), true, "overall_sampling")?;
        let by_id = request_id.use_request_id_for_trace_sampling.as_ref();
        let pack = request_id.pack_trace_reason.as_ref();
        for (name, set) in [
            ("verbose", proto.verbose),
            ("operation", !proto.operation.is_empty()),
            ("upstream_operation", !proto.upstream_operation.is_empty()),
        ] {
            if set {
                leave_out(Refusal::unsupported(name));
            }
        }
        let tracer = proto.provider.as_ref().and_then(|provider| {
            let field = format!("provider[{:?}]", provider.name);
            let found = tracer(provider, context);
            found.map_err(|e| leave_out(e.within(field))).ok()
        });
        let said = TracingProto {
            custom_tags: proto.custom_tags.clone(),
            ..TracingProto::default()
        };
        let providers = context.host.trace_providers();
        let custom_tags = providers.tags(said.encode_to_vec(), || {
            CustomTags::from_proto(&proto.custom_tags, &environment)
        });
        custom_tags.refused.iter().cloned().for_each(leave_out);
        let max_path = proto.max_path_tag_length.as_ref();
        let max_path = max_path.map_or(MAX_PATH, |length| length.value);
        Ok(Tracing {
            sampling: Sampling {
                client: of_client,
                random: share(proto.random_sampling.as_ref(), false, "random_sampling")?,
                overall: of_all,
                by_request_id: by_id.is_none_or(|by_id| by_id.value),
                marks: pack.is_none_or(|pack| pack.value),
            },
            spans_of_tries: proto.spawn_upstream_span.as_ref().is_some_and(|s| s.value),
            propagates: !proto.no_context_propagation,
            custom_tags: custom_tags.clone(),
            tracer: tracer.map(|provider| {
                Arc::new(SpanRecorder {
                    provider,
                    node_id: providers.node.id.clone(),
                    custom_tags: custom_tags.clone(),
                    max_path: usize::try_from(max_path).unwrap_or(usize::MAX),
                })
            }),
        })
    }

    /// Writes spans; `None`: nobody is sent any.
    pub fn recorder(&self) -> Option<Arc<dyn Recorder>> {
        let tracer = self.tracer.clone()?;
        Some(tracer)
    }

    /// A request begins: its id is marked, and its trace is known from here on.
    pub fn start(&self, headers: &mut HeaderMap) -> Option<Box<RequestTrace>> {
        let decided = self.sampling.decide(headers, fastrand::u32(..));
        let provider = &self.tracer.as_ref()?.provider;
        let ids = [(); 3].map(|()| fastrand::u64(1..));
        let mut trace = context::start(headers, provider.ids, provider.propagation, decided, ids)?;
        if !self.propagates {
            trace.propagation = Propagation::Untouched;
        }
        trace.spans_of_tries = trace.sampled && self.spans_of_tries;
        Some(Box::new(trace))
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn tracer(proto: &Http, context: &TracingContext<'_>) -> Result<Arc<Provider>, Refusal> {
    let Some(ConfigType::TypedConfig(any)) = &proto.config_type else {
        return Err(Refusal::missing("typed_config"));
    };
    let cluster = |name: &str| Callout::new((context.clusters)(name), context.host.callouts());
    let providers = context.host.trace_providers();
    let table = [&OPENTELEMETRY, &ZIPKIN]
        .into_iter()
        .find(|table| table.has_type_url(&any.type_url))
        .ok_or_else(|| {
            let reason = format!("tracer type {} is not built in", any.type_url);
            Refusal::new("typed_config", reason)
        })?;
    let within = |e: Refusal| e.within("typed_config");
    coverage::check(&any.value, table).map_err(within)?;
    let said = any.encode_to_vec();
    let built = providers.get(said, || {
        if std::ptr::eq(table, &OPENTELEMETRY) {
            let proto = coverage::decode_any(any)?;
            opentelemetry::tracer(&proto, &cluster, &environment)
        } else {
            let proto = coverage::decode_any(any)?;
            zipkin::tracer(&proto, &cluster, &providers.node.cluster)
        }
    });
    built.map_err(within)
}
