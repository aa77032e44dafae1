//! The Istio messages that Envoy's published API does not hold, as plain prost structs.
//!
//! Only fields that are read here are declared; field numbers are those of `istio/api`,
//! `istio/ztunnel`'s `workload.proto` and `cncf/xds`. They share `Any`, `Struct` and `Duration` with
//! `envoy-types`, so that one `Any` exists in the house.

use std::collections::HashMap;

use envoy_types::pb::google::protobuf::{Duration, Struct};

/// `type.googleapis.com/udpa.type.v1.TypedStruct`: how istiod wraps its own filters' configuration.
pub const TYPED_STRUCT: &str = "type.googleapis.com/udpa.type.v1.TypedStruct";
/// `type.googleapis.com/stats.PluginConfig`: the `istio.stats` filter.
pub const STATS_PLUGIN_CONFIG: &str = "type.googleapis.com/stats.PluginConfig";

/// `udpa.type.v1.TypedStruct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypedStruct {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<Struct>,
}

/// `stats.PluginConfig`, the configuration of `istio.stats`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatsPluginConfig {
    #[prost(bool, tag = "6")]
    pub disable_host_header_fallback: bool,
    #[prost(message, optional, tag = "7")]
    pub tcp_reporting_duration: Option<Duration>,
    #[prost(message, repeated, tag = "8")]
    pub metrics: Vec<StatsMetricConfig>,
    #[prost(enumeration = "StatsReporter", tag = "10")]
    pub reporter: i32,
}

/// `stats.MetricConfig`: one metric's overrides.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatsMetricConfig {
    #[prost(map = "string, string", tag = "1")]
    pub dimensions: HashMap<String, String>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub tags_to_remove: Vec<String>,
    #[prost(string, tag = "4")]
    pub r#match: String,
    #[prost(bool, tag = "5")]
    pub drop: bool,
}

/// `stats.Reporter`: whose view of a request the labels describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum StatsReporter {
    Unspecified = 0,
    ServerGateway = 1,
}

/// `istio.workload.Workload`: a pod or workload entry of the mesh, as istiod's WDS gives it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Workload {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Network-order address bytes, 4 or 16 of them.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub addresses: Vec<Vec<u8>>,
    #[prost(string, tag = "4")]
    pub network: String,
    #[prost(enumeration = "WorkloadTunnelProtocol", tag = "5")]
    pub tunnel_protocol: i32,
    #[prost(string, tag = "6")]
    pub trust_domain: String,
    #[prost(string, tag = "7")]
    pub service_account: String,
    /// The waypoint that takes what is sent to the workload itself.
    #[prost(message, optional, tag = "8")]
    pub waypoint: Option<WorkloadWaypoint>,
    #[prost(string, tag = "9")]
    pub node: String,
    #[prost(string, tag = "10")]
    pub canonical_name: String,
    #[prost(string, tag = "11")]
    pub canonical_revision: String,
    /// 0 deployment, 1 cronjob, 2 pod, 3 job.
    #[prost(int32, tag = "12")]
    pub workload_type: i32,
    #[prost(string, tag = "13")]
    pub workload_name: String,
    #[prost(string, tag = "18")]
    pub cluster_id: String,
    #[prost(string, tag = "20")]
    pub uid: String,
    #[prost(enumeration = "WorkloadNetworkMode", tag = "25")]
    pub network_mode: i32,
}

/// `istio.workload.GatewayAddress`, as far as it names a waypoint's service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkloadWaypoint {
    #[prost(message, optional, tag = "1")]
    pub hostname: Option<NamespacedHostname>,
}

/// `istio.workload.NamespacedHostname`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamespacedHostname {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub hostname: String,
}

/// `istio.workload.TunnelProtocol`: how the workload is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum WorkloadTunnelProtocol {
    None = 0,
    Hbone = 1,
}

/// `istio.workload.NetworkMode`: whose the addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum WorkloadNetworkMode {
    /// The workload's own.
    Standard = 0,
    /// Its node's, and with it other workloads'.
    HostNetwork = 1,
}
