//! Routes of every chain: what they ask for, where they send, in which shares, and what it came to since then.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::listener::chain::{ChainSlot, FilterChain};
use waypoint_config::model::listener::snapshot::Snapshot;
use waypoint_config::model::listener::tcp_proxy::TcpChain;
use waypoint_config::model::route::forward::{Destinations, Forward};
use waypoint_config::model::route::{Route, RouteAction};
use waypoint_config::model::weighted::Weighted;

use crate::view::bounded;

/// Chains that are told.
const MAX_CHAINS: usize = 2000;
/// Routes of one chain that are told.
const MAX_ROUTES: usize = 200;

/// All chains with their routes, by name.
pub(crate) fn routes(snapshot: &Snapshot) -> Value {
    let mut chains: Vec<&Arc<ChainSlot>> = snapshot.main.chains.values().collect();
    chains.sort_by(|a, b| a.name.cmp(&b.name));
    let all = chains.into_iter().map(|slot| chain(snapshot, slot));
    let (chains, left_out) = bounded(all, MAX_CHAINS);
    json!({"chains": chains, "leftOut": left_out})
}

fn chain(snapshot: &Snapshot, slot: &ChainSlot) -> Value {
    let service = slot.service_port();
    let address = snapshot
        .main
        .matcher
        .address_of(&|name| *name == *slot.name);
    let mut told = json!({
        "name": &*slot.name,
        "host": service.map(|(_, host)| host),
        "port": service.map(|(port, _)| port),
        "address": address.map(|address| address.to_string()),
    });
    let (protocol, (routes, left_out)) = match &*slot.load() {
        FilterChain::Closed(reason) => {
            told["closed"] = (&**reason).into();
            ("closed", (Vec::new(), 0))
        }
        FilterChain::Tcp(chain) => ("tcp", (vec![tcp(chain)], 0)),
        FilterChain::Http(manager) => {
            let hosts = manager.routes.virtual_hosts.iter();
            let routes = hosts.flat_map(|host| host.routes.iter().map(|r| route(&host.domains, r)));
            ("http", bounded(routes, MAX_ROUTES))
        }
    };
    told["protocol"] = protocol.into();
    told["routes"] = routes.into();
    told["routesLeftOut"] = left_out.into();
    told
}

fn tcp(chain: &TcpChain) -> Value {
    let clusters = weighted(&chain.proxy.clusters, |slot| slot);
    let taken: u64 = chain.proxy.clusters.taken().sum();
    json!({"name": "", "asks": "", "action": "forward", "taken": taken, "clusters": clusters})
}

fn route(domains: &[Box<str>], route: &Route) -> Value {
    let mut told = json!({
        "name": &*route.info.name,
        "asks": route.matcher.to_string(),
        "taken": route.taken.load(Ordering::Relaxed),
    });
    if !domains.iter().any(|domain| &**domain == "*") {
        told["domains"] = domains
            .iter()
            .map(|domain| Value::from(&**domain))
            .collect();
    }
    match &route.action {
        RouteAction::Redirect(to) => {
            told["action"] = "redirect".into();
            told["status"] = to.status.as_u16().into();
        }
        RouteAction::DirectResponse(own) => {
            told["action"] = "answer".into();
            told["status"] = own.status.as_u16().into();
        }
        RouteAction::Forward(to) => {
            told["action"] = "forward".into();
            forward(to, &mut told);
        }
    }
    told
}

fn forward(to: &Forward, told: &mut Value) {
    told["clusters"] = match &to.destinations {
        Destinations::Single(slot) => {
            let taken = told["taken"].clone();
            json!([cluster(slot, 100.0, taken)])
        }
        Destinations::Weighted { shares, .. } => weighted(shares, |chosen| &chosen.cluster).into(),
    };
    told["timeoutMilliseconds"] = to.timeout.map(|limit| limit.as_millis() as u64).into();
    told["retries"] = to.retry.is_some().into();
    let mirrors = to.mirrors.iter();
    told["mirrors"] = mirrors
        .map(|mirror| Value::from(&*mirror.cluster.name))
        .collect();
}

fn weighted<T>(clusters: &Weighted<T>, slot: impl Fn(&T) -> &Arc<ClusterSlot>) -> Vec<Value> {
    let total = clusters.total().max(1) as f64;
    let shares = clusters.weights().zip(clusters.taken());
    let shares = shares.map(|((weight, thing), taken)| {
        let percent = weight as f64 * 100.0 / total;
        cluster(slot(thing), percent, taken.into())
    });
    shares.collect()
}

/// `percent`: as configured.
fn cluster(slot: &ClusterSlot, percent: f64, taken: Value) -> Value {
    json!({
        "name": &*slot.name,
        "exists": slot.cluster().is_some(),
        "percent": percent,
        "taken": taken,
    })
}
