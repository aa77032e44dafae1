//! `io.istio.http.peer_metadata`: who is at the other end of a stream, from the mesh's workload data.
//!
//! Downstream discovery runs on the CONNECT and puts `downstream_peer` into filter state; upstream
//! discovery needs nothing here: the router notes the endpoint's workload with the upstream.

use std::sync::Arc;

use crate::host::Host;
use crate::http::filter::{Config, Registration};
use crate::http::{FilterContext, HttpFilter};
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use crate::stream::filter_state::{DOWNSTREAM_PEER, FilterValue, Sharing};
use crate::xds::rejected::Refusal;
use crate::xds::typed_struct;

pub(super) const FILTER: Registration = Registration {
    config: Config::Json {
        type_url: "type.googleapis.com/io.istio.http.peer_metadata.Config",
        build,
    },
    per_route: None,
};

fn build(config: &serde_json::Value, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    typed_struct::only(
        config,
        &[
            "downstream_discovery",
            "upstream_discovery",
            "shared_with_upstream",
        ],
    )?;
    let downstream = discovers(config, "downstream_discovery")?;
    discovers(config, "upstream_discovery")?;
    if !downstream {
        return Ok(HttpFilter::inert());
    }
    let sharing = match config.get("shared_with_upstream") {
        None | Some(serde_json::Value::Bool(false)) => Sharing::None,
        Some(serde_json::Value::Bool(true)) => Sharing::Once,
        Some(_) => return Err(Refusal::new("shared_with_upstream", "is no truth value")),
    };
    let host = context.host.clone();
    let key: Arc<str> = DOWNSTREAM_PEER.into();
    Ok(HttpFilter::layer(tower::layer::layer_fn(move |inner| {
        HttpService::new(DownstreamPeer {
            host: host.clone(),
            key: key.clone(),
            sharing,
            inner,
        })
    })))
}

/// Whether `field` asks for workload discovery; any other way of discovery is refused.
fn discovers(config: &serde_json::Value, field: &str) -> Result<bool, Refusal> {
    let methods = match config.get(field) {
        None => return Ok(false),
        Some(methods) => methods
            .as_array()
            .ok_or_else(|| Refusal::new(field, "is no list"))?,
    };
    for method in methods {
        typed_struct::only(method, &["workload_discovery"]).map_err(|e| e.within(field))?;
    }
    Ok(!methods.is_empty())
}

struct DownstreamPeer {
    host: Arc<dyn Host>,
    key: Arc<str>,
    sharing: Sharing,
    inner: HttpService,
}

impl HttpCall for DownstreamPeer {
    fn call(&self, request: HttpRequest) -> ResponseFuture {
        let source = request.stream.connection.source.ip();
        if let Some(peer) = self.host.workload(source) {
            let mut state = request.stream.state();
            state
                .filter_state
                .set(&self.key, FilterValue::Peer(peer), self.sharing);
        }
        self.inner.call(request)
    }
}
