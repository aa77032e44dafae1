//! Where a waypoint fetches the keys of tokens from.
//!
//! An istiod fetches them itself and hands them on; here the waypoint does, so that they come from where the author
//! said: through the cluster of a service of the mesh, where the host is one's, else through a cluster of their own
//! for that host, with TLS and the system's roots where the address says https. A host that only istiod's own resolver would complete (`keys.auth`, `keys.auth.svc`) means the
//! service that it would find.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;

use waypoint_filters::security::jwt::keys::key_set::KeySet;

use crate::resource::Resource;
use crate::standalone::input::manifest::{Object, resource};
use crate::standalone::input::problem::{Problem, Severity};
use crate::standalone::kinds::core::port::Transport;
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::istio::jwks::{Host, JwksUri};
use crate::standalone::kinds::istio::request_authentication::{
    JwtRule, Keys, RequestAuthentication,
};
use crate::standalone::state::cluster_state::Closure;
use crate::standalone::state::issuers::IssuerQuestion;
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution, Source};
use crate::standalone::translate::clusters::outbound::outbound;
use crate::standalone::translate::clusters::service_lookup::port_to_ask;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::{duration, seconds, uint32};
use crate::standalone::translate::proto::tls_context;

/// Ends of names that only a service of the mesh can have.
const IN_CLUSTER: [&str; 2] = [".svc", ".svc.cluster.local"];
/// What may be missing of such a name.
const COMPLETIONS: [&str; 3] = ["", ".cluster.local", ".svc.cluster.local"];
/// How long fetching keys may take where the rule doesn't say.
pub(crate) const FETCH: Duration = Duration::from_secs(5);
/// How long an answer of DNS holds that says nothing of it, as in istiod's clusters; and how far pauses are spread.
const DNS_REFRESH_SECONDS: i64 = 60;
const DNS_JITTER: Duration = Duration::from_millis(100);

/// Who is asked for keys.
pub(crate) enum JwksSource<'a> {
    Service(MeshService<'a>),
    /// A host outside of what the manifests describe.
    Outside,
}

impl<'a> Mesh<'a> {
    /// Who serves the keys at an address; an error is why nobody can be asked.
    pub(crate) fn jwks_source(&self, uri: &JwksUri) -> Result<JwksSource<'a>, String> {
        let Host::Name(name) = &uri.host else {
            return Ok(JwksSource::Outside);
        };
        let named = COMPLETIONS.iter().find_map(|rest| {
            let found = self.services_of_host(&format!("{name}{rest}"));
            found.into_iter().next()
        });
        match named {
            Some(service) => {
                port_to_ask(&service, uri.port)?;
                Ok(JwksSource::Service(service))
            }
            None if IN_CLUSTER.iter().any(|end| name.ends_with(end)) => Err(format!(
                "no Service with the host {name:?} is among the manifests"
            )),
            None => Ok(JwksSource::Outside),
        }
    }

    /// RequestAuthentications whose keys nobody can be asked for: each closes what it targets.
    pub(crate) fn without_keys(&self) -> Vec<Closure> {
        let all = self.state.request_authentications.values();
        all.filter_map(|object| {
            let problem = self.missing_keys(object)?;
            Some(Closure {
                targets: object.spec.targets.clone(),
                namespace: object.meta.namespace.clone(),
                problem,
            })
        })
        .collect()
    }

    fn missing_keys(&self, object: &Object<RequestAuthentication>) -> Option<Problem> {
        let mut rules = object.spec.rules.iter().enumerate();
        rules.find_map(|(index, rule)| {
            let (field, reason) = match &rule.keys {
                Keys::Inline(keys) => {
                    let reason = KeySet::parse(keys.as_bytes()).err()?;
                    ("jwks", reason.to_string())
                }
                Keys::Uri(uri) => ("jwksUri", self.jwks_source(uri).err()?),
                Keys::Discovered => ("issuer", self.undiscoverable(rule)?),
            };
            Some(Problem {
                severity: Severity::FailClosed,
                resource: resource("RequestAuthentication", &object.meta),
                origin: object.origin.clone(),
                field: format!("spec.jwtRules[{index}].{field}"),
                reason,
            })
        })
    }

    /// Why an issuer's keys can't be had of itself.
    fn undiscoverable(&self, rule: &JwtRule) -> Option<String> {
        let address = match rule.discovery()? {
            Ok(address) => address,
            Err(reason) => return Some(reason),
        };
        if let Err(reason) = self.jwks_source(&address) {
            return Some(format!("where it would be asked for its keys: {reason}"));
        }
        let keys = self.issuers.keys(&address)?;
        let reason = self.jwks_source(keys).err()?;
        Some(format!(
            "it says that its keys are at {}: {reason}",
            keys.text
        ))
    }

    /// Where a rule's keys are fetched; `None`: they stand in it, or the issuer hasn't said yet.
    pub(crate) fn keys_address(&self, rule: &'a JwtRule) -> Option<JwksUri> {
        match &rule.keys {
            Keys::Inline(_) => None,
            Keys::Uri(uri) => Some(uri.clone()),
            Keys::Discovered => {
                let address = rule.discovery()?.ok()?;
                self.issuers.keys(&address).cloned()
            }
        }
    }

    /// The rules of all objects that hold for any chain of this waypoint.
    fn own_rules(&self) -> impl Iterator<Item = &'a JwtRule> {
        let all = self.state.request_authentications.values();
        let own = all
            .filter(|object| self.applies_anywhere(&object.spec.targets, &object.meta.namespace));
        own.flat_map(|object| &object.spec.rules)
    }

    /// The addresses of all keys that chains of this waypoint need, and those where issuers say where theirs are.
    fn jwks_uris(&self) -> Vec<JwksUri> {
        let addresses = self.own_rules().flat_map(|rule| {
            let asked = rule.discovery().and_then(Result::ok);
            asked.into_iter().chain(self.keys_address(rule))
        });
        addresses.collect()
    }

    /// The issuers that are to be asked where their keys are, each once.
    pub(crate) fn issuer_questions(&self) -> Vec<IssuerQuestion> {
        let mut questions: Vec<IssuerQuestion> = Vec::new();
        for rule in self.own_rules() {
            let Some(Ok(address)) = rule.discovery() else {
                continue;
            };
            let Ok(source) = self.jwks_source(&address) else {
                continue;
            };
            let known = |known: &IssuerQuestion| known.address == address;
            if !questions.iter().any(known) {
                questions.push(IssuerQuestion {
                    cluster: key_cluster_name(&source, &address),
                    timeout: rule.timeout.unwrap_or(FETCH),
                    address,
                });
            }
        }
        questions
    }

    /// Services of the mesh that serve keys in plain HTTP.
    pub(crate) fn key_services(&self) -> Vec<MeshService<'a>> {
        let sources = self.jwks_uris().into_iter().filter(|uri| !uri.tls);
        let sources = sources.map(|uri| self.jwks_source(&uri));
        let service = |source| match source {
            Ok(JwksSource::Service(service)) => Some(service),
            Ok(JwksSource::Outside) | Err(_) => None,
        };
        sources.filter_map(service).collect()
    }

    /// Clusters of other hosts that serve keys, each once.
    pub(crate) fn key_clusters(&self) -> Vec<cluster::Cluster> {
        let all = self.jwks_uris().into_iter();
        let outside = all.filter(|uri| matches!(self.jwks_source(uri), Ok(JwksSource::Outside)));
        let by_name: BTreeMap<String, cluster::Cluster> = outside
            .map(|uri| self.key_cluster(&uri))
            .map(|cluster| (cluster.name.clone(), cluster))
            .collect();
        by_name.into_values().collect()
    }

    /// Clusters of services of the mesh that serve keys over TLS of their own, each once, with what is in the tunnels to them.
    pub(crate) fn key_services_over_tls(&self) -> Vec<Resource> {
        let mut names = BTreeSet::new();
        let uris = self.jwks_uris().into_iter();
        let uris = uris.filter(|uri| uri.tls && names.insert(outside_name(uri)));
        let made = uris.filter_map(|uri| {
            let Ok(JwksSource::Service(service)) = self.jwks_source(&uri) else {
                return None;
            };
            match service.source {
                Source::Service(object) => self.effects.mark(object),
                Source::Entry(object) => self.effects.mark(object),
            }
            let port = port_to_ask(&service, uri.port).ok()?;
            let tls = tls_context::outside(&uri.host);
            let made = self.outbound_over_tls(outside_name(&uri), &service, port, tls);
            Some(made.resources())
        });
        made.flatten().collect()
    }

    fn key_cluster(&self, uri: &JwksUri) -> cluster::Cluster {
        use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};
        let port = MeshPort {
            name: "http".to_owned(),
            number: uri.port,
            transport: Transport::Tcp,
            protocol: Protocol::Http,
        };
        let name = outside_name(uri);
        let base = cluster::Cluster {
            eds_cluster_config: None,
            load_assignment: Some(only_endpoint(&name, uri)),
            transport_socket: uri.tls.then(|| tls_context::outside(&uri.host)),
            ..self
                .upstream_cluster(&name, &port, None, Resolution::Endpoints, false)
                .0
        };
        let kind = |kind: DiscoveryType| Some(ClusterDiscoveryType::Type(kind.into()));
        match &uri.host {
            Host::Address(_) => cluster::Cluster {
                cluster_discovery_type: kind(DiscoveryType::Static),
                ..base
            },
            Host::Name(_) => cluster::Cluster {
                cluster_discovery_type: kind(DiscoveryType::StrictDns),
                dns_refresh_rate: seconds(DNS_REFRESH_SECONDS),
                dns_jitter: Some(duration(DNS_JITTER)),
                respect_dns_ttl: true,
                dns_lookup_family: match (self.families.v4, self.families.v6) {
                    (true, true) => DnsLookupFamily::All,
                    (false, true) => DnsLookupFamily::V6Only,
                    (_, false) => DnsLookupFamily::V4Only,
                }
                .into(),
                ..base
            },
        }
    }
}

/// The cluster that keys are fetched through.
pub(crate) fn key_cluster_name(source: &JwksSource<'_>, uri: &JwksUri) -> String {
    match source {
        JwksSource::Service(service) if !uri.tls => outbound(uri.port, &service.hostname),
        JwksSource::Service(_) | JwksSource::Outside => outside_name(uri),
    }
}

/// The same host may serve both, plain and by TLS.
fn outside_name(uri: &JwksUri) -> String {
    match uri.tls {
        true => format!("outbound|{}|tls|{}", uri.port, uri.host),
        false => outbound(uri.port, &uri.host.to_string()),
    }
}

fn only_endpoint(cluster: &str, uri: &JwksUri) -> endpoint::ClusterLoadAssignment {
    let address = core::SocketAddress {
        address: uri.host.to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
            uri.port.into(),
        )),
        ..core::SocketAddress::default()
    };
    let endpoint = endpoint::Endpoint {
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(address)),
        }),
        ..endpoint::Endpoint::default()
    };
    let lb_endpoint = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        load_balancing_weight: uint32(1),
        ..endpoint::LbEndpoint::default()
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![lb_endpoint],
            load_balancing_weight: uint32(1),
            ..endpoint::LocalityLbEndpoints::default()
        }],
        ..endpoint::ClusterLoadAssignment::default()
    }
}
