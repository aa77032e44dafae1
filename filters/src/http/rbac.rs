//! `envoy.filters.http.rbac`: lets a request pass, or answers 403 `RBAC: access denied`.
//!
//! `LOG` rules set `envoy.common.access_log_hint`.

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use http::StatusCode;

use crate::http::filter::{Config, PerRoute, Registration};
use crate::http::{FilterContext, HttpFilter};
use crate::rbac::engine::{Action, BoundEngine, Engine, RBAC};
use crate::rbac::rules::Rules;
use crate::service::local_reply::LocalReply;
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use crate::stream::connection::BindKey;
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::harmless;
use crate::xds::coverage::honoured;
use crate::xds::coverage::{OWN_COUNTERS, Table, decode_any};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |config, context| build(&decode_any(config)?, context),
    },
    per_route: Some(PerRoute {
        table: &PER_ROUTE_CONFIG,
        build: |config| Ok(Arc::new(build_per_route(decode_any(config)?)?)),
    }),
};

const NAMESPACE: &str = "envoy.filters.http.rbac";

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.rbac.v3.RBAC",
    fields: &[
        honoured(1, "rules").of(&RBAC),
        honoured(2, "shadow_rules").of(&RBAC),
        honoured(3, "shadow_rules_stat_prefix"),
        harmless(6, "rules_stat_prefix", OWN_COUNTERS),
        harmless(7, "track_per_rule_stats", OWN_COUNTERS),
    ],
    refused: "4 matcher, 5 shadow_matcher",
    required: &[],
};

static PER_ROUTE_CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    fields: &[honoured(2, "rbac").of(&CONFIG)],
    refused: "",
    required: &[],
};

/// The rules of a filter, or of a route instead of it.
pub(crate) struct HttpRules(Rules<Bindable>);

struct Bindable {
    engine: Engine,
    key: BindKey,
}

impl Bindable {
    fn new(engine: Engine) -> Bindable {
        Bindable {
            engine,
            key: BindKey::unique(),
        }
    }

    fn bound(&self, stream: &StreamInfo) -> Arc<BoundEngine> {
        let connection = &stream.connection;
        connection.bound(self.key, || self.engine.bind(connection))
    }
}

impl HttpRules {
    fn from_proto(proto: &Rbac) -> Result<HttpRules, Refusal> {
        let rules = Rules::new(
            NAMESPACE,
            proto.rules.as_ref(),
            proto.shadow_rules.as_ref(),
            &proto.shadow_rules_stat_prefix,
            |rules| Engine::from_proto(rules).map(Bindable::new),
        );
        rules.map(HttpRules)
    }

    /// `None`: the request may pass.
    fn check(&self, request: &HttpRequest) -> Option<LocalReply> {
        let stream = &request.stream;
        self.0.note_shadow(stream, |shadow| {
            shadow.bound(stream).decide(&request.http, stream)
        });
        let engine = self.0.enforced.as_ref()?.bound(stream);
        let decision = engine.decide(&request.http, stream);
        if engine.action() == Action::Log {
            let logged = decision.policy.is_some();
            stream
                .state()
                .metadata
                .set("envoy.common", "access_log_hint", logged.into());
        }
        if decision.allowed {
            return None;
        }
        Some(
            LocalReply::new(
                StatusCode::FORBIDDEN,
                "RBAC: access denied",
                decision.details(),
            )
            .with_flags(ResponseFlags::default()),
        )
    }
}

fn build(proto: &Rbac, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    Ok(HttpFilter::layer(RbacLayer {
        rules: Arc::new(HttpRules::from_proto(proto)?),
        position: context.position,
    }))
}

/// Rules of a route replace the filter's; a route without rules switches it off.
fn build_per_route(proto: RbacPerRoute) -> Result<HttpRules, Refusal> {
    HttpRules::from_proto(&proto.rbac.unwrap_or_default()).map_err(|e| e.within("rbac"))
}

struct RbacLayer {
    rules: Arc<HttpRules>,
    position: usize,
}

impl tower::Layer<HttpService> for RbacLayer {
    type Service = HttpService;

    fn layer(&self, inner: HttpService) -> HttpService {
        HttpService::new(RbacFilter {
            rules: self.rules.clone(),
            position: self.position,
            inner,
        })
    }
}

struct RbacFilter {
    rules: Arc<HttpRules>,
    position: usize,
    inner: HttpService,
}

impl HttpCall for RbacFilter {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let of_route = request.per_route::<HttpRules>(self.position);
        let rules = of_route.as_deref().unwrap_or(&self.rules);
        match rules.check(&request) {
            None => self.inner.call(request),
            Some(reply) => {
                ResponseFuture::ready(reply.respond(&request.stream, request.http.headers()))
            }
        }
    }
}
