//! Workloads: who the pods of the mesh are, for the labels of telemetry.

use waypoint_filters::xds::proto::{
    NamespacedHostname, Workload, WorkloadNetworkMode, WorkloadTunnelProtocol, WorkloadWaypoint,
};

use crate::resource::{Resource, ResourceType};
use crate::standalone::kinds::core::service::CLUSTER_DOMAIN;
use crate::standalone::state::mesh_endpoint::CLUSTER_ID;
use crate::standalone::state::taken::Waypoints;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::resource;

/// `istio.workload.WorkloadType.POD`, which istiod gives to every pod.
const POD: i32 = 2;

impl Mesh<'_> {
    /// One for each pod that has an address and runs, whoever owns it.
    pub(super) fn workloads(&self) -> Vec<Resource> {
        let waypoints = Waypoints::of(self.state);
        let serving = self
            .state
            .pods
            .values()
            .filter(|pod| !pod.spec.terminal && !pod.spec.addresses.is_empty());
        let workload = |pod: &crate::standalone::input::manifest::Object<
            crate::standalone::kinds::core::pod::Pod,
        >| {
            let (canonical_name, canonical_revision) = pod.canonical();
            let uid = format!("{CLUSTER_ID}//Pod/{}/{}", pod.meta.namespace, pod.meta.name);
            let octets = |address: &std::net::IpAddr| match address {
                std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let message = Workload {
                name: pod.meta.name.clone(),
                namespace: pod.meta.namespace.clone(),
                addresses: pod.spec.addresses.iter().map(octets).collect(),
                // Left out when it is the default, as istiod does.
                trust_domain: match self.config.trust_domain.as_str() {
                    "cluster.local" => String::new(),
                    domain => domain.to_owned(),
                },
                service_account: pod.spec.service_account.clone(),
                node: pod.spec.node.clone(),
                canonical_name: canonical_name.to_owned(),
                canonical_revision: canonical_revision.to_owned(),
                workload_type: POD,
                workload_name: pod.workload_name().to_owned(),
                cluster_id: CLUSTER_ID.to_owned(),
                network_mode: match pod.spec.host_network {
                    true => WorkloadNetworkMode::HostNetwork.into(),
                    false => WorkloadNetworkMode::default().into(),
                },
                uid: uid.clone(),
                tunnel_protocol: match pod.takes_hbone() {
                    true => WorkloadTunnelProtocol::Hbone.into(),
                    false => WorkloadTunnelProtocol::None.into(),
                },
                waypoint: waypoints
                    .of_pod("", &pod.meta)
                    .by
                    .map(|by| WorkloadWaypoint {
                        hostname: Some(NamespacedHostname {
                            hostname: format!("{}.{}.{CLUSTER_DOMAIN}", by.name, by.namespace),
                            namespace: by.namespace,
                        }),
                    }),
                ..Workload::default()
            };
            resource(ResourceType::Workload, &uid, &message)
        };
        serving.map(workload).collect()
    }
}
