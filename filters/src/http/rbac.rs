//! `envoy.filters.http.rbac`: lets a request pass, or answers 403 `RBAC: access denied`.
//!
//! `LOG` rules set `envoy.common.access_log_hint`.

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use http::{HeaderValue, StatusCode};

use crate::http::filter::{Config, PerRoute, Registration};
use crate::http::{FilterContext, HttpFilter};
use crate::security::rbac::action::Action;
use crate::security::rbac::counters::Counters;
use crate::security::rbac::denial::Denials;
use crate::security::rbac::engine::{BoundEngine, Engine, RBAC};
use crate::security::rbac::rules::Rules;
use crate::service::local_reply::LocalReply;
use crate::service::{HttpCall, HttpRequest, HttpService, Response, ResponseFuture};
use crate::stream::connection::BindKey;
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
    fn check(&self, request: &HttpRequest, denials: &Denials) -> Option<Response> {
        let stream = &request.stream;
        self.0.explain(stream, |rules, purpose| {
            rules.engine.explain(&request.http, stream, purpose)
        });
        // Questions count for nothing.
        let counts = stream.explanation().is_none();
        let decide = |rules: &Bindable| {
            let engine = rules.bound(stream);
            let decision = engine.decide(&request.http, stream);
            if counts {
                engine.count(&decision);
            }
            (engine, decision)
        };
        self.0
            .note_shadow(stream, denials, |shadow| decide(shadow).1);
        let (engine, decision) = decide(self.0.enforced.as_ref()?);
        if counts {
            denials.counters.enforced(decision.allowed);
        }
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
        let denier = decision.denied_by.as_ref();
        if counts && let Some(denier) = denier {
            denier.count(denials);
        }
        let reply = LocalReply::new(
            StatusCode::FORBIDDEN,
            "RBAC: access denied",
            decision.details(),
        );
        let mut response = reply.respond(stream, request.http.headers());
        if let (Some(header), Some(by)) = (&denials.header, denier)
            && let Ok(by) = HeaderValue::from_str(by.words())
        {
            response.headers_mut().insert(header, by);
        }
        let mut state = stream.state();
        state.denied_by = denier.map(|by| by.words().clone());
        if state.request.method.is_none() {
            state.request.keep_line(&request.http);
        }
        drop(state);
        Some(response)
    }
}

fn build(proto: &Rbac, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    let counters = Counters::new(
        context.host.metrics(),
        "http",
        context.stat_prefix,
        &proto.shadow_rules_stat_prefix,
    );
    let rules = HttpRules::from_proto(proto)?;
    let tallied = rules.0.tallied(|rules| rules.engine.tally());
    let filter = HttpFilter::layer(RbacLayer {
        rules: Arc::new(rules),
        denials: Denials::counted_in(
            context.host.metrics(),
            counters,
            context.host.denial_header(),
        ),
        position: context.position,
    });
    Ok(HttpFilter { tallied, ..filter })
}

/// Rules of a route replace the filter's; a route without rules switches it off.
fn build_per_route(proto: RbacPerRoute) -> Result<HttpRules, Refusal> {
    HttpRules::from_proto(&proto.rbac.unwrap_or_default()).map_err(|e| e.within("rbac"))
}

struct RbacLayer {
    rules: Arc<HttpRules>,
    denials: Denials,
    position: usize,
}

impl tower::Layer<HttpService> for RbacLayer {
    type Service = HttpService;

    fn layer(&self, inner: HttpService) -> HttpService {
        HttpService::new(RbacFilter {
            rules: self.rules.clone(),
            denials: self.denials.clone(),
            position: self.position,
            inner,
        })
    }
}

struct RbacFilter {
    rules: Arc<HttpRules>,
    denials: Denials,
    position: usize,
    inner: HttpService,
}

impl HttpCall for RbacFilter {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let of_route = request.per_route::<HttpRules>(self.position);
        let rules = of_route.as_deref().unwrap_or(&self.rules);
        match rules.check(&request, &self.denials) {
            None => self.inner.call(request),
            Some(response) => ResponseFuture::ready(response),
        }
    }
}
