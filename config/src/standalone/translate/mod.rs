//! From indexed manifests to the resources that istiod would send to this waypoint.
//!
//! One `Mesh` holds what all parts need; each file translates one concept and is pure.

mod access_log;
mod authorization;
mod chains;
mod clusters;
mod effects;
mod endpoints;
mod filter_chain_matcher;
mod http_route_action;
mod http_route_filters;
mod http_routes;
mod listeners;
mod main_internal;
mod no_effect;
mod outbound;
mod path_modifier;
pub(crate) mod proto;
mod rbac_attribute;
mod rbac_policy;
mod rbac_rule;
mod routes;
mod rule_attributes;
mod tls_context;
mod tracing;
mod workloads;

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;

use crate::resource::{Resource, ResourceType};
use crate::standalone::input::manifest::{Object, ObjectName};
use crate::standalone::input::problem::{Aside, Problem, Severity};
use crate::standalone::kinds::core::config_map::MeshConfig;
use crate::standalone::kinds::gateway_api::gateway::Gateway;
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::ownership::Waypoint;
use crate::standalone::translate::proto::packed;
use access_log::AccessLog;
use effects::Effects;

/// Address families of the waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpFamilies {
    pub v4: bool,
    pub v6: bool,
}

impl IpFamilies {
    pub const V4: IpFamilies = IpFamilies {
        v4: true,
        v6: false,
    };
    pub const BOTH: IpFamilies = IpFamilies { v4: true, v6: true };
}

/// The resources of one set of manifests, and what in it isn't honoured.
#[derive(Clone, Debug)]
pub struct Translation {
    /// Ordered by type and name; equal manifests give equal bytes.
    pub resources: Vec<Resource>,
    pub problems: Vec<Problem>,
    /// What is for others, by kind and reason.
    pub asides: Vec<Aside>,
    /// The Gateway that this process is.
    pub gateway: ObjectName,
    pub mesh: MeshConfig,
}

impl Translation {
    /// The first problem for which a process must not start.
    pub fn refuses_start(&self) -> Option<&Problem> {
        self.problems
            .iter()
            .find(|problem| problem.severity >= Severity::Broken)
    }

    /// The first problem for which a running process must keep what it has.
    pub fn refuses_update(&self) -> Option<&Problem> {
        self.problems
            .iter()
            .find(|problem| problem.severity >= Severity::Fatal)
    }

    /// The mesh's trust domain and its aliases.
    pub fn trust_domains(&self) -> Vec<String> {
        self.mesh.trust_domains()
    }
}

/// Problems as they are found, each once.
#[derive(Default)]
struct Found {
    in_order: Vec<Problem>,
    known: HashSet<Problem>,
}

/// What all parts of a translation need.
struct Mesh<'a> {
    state: &'a ClusterState,
    config: MeshConfig,
    trust_domains: Vec<String>,
    waypoint: Waypoint<'a>,
    families: IpFamilies,
    access_log: AccessLog,
    /// Several chains may find the same one.
    problems: RefCell<Found>,
    effects: Effects,
}

/// Translates for this Gateway. Without `families` the waypoint has those that its manifests use. An error
/// is a setting that can't be used at all.
pub fn translate(
    state: &ClusterState,
    gateway: &Object<Gateway>,
    families: Option<IpFamilies>,
) -> Result<Translation, String> {
    let config = state.mesh();
    let mesh = Mesh {
        state,
        trust_domains: config.trust_domains(),
        waypoint: Waypoint::resolve(state, gateway).map_err(|value| {
            format!(
                "Gateway {}: istio.io/waypoint-for: unknown value {value:?}",
                gateway.name()
            )
        })?,
        families: families.unwrap_or_else(|| families_of(state)),
        access_log: AccessLog::new(&config).map_err(|reason| {
            format!("ConfigMap istio-system/istio: data.mesh.accessLogFormat: {reason}")
        })?,
        problems: RefCell::default(),
        effects: Effects::default(),
        config,
    };
    state.problems.iter().cloned().for_each(|p| mesh.report(p));
    let mut resources = mesh.resources();
    resources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    mesh.report_closures();
    let asides = mesh.report_no_effect();
    let mut problems = mesh.problems.into_inner().in_order;
    // What is closed is read first.
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    Ok(Translation {
        resources,
        problems,
        asides,
        gateway: gateway.name(),
        mesh: mesh.config,
    })
}

fn families_of(state: &ClusterState) -> IpFamilies {
    let services = state
        .services
        .values()
        .flat_map(|service| &service.spec.addresses);
    let pods = state.pods.values().flat_map(|pod| &pod.spec.addresses);
    let addresses: Vec<&IpAddr> = services.chain(pods).collect();
    let v6 = addresses.iter().any(|address| address.is_ipv6());
    let v4 = addresses.iter().any(|address| address.is_ipv4());
    IpFamilies { v4: v4 || !v6, v6 }
}

impl Mesh<'_> {
    fn resources(&self) -> Vec<Resource> {
        let mut resources = Vec::new();
        for cluster in self.infrastructure_clusters() {
            resources.push(packed::resource(
                ResourceType::Cluster,
                &cluster.name,
                &cluster,
            ));
        }
        for service in &self.waypoint.services {
            for (cluster, port) in self.service_clusters(service) {
                resources.push(packed::resource(
                    ResourceType::Cluster,
                    &cluster.name,
                    &cluster,
                ));
                if cluster.eds_cluster_config.is_some() {
                    let endpoints = service.endpoints(self.state, port);
                    let assignment = endpoints::load_assignment(&cluster.name, &endpoints);
                    resources.push(packed::resource(
                        ResourceType::Endpoints,
                        &cluster.name,
                        &assignment,
                    ));
                }
            }
        }
        resources.extend(self.outbound());
        for listener in [
            self.connect_terminate(),
            self.main_internal(),
            self.connect_originate(),
            self.inner_connect_originate(),
            self.outer_connect_originate(),
        ] {
            resources.push(packed::resource(
                ResourceType::Listener,
                &listener.name,
                &listener,
            ));
        }
        resources.extend(self.workloads());
        resources
    }

    fn report(&self, problem: Problem) {
        let mut found = self.problems.borrow_mut();
        if found.known.insert(problem.clone()) {
            found.in_order.push(problem);
        }
    }
}
