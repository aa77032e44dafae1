//! Rules of VirtualServices: matches that a waypoint can't have or that no request reaches, destinations that aren't there.

use crate::standalone::input::manifest::{Object, ObjectName};
use crate::standalone::kinds::core::service::CLUSTER_DOMAIN;
use crate::standalone::kinds::istio::virtual_service::VirtualService;
use crate::standalone::kinds::istio::virtual_service::destination::Destination;
use crate::standalone::kinds::istio::virtual_service::gateways::takes_in_mesh;
use crate::standalone::kinds::istio::virtual_service::http_match::HttpMatch;
use crate::standalone::kinds::istio::virtual_service::http_policy::Percent;
use crate::standalone::kinds::istio::virtual_service::http_route::HttpRoute;
use crate::standalone::kinds::istio::virtual_service::stream_route::{StreamMatch, StreamRule};
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution};
use crate::standalone::state::virtual_services::{Merged, Rule};
use crate::standalone::translate::no_effect::reach::{Reaches, carries_http};
use crate::standalone::translate::no_effect::routes::listed;
use crate::standalone::translate::no_effect::virtual_services::KIND;
use crate::standalone::translate::no_effect::{Telling, Why};

const SOURCE_LABELS: &str =
    "a waypoint knows no labels of its clients: as with istiod it is left out";
const OTHER_GATEWAYS: &str = "for gateways, not for the mesh";

impl Telling<'_, '_> {
    pub(super) fn http_rule(
        &mut self,
        merged: &Merged<'_>,
        rule: &Rule<'_>,
        services: &[&MeshService<'_>],
        reaches: &Reaches,
    ) {
        let base = format!("spec.http[{}]", rule.index);
        let ports = || services.iter().flat_map(|service| &service.ports);
        let http: Vec<&MeshPort> = ports().filter(|port| carries_http(port)).collect();
        if http.is_empty() {
            let ports: Vec<MeshPort> = ports().cloned().collect();
            let reason = format!("no HTTP is spoken there: the ports are {}", listed(&ports));
            return self.part(KIND, rule.object, &base, Why::Mistake(reason));
        }
        let matches = &rule.route.r#match;
        if matches.is_empty()
            && let Some(reason) = reaches.hidden(&rule.route)
        {
            return self.part(KIND, rule.object, &base, Why::Mistake(reason));
        }
        let is_own = std::ptr::eq(merged.object, rule.object);
        let mut reached = matches.is_empty();
        for (position, found) in matches.iter().enumerate() {
            // Of a delegate's rule a match is its own and its root's together.
            let field = match is_own {
                true => format!("{base}.match[{position}]"),
                false => base.clone(),
            };
            match self.no_match(found, &http, reaches) {
                Some(why) => self.part(KIND, rule.object, &field, why),
                None => {
                    reached = true;
                    self.source_namespace(rule, found, &field);
                }
            }
        }
        if reached {
            self.http_actions(rule, &base, services);
        }
    }

    /// Why a match is nobody's.
    fn no_match(&self, found: &HttpMatch, http: &[&MeshPort], reaches: &Reaches) -> Option<Why> {
        if !found.source_labels.is_empty() {
            return Some(Why::Mistake(format!("sourceLabels: {SOURCE_LABELS}")));
        }
        if !takes_in_mesh(&found.gateways) {
            return Some(Why::Elsewhere(OTHER_GATEWAYS.to_owned()));
        }
        if !self.mesh.is_for_waypoint(found) {
            return Some(Why::Mistake(format!(
                "sourceNamespace: a waypoint knows no namespaces of its clients: as with istiod a match with another than its own, {:?}, is left out",
                self.mesh.waypoint.gateway.meta.namespace
            )));
        }
        let is_port = |port: &&MeshPort| u32::from(port.number) == found.port;
        if found.port != 0 && !http.iter().any(is_port) {
            let reason = format!("port: no HTTP port of its hosts is {}", found.port);
            return Some(Why::Mistake(reason));
        }
        reaches.hidden(found).map(Why::Mistake)
    }

    /// What reads as if it were for some clients, and is for all.
    fn source_namespace(&mut self, rule: &Rule<'_>, found: &HttpMatch, field: &str) {
        if !found.source_namespace.is_empty() {
            let reason = "a waypoint knows no namespaces of its clients: as with istiod the match is for all of them";
            let field = format!("{field}.sourceNamespace");
            self.part(KIND, rule.object, &field, Why::Mistake(reason.to_owned()));
        }
    }

    fn http_actions(&mut self, rule: &Rule<'_>, base: &str, services: &[&MeshService<'_>]) {
        let route = &rule.route;
        self.faults(rule, base);
        if route.redirect.is_some() || route.direct_response.is_some() {
            return;
        }
        let single = route.route.len() == 1;
        for (position, to) in route.route.iter().enumerate() {
            if (single || to.weight > 0)
                && let Some(reason) = self.no_destination(&to.destination, services, http_ports)
            {
                let field = format!("{base}.route[{position}].destination");
                let reason = format!("{reason}: its requests are answered 503");
                self.virtual_mistake(rule.object, &field, reason);
            }
        }
        for mirror in mirrors(route) {
            if let Some(reason) = self.no_destination(mirror, services, http_ports) {
                let reason = format!("{reason}: nothing is mirrored");
                self.virtual_mistake(rule.object, &format!("{base}.mirrors"), reason);
            }
        }
        for (field, reason) in shares_of_nothing(route) {
            self.virtual_mistake(rule.object, &format!("{base}.{field}"), reason.to_owned());
        }
    }

    /// Faults that strike nobody.
    fn faults(&self, rule: &Rule<'_>, base: &str) {
        let Some(fault) = &rule.route.fault else {
            return;
        };
        if let Some(delay) = &fault.delay {
            let none = delay.percentage.is_none_or(|share| share.value == 0.0);
            if delay.fixed_delay.is_none() || (none && delay.percent == 0) {
                let reason = "without fixedDelay and percentage no request is delayed".to_owned();
                self.virtual_mistake(rule.object, &format!("{base}.fault.delay"), reason);
            }
        }
        if let Some(abort) = &fault.abort {
            let none = abort.percentage.is_none_or(|share| share.value == 0.0);
            let status = abort.http_status.or_else(|| abort.grpc_status());
            if none || status.is_none() {
                let reason = "without a status and percentage no request is aborted".to_owned();
                self.virtual_mistake(rule.object, &format!("{base}.fault.abort"), reason);
            }
        }
    }

    pub(super) fn stream_rule(
        &mut self,
        object: &Object<VirtualService>,
        rule: &StreamRule,
        base: &str,
        services: &[&MeshService<'_>],
    ) {
        if !self.mesh.effects.shows(rule) {
            let why = self.no_stream(rule, base, services);
            return self.part(KIND, object, base, why);
        }
        for (position, found) in rule.r#match.iter().enumerate() {
            if !found.destination_subnets.is_empty() || !found.source_subnet.is_empty() {
                let reason = "networks choose nothing on a waypoint: as with istiod the match is for all of them";
                let field = format!("{base}.match[{position}]");
                self.virtual_mistake(object, &field, reason.to_owned());
            }
        }
        let single = rule.route.len() == 1;
        for (position, to) in rule.route.iter().enumerate() {
            if (single || to.weight > 0)
                && let Some(reason) = self.no_destination(&to.destination, services, stream_ports)
            {
                let field = format!("{base}.route[{position}].destination");
                let reason = format!("{reason}: its connections are closed");
                self.virtual_mistake(object, &field, reason);
            }
        }
    }

    /// Why no connection follows a rule.
    fn no_stream(&self, rule: &StreamRule, base: &str, services: &[&MeshService<'_>]) -> Why {
        let any = |test: &dyn Fn(&StreamMatch) -> bool| rule.r#match.iter().any(test);
        let ports = services.iter().flat_map(|service| stream_ports(service));
        let ports: Vec<MeshPort> = ports.cloned().collect();
        let named = base.starts_with("spec.tls");
        let is_own = |found: &StreamMatch, service: &&MeshService<'_>| {
            found.sni_hosts.as_deref() == Some(std::slice::from_ref(&service.hostname))
        };
        let mistake = |reason: &str| Why::Mistake(reason.to_owned());
        if ports.is_empty() {
            mistake("nothing but HTTP is spoken there")
        } else if named && !any(&|found| services.iter().any(|service| is_own(found, service))) {
            mistake(
                "sniHosts: names of servers choose nothing on a waypoint: it must be the service's own alone",
            )
        } else if any(&|found| !found.source_labels.is_empty()) {
            Why::Mistake(format!("sourceLabels: {SOURCE_LABELS}"))
        } else if any(&|found| !found.source_namespace.is_empty()) {
            mistake(
                "sourceNamespace: a waypoint knows no namespaces of its clients: as with istiod it is left out",
            )
        } else if any(&|found| !takes_in_mesh(&found.gateways)) {
            Why::Elsewhere(OTHER_GATEWAYS.to_owned())
        } else if !rule.r#match.is_empty()
            && !any(&|found| {
                let mut numbers = ports.iter().map(|port| u32::from(port.number));
                found.port == 0 || numbers.any(|number| number == found.port)
            })
        {
            Why::Mistake(format!(
                "no port of its hosts that carries such connections has this number; there are {}",
                listed(&ports)
            ))
        } else {
            mistake("no connection gets here: another rule of the service takes them")
        }
    }

    /// Why nothing gets to a destination from any port of the services.
    fn no_destination<'s>(
        &self,
        to: &Destination,
        services: &'s [&MeshService<'_>],
        ports: fn(&'s MeshService<'_>) -> Vec<&'s MeshPort>,
    ) -> Option<String> {
        let mesh = self.mesh;
        let clusters = services.iter().flat_map(|service| {
            let of_port = |port: &MeshPort| mesh.cluster_of(to, &service.hostname, port.number);
            ports(service).into_iter().map(of_port).collect::<Vec<_>>()
        });
        let missing = clusters
            .into_iter()
            .find(|name| !self.clusters.contains(name.as_str()));
        let service = mesh.services_of_host(&to.host).into_iter().next();
        let Some(service) = service else {
            return Some(self.missing_host(&to.host));
        };
        let host = &to.host;
        if service.resolution() == Resolution::None {
            return Some(format!("{host} is an alias (ExternalName)"));
        }
        let number = missing.as_deref().and_then(port_of);
        if let Some(number) = number {
            return Some(match service.port(number) {
                None => {
                    let ports = listed(&service.ports);
                    format!("{host} has no TCP port {number}; it has {ports}")
                }
                Some(_) if !to.subset.is_empty() => {
                    format!("{host} has no subset {:?} that is honoured", to.subset)
                }
                Some(_) => format!("{host} has no cluster for port {number}"),
            });
        }
        // Of an own service it is told there.
        if mesh.waypoint.owns(&service.hostname) {
            return None;
        }
        let port = service.port(to.port()?)?;
        let reason = self.leads_to_nobody(&service, port)?;
        Some(format!(
            "port {} of {host} leads to nobody, {reason}",
            port.number
        ))
    }

    fn missing_host(&self, host: &str) -> String {
        let service = host
            .strip_suffix(CLUSTER_DOMAIN)
            .and_then(|rest| rest.strip_suffix('.')?.split_once('.'));
        match service {
            Some((name, namespace)) => {
                let name = ObjectName::new(namespace, name);
                match self.mesh.state.services.contains_key(&name) {
                    true => self.hidden_service(&name),
                    false => self.missing_service(&name),
                }
            }
            None => {
                format!("no Service and no ServiceEntry that is honoured has the host {host:?}")
            }
        }
    }
}

fn mirrors(route: &HttpRoute) -> impl Iterator<Item = &Destination> {
    let others = route.mirrors.iter().map(|mirror| &mirror.destination);
    route.mirror.iter().chain(others)
}

/// Shares of mirrors that say that nothing is mirrored, or of what.
fn shares_of_nothing(route: &HttpRoute) -> Vec<(String, &'static str)> {
    let none = |share: Option<Percent>| share.is_some_and(|share| share.value == 0.0);
    let (field, zero) = match (route.mirror_percentage, route.mirror_percent) {
        (share @ Some(_), _) => (Some("mirrorPercentage"), none(share)),
        (None, Some(percent)) => (Some("mirrorPercent"), percent == 0),
        (None, None) => (None, false),
    };
    let mut found = Vec::new();
    if let Some(field) = field {
        if route.mirror.is_none() {
            found.push((field.to_owned(), "is of mirror, which isn't given"));
        } else if zero {
            found.push((field.to_owned(), "is none: nothing is mirrored"));
        }
    }
    for (position, mirror) in route.mirrors.iter().enumerate() {
        if none(mirror.percentage) {
            let field = format!("mirrors[{position}].percentage");
            found.push((field, "is none: nothing is mirrored there"));
        }
    }
    found
}

fn http_ports<'s>(service: &'s MeshService<'_>) -> Vec<&'s MeshPort> {
    service
        .ports
        .iter()
        .filter(|port| carries_http(port))
        .collect()
}

fn stream_ports<'s>(service: &'s MeshService<'_>) -> Vec<&'s MeshPort> {
    let ports = service.ports.iter();
    ports
        .filter(|port| !port.protocol.is_http() && service.port(port.number).is_some())
        .collect()
}

/// The port in the name of a cluster.
fn port_of(cluster: &str) -> Option<u16> {
    cluster.split('|').nth(1)?.parse().ok()
}
