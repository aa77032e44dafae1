//! Services and ServiceEntries: which are this waypoint's, and what of them nobody can reach.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::standalone::input::manifest::resource;
use crate::standalone::input::manifest::{Object, ObjectMeta, ObjectName};
use crate::standalone::input::problem::{Origin, Severity};
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::core::service::{EXPORT_TO, Service};
use crate::standalone::kinds::istio::service_entry::ServiceEntry;
use crate::standalone::state::entry_endpoints::{machines_of, selected_entries};
use crate::standalone::state::exports;
use crate::standalone::state::mesh_endpoint::drains;
use crate::standalone::state::mesh_service::selected_pods;
use crate::standalone::state::mesh_service::slices_of;
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution, Source};
use crate::standalone::translate::no_effect::destination_rules::UNKNOWN_PLACE;
use crate::standalone::translate::no_effect::marks::DRAINS;
use crate::standalone::translate::no_effect::{Telling, Why};

impl Telling<'_, '_> {
    pub(super) fn services(&mut self) {
        let mesh = self.mesh;
        for service in mesh.state.services.values() {
            self.misplaced_labels("Service", &service.meta, &service.origin);
            if let Some(why) = self.not_enrolled(&service.meta)
                && !self.mesh.effects.shows(service)
            {
                self.part("Service", service, "metadata.labels", why);
            } else if !mesh
                .waypoint
                .sees(mesh.state, &MeshService::of_service(service))
            {
                let field = format!("metadata.annotations[{EXPORT_TO}]");
                let own = !service.spec.export_to.is_empty();
                self.hidden("Service", service, own.then_some(field.as_str()));
            }
        }
        for entry in mesh.state.service_entries.values() {
            self.misplaced_labels("ServiceEntry", &entry.meta, &entry.origin);
            if let Some(why) = self.not_enrolled(&entry.meta)
                && !self.mesh.effects.shows(entry)
            {
                self.part("ServiceEntry", entry, "metadata.labels", why);
            } else if !exports::sees_entry(mesh.state, &mesh.waypoint.gateway.meta.namespace, entry)
            {
                let own = !entry.spec.export_to.is_empty();
                self.hidden("ServiceEntry", entry, own.then_some("spec.exportTo"));
            }
        }
        for service in &mesh.waypoint.services {
            match service.source {
                Source::Service(object) => self.own_service(service, object),
                Source::Entry(entry) => {
                    if service.addresses.is_empty() {
                        let reason =
                            format!("{}: no address was allocated for it", service.hostname);
                        self.part("ServiceEntry", entry, "spec.hosts", Why::Mistake(reason));
                    }
                    self.own_entry(entry);
                }
            }
            self.ports(service);
        }
        self.workload_entries();
        self.twins();
    }

    /// What would use this waypoint, and is not for its namespace to know of: by a field of its own, or by the mesh's default.
    fn hidden<T>(&mut self, kind: &'static str, object: &Object<T>, own: Option<&str>) {
        let namespace = &self.mesh.waypoint.gateway.meta.namespace;
        let said = format!(
            "doesn't let namespace {namespace} see it, where the waypoint is: it isn't served"
        );
        let (field, reason) = match own {
            Some(field) => (field, said),
            None => ("", format!("defaultServiceExportTo of MeshConfig {said}")),
        };
        self.part(kind, object, field, Why::Mistake(reason));
    }

    pub(super) fn hidden_service(&self, name: &ObjectName) -> String {
        let namespace = &self.mesh.waypoint.gateway.meta.namespace;
        format!("Service {name} is not exported to namespace {namespace}, where the waypoint is")
    }

    /// WorkloadEntries that nothing of this waypoint selects, or that can't be what they are selected for.
    fn workload_entries(&mut self) {
        let mesh = self.mesh;
        let own = mesh.waypoint.services.iter();
        let own = own.filter_map(|service| match service.source {
            Source::Service(object) => Some(object),
            Source::Entry(_) => None,
        });
        // And those that routes lead to.
        let named = mesh.state.services.values();
        let named = named.filter(|service| mesh.effects.shows(*service));
        for found in own.chain(named).flat_map(|s| machines_of(mesh.state, s)) {
            mesh.effects.mark(found);
            if drains(&found.spec.labels) {
                self.aside("WorkloadEntry", DRAINS, found.name().to_string());
            } else if found.spec.address.ip().is_none() {
                let address = &found.spec.address;
                let reason =
                    format!("{address} is no IP address: as an endpoint of a Service it must be");
                self.part("WorkloadEntry", found, "spec.address", Why::Mistake(reason));
            }
        }
        for found in mesh.state.workload_entries.values() {
            let mut own = mesh.waypoint.machines.iter();
            // One of these has a chain for its own address.
            if !mesh.effects.shows(found) && !own.any(|m| m.name() == found.name()) {
                let reason = "nothing of this waypoint selects it";
                self.part(
                    "WorkloadEntry",
                    found,
                    "",
                    Why::Elsewhere(reason.to_owned()),
                );
            }
        }
    }

    fn own_entry(&mut self, entry: &Object<ServiceEntry>) {
        for (field, reason) in &entry.spec.not_honoured {
            let name = resource("ServiceEntry", &entry.meta);
            let field = format!("spec.{field}");
            self.tell(
                Severity::Ignored,
                name,
                &entry.origin,
                &field,
                reason.clone(),
            );
        }
        if entry.spec.says_location {
            let reason = "spec.location is for sidecars: a waypoint reaches endpoints inside and outside the mesh alike";
            self.part("ServiceEntry", entry, "", Why::Elsewhere(reason.to_owned()));
        }
        for found in selected_entries(self.mesh.state, entry) {
            self.mesh.effects.mark(found);
            if drains(&found.spec.labels) {
                self.aside("WorkloadEntry", DRAINS, found.name().to_string());
            } else if found.spec.address.ip().is_none() && !entry.spec.resolution.looks_up() {
                let reason = format!(
                    "{} is no IP address, and nothing is looked up for the ServiceEntry {}",
                    found.spec.address,
                    entry.name()
                );
                self.part("WorkloadEntry", found, "spec.address", Why::Mistake(reason));
            }
        }
        for endpoint in &entry.spec.endpoints {
            let field = format!("spec.endpoints[{}].serviceAccount", endpoint.index);
            if drains(&endpoint.labels) {
                let name = format!("{} endpoints[{}]", entry.name(), endpoint.index);
                self.aside("ServiceEntry", DRAINS, name);
            } else if !endpoint.service_account.is_empty() {
                let reason =
                    "the endpoint is reached in plain text, where nobody asks for its identity";
                let why = Why::Mistake(reason.to_owned());
                self.part("ServiceEntry", entry, &field, why);
            }
        }
    }

    fn own_service(&mut self, service: &MeshService<'_>, object: &Object<Service>) {
        for asked in &object.spec.not_honoured {
            let name = resource("Service", &object.meta);
            let reason = format!("{} is not honoured", asked.value);
            let field = format!("spec.{}", asked.field);
            self.tell(Severity::Ignored, name, &object.origin, &field, reason);
        }
        let field = "spec.internalTrafficPolicy";
        // A headless service has the endpoint that its client chose.
        let is_local = object.spec.node_local && !object.spec.headless;
        if is_local && self.mesh.place.node().is_none() {
            let why = Why::Mistake(UNKNOWN_PLACE.to_owned());
            self.part("Service", object, field, why);
        }
        for field in &object.spec.of_outside {
            let reason =
                format!("spec.{field} is for clients outside the mesh, which pass the waypoint by");
            self.part("Service", object, "", Why::Elsewhere(reason));
        }
        let slices = slices_of(self.mesh.state, object);
        let endpoints = slices.iter().flatten().flat_map(|slice| &slice.endpoints);
        let mut unready = endpoints.filter(|endpoint| endpoint.conditions.ready == Some(false));
        if object.spec.publish_not_ready && unready.next().is_some() {
            let reason =
                "its EndpointSlices or Endpoints say which endpoints are ready, and that counts";
            let why = Why::Mistake(reason.to_owned());
            self.part("Service", object, "spec.publishNotReadyAddresses", why);
        }
        if slices.is_none() {
            for pod in selected_pods(self.mesh.state, object) {
                let name = pod.name().to_string();
                if drains(&pod.meta.labels) {
                    continue;
                }
                if pod.spec.addresses.is_empty() {
                    let reason = "no address (status.podIP), so nobody can reach it";
                    self.aside("Pod", reason, name);
                } else if !pod.spec.says_whether_ready && !object.spec.publish_not_ready {
                    let reason =
                        "without the condition Ready in status.conditions it takes no requests";
                    self.aside("Pod", reason, name);
                }
            }
        }
        match service.resolution() {
            Resolution::None => {
                let reason = "an alias (ExternalName) has no traffic of its own".to_owned();
                self.part("Service", object, "", Why::Elsewhere(reason));
            }
            Resolution::Passthrough if !self.mesh.waypoint.traffic.workloads() => {
                let reason = "headless: clients connect to its pods, which a waypoint takes with istio.io/waypoint-for: workload or all";
                self.part("Service", object, "", Why::Elsewhere(reason.to_owned()));
            }
            Resolution::Endpoints if object.spec.addresses.is_empty() => {
                let reason = "is neither an address nor None: the API server allocates one, here it must be written; no client can reach the service";
                self.part(
                    "Service",
                    object,
                    "spec.clusterIP",
                    Why::Mistake(reason.to_owned()),
                );
            }
            _ => {}
        }
    }

    /// Ports that no chain was made for, and those that lead to nobody.
    fn ports(&mut self, service: &MeshService<'_>) {
        if service.resolution() == Resolution::None {
            return;
        }
        let (kind, meta, origin) = declared_by(service);
        for (index, port) in service.ports.iter().enumerate() {
            let number = port.number;
            if port.protocol == Protocol::Udp {
                let what = format!("{}/{} port {number}", meta.namespace, service.name);
                let reason = format!("a waypoint doesn't carry {}", port.transport.name());
                self.aside(kind, reason, what);
            } else if !self.mesh.effects.shows(port) {
                let field = format!("spec.ports[{index}]");
                let reason = "no filter chain was made of it".to_owned();
                self.no_effect(resource(kind, meta), origin, &field, reason);
            } else if service.resolution() == Resolution::Endpoints
                && let Some(reason) = self.leads_to_nobody(service, port)
            {
                let field = format!("spec.ports[{index}]");
                let reason = format!("port {number} leads to nobody (503): {reason}");
                self.no_effect(resource(kind, meta), origin, &field, reason);
            }
        }
    }

    /// Why no request to a port can be answered.
    pub(super) fn leads_to_nobody(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
    ) -> Option<String> {
        let endpoints = service.endpoints(self.mesh.state, port);
        if endpoints
            .iter()
            .any(|endpoint| endpoint.healthy != Some(false))
        {
            return None;
        }
        Some(match service.source {
            _ if !endpoints.is_empty() => format!(
                "none of its {} endpoints is ready (a pod is with the condition Ready in status.conditions)",
                endpoints.len()
            ),
            Source::Service(object) => self.why_nobody(object, port),
            Source::Entry(entry) if entry.spec.selector.is_some() => {
                "its workloadSelector selects no WorkloadEntry and no pod that is ready".to_owned()
            }
            Source::Entry(_) => "the entry has no endpoints".to_owned(),
        })
    }

    /// Why a service's port has no endpoints.
    fn why_nobody(&self, service: &Object<Service>, port: &MeshPort) -> String {
        let state = self.mesh.state;
        if let Some(slices) = slices_of(state, service) {
            let transport = port.transport;
            let of_port = slices.iter().filter(|slice| {
                let mut ports = slice.ports.iter();
                ports.any(|own| own.name == port.name && own.transport == transport)
            });
            return match (slices.len(), of_port.count()) {
                (0, _) => {
                    "the service has no selector, and no EndpointSlice and no Endpoints is its own"
                        .to_owned()
                }
                (_, 0) => format!(
                    "none of its EndpointSlices has a {} port of the name {:?}",
                    transport.name(),
                    port.name
                ),
                _ => "all addresses of its EndpointSlices terminate or drain, or there are none"
                    .to_owned(),
            };
        }
        let pods: Vec<_> = selected_pods(state, service).collect();
        let with_address = pods.iter().filter(|pod| {
            let mut addresses = pod.spec.addresses.iter();
            addresses.any(|address| service.spec.takes(address))
        });
        let own = service.spec.ports.iter();
        let mut own =
            own.filter(|own| own.number == port.number && own.transport == port.transport);
        let target = own.next().map(|own| &own.target);
        let with_port = pods.iter().filter(|pod| {
            target.is_some_and(|target| pod.spec.port(target, port.transport).is_some())
        });
        if pods.is_empty() {
            "its selector matches no pod".to_owned()
        } else if with_address.count() == 0 {
            "no pod that its selector matches has an address of its families (status.podIPs)"
                .to_owned()
        } else if with_port.count() == 0 {
            "no container of its pods has the port that targetPort names".to_owned()
        } else {
            "all its pods terminate or drain".to_owned()
        }
    }

    /// Services that claim one address: only one of them can be reached by it.
    fn twins(&mut self) {
        let mut claimed: BTreeMap<IpNet, &MeshService<'_>> = BTreeMap::new();
        for service in &self.mesh.waypoint.services {
            let (kind, meta, origin) = declared_by(service);
            for address in service
                .addresses
                .iter()
                .filter(|a| !a.addr().is_unspecified())
            {
                let first = claimed.entry(*address).or_insert(service);
                let (_, _, other) = declared_by(first);
                let shared = service
                    .ports
                    .iter()
                    .any(|port| first.port(port.number).is_some());
                if std::ptr::eq(*first, service) || other == origin || !shared {
                    continue;
                }
                let reason = format!(
                    "{address} is the address of {}, too: only one of them can have it",
                    first.hostname
                );
                self.no_effect(resource(kind, meta), origin, "spec", reason);
            }
        }
    }
}

/// The object that declares a service.
fn declared_by<'a>(service: &MeshService<'a>) -> (&'static str, &'a ObjectMeta, &'a Origin) {
    match service.source {
        Source::Service(object) => ("Service", &object.meta, &object.origin),
        Source::Entry(entry) => ("ServiceEntry", &entry.meta, &entry.origin),
    }
}
