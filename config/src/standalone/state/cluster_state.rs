//! The objects of a set of manifests, by kind and name: what an API server would hold.
//!
//! Where objects of a kind are put is told by its row in `registry.rs`, and `read.rs` puts them there.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::{Manifest, Object, ObjectMeta, ObjectName};
use crate::standalone::input::problem::{LoadError, Origin, Problem, Severity};
use crate::standalone::kinds::core::config_map::{MESH_CONFIG, MeshConfig};
use crate::standalone::kinds::core::config_map_fields;
use crate::standalone::kinds::core::credential::Credential;
use crate::standalone::kinds::core::endpoint_slice::EndpointSlice;
use crate::standalone::kinds::core::endpoints::Endpoints;
use crate::standalone::kinds::core::pod::Pod;
use crate::standalone::kinds::core::service::Service;
use crate::standalone::kinds::gateway_api::backend_tls_policy::BackendTlsPolicy;
use crate::standalone::kinds::gateway_api::backend_traffic_policy::BackendTrafficPolicy;
use crate::standalone::kinds::gateway_api::gateway::{Gateway, NAMESPACE_NAME};
use crate::standalone::kinds::gateway_api::http_route::HttpRoute;
use crate::standalone::kinds::gateway_api::reference_grant::ReferenceGrant;
use crate::standalone::kinds::gateway_api::stream_route::StreamRoute;
use crate::standalone::kinds::istio::authorization_policy::AuthorizationPolicy;
use crate::standalone::kinds::istio::destination_rule::DestinationRule;
use crate::standalone::kinds::istio::peer_authentication::PeerAuthentication;
use crate::standalone::kinds::istio::request_authentication::RequestAuthentication;
use crate::standalone::kinds::istio::service_entry::ServiceEntry;
use crate::standalone::kinds::istio::telemetry::Telemetry;
use crate::standalone::kinds::istio::virtual_service::VirtualService;
use crate::standalone::kinds::istio::workload_entry::{self, EntryEndpoint};
use crate::standalone::kinds::target_ref::{self, Target};

/// Objects of a kind by name.
pub(super) type Objects<T> = BTreeMap<ObjectName, Object<T>>;

/// Everything that the manifests say.
#[derive(Clone, Debug, Default)]
pub struct ClusterState {
    pub namespaces: BTreeMap<String, ObjectMeta>,
    /// Where the namespaces stand.
    pub namespace_origins: BTreeMap<String, Origin>,
    pub nodes: BTreeMap<String, ObjectMeta>,
    pub pods: Objects<Pod>,
    pub services: Objects<Service>,
    pub endpoint_slices: Objects<EndpointSlice>,
    /// Names of the slices of each service.
    slices_of: BTreeMap<ObjectName, Vec<ObjectName>>,
    pub endpoints: Objects<Endpoints>,
    pub service_entries: Objects<ServiceEntry>,
    pub workload_entries: Objects<EntryEndpoint>,
    pub destination_rules: Objects<DestinationRule>,
    pub backend_tls_policies: Objects<BackendTlsPolicy>,
    pub backend_traffic_policies: Objects<BackendTrafficPolicy>,
    /// What policies of the Gateway API come to.
    pub policy_rules: Vec<Object<DestinationRule>>,
    pub secrets: Objects<Credential>,
    pub config_maps: Objects<Credential>,
    pub gateways: Objects<Gateway>,
    pub gateway_classes: BTreeMap<String, ObjectMeta>,
    pub http_routes: Objects<HttpRoute>,
    pub grpc_routes: Objects<HttpRoute>,
    pub tcp_routes: Objects<StreamRoute>,
    pub tls_routes: Objects<StreamRoute>,
    pub reference_grants: Objects<ReferenceGrant>,
    pub virtual_services: Objects<VirtualService>,
    pub policies: Objects<AuthorizationPolicy>,
    pub request_authentications: Objects<RequestAuthentication>,
    pub peer_authentications: Objects<PeerAuthentication>,
    pub telemetries: Objects<Telemetry>,
    /// Absent without the ConfigMap.
    pub mesh_config: Option<MeshConfig>,
    /// Where that stands.
    pub mesh_origin: Option<Origin>,
    pub closures: Vec<Closure>,
    /// What says nothing to a waypoint.
    pub for_others: Vec<ForOthers>,
    pub problems: Vec<Problem>,
}

/// A security object that isn't honoured, and what it closes.
#[derive(Clone, Debug, PartialEq)]
pub struct Closure {
    pub targets: Vec<Target>,
    /// The object's own.
    pub namespace: String,
    /// Told once the targets are known to be the waypoint's own.
    pub problem: Problem,
}

/// An object, or a part of one, that says nothing to a waypoint.
#[derive(Clone, Debug, PartialEq)]
pub struct ForOthers {
    pub kind: &'static str,
    pub reason: &'static str,
    /// Its name, and which part of it.
    pub what: String,
}

/// One that can't be used is named, and the others go on.
fn keep_sound<T>(
    objects: &mut Objects<T>,
    problems: &mut Vec<Problem>,
    read: Result<Object<T>, Problem>,
) {
    match read {
        Ok(object) => drop(objects.insert(object.name(), object)),
        Err(problem) => problems.push(problem),
    }
}

pub(super) fn keep_telemetry(
    state: &mut ClusterState,
    manifest: &Manifest,
) -> Result<(), LoadError> {
    let read = Telemetry::read(manifest)?;
    state.telemetries.insert(read.name(), read);
    Ok(())
}

impl ClusterState {
    pub(super) fn add_node(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        let meta = manifest.meta.clone();
        self.nodes.insert(meta.name.clone(), meta);
        Ok(())
    }

    pub(super) fn add_gateway_class(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        let meta = manifest.meta.clone();
        self.gateway_classes.insert(meta.name.clone(), meta);
        Ok(())
    }

    pub(super) fn add_reference_grant(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        let grant = ReferenceGrant::read(manifest)?;
        self.reference_grants.insert(grant.name(), grant);
        Ok(())
    }

    pub(super) fn add_namespace(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        let mut meta = manifest.meta.clone();
        let name = meta.name.clone();
        meta.labels.insert(NAMESPACE_NAME.to_owned(), name.clone());
        self.namespace_origins
            .insert(name.clone(), manifest.origin.clone());
        self.namespaces.insert(name, meta);
        Ok(())
    }

    pub(super) fn add_slice(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        let slice = EndpointSlice::read(manifest)?;
        let name = slice.name();
        if let Some(service) = &slice.spec.service {
            let service = ObjectName::new(&name.namespace, service);
            let slices = self.slices_of.entry(service).or_default();
            slices.push(name.clone());
        }
        self.endpoint_slices.insert(name, slice);
        Ok(())
    }

    pub(super) fn add_config_map(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        let meta = &manifest.meta;
        let data = manifest.body.get("data");
        let texts = Credential::of_config_map(manifest);
        self.config_maps.insert(texts.name(), texts);
        if (meta.namespace.as_str(), meta.name.as_str()) == MESH_CONFIG {
            let (config, problems) = MeshConfig::read(manifest)?;
            self.mesh_config = Some(config);
            self.mesh_origin = Some(manifest.origin.clone());
            let others = config_map_fields::of_others(manifest).into_iter();
            self.for_others.extend(others.map(|setting| ForOthers {
                kind: "ConfigMap",
                reason: "settings of other parts of the mesh",
                what: format!("{}/{} {setting}", meta.namespace, meta.name),
            }));
            self.problems.extend(problems);
        } else if data.is_some_and(|data| data.get("mesh").is_some()) {
            let (namespace, name) = MESH_CONFIG;
            let reason =
                format!("settings of the mesh are only read from ConfigMap {namespace}/{name}");
            let problem = manifest.problem(Severity::NoEffect, "data.mesh", reason);
            self.problems.push(problem);
        }
        Ok(())
    }

    pub(super) fn add_service_entry(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        keep_sound(
            &mut self.service_entries,
            &mut self.problems,
            ServiceEntry::read(manifest)?,
        );
        Ok(())
    }

    pub(super) fn add_workload_entry(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        keep_sound(
            &mut self.workload_entries,
            &mut self.problems,
            workload_entry::read(manifest)?,
        );
        Ok(())
    }

    pub(super) fn add_policy(&mut self, manifest: &Manifest) -> Result<(), LoadError> {
        match AuthorizationPolicy::read(manifest) {
            Ok(policy) => drop(self.policies.insert(policy.name(), policy)),
            Err(error) => self.add_broken(manifest, error),
        }
        Ok(())
    }

    pub(super) fn add_request_authentication(
        &mut self,
        manifest: &Manifest,
    ) -> Result<(), LoadError> {
        match RequestAuthentication::read(manifest) {
            Ok(read) => drop(self.request_authentications.insert(read.name(), read)),
            Err(error) => self.add_broken(manifest, error),
        }
        Ok(())
    }

    /// A security object that the API server would refuse: it closes what it targets, if that can be told.
    fn add_broken(&mut self, manifest: &Manifest, error: LoadError) {
        let field = error.field.unwrap_or_default();
        match target_ref::of_unknown(manifest) {
            Ok(targets) if !targets.is_empty() => {
                let problem = manifest.problem(Severity::Broken, field, error.reason);
                self.close(manifest, targets, problem);
            }
            // A misspelt `targetRefs` looks like none at all.
            _ => self
                .problems
                .push(manifest.problem(Severity::Fatal, field, error.reason)),
        }
    }

    /// A security object of a kind that isn't honoured, for this reason.
    pub(super) fn add_closure(&mut self, manifest: &Manifest, guards: bool, reason: String) {
        if let Err(error) = target_ref::check(manifest) {
            return self.add_broken(manifest, error);
        }
        match target_ref::of_unknown(manifest) {
            // With a selector, or with nothing: ztunnel's and sidecars' business.
            Ok(targets) if targets.is_empty() => {
                let reason = "without targetRefs a waypoint doesn't enforce it";
                self.problems
                    .push(manifest.problem(Severity::Ignored, "spec", reason));
            }
            Ok(targets) if guards => {
                let problem = manifest.problem(Severity::FailClosed, "", reason);
                self.close(manifest, targets, problem);
            }
            Ok(_) => {
                let problem = manifest.problem(Severity::Ignored, "", reason);
                self.problems.push(problem);
            }
            Err((field, reason)) => {
                self.problems
                    .push(manifest.problem(Severity::Fatal, field, reason));
            }
        }
    }

    fn close(&mut self, manifest: &Manifest, targets: Vec<Target>, problem: Problem) {
        let namespace = manifest.meta.namespace.clone();
        self.closures.push(Closure {
            targets,
            namespace,
            problem,
        });
    }

    /// HTTPRoutes, then GRPCRoutes.
    pub fn routes(&self) -> impl Iterator<Item = &Object<HttpRoute>> {
        self.http_routes.values().chain(self.grpc_routes.values())
    }

    /// TLSRoutes, then TCPRoutes.
    pub fn stream_routes(&self) -> impl Iterator<Item = &Object<StreamRoute>> {
        self.tls_routes.values().chain(self.tcp_routes.values())
    }

    /// The slices of a service.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &Object<EndpointSlice>> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.endpoint_slices.get(name))
    }

    /// Every namespace, and where it stands.
    pub fn namespaces_and_origins(&self) -> impl Iterator<Item = (&ObjectMeta, &Origin)> {
        self.namespaces
            .values()
            .zip(self.namespace_origins.values())
    }

    /// The mesh's settings; those of Istio's chart where the manifests give none.
    pub fn mesh(&self) -> MeshConfig {
        self.mesh_config
            .clone()
            .unwrap_or_else(MeshConfig::of_chart)
    }
}
