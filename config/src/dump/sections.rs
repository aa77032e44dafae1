//! What each section of a dump holds.
//!
//! What would surprise: a resource that never was in force isn't shown, but for listeners, since istioctl
//! takes every cluster, route and filter that it finds for one that is. Route configurations that stand in
//! listeners are shown as *static*, as Envoy does. There is nothing that warms: what waits isn't in force.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::admin::v3::clusters_config_dump::DynamicCluster;
use envoy_types::pb::envoy::admin::v3::ecds_config_dump::EcdsFilterConfig;
use envoy_types::pb::envoy::admin::v3::endpoints_config_dump::DynamicEndpointConfig;
use envoy_types::pb::envoy::admin::v3::listeners_config_dump::{
    DynamicListener, DynamicListenerState,
};
use envoy_types::pb::envoy::admin::v3::routes_config_dump::{
    DynamicRouteConfig, StaticRouteConfig,
};
use envoy_types::pb::envoy::admin::v3::secrets_config_dump::DynamicSecret;
use envoy_types::pb::envoy::admin::v3::{
    BootstrapConfigDump, ClustersConfigDump, EcdsConfigDump, EndpointsConfigDump,
    ListenersConfigDump, RoutesConfigDump, SecretsConfigDump, UpdateFailureState,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::google::protobuf::Timestamp;
use prost::Message;

use crate::dump::section::{Item, Section};
use crate::dump::{HeldSecret, Process, listener, timestamp};
use crate::resource::ResourceType;
use crate::store::received::{Entry, InForce, Received, RefusedVersion};

/// istioctl's word for a secret that hasn't come.
const UNINITIALIZED: &str = "uninitialized";

pub(super) fn all(received: &Received, process: &Process, endpoints: bool) -> Vec<Section> {
    let listeners = received.entries(ResourceType::Listener);
    let mut sections = vec![
        Section::new(&BootstrapConfigDump {
            bootstrap: Some(process.bootstrap.clone()),
            last_updated: Some(timestamp(process.started)),
        }),
        clusters(received),
    ];
    if endpoints {
        sections.push(self::endpoints(received));
    }
    sections.push(routes(received, &listeners));
    sections.push(self::listeners(listeners));
    sections.push(secrets(received, process));
    sections.push(extensions(received));
    sections
}

/// One list's items: of each resource in force, what `item` makes of it.
fn in_force(
    received: &Received,
    kind: ResourceType,
    item: impl Fn(Arc<str>, State, (&'static str, Bytes)) -> Item,
) -> Vec<Item> {
    let entries = received.entries(kind).into_iter();
    entries
        .filter_map(|(name, entry)| {
            let in_force = entry.in_force?;
            let state = State {
                version_info: in_force.response.version.clone(),
                last_updated: updated(&in_force),
                error_state: entry.refused.as_ref().map(failure),
            };
            Some(item(name, state, (kind.type_url(), in_force.body)))
        })
        .collect()
}

/// The fields that most elements have.
struct State {
    version_info: String,
    last_updated: Option<Timestamp>,
    error_state: Option<UpdateFailureState>,
}

fn updated(in_force: &InForce) -> Option<Timestamp> {
    Some(timestamp(in_force.response.at))
}

fn failure(refused: &RefusedVersion) -> UpdateFailureState {
    UpdateFailureState {
        failed_configuration: None,
        last_update_attempt: Some(timestamp(refused.response.at)),
        details: refused.rejected.to_string(),
        version_info: refused.response.version.clone(),
    }
}

/// Some of a listener's chains don't serve as the version in force has them.
fn chains_failure(in_force: &InForce) -> Option<UpdateFailureState> {
    let chains = in_force.chains.as_ref()?;
    Some(UpdateFailureState {
        failed_configuration: None,
        last_update_attempt: updated(in_force),
        details: chains.reasons.clone(),
        version_info: in_force.response.version.clone(),
    })
}

fn clusters(received: &Received) -> Section {
    let items = in_force(received, ResourceType::Cluster, |name, state, resource| {
        let around = DynamicCluster {
            version_info: state.version_info,
            last_updated: state.last_updated,
            error_state: state.error_state,
            ..DynamicCluster::default()
        };
        Item::new(name, &around, &["cluster"], Some(resource))
    });
    Section::new(&ClustersConfigDump::default())
        .list("static_clusters", Vec::new())
        .list("dynamic_active_clusters", items)
        .list("dynamic_warming_clusters", Vec::new())
}

fn endpoints(received: &Received) -> Section {
    let items = in_force(
        received,
        ResourceType::Endpoints,
        |name, state, resource| {
            let around = DynamicEndpointConfig {
                version_info: state.version_info,
                last_updated: state.last_updated,
                error_state: state.error_state,
                ..DynamicEndpointConfig::default()
            };
            Item::new(name, &around, &["endpoint_config"], Some(resource))
        },
    );
    Section::new(&EndpointsConfigDump::default())
        .list("static_endpoint_configs", Vec::new())
        .list("dynamic_endpoint_configs", items)
}

fn listeners(entries: Vec<(Arc<str>, Entry)>) -> Section {
    let items = entries.into_iter().map(|(name, entry)| {
        let body = entry.in_force.as_ref().map(listener::body);
        let around = DynamicListener {
            name: name.to_string(),
            active_state: entry
                .in_force
                .as_ref()
                .map(|in_force| DynamicListenerState {
                    version_info: in_force.response.version.clone(),
                    last_updated: updated(in_force),
                    listener: None,
                }),
            error_state: match &entry.refused {
                Some(refused) => Some(failure(refused)),
                None => entry.in_force.as_ref().and_then(chains_failure),
            },
            ..DynamicListener::default()
        };
        let resource = body.map(|body| (ResourceType::Listener.type_url(), body));
        Item::new(name, &around, &["active_state", "listener"], resource)
    });
    Section::new(&ListenersConfigDump::default())
        .list("static_listeners", Vec::new())
        .list("dynamic_listeners", items.collect())
}

fn routes(received: &Received, listeners: &[(Arc<str>, Entry)]) -> Section {
    let mut inline = Vec::new();
    for in_force in listeners
        .iter()
        .filter_map(|(_, entry)| entry.in_force.as_ref())
    {
        for (name, body) in listener::routes(in_force) {
            let around = StaticRouteConfig {
                last_updated: updated(in_force),
                route_config: None,
            };
            let resource = (ResourceType::Routes.type_url(), body);
            inline.push(Item::new(name, &around, &["route_config"], Some(resource)));
        }
    }
    let by_name = in_force(received, ResourceType::Routes, |name, state, resource| {
        let around = DynamicRouteConfig {
            version_info: state.version_info,
            last_updated: state.last_updated,
            error_state: state.error_state,
            ..DynamicRouteConfig::default()
        };
        Item::new(name, &around, &["route_config"], Some(resource))
    });
    Section::new(&RoutesConfigDump::default())
        .list("static_route_configs", inline)
        .list("dynamic_route_configs", by_name)
}

/// The process's own, and those that were delivered or are waited for.
fn secrets(received: &Received, process: &Process) -> Section {
    let own = |held: &HeldSecret| {
        let name = &held.secret.name;
        let around = DynamicSecret {
            name: name.clone(),
            version_info: held.version.clone().unwrap_or_else(|| UNINITIALIZED.into()),
            last_updated: Some(timestamp(held.updated)),
            ..DynamicSecret::default()
        };
        let body = held.secret.encode_to_vec().into();
        let resource = (ResourceType::Secret.type_url(), body);
        Item::new(name.as_str().into(), &around, &["secret"], Some(resource))
    };
    let all = process.secrets.iter();
    let (here, awaited): (Vec<_>, Vec<_>) = all.partition(|held| held.version.is_some());
    let mut active: Vec<_> = here.into_iter().map(own).collect();
    let mut warming: Vec<_> = awaited.into_iter().map(own).collect();
    for (name, entry) in received.entries(ResourceType::Secret) {
        let error_state = entry.refused.as_ref().map(failure);
        let around = |version_info: String, last_updated| DynamicSecret {
            name: name.to_string(),
            version_info,
            last_updated,
            error_state,
            ..DynamicSecret::default()
        };
        match entry.in_force {
            Some(in_force) => {
                let around = around(in_force.response.version.clone(), updated(&in_force));
                let resource = (ResourceType::Secret.type_url(), in_force.body);
                active.push(Item::new(name, &around, &["secret"], Some(resource)));
            }
            None => {
                let around = around(UNINITIALIZED.into(), Some(timestamp(process.started)));
                let empty = Secret {
                    name: name.to_string(),
                    r#type: None,
                };
                let body = empty.encode_to_vec().into();
                let resource = (ResourceType::Secret.type_url(), body);
                warming.push(Item::new(name, &around, &["secret"], Some(resource)));
            }
        }
    }
    Section::new(&SecretsConfigDump::default())
        .list("static_secrets", Vec::new())
        .list("dynamic_active_secrets", active)
        .list("dynamic_warming_secrets", warming)
}

fn extensions(received: &Received) -> Section {
    let items = in_force(
        received,
        ResourceType::Extension,
        |name, state, resource| {
            let around = EcdsFilterConfig {
                version_info: state.version_info,
                last_updated: state.last_updated,
                error_state: state.error_state,
                ..EcdsFilterConfig::default()
            };
            Item::new(name, &around, &["ecds_filter"], Some(resource))
        },
    );
    Section::new(&EcdsConfigDump::default()).list("ecds_filters", items)
}
