//! VirtualServices of a service's port: their rules in the order in which they are written, up to the first that takes all.
//!
//! As with istiod: a VirtualService counts if it is for the mesh, stands in the service's namespace or the waypoint's, and
//! one of its hosts is the service's. Several follow each other by age. A match with labels of its source is left out,
//! whoever asks; one with a namespace of its source counts where that is the waypoint's own, and is then for everybody.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::route::v3 as route;
use route::route::Action;
use route::route_action::{ClusterSpecifier, HostRewriteSpecifier};

use crate::standalone::input::manifest::{ObjectMeta, resource};
use crate::standalone::input::problem::{Problem, Severity};
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::istio::host_name::overlap;
use crate::standalone::kinds::istio::virtual_service::destination::{
    Destination, Headers, HttpDestination,
};
use crate::standalone::kinds::istio::virtual_service::gateways::{MESH, takes_in_mesh};
use crate::standalone::kinds::istio::virtual_service::http_match::HttpMatch;
use crate::standalone::kinds::istio::virtual_service::http_route::HttpRoute;
use crate::standalone::kinds::traffic_policy::load_balancer::ConsistentHash;
use crate::standalone::state::mesh_service::{MeshPort, MeshService};
use crate::standalone::state::virtual_services::{Merged, Rule};
use crate::standalone::translate::clusters::inbound_vip;
use crate::standalone::translate::clusters::outbound::{is_elsewhere, outbound_subset};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::{any, duration, fields, metadata, text, uint32};
use crate::standalone::translate::routes::hash_policy;
use crate::standalone::translate::routes::http_route_action::operation;
use crate::standalone::translate::routes::http_routes::{Placed, is_catch_all};
use crate::standalone::translate::routes::virtual_service_match::match_of;
use crate::standalone::translate::routes::virtual_service_policies::{
    cors_policy, direct_response, fault, headers_to_add, hundredths, millionths, mirror_policy,
    redirect_action, rewrite_path,
};
use crate::standalone::translate::routes::{CORS, FAULT, decorator, everything, without_timeout};

/// For whom a route is made.
struct For<'a> {
    /// Of the VirtualService with the hosts.
    meta: &'a ObjectMeta,
    service: &'a str,
    port: u16,
}

impl<'a> Mesh<'a> {
    /// The VirtualServices of a service, in the order in which they are tried.
    pub(crate) fn virtual_services_of<'m>(
        &'m self,
        service: &MeshService<'_>,
    ) -> impl Iterator<Item = &'m Merged<'a>> {
        let all = self.virtual_services.iter();
        all.filter(|found| {
            let mut hosts = found.object.spec.hosts.iter();
            self.counts(&found.object.meta, service)
                && hosts.any(|host| overlap(host, &service.hostname))
        })
    }

    /// What VirtualServices make of a port's requests.
    pub(super) fn virtual_service_routes(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
    ) -> Vec<Placed> {
        let found = self.virtual_services_of(service);
        found
            .map(|found| Placed {
                order: found.order(),
                routes: self.rules_of(found, service, port.number),
                for_some: false,
            })
            .collect()
    }

    fn rules_of(
        &self,
        found: &Merged<'_>,
        service: &MeshService<'_>,
        port: u16,
    ) -> Vec<route::Route> {
        let to = For {
            meta: &found.object.meta,
            service: &service.hostname,
            port,
        };
        let mut routes = Vec::new();
        for rule in &found.rules {
            if rule.route.r#match.is_empty() {
                self.effects.mark(&rule.route);
                routes.push(self.rule(rule, None, &to));
                break;
            }
            for found in &rule.route.r#match {
                if !self.is_for_waypoint(found)
                    || (found.port != 0 && found.port != u32::from(port))
                {
                    continue;
                }
                self.effects.mark(found);
                let translated = self.rule(rule, Some(found), &to);
                let ends = translated.r#match.as_ref().is_some_and(is_catch_all);
                routes.push(translated);
                // Nothing behind it can be reached.
                if ends {
                    return routes;
                }
            }
        }
        routes
    }

    /// Whether what a match says of its source and of gateways lets a waypoint have it.
    pub(crate) fn is_for_waypoint(&self, found: &HttpMatch) -> bool {
        if !found.source_labels.is_empty() || !takes_in_mesh(&found.gateways) {
            return false;
        }
        let own = &self.waypoint.gateway.meta.namespace;
        // With gateways, as with istiod, the namespace says nothing.
        let by_gateway = found.gateways.iter().any(|gateway| gateway == MESH);
        by_gateway || found.source_namespace.is_empty() || found.source_namespace == *own
    }

    fn rule(&self, rule: &Rule<'_>, found: Option<&HttpMatch>, to: &For<'_>) -> route::Route {
        let (route, meta) = (&rule.route, to.meta);
        let name = match found.map(|found| found.name.as_str()) {
            None | Some("") => route.name.clone(),
            Some(name) => format!("{}.{name}", route.name),
        };
        let config = format!(
            "/apis/networking.istio.io/v1/namespaces/{}/virtual-service/{}",
            meta.namespace, meta.name
        );
        let mut made = route::Route {
            name,
            r#match: Some(match_of_rule(found)),
            metadata: Some(metadata([("istio", fields([("config", text(&config))]))])),
            stat_prefix: found
                .map(|found| found.stat_prefix.clone())
                .unwrap_or_default(),
            ..route::Route::default()
        };
        if let Some(headers) = &route.headers {
            change_headers(headers, &mut made);
        }
        made.action = if let Some(redirect) = &route.redirect {
            redirect_action(redirect, to.port).map(Action::Redirect)
        } else if let Some(response) = &route.direct_response {
            Some(Action::DirectResponse(direct_response(response)))
        } else {
            Some(Action::Route(self.forwarded(route, to, &mut made)))
        };
        made.decorator = Some(decorator(operation(&made, &meta.name, to.port)));
        let fault = route.fault.as_ref().and_then(fault);
        let cors = route.cors_policy.as_ref().map(cors_policy);
        let of_filters = [
            (FAULT, fault.map(|fault| any(&fault))),
            (CORS, cors.map(|cors| any(&cors))),
        ];
        let given = of_filters
            .into_iter()
            .filter_map(|(name, config)| Some((name.to_owned(), config?)));
        made.typed_per_filter_config = given.collect::<HashMap<_, _>>();
        self.or_internal_error(made, |reason| Problem {
            severity: Severity::FailClosed,
            resource: resource("VirtualService", &rule.object.meta),
            origin: rule.object.origin.clone(),
            field: format!("spec.http[{}]", rule.index),
            reason,
        })
    }

    fn forwarded(
        &self,
        route: &HttpRoute,
        to: &For<'_>,
        made: &mut route::Route,
    ) -> route::RouteAction {
        let mut action = timeouts(route);
        let (retries, taking) = (route.retries.as_ref(), taking(&route.route));
        let hashes = taking.iter().filter_map(|to| self.hash_of(&to.destination));
        action.hash_policy = hashes.filter_map(hash_policy::of_requests).collect();
        action.retry_policy = match taking.as_slice() {
            [only] if self.hash_of(&only.destination).is_some() => {
                self.retry_policy_of_hash(retries)
            }
            _ => self.retry_policy(retries),
        };
        action.request_mirror_policies = self.mirrors(route, to);
        let rewritten = route.rewrite.as_ref().map(|found| found.authority.as_str());
        let set = route.headers.as_ref().and_then(Headers::authority);
        action.host_rewrite_specifier = rewritten
            .filter(|authority| !authority.is_empty())
            .or(set)
            .map(host_rewrite);
        if let Some(rewrite) = &route.rewrite {
            rewrite_path(rewrite, &mut action);
        }
        action.cluster_specifier = Some(match route.route.as_slice() {
            [only] => {
                change_headers(&only.headers, made);
                if let (None, Some(authority)) =
                    (&action.host_rewrite_specifier, only.headers.authority())
                {
                    action.host_rewrite_specifier = Some(host_rewrite(authority));
                }
                ClusterSpecifier::Cluster(self.cluster_of(&only.destination, to.service, to.port))
            }
            _ => ClusterSpecifier::WeightedClusters(route::WeightedCluster {
                clusters: taking.iter().map(|found| self.share(found, to)).collect(),
                ..route::WeightedCluster::default()
            }),
        });
        action
    }

    /// By what a destination chooses its endpoints, if its DestinationRule says so.
    fn hash_of(&self, to: &Destination) -> Option<&ConsistentHash> {
        let service = self.services_of_host(&to.host).into_iter().next()?;
        let subset = Some(to.subset.as_str()).filter(|subset| !subset.is_empty());
        self.destination_hash(&to.host, service.namespace, to.port(), subset)
    }

    /// One of several destinations.
    fn share(
        &self,
        found: &HttpDestination,
        to: &For<'_>,
    ) -> route::weighted_cluster::ClusterWeight {
        use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        let Headers { request, response } = &found.headers;
        let authority = found.headers.authority().map(str::to_owned);
        route::weighted_cluster::ClusterWeight {
            name: self.cluster_of(&found.destination, to.service, to.port),
            weight: uint32(found.weight.unsigned_abs()),
            request_headers_to_add: headers_to_add(request),
            request_headers_to_remove: request.remove.clone(),
            response_headers_to_add: headers_to_add(response),
            response_headers_to_remove: response.remove.clone(),
            host_rewrite_specifier: authority.map(HostRewriteSpecifier::HostRewriteLiteral),
            ..Default::default()
        }
    }

    fn mirrors(
        &self,
        route: &HttpRoute,
        to: &For<'_>,
    ) -> Vec<route::route_action::RequestMirrorPolicy> {
        let share = match (route.mirror_percentage, route.mirror_percent) {
            (Some(share), _) => millionths(share),
            (None, Some(share)) => hundredths(share),
            (None, None) => hundredths(100),
        };
        let first = route.mirror.iter().map(|mirror| (mirror, share));
        let others = route.mirrors.iter().map(|mirror| {
            let share = mirror.percentage.map_or(hundredths(100), millionths);
            (&mirror.destination, share)
        });
        let all = first.chain(others);
        all.filter_map(|(mirror, share)| {
            mirror_policy(self.cluster_of(mirror, to.service, to.port), share)
        })
        .collect()
    }

    /// The cluster of a destination that requests to this port of `parent` are sent to, whether there is one or not.
    pub(crate) fn cluster_of(&self, to: &Destination, parent: &str, port: u16) -> String {
        let service = self.services_of_host(&to.host).into_iter().next();
        let only_port = match service.as_ref().map(|service| service.ports.as_slice()) {
            Some([only]) => Some(only.number),
            _ => None,
        };
        let port = to.port().or(only_port).unwrap_or(port);
        let below = match to.subset.as_str() {
            "" => String::new(),
            subset => format!("/{subset}"),
        };
        let Some(service) = service else {
            return inbound_vip(port, &format!("http{below}"), &to.host);
        };
        if !self.waypoint.owns(&service.hostname) || is_elsewhere(&service, parent) {
            return outbound_subset(port, &to.subset, &service.hostname);
        }
        let known = service.ports.iter().find(|known| known.number == port);
        let is_http =
            |port: &MeshPort| port.protocol.is_http() || port.protocol == Protocol::Unknown;
        let protocol = if known.is_none_or(is_http) {
            "http"
        } else {
            "tcp"
        };
        inbound_vip(port, &format!("{protocol}{below}"), &service.hostname)
    }

    /// Services that the VirtualServices of a service send to or mirror to.
    pub(crate) fn virtual_service_destinations(
        &self,
        service: &MeshService<'_>,
    ) -> Vec<MeshService<'a>> {
        let mut hosts: Vec<&str> = Vec::new();
        for found in self.virtual_services_of(service) {
            let spec = &found.object.spec;
            let http = found
                .rules
                .iter()
                .flat_map(|rule| rule.route.destinations());
            let streams = spec
                .tls
                .iter()
                .chain(&spec.tcp)
                .flat_map(|rule| &rule.route);
            hosts.extend(http.map(|to| to.host.as_str()));
            hosts.extend(streams.map(|to| to.destination.host.as_str()));
        }
        hosts.sort_unstable();
        hosts.dedup();
        let services = hosts
            .into_iter()
            .filter_map(|host| self.services_of_host(host).into_iter().next());
        services.collect()
    }
}

/// Those that get something: a single one does whatever its weight.
fn taking(destinations: &[HttpDestination]) -> Vec<&HttpDestination> {
    let several = destinations.len() > 1;
    let taking = destinations.iter();
    taking.filter(|to| !several || to.weight > 0).collect()
}

/// The match of a rule's route; without one it is for all requests.
pub(crate) fn match_of_rule(found: Option<&HttpMatch>) -> route::RouteMatch {
    found.map_or_else(everything, match_of)
}

fn host_rewrite(authority: &str) -> HostRewriteSpecifier {
    HostRewriteSpecifier::HostRewriteLiteral(authority.to_owned())
}

fn change_headers(headers: &Headers, made: &mut route::Route) {
    let Headers { request, response } = headers;
    made.request_headers_to_add.extend(headers_to_add(request));
    made.request_headers_to_remove
        .extend(request.remove.iter().cloned());
    made.response_headers_to_add
        .extend(headers_to_add(response));
    made.response_headers_to_remove
        .extend(response.remove.iter().cloned());
}

#[allow(deprecated)] // istiod still sends max_grpc_timeout
fn timeouts(route: &HttpRoute) -> route::RouteAction {
    match route.timeout.map(duration) {
        None => without_timeout(),
        timeout => route::RouteAction {
            timeout,
            max_grpc_timeout: timeout,
            ..route::RouteAction::default()
        },
    }
}
