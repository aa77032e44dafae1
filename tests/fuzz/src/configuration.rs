//! What a control plane sends: policies, routes, clusters, listeners. It is honoured or refused, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use envoy_types::pb::envoy::config::rbac::v3::Rbac;
use http::Request;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType, Update};
use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_config::store::{OnRefused, Store};
use waypoint_filters::host::detached::DetachedHost;
use waypoint_filters::security::rbac::engine::{Engine, RBAC};
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};
use waypoint_filters::xds::coverage;

use crate::corpus::recorded;
use crate::harness::fuzz;

/// Parts of a message that may be of this type: every length-delimited field at any depth.
fn parts(bytes: &[u8], depth: usize, found: &mut Vec<Vec<u8>>) {
    if depth > 24 {
        return;
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok((_, wire)) = prost::encoding::decode_key(&mut rest) else {
            return;
        };
        if wire != prost::encoding::WireType::LengthDelimited {
            let context = prost::encoding::DecodeContext::default();
            if prost::encoding::skip_field(wire, 1, &mut rest, context).is_err() {
                return;
            }
            continue;
        }
        let Ok(length) = prost::encoding::decode_varint(&mut rest) else {
            return;
        };
        let length = usize::try_from(length).unwrap();
        let Some((inner, after)) = rest.split_at_checked(length) else {
            return;
        };
        found.push(inner.to_vec());
        parts(inner, depth + 1, found);
        rest = after;
    }
}

/// The rules that were recorded within listeners.
fn rules() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for listener in recorded(ResourceType::Listener) {
        parts(&listener.body, 0, &mut all);
    }
    all.retain(|part| {
        let rules = Rbac::decode(&**part).ok();
        let named = |rules: &Rbac| rules.policies.keys().any(|name| name.starts_with("ns["));
        rules.is_some_and(|rules| named(&rules) && coverage::check(part, &RBAC).is_ok())
    });
    all.sort();
    all.dedup();
    all
}

/// Rules decide a request without a panic, the same each time.
#[test]
fn rbac() {
    let address: SocketAddr = ([127, 0, 0, 1], 80).into();
    let request = Request::builder()
        .uri("/a/b")
        .header("host", "web")
        .body(())
        .unwrap();
    fuzz("rbac", &rules(), |input| {
        let Ok(rules) = coverage::decode::<Rbac>(input, &RBAC) else {
            return false;
        };
        let Ok(engine) = Engine::from_proto(&rules) else {
            return false;
        };
        let connection = Arc::new(Connection::new(address, address, Instant::now()));
        let stream = StreamInfo::new(
            connection,
            Protocol::Http11,
            Instant::now(),
            SystemTime::now(),
        );
        let decide = || {
            let decision = engine.bind(&stream.connection).decide(&request, &stream);
            (decision.allowed, decision.policy)
        };
        assert_eq!(decide(), decide());
        true
    });
}

/// A resource's name: the first field of clusters, assignments and listeners.
fn name(mut body: &[u8]) -> Option<String> {
    let (field, _) = prost::encoding::decode_key(&mut body).ok()?;
    let length = prost::encoding::decode_varint(&mut body).ok()?;
    let name = body.get(..usize::try_from(length).ok()?)?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    (field == 1).then_some(name)
}

/// Applies a resource of this kind, and takes it away again.
fn applied(kind: ResourceType) -> impl FnMut(&[u8]) -> bool {
    let host = Arc::new(DetachedHost::default());
    let mut store = Store::new(host, WorkloadIndex::default(), OnRefused::Keep);
    move |input| {
        let resource = Resource {
            kind,
            name: name(input).unwrap_or_default(),
            body: input.to_vec().into(),
        };
        let removed = vec![(kind, resource.name.clone())];
        let added = Update {
            added: vec![resource],
            ..Update::default()
        };
        let good = store.apply(added).rejected.is_empty();
        store.apply(Update {
            removed,
            ..Update::default()
        });
        good
    }
}

fn bodies(kind: ResourceType) -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = recorded(kind).iter().map(|r| r.body.to_vec()).collect();
    bodies.sort();
    bodies.dedup();
    bodies
}

#[test]
fn cluster() {
    fuzz(
        "cluster",
        &bodies(ResourceType::Cluster),
        applied(ResourceType::Cluster),
    );
}

#[test]
fn endpoints() {
    fuzz(
        "endpoints",
        &bodies(ResourceType::Endpoints),
        applied(ResourceType::Endpoints),
    );
}

/// Listeners hold routes, filters and policies, each behind the length of what is around it.
#[test]
fn listener() {
    fuzz(
        "listener",
        &bodies(ResourceType::Listener),
        applied(ResourceType::Listener),
    );
}

/// Routes that istiod sends within listeners, sent by themselves.
#[test]
fn routes() {
    use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
    let mut all = Vec::new();
    for listener in recorded(ResourceType::Listener) {
        parts(&listener.body, 0, &mut all);
    }
    all.retain(|part| {
        let routes = RouteConfiguration::decode(&**part).ok();
        routes.is_some_and(|routes| {
            !routes.virtual_hosts.is_empty()
                && routes.virtual_hosts.iter().all(|h| !h.domains.is_empty())
        })
    });
    all.sort();
    all.dedup();
    all.truncate(100);
    let host = Arc::new(DetachedHost::default());
    let mut store = Store::new(host, WorkloadIndex::default(), OnRefused::Keep);
    fuzz("routes", &all, |input| {
        let added = Update {
            added: vec![Resource {
                kind: ResourceType::Routes,
                name: "routes".into(),
                body: input.to_vec().into(),
            }],
            ..Update::default()
        };
        store.apply(added).rejected.is_empty()
    });
}
