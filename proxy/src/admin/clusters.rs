//! `/clusters`: clusters and their endpoints as they are used, in Envoy's text and as
//! `envoy.admin.v3.Clusters`, which `istioctl proxy-config endpoint` reads.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use http::StatusCode;
use serde_json::{Value, json};
use waypoint_config::model::balance::endpoint_set::EndpointSet;
use waypoint_config::model::cluster::circuit_breakers::Thresholds;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::cluster::{Cluster, Discovery};
use waypoint_config::model::endpoint::{Endpoint, Locality, Transport};

use crate::admin::Admin;
use crate::admin::answer::{self, Answer, text};
use crate::admin::target::Target;

/// The listener that endpoints behind HBONE are reached through.
const CONNECT_ORIGINATE: &str = "connect_originate";

impl Admin {
    pub(super) fn clusters(&self, target: &Target) -> Answer {
        let clusters = self.received.clusters();
        let all = clusters
            .iter()
            .filter_map(|slot| Some((slot, slot.cluster()?)));
        if target.get("format") == Some("json") {
            let statuses: Vec<Value> = all.map(|(slot, c)| status(slot, &c)).collect();
            return answer::json(&json!({"cluster_statuses": statuses}));
        }
        let mut out = String::new();
        for (slot, cluster) in all {
            // Writing to memory doesn't fail.
            let _ = write_cluster(&mut out, slot, &cluster);
        }
        text(StatusCode::OK, out)
    }
}

/// Every endpoint with its priority and place.
fn hosts(set: &EndpointSet) -> impl Iterator<Item = (usize, &Locality, &Endpoint)> {
    let priorities = set.priorities.iter().enumerate();
    priorities.flat_map(|(priority, localities)| {
        localities.iter().flat_map(move |locality| {
            let endpoints = locality.endpoints.iter();
            endpoints.map(move |endpoint| (priority, locality, &**endpoint))
        })
    })
}

fn write_cluster(out: &mut String, slot: &ClusterSlot, cluster: &Cluster) -> std::fmt::Result {
    let name = &slot.name;
    writeln!(out, "{name}::observability_name::{name}")?;
    for (limit, value) in limits(cluster) {
        writeln!(out, "{name}::default_priority::{limit}::{value}")?;
    }
    writeln!(out, "{name}::added_via_api::true")?;
    if let Discovery::Eds { service_name } = &cluster.discovery {
        writeln!(out, "{name}::eds_service_name::{service_name}")?;
    }
    for (priority, locality, endpoint) in hosts(&slot.endpoints()) {
        let host = match endpoint.transport {
            Transport::Plain => endpoint.address.to_string(),
            Transport::Hbone { .. } => format!("envoy://{CONNECT_ORIGINATE}/{}", endpoint.address),
        };
        for (key, value) in [
            ("rq_active", active(endpoint).to_string()),
            ("health_flags", health_flags(endpoint)),
            ("weight", endpoint.weight.to_string()),
            ("region", locality.region.to_string()),
            ("zone", locality.zone.to_string()),
            ("sub_zone", locality.sub_zone.to_string()),
            ("priority", priority.to_string()),
        ] {
            writeln!(out, "{name}::{host}::{key}::{value}")?;
        }
    }
    Ok(())
}

/// What keeps the endpoint from being used, and whether it stays, in Envoy's words and order.
fn flags(endpoint: &Endpoint) -> impl Iterator<Item = &'static str> {
    let health = &endpoint.state.health;
    let flags = [
        (health.is_failed(), "failed_active_hc"),
        (endpoint.state.monitor.is_ejected(), "failed_outlier_check"),
        (!endpoint.healthy, "failed_eds_health"),
        (health.is_leaving(), "pending_dynamic_removal"),
        (health.is_timed_out(), "active_hc_timeout"),
    ];
    let set = flags.into_iter().filter(|(is_set, _)| *is_set);
    set.map(|(_, name)| name)
}

fn health_flags(endpoint: &Endpoint) -> String {
    let flags: String = flags(endpoint).map(|flag| format!("/{flag}")).collect();
    match flags.is_empty() {
        true => "healthy".to_owned(),
        false => flags,
    }
}

/// The circuit breakers, in Envoy's names.
fn limits(cluster: &Cluster) -> [(&'static str, u32); 4] {
    let limits = cluster.thresholds.unwrap_or(Thresholds::UNLIMITED);
    [
        ("max_connections", limits.max_connections),
        ("max_pending_requests", limits.max_pending_requests),
        ("max_requests", limits.max_requests),
        ("max_retries", limits.max_retries),
    ]
}

fn active(endpoint: &Endpoint) -> u32 {
    endpoint.state.active.load(Ordering::Relaxed)
}

fn status(slot: &ClusterSlot, cluster: &Cluster) -> Value {
    let endpoints = slot.endpoints();
    let hosts: Vec<Value> = hosts(&endpoints)
        .map(|(priority, locality, endpoint)| host_status(priority, locality, endpoint))
        .collect();
    let mut status = json!({
        "name": &*slot.name,
        "observability_name": &*slot.name,
        "added_via_api": true,
        "circuit_breakers": {"thresholds": [serde_json::Map::from_iter(
            limits(cluster).map(|(limit, value)| (limit.to_owned(), Value::from(value)))
        )]},
        "host_statuses": hosts,
    });
    if let Discovery::Eds { service_name } = &cluster.discovery {
        status["eds_service_name"] = (&**service_name).into();
    }
    status
}

fn host_status(priority: usize, locality: &Locality, endpoint: &Endpoint) -> Value {
    let address = match endpoint.transport {
        Transport::Plain => json!({"socket_address": {
            "address": endpoint.address.ip().to_string(),
            "port_value": endpoint.address.port(),
        }}),
        Transport::Hbone { .. } => json!({"envoy_internal_address": {
            "server_listener_name": CONNECT_ORIGINATE,
            "endpoint_id": endpoint.address.to_string(),
        }}),
    };
    let health = if endpoint.healthy {
        "HEALTHY"
    } else {
        "UNHEALTHY"
    };
    let mut health = json!({"eds_health_status": health});
    for flag in flags(endpoint).filter(|flag| *flag != "failed_eds_health") {
        let name = match flag {
            "failed_active_hc" => "failed_active_health_check",
            other => other,
        };
        health[name] = true.into();
    }
    json!({
        "address": address,
        "stats": [{"name": "rq_active", "type": "GAUGE", "value": active(endpoint).to_string()}],
        "health_status": health,
        "weight": endpoint.weight,
        "priority": priority,
        "locality": {
            "region": &*locality.region,
            "zone": &*locality.zone,
            "sub_zone": &*locality.sub_zone,
        },
    })
}
