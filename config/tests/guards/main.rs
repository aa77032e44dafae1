//! What guards become that say which tokens requests bring along, and who is asked about them.

#![allow(clippy::unwrap_used)]

mod providers;
mod tokens;

use std::path::Path;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use prost::Message;
use waypoint_config::resource::ResourceType;
use waypoint_config::standalone::Severity;
use waypoint_config::standalone::input::yaml::documents;
use waypoint_config::standalone::state::cluster_state::ClusterState;
use waypoint_config::standalone::state::issuers::Issuers;
use waypoint_config::standalone::state::ownership;
use waypoint_config::standalone::translate::{Translation, translate_by};

/// `web` carries HTTP on 80, TCP on 81 and either on 82; `api` HTTP; `keys` uses no waypoint.
const BASE: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: plain}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pod, labels: {app: all}}, status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: keys, namespace: plain, labels: {app: keys}}, status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.0.0.1, selector: {app: all}, ports: [{name: http, port: 80}, {name: tcp, port: 81}, {name: any, port: 82}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 10.0.0.2, selector: {app: all}, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: keys, namespace: plain}, spec: {clusterIP: 10.0.0.3, selector: {app: keys}, ports: [{name: http, port: 8080}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: idp}, spec: {hosts: [idp.test], addresses: [10.0.0.4], resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 192.0.2.1}]}}
";
const GATEWAY: &str =
    "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]";
const WEB: &str = "targetRefs: [{kind: Service, group: '', name: web}]";

const WEB_HTTP: &str = "inbound-vip|80|http|web.default.svc.cluster.local";
const WEB_TCP: &str = "inbound-vip|81|tcp|web.default.svc.cluster.local";
const API_HTTP: &str = "inbound-vip|80|http|api.default.svc.cluster.local";

fn translated(more: &str) -> Translation {
    translated_by(more, &Issuers::default())
}

fn translated_by(more: &str, issuers: &Issuers) -> Translation {
    let text = format!("{BASE}---\n{more}\n");
    let state = ClusterState::read(documents(Path::new("a.yaml"), &text).unwrap()).unwrap();
    let gateway = ownership::choose(&state, None).unwrap();
    translate_by(&state, gateway, None, issuers).unwrap()
}

fn chain(translation: &Translation, name: &str) -> FilterChain {
    let resource = translation.resources.iter().find(|resource| {
        resource.kind == ResourceType::Listener && resource.name == "main_internal"
    });
    let listener = Listener::decode(resource.unwrap().body.clone()).unwrap();
    let mut chains = listener.filter_chains.into_iter();
    chains.find(|chain| chain.name == name).unwrap()
}

/// Names and configurations of a chain's HTTP filters; none of a TCP chain's.
fn http_filters(translation: &Translation, name: &str) -> Vec<(String, Vec<u8>)> {
    let chain = chain(translation, name);
    let manager = chain.filters.last().unwrap();
    let Some(filter::ConfigType::TypedConfig(any)) = &manager.config_type else {
        panic!("no configuration")
    };
    if !any.type_url.ends_with("HttpConnectionManager") {
        return Vec::new();
    }
    let manager = hcm::HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    let filters = manager.http_filters.into_iter();
    let config = |filter: hcm::HttpFilter| match filter.config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => (filter.name, any.value),
        _ => panic!("no configuration"),
    };
    filters.map(config).collect()
}

fn cluster(translation: &Translation, name: &str) -> Option<Cluster> {
    let mut all = translation.resources.iter();
    let found = all.find(|r| r.kind == ResourceType::Cluster && r.name == name)?;
    Some(Cluster::decode(found.body.clone()).unwrap())
}

/// What is told, the worst first.
fn told(translation: &Translation) -> Vec<(Severity, String)> {
    let problems = translation.problems.iter();
    problems
        .map(|p| {
            (
                p.severity,
                format!("{}: {}: {}", p.resource, p.field, p.reason),
            )
        })
        .collect()
}

/// Whether a chain answers 503 to everything.
fn is_closed(translation: &Translation, name: &str) -> bool {
    let text = format!("{:?}", chain(translation, name));
    let body = b"waypoint: closed by ";
    let bytes = chain(translation, name).encode_to_vec();
    bytes.windows(body.len()).any(|part| part == body) && !text.is_empty()
}
