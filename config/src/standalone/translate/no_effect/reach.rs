//! Which matches requests reach: those of HTTPRoutes, GRPCRoutes and VirtualServices, in the order in which they are tried.

use std::collections::{BTreeMap, BTreeSet};

use crate::standalone::input::manifest::{ObjectName, resource};
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::gateway_api::http_route::ParentRef;
use crate::standalone::kinds::gateway_api::http_route_match::{Match, PathMatchType, ValueMatch};
use crate::standalone::state::mesh_service::{MeshPort, MeshService};
use crate::standalone::state::virtual_services::{Merged, Order};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::routes::http_routes::{
    List, is_catch_all, path_value, route_match,
};
use crate::standalone::translate::routes::virtual_service_routes::match_of_rule;

/// What stands before a match and takes its requests, as it is told.
type Before = String;

/// What becomes of the requests that a match asks for.
enum Fate {
    /// Some come.
    Reached,
    /// None comes; what takes them, where that can be told.
    Hidden(Option<Before>),
}

/// By the place of the match, or of a rule that has none.
pub(super) struct Reaches(BTreeMap<usize, Fate>);

/// Routes of a port that are tried together.
enum Group<'m> {
    List(List<'m>),
    VirtualService(&'m Merged<'m>),
}

/// What was seen of a port.
#[derive(Default)]
struct Seen {
    /// Whose match it was first.
    first: BTreeMap<String, Before>,
    /// What takes all that is left.
    ended: Option<Before>,
}

impl Reaches {
    /// For each match, whether any service's requests reach it.
    pub(super) fn of(mesh: &Mesh<'_>) -> Reaches {
        let mut found = Reaches(BTreeMap::new());
        let parents = mesh.state.routes().flat_map(|route| {
            let of_route = move |parent: &ParentRef| {
                let namespace = parent.namespace.as_deref();
                ObjectName::new(namespace.unwrap_or(&route.meta.namespace), &parent.name)
            };
            route.spec.parents.iter().map(of_route)
        });
        let parents: BTreeSet<ObjectName> = parents.collect();
        let services = mesh.waypoint.services.iter();
        let routed = services.filter(|service| {
            parents.contains(&service.declared_as())
                || mesh.virtual_services_of(service).next().is_some()
        });
        for service in routed {
            for port in service.ports.iter().filter(|port| carries_http(port)) {
                found.on_port(mesh, service, port);
            }
        }
        found
    }

    /// `None`: requests get there. Else why they don't.
    pub(super) fn hidden<T>(&self, part: &T) -> Option<String> {
        match self.0.get(&place(part)) {
            Some(Fate::Reached) => None,
            Some(Fate::Hidden(Some(before))) => Some(format!(
                "no request gets here: {before} stands before it and takes them"
            )),
            Some(Fate::Hidden(None)) | None => {
                Some("no request gets here: other rules stand before it and take them".to_owned())
            }
        }
    }

    fn on_port(&mut self, mesh: &Mesh<'_>, service: &MeshService<'_>, port: &MeshPort) {
        let lists = mesh.lists(service, port).into_iter();
        let lists = lists.map(|list| (list.order.clone(), Group::List(list)));
        let others = mesh.virtual_services_of(service);
        let others = others.map(|found| (found.order(), Group::VirtualService(found)));
        let mut groups: Vec<(Order, Group<'_>)> = lists.chain(others).collect();
        groups.sort_by(|a, b| a.0.cmp(&b.0));
        let mut seen = Seen::default();
        for (_, group) in groups {
            let ends = match group {
                // It takes nothing away from anybody else.
                Group::List(list) if list.for_clients => {
                    self.in_list(mesh, &list, &mut Seen::default());
                    None
                }
                Group::List(list) => self.in_list(mesh, &list, &mut seen),
                Group::VirtualService(found) => {
                    self.in_virtual_service(mesh, found, port, &mut seen)
                }
            };
            seen.ended = seen.ended.or(ends);
        }
    }

    fn in_list(&mut self, mesh: &Mesh<'_>, list: &List<'_>, seen: &mut Seen) -> Option<Before> {
        let mut ends: Option<Before> = None;
        for candidate in list.candidates() {
            let object = candidate.object;
            let name = resource(object.spec.kind.name(), &object.meta);
            let own = format!("spec.rules[{}] of {name}", candidate.index);
            let emitted = mesh.effects.shows(candidate.found);
            let key = same(candidate.found);
            self.add(place(candidate.found), emitted, key, &own, &ends, seen);
            if is_catch_all(&route_match(candidate.found)) {
                ends.get_or_insert(own);
            }
        }
        ends
    }

    fn in_virtual_service(
        &mut self,
        mesh: &Mesh<'_>,
        found: &Merged<'_>,
        port: &MeshPort,
        seen: &mut Seen,
    ) -> Option<Before> {
        let mut ends: Option<Before> = None;
        for rule in &found.rules {
            let name = resource("VirtualService", &rule.object.meta);
            let own = format!("spec.http[{}] of {name}", rule.index);
            let of_port = |wanted: u32| wanted == 0 || wanted == u32::from(port.number);
            let matches = rule.route.r#match.iter();
            let on_port =
                matches.filter(|found| of_port(found.port) && mesh.is_for_waypoint(found));
            let mut parts: Vec<_> = on_port
                .map(|found| {
                    (
                        place(found),
                        mesh.effects.shows(found),
                        match_of_rule(Some(found)),
                    )
                })
                .collect();
            if rule.route.r#match.is_empty() {
                let emitted = mesh.effects.shows(&rule.route);
                parts.push((place(&rule.route), emitted, match_of_rule(None)));
            }
            for (place, emitted, found) in parts {
                self.add(place, emitted, format!("{found:?}"), &own, &ends, seen);
                if is_catch_all(&found) {
                    ends.get_or_insert_with(|| own.clone());
                }
            }
        }
        ends
    }

    fn add(
        &mut self,
        place: usize,
        emitted: bool,
        key: String,
        own: &str,
        ends: &Option<Before>,
        seen: &mut Seen,
    ) {
        let twin = seen.first.get(&key).cloned();
        let before = match (&seen.ended, twin) {
            (Some(before), _) => Some(before.clone()),
            (None, Some(twin)) => Some(twin),
            (None, None) => ends.clone(),
        };
        if before.is_none() && emitted {
            self.0.insert(place, Fate::Reached);
        } else {
            self.0.entry(place).or_insert(Fate::Hidden(before));
        }
        seen.first.entry(key).or_insert_with(|| own.to_owned());
    }
}

fn place<T>(part: &T) -> usize {
    std::ptr::from_ref(part).addr()
}

/// Whether a port has HTTP chains.
pub(super) fn carries_http(port: &MeshPort) -> bool {
    port.protocol.is_http() || port.protocol == Protocol::Unknown
}

/// What a match asks for, however it is written.
fn same(found: &Match) -> String {
    let kind = match found.path.r#type {
        PathMatchType::Exact => "exact",
        PathMatchType::PathPrefix => "prefix",
        PathMatchType::RegularExpression => "regex",
    };
    let values = |values: &[ValueMatch], any_case: bool| -> BTreeSet<String> {
        let value = |value: &ValueMatch| {
            let name = match any_case {
                true => value.name.to_ascii_lowercase(),
                false => value.name.clone(),
            };
            format!("{name:?} {:?} {:?}", value.r#type, value.value)
        };
        values.iter().map(value).collect()
    };
    format!(
        "{kind} {:?} {:?} {:?} {:?}",
        path_value(found),
        found.method,
        values(&found.headers, true),
        values(&found.query_params, false)
    )
}
