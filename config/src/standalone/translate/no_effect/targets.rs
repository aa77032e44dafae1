//! Targets of policies, and of security objects that close them, that hit nothing of this waypoint.

use crate::standalone::input::manifest::resource;
use crate::standalone::input::manifest::{Object, ObjectName};
use crate::standalone::input::near::meant;
use crate::standalone::kinds::gateway_api::gateway::WAYPOINT_CLASS;
use crate::standalone::kinds::target_ref::Target;
use crate::standalone::state::ownership::Enrolment;
use crate::standalone::translate::no_effect::{Telling, Why};

impl Telling<'_, '_> {
    pub(super) fn policies(&mut self) {
        let mesh = self.mesh;
        for policy in mesh.state.policies.values() {
            let (targets, namespace) = (&policy.spec.targets, &policy.meta.namespace);
            if targets.is_empty() {
                let reason =
                    "without targetRefs no waypoint enforces it: that is ztunnel's business"
                        .to_owned();
                self.part("AuthorizationPolicy", policy, "spec", Why::Mistake(reason));
            }
            if mesh.hits_any_chain(targets, namespace) {
                self.rules(policy);
            }
            for (index, target) in targets.iter().enumerate() {
                if mesh.effects.shows(target) {
                    continue;
                }
                let field = match policy.spec.single_target {
                    true => "spec.targetRef".to_owned(),
                    false => format!("spec.targetRefs[{index}]"),
                };
                let why = self.missed(target, namespace);
                self.part("AuthorizationPolicy", policy, &field, why);
            }
        }
    }

    pub(super) fn closures(&mut self) {
        let mesh = self.mesh;
        for closure in &mesh.state.closures {
            mesh.hits_any_chain(&closure.targets, &closure.namespace);
            for target in &closure.targets {
                if mesh.effects.shows(target) {
                    continue;
                }
                let problem = &closure.problem;
                match self.missed(target, &closure.namespace) {
                    Why::Mistake(reason) => self.no_effect(
                        problem.resource.clone(),
                        &problem.origin,
                        "spec.targetRefs",
                        reason,
                    ),
                    Why::Elsewhere(reason) => {
                        self.aside("Policy", reason, problem.resource.clone());
                    }
                }
            }
        }
    }

    /// Why a target is nothing of this waypoint.
    pub(super) fn missed(&self, target: &Target, namespace: &str) -> Why {
        let state = self.mesh.state;
        match target {
            Target::Gateway(name) => match state.gateways.get(name) {
                Some(_) => Why::Elsewhere(format!("for Gateway {name}")),
                None => {
                    let names = state.gateways.keys();
                    let near = names.filter(|other| other.namespace == name.namespace);
                    let meant = meant(&name.name, near.map(|other| other.name.as_str()));
                    Why::Mistake(format!("no Gateway {name} is among the manifests{meant}"))
                }
            },
            Target::GatewayClass(class) if class != WAYPOINT_CLASS => {
                Why::Elsewhere(format!("for GatewayClass {class}"))
            }
            Target::GatewayClass(_) => Why::Mistake(format!(
                "only a policy in {:?}, the root namespace, speaks for all waypoints, not one in {namespace:?}",
                self.mesh.config.root_namespace
            )),
            Target::Service(name) => match state.services.get(name) {
                Some(service) => self.of_service("Service", service),
                None => Why::Mistake(self.missing_service(name)),
            },
            Target::ServiceEntry(name) => match state.service_entries.get(name) {
                Some(entry) => self.of_service("ServiceEntry", entry),
                None => Why::Mistake(format!(
                    "no ServiceEntry {name} that is honoured is among the manifests"
                )),
            },
        }
    }

    /// Why what refers to a service does nothing here.
    pub(super) fn of_service<T>(&self, kind: &str, service: &Object<T>) -> Why {
        let name = resource(kind, &service.meta);
        let (found, _) = self.mesh.waypoint.enrolment(self.mesh.state, &service.meta);
        if let Enrolment::Other(waypoint) = found
            && self.mesh.state.gateways.contains_key(&waypoint)
        {
            return Why::Elsewhere(format!("for a {kind} of waypoint {waypoint}"));
        }
        // Its author wants something of a waypoint, and there is none.
        match self.not_enrolled(&service.meta) {
            Some(Why::Elsewhere(reason) | Why::Mistake(reason)) => {
                Why::Mistake(format!("{name} doesn't use this waypoint: {reason}"))
            }
            None => Why::Mistake(format!("{name} has no port that a waypoint carries")),
        }
    }

    pub(super) fn missing_service(&self, name: &ObjectName) -> String {
        let names = self.mesh.state.services.keys();
        let near = names.filter(|other| other.namespace == name.namespace);
        let meant = meant(&name.name, near.map(|other| other.name.as_str()));
        format!("no Service {name} is among the manifests{meant}")
    }
}
