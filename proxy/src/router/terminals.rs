//! The ends of filter chains: the router, and what lets a CONNECT pass; with what they were made of.

use std::sync::Arc;
use std::time::Instant;

use http::{Response, StatusCode};
use waypoint_filters::callout::Callouts;
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::service::body::Body;
use waypoint_filters::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use waypoint_hbone::pool::TunnelPool;
use waypoint_hbone::tls::Tls;

use crate::overload::Overload;
use crate::process::open_files::OpenFiles;
use crate::router::Router;
use crate::router::mirror::Mirrors;
use crate::upstream::callout::UpstreamCallouts;
use crate::upstream::dial::client_tls::ClientTls;
use crate::upstream::dynamic::DynamicHosts;
use crate::upstream::outside::Outside;
use crate::upstream::pools::Upstreams;
use crate::upstream::reach::{PeerLookup, Reach};

/// The innermost services of filter chains, made before any chain is compiled.
#[derive(Clone)]
pub(crate) struct Terminals {
    pub router: HttpService,
    pub connect: HttpService,
    pub reach: Arc<Reach>,
    pub callouts: Arc<dyn Callouts>,
    pub overload: Arc<Overload>,
}

impl Terminals {
    /// `peer` finds the workload at an address.
    pub(crate) fn new(
        tls: Tls,
        tunnels: TunnelPool,
        files: Arc<OpenFiles>,
        peer: PeerLookup,
        overload: Arc<Overload>,
        metrics: &MetricRegistry,
        outside: &Outside,
    ) -> Terminals {
        let client_tls = ClientTls::new(tls.clone(), outside.system_roots.clone(), metrics);
        let upstreams = Upstreams::new(tunnels, tls, files.clone(), overload.clone(), client_tls);
        let upstreams = Arc::new(upstreams);
        let idle = Arc::downgrade(&upstreams);
        files.on_scarce(move || {
            if let Some(upstreams) = idle.upgrade() {
                upstreams.let_idle_go(Instant::now());
            }
        });
        let dynamic = DynamicHosts::new(outside, peer.clone(), metrics);
        let reach = Arc::new(Reach::new(upstreams, dynamic, peer));
        let callouts: Arc<dyn Callouts> = Arc::new(UpstreamCallouts::new(reach.clone(), metrics));
        let mirrors = Mirrors::new(callouts.clone(), overload.clone(), metrics);
        Terminals {
            router: HttpService::new(Router::new(reach.clone(), mirrors)),
            connect: HttpService::new(ConnectTerminal),
            reach,
            callouts,
            overload,
        }
    }
}

/// The end of `connect_terminate`'s chain: the CONNECT goes on to find its filter chain.
pub(crate) struct ConnectTerminal;

impl HttpCall for ConnectTerminal {
    fn call(&self, _request: HttpRequest) -> ResponseFuture {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::OK;
        ResponseFuture::ready(response)
    }
}
