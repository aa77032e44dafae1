//! From indexed manifests to the resources that istiod would send to this waypoint.
//!
//! One `Mesh` holds what all parts need (`context/`); each file translates one concept and is pure. A room uses
//! others in one direction: listeners → routes → clusters, listeners and routes → security, listeners → telemetry → clusters and
//! security, everybody → proto.

mod clusters;
mod context;
mod listeners;
mod no_effect;
pub(crate) mod proto;
mod routes;
mod security;
pub mod status;
mod telemetry;
mod workloads;

use crate::resource::{Resource, ResourceType};
use crate::standalone::input::manifest::{Object, ObjectName};
use crate::standalone::input::problem::{Aside, Problem, Severity};
use crate::standalone::kinds::core::config_map::MeshConfig;
use crate::standalone::kinds::gateway_api::gateway::Gateway;
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::issuers::{IssuerQuestion, Issuers};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed;
use crate::standalone::translate::status::ParentStatus;

pub use crate::standalone::translate::context::IpFamilies;

/// The resources of one set of manifests, and what in it isn't honoured.
#[derive(Clone, Debug)]
pub struct Translation {
    /// Ordered by type and name; equal manifests give equal bytes.
    pub resources: Vec<Resource>,
    pub problems: Vec<Problem>,
    /// What is for others, by kind and reason.
    pub asides: Vec<Aside>,
    /// Filter chains that a security object closes.
    pub closed_chains: usize,
    /// What istiod would write of each parent of each route.
    pub statuses: Vec<ParentStatus>,
    /// The Gateway that this process is.
    pub gateway: ObjectName,
    pub mesh: MeshConfig,
    /// Issuers that are to be asked where their keys are.
    pub issuers: Vec<IssuerQuestion>,
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

/// Translates for this Gateway. Without `families` the waypoint has those that its manifests use. An error
/// is a setting that can't be used at all.
pub fn translate(
    state: &ClusterState,
    gateway: &Object<Gateway>,
    families: Option<IpFamilies>,
) -> Result<Translation, String> {
    translate_by(state, gateway, families, &Issuers::default())
}

/// The same by what issuers say of their keys.
pub fn translate_by(
    state: &ClusterState,
    gateway: &Object<Gateway>,
    families: Option<IpFamilies>,
    issuers: &Issuers,
) -> Result<Translation, String> {
    let mut mesh = Mesh::of(state, gateway, families)?;
    mesh.issuers = issuers.clone();
    let without_keys = mesh.without_keys();
    mesh.closures.extend(without_keys);
    state.problems.iter().cloned().for_each(|p| mesh.report(p));
    let mut resources = mesh.resources();
    resources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    mesh.report_closures();
    let clusters = resources
        .iter()
        .filter(|resource| resource.kind == ResourceType::Cluster)
        .map(|resource| resource.name.as_str());
    let asides = mesh.report_no_effect(&clusters.collect());
    let mut problems = mesh.take_problems();
    // What is closed is read first.
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    Ok(Translation {
        resources,
        statuses: mesh.statuses(),
        problems,
        asides,
        closed_chains: mesh.closed_chains(),
        gateway: gateway.name(),
        issuers: mesh.issuer_questions(),
        mesh: mesh.config,
    })
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
            for made in self.service_clusters(service) {
                resources.extend(made.resources());
            }
        }
        resources.extend(self.outbound());
        resources.extend(self.key_services_over_tls());
        resources.extend(self.secrets());
        for cluster in self.key_clusters() {
            resources.push(packed::resource(
                ResourceType::Cluster,
                &cluster.name,
                &cluster,
            ));
        }
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
}
