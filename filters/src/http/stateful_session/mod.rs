//! `envoy.filters.http.stateful_session`: leads a client's requests to the endpoint that had its first one.
//!
//! The endpoint is told to the client itself, in a cookie or a header, and nothing is kept here. A client may write what it
//! likes: it gets no further than to an endpoint of the cluster that its route has anyway.

mod state;

use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession as StatefulSessionProto, StatefulSessionPerRoute,
    stateful_session_per_route::Override,
};
use http::{HeaderMap, StatusCode};

use crate::http::HttpFilter;
use crate::http::filter::{Config, PerRoute, Registration};
use crate::http::stateful_session::state::{COOKIE_STATE, HEADER_STATE, State};
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use crate::stream::session::{Session, Wanted};
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::{OWN_COUNTERS, Table, decode_any, harmless, honoured, required};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |config, context| build(&decode_any(config)?, context.position),
    },
    per_route: Some(PerRoute {
        table: &PER_ROUTE,
        build: |config| Ok(Arc::new(OfRoute::from_proto(&decode_any(config)?)?)),
    }),
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    fields: &[
        honoured(1, "session_state").of(&SESSION_STATE),
        honoured(2, "strict"),
        harmless(3, "stat_prefix", OWN_COUNTERS),
        honoured(4, "status_on_strict_destination_not_found"),
    ],
    refused: "",
    required: &[],
};

static SESSION_STATE: Table = Table {
    name: "envoy.config.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&COOKIE_STATE, &HEADER_STATE]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

/// What a route says of its sessions.
pub(super) static PER_ROUTE: Table = Table {
    name: "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
    fields: &[
        honoured(1, "disabled"),
        honoured(2, "stateful_session").of(&CONFIG),
    ],
    refused: "",
    required: &[required("override", &[1, 2])],
};

/// How sessions are kept.
#[derive(Debug)]
struct Settings {
    state: State,
    strict: bool,
    not_found: StatusCode,
}

/// What a route says; none: it has no sessions.
#[derive(Debug)]
struct OfRoute(Option<Arc<Settings>>);

impl Settings {
    /// `None`: nothing is kept, unless a route says where.
    fn from_proto(proto: &StatefulSessionProto) -> Result<Option<Settings>, Refusal> {
        let Some(state) = &proto.session_state else {
            return Ok(None);
        };
        let any = state.typed_config.as_ref();
        let any = any.ok_or_else(|| Refusal::missing("session_state.typed_config"))?;
        let not_found = match proto.status_on_strict_destination_not_found {
            0 => StatusCode::SERVICE_UNAVAILABLE,
            code => u16::try_from(code)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok())
                .ok_or_else(|| {
                    Refusal::new("status_on_strict_destination_not_found", "is no status")
                })?,
        };
        Ok(Some(Settings {
            state: State::from_proto(any)
                .map_err(|e| e.within("typed_config").within("session_state"))?,
            strict: proto.strict,
            not_found,
        }))
    }
}

impl OfRoute {
    fn from_proto(proto: &StatefulSessionPerRoute) -> Result<OfRoute, Refusal> {
        match &proto.r#override {
            Some(Override::StatefulSession(own)) => {
                let settings = Settings::from_proto(own);
                let settings = settings.map_err(|e| e.within("stateful_session"))?;
                Ok(OfRoute(settings.map(Arc::new)))
            }
            Some(Override::Disabled(true)) => Ok(OfRoute(None)),
            Some(Override::Disabled(false)) => Err(Refusal::new("disabled", "is false")),
            None => Err(Refusal::missing("override")),
        }
    }
}

fn build(proto: &StatefulSessionProto, position: usize) -> Result<HttpFilter, Refusal> {
    let general = Settings::from_proto(proto)?.map(Arc::new);
    Ok(HttpFilter::layer(tower::layer::layer_fn(move |inner| {
        HttpService::new(StatefulSession {
            general: general.clone(),
            position,
            inner,
        })
    })))
}

struct StatefulSession {
    general: Option<Arc<Settings>>,
    position: usize,
    inner: HttpService,
}

impl HttpCall for StatefulSession {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let settings = match request.per_route::<OfRoute>(self.position) {
            Some(of_route) => of_route.0.clone(),
            None => self.general.clone(),
        };
        let path = request.http.uri().path();
        let Some(settings) = settings.filter(|settings| settings.state.is_for(path)) else {
            return self.inner.call(request);
        };
        let wanted = settings
            .state
            .wanted(request.http.headers(), SystemTime::now());
        let stream = request.stream.clone();
        stream.state().session = Some(Box::new(Session {
            wanted,
            strict: settings.strict,
            not_found: settings.not_found,
            is_gone: false,
            chosen: None,
        }));
        let answering = self.inner.call(request);
        ResponseFuture::boxed(async move {
            let Ok(mut response) = answering.await;
            settings.tell(&stream, response.headers_mut());
            response
        })
    }
}

impl Settings {
    /// Where the client was led to, if that is another endpoint than it asked for.
    fn tell(&self, stream: &StreamInfo, answer: &mut HeaderMap) {
        let session = stream.state().session.take();
        let Some((chosen, session)) = session.and_then(|s| Some((s.chosen?, s))) else {
            return;
        };
        if session.wanted != Wanted::Host(chosen) {
            self.state.tell(chosen, answer, SystemTime::now());
        }
    }
}
