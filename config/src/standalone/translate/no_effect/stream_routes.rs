//! TCPRoutes and TLSRoutes: parents that are nobody here, rules that no connection reaches, backends that aren't there.

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::gateway_api::stream_route::{StreamRoute, StreamRule};
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::no_effect::routes::Carried;
use crate::standalone::translate::no_effect::{Telling, Why};
use crate::standalone::translate::routes::http_routes::is_parent;
use crate::standalone::translate::routes::stream_routes::{has_name_of, takes_nothing};

impl Telling<'_, '_> {
    pub(super) fn stream_routes(&mut self) {
        let mesh = self.mesh;
        for route in mesh.state.stream_routes() {
            let kind = route.spec.kind.name();
            self.without_parents(
                kind,
                route,
                &route.spec.parents,
                route.spec.default_gateways,
            );
            let mut attached = false;
            for (index, parent) in route.spec.parents.iter().enumerate() {
                if mesh.effects.shows(parent) {
                    attached = true;
                    continue;
                }
                let field = format!("spec.parentRefs[{index}]");
                let mut services = mesh.waypoint.services.iter();
                let service = services.find(|service| is_parent(parent, &route.meta, service));
                match service.filter(|service| !has_name_of(&route.spec, &service.hostname)) {
                    Some(service) => {
                        let why = Why::Mistake(other_names(service));
                        self.part(kind, route, "spec.hostnames", why);
                    }
                    None => {
                        let why = self.no_parent(&route.meta, parent, Carried::Streams);
                        self.part(kind, route, &field, why);
                    }
                }
            }
            if attached {
                self.stream_rules(route);
            }
        }
    }

    fn stream_rules(&mut self, route: &Object<StreamRoute>) {
        let kind = route.spec.kind.name();
        for (index, rule) in route.spec.rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            if self.mesh.effects.shows(rule) {
                self.stream_backends(route, rule, &field);
                continue;
            }
            let reason = "no connection gets here: another route of the service takes them";
            self.part(kind, route, &field, Why::Mistake(reason.to_owned()));
        }
    }

    fn stream_backends(&mut self, route: &Object<StreamRoute>, rule: &StreamRule, field: &str) {
        let kind = route.spec.kind.name();
        if takes_nothing(rule) {
            let reason = "no backend has a weight: connections are closed".to_owned();
            self.part(kind, route, field, Why::Mistake(reason));
        }
        for (position, backend) in rule.backends.iter().enumerate() {
            if let Some((reason, _)) = self.no_backend(kind, &route.meta, &backend.object)
                && backend.weight > 0
            {
                let field = format!("{field}.backendRefs[{position}]");
                let reason = format!("{reason}: its connections are closed");
                self.part(kind, route, &field, Why::Mistake(reason));
            }
        }
    }
}

fn other_names(service: &MeshService<'_>) -> String {
    format!(
        "names of servers choose nothing on a waypoint: it must be {} alone",
        service.hostname
    )
}
