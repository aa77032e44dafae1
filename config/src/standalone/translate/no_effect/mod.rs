//! What was read and shows nowhere, with the reason: nobody should rely on it.
//!
//! Every object is walked, part by part. A part that [`Effects`](crate::standalone::translate::effects::Effects) has no mark for is told:
//! as a problem where its author must have meant this waypoint, in one line with its likes where it is for others.
//! What isn't told apart below still gets a reason of its own, so that nothing stays silent.

mod endpoints;
mod enrolment;
mod marks;
mod routes;
mod rules;
mod services;
mod targets;

use std::collections::{BTreeMap, BTreeSet};

use crate::standalone::input::manifest::Object;
use crate::standalone::input::manifest::resource;
use crate::standalone::input::problem::{Aside, Origin, Problem, Severity};
use crate::standalone::kinds::gateway_api::gateway::WAYPOINT_CLASS;
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::Mesh;

/// What had no effect, as it is found.
struct Telling<'m, 'a> {
    mesh: &'m Mesh<'a>,
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
        for closure in &self.state.closures {
            if self.hits_any_chain(&closure.targets, &closure.namespace) {
                self.report(closure.problem.clone());
            }
        }
    }

    /// Names what had no effect; gives what is for others.
    pub(super) fn report_no_effect(&self) -> Vec<Aside> {
        let mut telling = Telling {
            mesh: self,
            asides: BTreeMap::new(),
        };
        telling.gateways();
        telling.labels();
        telling.services();
        telling.marks();
        telling.endpoints();
        telling.routes();
        telling.policies();
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

    fn gateways(&mut self) {
        let mesh = self.mesh;
        let own = mesh.waypoint.gateway;
        if mesh.waypoint.services.is_empty() && mesh.waypoint.pods.is_empty() {
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
