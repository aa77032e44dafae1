//! BackendTLSPolicy and XBackendTrafficPolicy: targets that they say nothing to, and what of them says nothing.

use crate::standalone::input::manifest::{Object, ObjectMeta, resource};
use crate::standalone::input::near::meant;
use crate::standalone::input::problem::Severity;
use crate::standalone::kinds::gateway_api::backend_tls_policy::{BackendTlsPolicy, PolicyRoots};
use crate::standalone::kinds::gateway_api::backend_traffic_policy::BackendTrafficPolicy;
use crate::standalone::kinds::gateway_api::policy_target::{BackendKind, PolicyTarget};
use crate::standalone::kinds::traffic_policy::TrafficPolicy;
use crate::standalone::state::mesh_service::{MeshService, Source};
use crate::standalone::state::policy_rules::{Missed, backends, roots, services_of};
use crate::standalone::translate::no_effect::{Telling, Why};

const TLS: &str = "BackendTLSPolicy";
const TRAFFIC: &str = "XBackendTrafficPolicy";
const IGNORED: &str =
    "the annotation istio.io/ignore-policy-attachment says that it isn't to be looked at";

impl Telling<'_, '_> {
    pub(super) fn backend_policies(&mut self) {
        let state = self.mesh.state;
        for policy in state.backend_tls_policies.values() {
            self.tls_policy(policy);
        }
        for policy in state.backend_traffic_policies.values() {
            self.traffic_policy(policy);
        }
    }

    fn tls_policy(&mut self, policy: &Object<BackendTlsPolicy>) {
        if policy.spec.ignored {
            return self.part(TLS, policy, "", Why::Elsewhere(IGNORED.to_owned()));
        }
        let mut holds = false;
        for (index, target) in policy.spec.targets.iter().enumerate() {
            let services = services_of(self.mesh.state, policy, target);
            let of_port = |policy: &TrafficPolicy| match target.section() {
                None => policy.tls.is_some(),
                Some(_) => false,
            };
            let why = match services {
                Err(missed) => Some(self.missed_backend(&policy.meta, target, missed)),
                Ok(services) => self.overruled(&services, "tls", of_port),
            };
            match why {
                Some(why) => self.part(TLS, policy, &format!("spec.targetRefs[{index}]"), why),
                None => holds = true,
            }
        }
        if holds {
            self.certificates(policy);
        }
        if policy.spec.has_options {
            let reason = "options are for other implementations".to_owned();
            self.part(TLS, policy, "spec.options", Why::Mistake(reason));
        }
    }

    fn certificates(&mut self, policy: &Object<BackendTlsPolicy>) {
        if let Err(reason) = roots(self.mesh.state, policy) {
            let field = "spec.validation.caCertificateRefs[0]";
            let name = resource(TLS, &policy.meta);
            let reason = format!("connections fail: {reason}");
            self.tell(Severity::FailClosed, name, &policy.origin, field, reason);
        }
        let (field, reason) = match &policy.spec.roots {
            PolicyRoots::Named(refs) if refs.len() > 1 => (
                "spec.validation.caCertificateRefs[1]",
                "as with istiod only the first of them counts".to_owned(),
            ),
            PolicyRoots::WellKnown(name) if name != "System" => (
                "spec.validation.wellKnownCACertificates",
                format!("{name:?} isn't known: as with istiod the system's roots count"),
            ),
            PolicyRoots::Named(_) | PolicyRoots::WellKnown(_) => return,
        };
        self.part(TLS, policy, field, Why::Mistake(reason));
    }

    fn traffic_policy(&mut self, policy: &Object<BackendTrafficPolicy>) {
        if policy.spec.ignored {
            return self.part(TRAFFIC, policy, "", Why::Elsewhere(IGNORED.to_owned()));
        }
        for (index, target) in policy.spec.targets.iter().enumerate() {
            let services = backends(self.mesh.state, &policy.meta.namespace, target);
            let older = self.older_constraint(policy, target);
            let why = if target.backend() != Some(BackendKind::Service) {
                Some(Why::Mistake(format!(
                    "as with istiod it is for Services only, not for a {}",
                    target.kind
                )))
            } else if services.is_empty() {
                Some(self.missed_backend(&policy.meta, target, Missed::NotFound))
            } else if let Some(older) = older {
                Some(Why::Mistake(format!(
                    "that of {older} stands, which is older"
                )))
            } else {
                self.overruled(&services, "retryBudget", |policy| {
                    policy.retry_budget.is_some()
                })
            };
            if let Some(why) = why {
                self.part(TRAFFIC, policy, &format!("spec.targetRefs[{index}]"), why);
            }
        }
        if policy.spec.has_session_persistence {
            let reason = "as with istiod it isn't honoured".to_owned();
            self.part(
                TRAFFIC,
                policy,
                "spec.sessionPersistence",
                Why::Mistake(reason),
            );
        }
        match policy.spec.retries {
            None => {
                let reason = "without retryConstraint it says nothing".to_owned();
                self.part(TRAFFIC, policy, "spec", Why::Mistake(reason));
            }
            Some(retries) if retries.has_least_interval => {
                let reason = "as with istiod count is how many retries may be under way at a time, whatever the interval";
                let field = "spec.retryConstraint.minRetryRate.interval";
                self.part(TRAFFIC, policy, field, Why::Mistake(reason.to_owned()));
            }
            Some(_) => {}
        }
    }

    /// The policy that stands for a target before this one.
    fn older_constraint(
        &self,
        policy: &Object<BackendTrafficPolicy>,
        target: &PolicyTarget,
    ) -> Option<String> {
        policy.spec.retries?;
        let order =
            |policy: &Object<BackendTrafficPolicy>| (policy.meta.created, policy.meta.name.clone());
        let all = self.mesh.state.backend_traffic_policies.values();
        let mut older = all.filter(|other| {
            other.meta.namespace == policy.meta.namespace
                && other.spec.retries.is_some()
                && !other.spec.ignored
                && other.spec.targets.iter().any(|t| t.is_of_same(target))
                && order(other) < order(policy)
        });
        older.next().map(|other| other.name().to_string())
    }

    fn missed_backend(&self, meta: &ObjectMeta, target: &PolicyTarget, missed: Missed) -> Why {
        let state = self.mesh.state;
        let namespace = &meta.namespace;
        Why::Mistake(match missed {
            Missed::Kind => format!(
                "it says nothing to a {} of group {:?}, only to a Service (group \"\") or a ServiceEntry (networking.istio.io)",
                target.kind, target.group
            ),
            Missed::NotFound => {
                let services = state.services.keys();
                let entries = state.service_entries.keys();
                let names = match target.backend() {
                    Some(BackendKind::ServiceEntry) => entries.collect::<Vec<_>>(),
                    _ => services.collect(),
                };
                let near = names.iter().filter(|name| name.namespace == *namespace);
                let meant = meant(&target.name, near.map(|name| name.name.as_str()));
                format!(
                    "no {} {namespace}/{} is among the manifests{meant}",
                    target.kind, target.name
                )
            }
            Missed::Section(name) => format!("it has no port named {name:?}"),
            Missed::Conflict(other) => {
                format!("that of {other} stands, which is older or comes first by name")
            }
        })
    }

    /// Why none of a target's services follows a policy. `says`: whether a rule that was written says the same.
    fn overruled(
        &self,
        services: &[MeshService<'_>],
        what: &str,
        says: impl Fn(&TrafficPolicy) -> bool,
    ) -> Option<Why> {
        let mesh = self.mesh;
        let mut why = None;
        for service in services {
            let merged = mesh.rule_for(service);
            let rules = || merged.iter().flat_map(|merged| &merged.rules);
            let follows = rules().any(|rule| rule.spec.of_policies && mesh.effects.shows(*rule));
            let mut written = rules().filter(|rule| !rule.spec.of_policies);
            let written = written.find(|rule| rule.spec.traffic_policy.as_ref().is_some_and(&says));
            why = Some(match (follows, written) {
                (true, None) => return None,
                (true, Some(rule)) => Why::Mistake(format!(
                    "{what} of the DestinationRule {} stands above it",
                    rule.name()
                )),
                (false, _) => match merged.and_then(|merged| merged.first()) {
                    Some(other) if !other.spec.of_policies => Why::Mistake(format!(
                        "for {} the DestinationRule {} holds",
                        service.hostname,
                        other.name()
                    )),
                    _ => match service.source {
                        Source::Service(object) => self.of_service("Service", object),
                        Source::Entry(object) => self.of_service("ServiceEntry", object),
                    },
                },
            });
        }
        why
    }
}
