//! What was read and shows nowhere, with the reason: nobody should rely on it.
//!
//! Every object is walked, part by part. A part that [`Effects`](crate::standalone::translate::context::effects::Effects) has no mark for is told:
//! as a problem where its author must have meant this waypoint, in one line with its likes where it is for others.
//! What isn't told apart below still gets a reason of its own, so that nothing stays silent.

mod backend_policies;
mod destination_rules;
mod endpoints;
mod enrolment;
mod marks;
mod mesh_settings;
mod overlaps;
mod providers;
mod reach;
mod routes;
mod rule_cover;
mod rules;
mod same_hosts;
mod services;
mod stream_routes;
mod targets;
mod telemetry;
mod tokens;
mod virtual_service_rules;
mod virtual_services;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::standalone::input::manifest::Object;
use crate::standalone::input::manifest::resource;
use crate::standalone::input::problem::{Aside, Origin, Problem, Severity};
use crate::standalone::input::yaml;
use crate::standalone::kinds::core::proxy_config::{ANNOTATION, unread_of_tracing, without_effect};
use crate::standalone::kinds::gateway_api::gateway::WAYPOINT_CLASS;
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::context::settings::{REFERENCE_GRANTS, SETTINGS};
use crate::standalone::translate::context::{Mesh, annotated};
use crate::standalone::translate::no_effect::reach::Reaches;

/// What had no effect, as it is found.
struct Telling<'m, 'a> {
    mesh: &'m Mesh<'a>,
    /// Names of the clusters that were made.
    clusters: &'m HashSet<&'m str>,
    asides: BTreeMap<(&'static str, String), BTreeSet<String>>,
}

/// Why a part had no effect.
enum Why {
    /// Its author must have meant this waypoint: the reason.
    Mistake(String),
    /// It is for others: the reason it shares with its likes.
    Elsewhere(String),
}

impl Mesh<'_> {
    /// Names the closures that close something of this waypoint.
    pub(super) fn report_closures(&self) {
        for closure in &self.closures {
            if self.hits_any_chain(&closure.targets, &closure.namespace) {
                self.report(closure.problem.clone());
            }
        }
    }

    /// Names what had no effect; gives what is for others.
    pub(super) fn report_no_effect(&self, clusters: &HashSet<&str>) -> Vec<Aside> {
        let mut telling = Telling {
            mesh: self,
            clusters,
            asides: BTreeMap::new(),
        };
        telling.gateways();
        telling.proxy_config();
        telling.grants();
        telling.peer_authentications();
        telling.labels();
        telling.services();
        telling.same_hosts();
        telling.marks();
        telling.endpoints();
        let reaches = Reaches::of(self);
        telling.routes(&reaches);
        telling.stream_routes();
        telling.virtual_services(&reaches);
        telling.destination_rules();
        telling.mesh_settings();
        telling.backend_policies();
        telling.policies();
        telling.overlaps();
        telling.tokens();
        telling.providers();
        telling.telemetries();
        telling.telemetry_providers();
        telling.closures();
        for object in &self.state.for_others {
            telling.aside(object.kind, object.reason, object.what.clone());
        }
        let asides = telling.asides.into_iter();
        let aside = |((kind, reason), objects): ((_, _), BTreeSet<String>)| Aside {
            kind,
            reason,
            objects: objects.into_iter().collect(),
        };
        asides.map(aside).collect()
    }

    /// Whether an object with these targets applies to any chain; marks those that do.
    fn hits_any_chain(
        &self,
        targets: &[crate::standalone::kinds::target_ref::Target],
        namespace: &str,
    ) -> bool {
        let services = self.waypoint.services.iter();
        let served = services.filter(|service| self.has_chain(service));
        let chains = served.map(Some).chain([None]);
        let hit = chains.filter(|service| self.targets_chain(targets, namespace, *service));
        hit.count() > 0
    }

    /// Whether a filter chain was made for any of its ports.
    fn has_chain(&self, service: &MeshService<'_>) -> bool {
        service.ports.iter().any(|port| self.effects.shows(port))
    }
}

impl Telling<'_, '_> {
    fn no_effect(&self, resource: String, origin: &Origin, field: &str, reason: String) {
        self.tell(Severity::NoEffect, resource, origin, field, reason);
    }

    fn tell(
        &self,
        severity: Severity,
        resource: String,
        origin: &Origin,
        field: &str,
        reason: String,
    ) {
        self.mesh.report(Problem {
            severity,
            resource,
            origin: origin.clone(),
            field: field.to_owned(),
            reason,
        });
    }

    fn aside(&mut self, kind: &'static str, reason: impl Into<String>, object: String) {
        let objects = self.asides.entry((kind, reason.into())).or_default();
        objects.insert(object);
    }

    /// A part of an object, by its field.
    fn part<T>(&mut self, kind: &'static str, object: &Object<T>, field: &str, why: Why) {
        match why {
            Why::Mistake(reason) => {
                self.no_effect(resource(kind, &object.meta), &object.origin, field, reason);
            }
            Why::Elsewhere(reason) => self.aside(kind, reason, object.name().to_string()),
        }
    }

    /// What the annotation of the Gateway's pods says in vain.
    fn proxy_config(&mut self) {
        const FIELD: &str = "metadata.annotations[proxy.istio.io/config]";
        let own = self.mesh.waypoint.gateway;
        let resource = || resource("Gateway", &own.meta);
        if let Some(Err((field, reason))) = annotated(own) {
            let reason = format!("{field}: {reason}: nothing of it counts");
            return self.no_effect(resource(), &own.origin, FIELD, reason);
        }
        let text = own.pod_annotation(ANNOTATION).unwrap_or_default();
        let value = yaml::embedded(text).unwrap_or_default();
        for found in without_effect(&value) {
            let reason = format!("{}: {}", found.field, found.reason);
            self.no_effect(resource(), &own.origin, FIELD, reason);
        }
        for field in unread_of_tracing(&value) {
            let reason = format!("{field} is not honoured");
            self.tell(Severity::Ignored, resource(), &own.origin, FIELD, reason);
        }
    }

    /// Grants that nobody needs.
    fn grants(&mut self) {
        let mesh = self.mesh;
        let reason = match mesh.is_on(REFERENCE_GRANTS) {
            true => "no route of this waypoint needs it",
            false => "in a mesh a route needs no grant for other namespaces",
        };
        let grants = mesh.state.reference_grants.values();
        for grant in grants.filter(|grant| !mesh.effects.shows(*grant)) {
            let why = Why::Elsewhere(reason.to_owned());
            self.part("ReferenceGrant", grant, "", why);
        }
    }

    /// Those that say nothing of a sidecar which this waypoint sends to.
    fn peer_authentications(&mut self) {
        let mesh = self.mesh;
        let all = mesh.state.peer_authentications.values();
        for object in all.filter(|object| !mesh.effects.shows(*object)) {
            let reason = match object.spec.disables() {
                true => "what it turns off is for pods that this waypoint reaches without it",
                false => "ztunnel enforces it; a waypoint takes nothing but mutual TLS",
            };
            self.part(
                "PeerAuthentication",
                object,
                "",
                Why::Elsewhere(reason.to_owned()),
            );
        }
    }

    fn gateways(&mut self) {
        let mesh = self.mesh;
        let own = mesh.waypoint.gateway;
        if mesh.waypoint.services.is_empty() && !mesh.waypoint.takes_workloads() {
            let reason = "no service and no pod among the manifests uses this waypoint: it answers 404 to all";
            self.part("Gateway", own, "", Why::Mistake(reason.to_owned()));
        }
        for (index, listener) in own.spec.listeners.iter().enumerate() {
            if Some(index) != own.spec.hbone {
                let reason = format!("{listener}: a waypoint has only its listener HBONE:15008");
                let field = format!("spec.listeners[{index}]");
                self.part("Gateway", own, &field, Why::Mistake(reason));
            }
        }
        if own.spec.hbone.is_none() {
            let reason =
                "without a listener HBONE:15008 only objects of its own namespace may use it";
            self.part(
                "Gateway",
                own,
                "spec.listeners",
                Why::Mistake(reason.to_owned()),
            );
        }
        for (setting, on) in SETTINGS {
            let value = own.meta.annotation(setting);
            if let Some(value) = value.filter(|value| *value != on) {
                let reason = format!("{value:?} is not {on:?}: it stays off");
                let field = format!("metadata.annotations[{setting}]");
                self.part("Gateway", own, &field, Why::Mistake(reason));
            }
        }
        for unused in &own.spec.unused {
            let field = &unused.field;
            if unused.for_others {
                let reason = format!("{field}: {}", unused.reason);
                self.part("Gateway", own, field, Why::Elsewhere(reason));
            } else {
                self.part(
                    "Gateway",
                    own,
                    field,
                    Why::Mistake(unused.reason.to_owned()),
                );
            }
        }
        let others = mesh.state.gateways.values();
        for other in others.filter(|other| other.name() != own.name()) {
            let reason = match other.spec.class.as_str() {
                WAYPOINT_CLASS => "another waypoint".to_owned(),
                class => format!("of class {class:?}"),
            };
            self.part("Gateway", other, "", Why::Elsewhere(reason));
        }
    }
}
