//! Objects that look as if they did something to this waypoint's traffic and don't: named, so that nobody
//! relies on them.

use super::Mesh;
use crate::standalone::kinds::target_ref::Target;
use crate::standalone::manifest::resource;
use crate::standalone::mesh_service::Source;
use crate::standalone::problem::{Origin, Problem, Severity};

impl Mesh<'_> {
    /// Names the closures that close something of this waypoint.
    pub(super) fn report_closures(&self) {
        for closure in &self.state.closures {
            let services = self.waypoint.services.iter().map(Some);
            let mut chains = services.chain([None]);
            if chains
                .any(|service| self.targets_chain(&closure.targets, &closure.namespace, service))
            {
                self.report(closure.problem.clone());
            }
        }
    }

    pub(super) fn report_no_effect(&self) {
        for policy in self.state.policies.values() {
            let name = resource("AuthorizationPolicy", &policy.meta);
            if policy.spec.targets.is_empty() {
                let reason = "without targetRefs a waypoint doesn't enforce it";
                self.ignored(name, &policy.origin, "spec", reason.to_owned());
            } else if let Some(target) = policy
                .spec
                .targets
                .iter()
                .find(|target| !self.exists(target))
            {
                let reason = format!("its target {target} is not among the manifests");
                self.ignored(name, &policy.origin, "spec.targetRefs", reason);
            }
        }
        if self.waypoint.services.is_empty() && self.waypoint.pods.is_empty() {
            let gateway = self.waypoint.gateway;
            let reason = "no service and no pod among the manifests uses this waypoint: it answers 404 to all";
            self.ignored(
                resource("Gateway", &gateway.meta),
                &gateway.origin,
                "",
                reason.to_owned(),
            );
        }
        let own = &self.waypoint.gateway.meta.namespace;
        for service in &self.waypoint.services {
            if let Source::Service(service) = service.source
                && service.spec.traffic_distribution
            {
                let name = resource("Service", &service.meta);
                let reason = "is not honoured".to_owned();
                self.ignored(name, &service.origin, "spec.trafficDistribution", reason);
            }
            let consumers = self.consumer_routes(service);
            for route in consumers {
                let reason = format!(
                    "a route for {} from another namespace than its own or {own:?} has no effect",
                    service.hostname
                );
                self.ignored(
                    resource("HTTPRoute", &route.meta),
                    &route.origin,
                    "spec.parentRefs",
                    reason,
                );
            }
        }
    }

    fn ignored(&self, resource: String, origin: &Origin, field: &str, reason: String) {
        self.report(Problem {
            severity: Severity::Ignored,
            resource,
            origin: origin.clone(),
            field: field.to_owned(),
            reason,
        });
    }

    fn exists(&self, target: &Target) -> bool {
        match target {
            Target::Gateway(name) => self.state.gateways.contains_key(name),
            Target::GatewayClass(_) => true,
            Target::Service(name) => self.state.services.contains_key(name),
            // One that isn't honoured has been named already.
            Target::ServiceEntry(_) => true,
        }
    }
}
