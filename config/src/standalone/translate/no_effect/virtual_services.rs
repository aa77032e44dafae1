//! VirtualServices: hosts that are nobody here, gateways and namespaces that they are for, delegates that nobody hands to.

use std::ptr;

use crate::standalone::input::manifest::{Object, ObjectName, resource};
use crate::standalone::kinds::core::service::CLUSTER_DOMAIN;
use crate::standalone::kinds::istio::host_name::overlap;
use crate::standalone::kinds::istio::virtual_service::VirtualService;
use crate::standalone::state::mesh_service::{MeshService, Source};
use crate::standalone::state::virtual_services::Merged;
use crate::standalone::translate::no_effect::reach::Reaches;
use crate::standalone::translate::no_effect::{Telling, Why};

pub(super) const KIND: &str = "VirtualService";

impl Telling<'_, '_> {
    pub(super) fn virtual_services(&mut self, reaches: &Reaches) {
        let mesh = self.mesh;
        for object in mesh.state.virtual_services.values() {
            if object.spec.is_delegate() {
                self.delegate(object);
                continue;
            }
            if !object.spec.is_for_mesh() {
                let why = Why::Elsewhere("for gateways, not for the mesh".to_owned());
                self.part(KIND, object, "spec.gateways", why);
                continue;
            }
            let mut visible = mesh.virtual_services.iter();
            let Some(merged) = visible.find(|found| ptr::eq(found.object, object)) else {
                let own = &mesh.waypoint.gateway.meta.namespace;
                let reason = format!("not exported to the waypoint's namespace {own:?}");
                self.part(KIND, object, "spec.exportTo", Why::Elsewhere(reason));
                continue;
            };
            if self.hosts(object) {
                self.virtual_service(merged, reaches);
            }
        }
    }

    /// A VirtualService without hosts.
    fn delegate(&mut self, object: &Object<VirtualService>) {
        let of_this = |merged: &Merged<'_>| {
            let mut rules = merged.rules.iter().map(|rule| rule.object);
            let mut lost = merged.lost.iter().map(|lost| lost.object);
            rules.any(|found| ptr::eq(found, object)) || lost.any(|found| ptr::eq(found, object))
        };
        if !self.mesh.virtual_services.iter().any(of_this) {
            let reason = "without hosts it is a delegate, and no VirtualService of the mesh hands requests on to it";
            self.part(KIND, object, "spec.hosts", Why::Mistake(reason.to_owned()));
        }
    }

    /// Whether any host is a service's of this waypoint; those that aren't are told.
    fn hosts(&mut self, object: &Object<VirtualService>) -> bool {
        let mut shows = false;
        for (index, host) in object.spec.hosts.iter().enumerate() {
            match self.no_host(object, host) {
                None => shows = true,
                Some(why) => self.part(KIND, object, &format!("spec.hosts[{index}]"), why),
            }
        }
        shows
    }

    fn no_host(&self, object: &Object<VirtualService>, host: &str) -> Option<Why> {
        let mesh = self.mesh;
        let own = mesh.waypoint.services.iter();
        let own: Vec<&MeshService<'_>> =
            own.filter(|found| overlap(host, &found.hostname)).collect();
        if own.iter().any(|found| mesh.counts(&object.meta, found)) {
            return None;
        }
        if let Some(found) = own.first() {
            return Some(Why::Mistake(format!(
                "a VirtualService for {} from another namespace than its own or {:?} has no effect",
                found.hostname, mesh.waypoint.gateway.meta.namespace
            )));
        }
        if let Some(found) = mesh.services_of_host(host).first() {
            return Some(match found.source {
                Source::Service(service) => self.of_service("Service", service),
                Source::Entry(entry) => self.of_service("ServiceEntry", entry),
            });
        }
        let service = host
            .strip_suffix(CLUSTER_DOMAIN)
            .and_then(|rest| rest.strip_suffix('.')?.split_once('.'));
        Some(match service {
            Some((name, namespace)) if !name.starts_with('*') => {
                Why::Mistake(self.missing_service(&ObjectName::new(namespace, name)))
            }
            _ => Why::Elsewhere("for hosts that no service of this waypoint has".to_owned()),
        })
    }

    /// One with an effect: what of it hasn't.
    fn virtual_service(&mut self, merged: &Merged<'_>, reaches: &Reaches) {
        for lost in &merged.lost {
            self.part(
                KIND,
                lost.object,
                &lost.field,
                Why::Mistake(lost.reason.clone()),
            );
        }
        let mesh = self.mesh;
        let services = mesh.waypoint.services.iter();
        let own: Vec<&MeshService<'_>> = services
            .filter(|service| {
                let mut all = mesh.virtual_services_of(service);
                all.any(|found| ptr::eq(found.object, merged.object))
            })
            .collect();
        for rule in &merged.rules {
            self.http_rule(merged, rule, &own, reaches);
        }
        let spec = &merged.object.spec;
        for (list, rules) in [("tls", &spec.tls), ("tcp", &spec.tcp)] {
            for (index, rule) in rules.iter().enumerate() {
                let field = format!("spec.{list}[{index}]");
                self.stream_rule(merged.object, rule, &field, &own);
            }
        }
    }

    pub(super) fn virtual_mistake(
        &self,
        object: &Object<VirtualService>,
        field: &str,
        reason: String,
    ) {
        self.no_effect(resource(KIND, &object.meta), &object.origin, field, reason);
    }
}
