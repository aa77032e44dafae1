//! `trafficPolicy` of a DestinationRule: how the clusters of its host are reached; and what MeshConfig says of all hosts.
//!
//! As istiod has it, a subset's policy overrides the rule's field by field, while settings of a port stand alone: what
//! they leave out falls to its default, not to what stands beside them.

pub mod client_tls;
pub mod connection_pool;
pub mod load_balancer;
pub mod locality;
pub mod outlier_detection;
pub mod traffic_distribution;

use serde::Deserialize;

use crate::standalone::kinds::refusal::{Refusal, below, refusal};
use crate::standalone::kinds::traffic_policy::client_tls::{ClientTls, ProxyProtocol, TlsMode};
use crate::standalone::kinds::traffic_policy::connection_pool::{ConnectionPool, RetryBudget};
use crate::standalone::kinds::traffic_policy::load_balancer::LoadBalancer;
use crate::standalone::kinds::traffic_policy::locality::{LocalityLb, ZoneAwareLb};
use crate::standalone::kinds::traffic_policy::outlier_detection::OutlierDetection;
use crate::standalone::kinds::traffic_policy::traffic_distribution::TrafficDistribution;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TrafficPolicy {
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTls>,
    pub port_level_settings: Option<Vec<PortPolicy>>,
    pub tunnel: Option<Tunnel>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub retry_budget: Option<RetryBudget>,
}

/// What stands for a policy at one port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PortPolicy {
    pub port: Option<PortSelector>,
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTls>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortSelector {
    pub number: u32,
}

/// `defaultTrafficPolicy` of MeshConfig: what rules leave out of clusters that aren't a waypoint's own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DefaultTrafficPolicy {
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
}

impl DefaultTrafficPolicy {
    pub(in crate::standalone::kinds) fn check(&self) -> Result<(), Refusal> {
        let (pool, outlier) = (
            self.connection_pool.as_ref(),
            self.outlier_detection.as_ref(),
        );
        check_parts((None, pool, outlier, None), "")
    }
}

/// How a sidecar's TCP streams are carried through a proxy. Nothing on a waypoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tunnel {
    protocol: String,
    target_host: String,
    target_port: u32,
}

/// The policy of one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Effective<'a> {
    pub load_balancer: Option<&'a LoadBalancer>,
    pub connection_pool: Option<&'a ConnectionPool>,
    pub outlier_detection: Option<&'a OutlierDetection>,
    pub tls: Option<&'a ClientTls>,
    pub proxy_protocol: Option<&'a ProxyProtocol>,
    pub retry_budget: Option<&'a RetryBudget>,
    /// What a rule says of TLS, for its endpoints: those of a port whose settings say nothing of it have what the rest says.
    pub of_endpoints: Option<TlsMode>,
    /// Sidecars take their own mutual TLS, if any, rather than HBONE: as for services that aren't the waypoint's.
    pub sidecars_first: bool,
    /// What the service itself prefers, where no rule says anything of localities.
    pub distribution: Option<TrafficDistribution>,
    pub mesh: OfMesh<'a>,
}

/// What MeshConfig says of a cluster, where nothing else does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OfMesh<'a> {
    pub locality: Option<&'a LocalityLb>,
    pub zone_aware: Option<&'a ZoneAwareLb>,
    /// Whether what speaks HTTP/1.1 is to speak HTTP/2.
    pub upgrades: bool,
}

/// Who says how near endpoints must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nearness<'a> {
    /// Distance doesn't count.
    Nobody,
    Service(TrafficDistribution),
    Setting(&'a LocalityLb),
    /// What holds unless something is said.
    Default,
}

impl<'a> Effective<'a> {
    /// The rule says it before the service, and both before the mesh. What is zone-aware for sidecars says to a waypoint, as
    /// with istiod, that distance doesn't count.
    pub fn nearness(&self) -> Nearness<'a> {
        let of = |zone_aware: Option<&ZoneAwareLb>, locality: Option<&'a LocalityLb>| {
            if zone_aware.is_some() {
                return Some(Nearness::Nobody);
            }
            locality.map(|setting| match setting.enabled {
                Some(false) => Nearness::Nobody,
                _ => Nearness::Setting(setting),
            })
        };
        let balancer = self.load_balancer;
        let zone_aware = balancer.and_then(|own| own.zone_aware_lb_setting.as_ref());
        let locality = balancer.and_then(|own| own.locality_lb_setting.as_ref());
        of(zone_aware, locality)
            .or_else(|| self.distribution.map(Nearness::Service))
            .or_else(|| of(self.mesh.zone_aware, self.mesh.locality))
            .unwrap_or(Nearness::Default)
    }

    /// The service's own preference, if it counts.
    pub fn preferred(&self) -> Option<TrafficDistribution> {
        match self.nearness() {
            Nearness::Service(distribution) => Some(distribution),
            _ => None,
        }
    }

    /// What a rule's policies and that of a subset come to at a port. `None`: neither is given. Of a rule's policies the first
    /// stands over the others, field by field: what was written over what istiod makes of policies of the Gateway API.
    pub fn of(
        rule: &[&'a TrafficPolicy],
        subset: Option<&'a TrafficPolicy>,
        port: u16,
    ) -> Option<Effective<'a>> {
        let rule = layered(rule, port);
        let Some((subset, of_port)) = subset.map(|policy| policy.at(port)) else {
            return rule;
        };
        let Some(rule) = rule else {
            return Some(subset);
        };
        // A port of a subset takes these four from nobody.
        fn over<T>(subset: Option<T>, rule: Option<T>, of_port: bool) -> Option<T> {
            if of_port { subset } else { subset.or(rule) }
        }
        Some(Effective {
            load_balancer: over(subset.load_balancer, rule.load_balancer, of_port),
            connection_pool: over(subset.connection_pool, rule.connection_pool, of_port),
            outlier_detection: over(subset.outlier_detection, rule.outlier_detection, of_port),
            tls: over(subset.tls, rule.tls, of_port),
            proxy_protocol: subset.proxy_protocol.or(rule.proxy_protocol),
            retry_budget: subset.retry_budget.or(rule.retry_budget),
            ..Effective::default()
        })
    }
}

/// What a rule's policies come to at a port. Settings of a port are those of all of them, and stand over the rest.
fn layered<'a>(policies: &[&'a TrafficPolicy], port: u16) -> Option<Effective<'a>> {
    if policies.is_empty() {
        return None;
    }
    let found = policies.iter().map(|policy| policy.at(port));
    let (of_port, whole): (Vec<_>, Vec<_>) = found.partition(|(_, of_port)| *of_port);
    let layers = if of_port.is_empty() { whole } else { of_port };
    let mut layers = layers.into_iter().map(|(effective, _)| effective);
    let first = layers.next()?;
    Some(layers.fold(first, |over, under| Effective {
        load_balancer: over.load_balancer.or(under.load_balancer),
        connection_pool: over.connection_pool.or(under.connection_pool),
        outlier_detection: over.outlier_detection.or(under.outlier_detection),
        tls: over.tls.or(under.tls),
        proxy_protocol: over.proxy_protocol.or(under.proxy_protocol),
        retry_budget: over.retry_budget.or(under.retry_budget),
        ..Effective::default()
    }))
}

impl TrafficPolicy {
    /// The settings of a port, the first where several name it.
    pub fn of_port(&self, port: u16) -> Option<&PortPolicy> {
        let mut all = self.port_level_settings.iter().flatten();
        all.find(|own| own.port.is_some_and(|own| own.number == u32::from(port)))
    }

    /// What is said of TLS to the endpoints of a port.
    pub fn tls_mode(&self, port: u16) -> Option<TlsMode> {
        let mut all = self.port_level_settings.iter().flatten();
        let own = all.find_map(|own| {
            let is_for = own.port.is_some_and(|own| own.number == u32::from(port));
            own.tls.as_ref().filter(|_| is_for)
        });
        own.or(self.tls.as_ref()).map(|tls| tls.mode)
    }

    /// What holds at a port, and whether that are its own settings.
    fn at(&self, port: u16) -> (Effective<'_>, bool) {
        match self.of_port(port) {
            Some(own) => {
                let effective = Effective {
                    load_balancer: own.load_balancer.as_ref(),
                    connection_pool: own.connection_pool.as_ref(),
                    outlier_detection: own.outlier_detection.as_ref(),
                    tls: own.tls.as_ref(),
                    ..Effective::default()
                };
                (effective, true)
            }
            None => {
                let effective = Effective {
                    load_balancer: self.load_balancer.as_ref(),
                    connection_pool: self.connection_pool.as_ref(),
                    outlier_detection: self.outlier_detection.as_ref(),
                    tls: self.tls.as_ref(),
                    proxy_protocol: self.proxy_protocol.as_ref(),
                    retry_budget: self.retry_budget.as_ref(),
                    ..Effective::default()
                };
                (effective, false)
            }
        }
    }

    /// The CRD's rules and those of Istio's admission check.
    pub(super) fn check(&self, namespace: &str) -> Result<(), Refusal> {
        if *self == TrafficPolicy::default() {
            return Err(refusal("", "must have at least one field"));
        }
        if self.tunnel.is_some() && self.proxy_protocol.is_some() {
            let reason = "tunnel and proxyProtocol may not be given together";
            return Err(refusal("tunnel", reason));
        }
        let pool = self.connection_pool.as_ref();
        let parts = (
            self.load_balancer.as_ref(),
            pool,
            self.outlier_detection.as_ref(),
            self.tls.as_ref(),
        );
        check_parts(parts, namespace)?;
        for (index, own) in self.port_level_settings.iter().flatten().enumerate() {
            own.check(namespace)
                .map_err(below(&format!("portLevelSettings[{index}]")))?;
        }
        if let Some(tunnel) = &self.tunnel {
            tunnel.check().map_err(below("tunnel"))?;
        }
        match &self.retry_budget {
            Some(budget) => budget.check().map_err(below("retryBudget")),
            None => Ok(()),
        }
    }
}

impl PortPolicy {
    fn check(&self, namespace: &str) -> Result<(), Refusal> {
        if self.port.is_none() {
            return Err(refusal("port", "is required"));
        }
        let parts = (
            self.load_balancer.as_ref(),
            self.connection_pool.as_ref(),
            self.outlier_detection.as_ref(),
            self.tls.as_ref(),
        );
        if matches!(parts, (None, None, None, None)) {
            return Err(refusal("", "must have at least one field beside port"));
        }
        check_parts(parts, namespace)
    }
}

type Parts<'a> = (
    Option<&'a LoadBalancer>,
    Option<&'a ConnectionPool>,
    Option<&'a OutlierDetection>,
    Option<&'a ClientTls>,
);

fn check_parts(parts: Parts<'_>, namespace: &str) -> Result<(), Refusal> {
    let (balancer, pool, outlier, tls) = parts;
    if let Some(outlier) = outlier {
        outlier.check().map_err(below("outlierDetection"))?;
    }
    if let Some(pool) = pool {
        pool.check().map_err(below("connectionPool"))?;
    }
    if let Some(balancer) = balancer {
        balancer.check().map_err(below("loadBalancer"))?;
    }
    match tls {
        Some(tls) => tls.check(namespace).map_err(below("tls")),
        None => Ok(()),
    }
}

impl Tunnel {
    fn check(&self) -> Result<(), Refusal> {
        if !matches!(self.protocol.as_str(), "" | "CONNECT" | "POST") {
            return Err(refusal("protocol", "must be CONNECT or POST"));
        }
        if self.target_host.is_empty() {
            return Err(refusal("targetHost", "is required"));
        }
        match self.target_port {
            1..=65535 => Ok(()),
            _ => Err(refusal("targetPort", "must be between 1 and 65535")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::standalone::kinds::traffic_policy::load_balancer::Simple;

    fn policy(text: &str) -> TrafficPolicy {
        let documents = crate::standalone::input::yaml::documents("a.yaml".as_ref(), text);
        serde_json::from_value(documents.unwrap().remove(0).value).unwrap()
    }

    fn simple(found: Option<Effective<'_>>) -> Option<Simple> {
        found?.load_balancer?.simple
    }

    #[test]
    fn subsets_override_and_ports_stand_alone() {
        let rule = policy(
            "{loadBalancer: {simple: RANDOM}, outlierDetection: {interval: 1s}, retryBudget: {percent: 5}, \
              portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]}",
        );
        let subset = policy(
            "{loadBalancer: {simple: LEAST_REQUEST}, portLevelSettings: [{port: {number: 82}, outlierDetection: {interval: 2s}}]}",
        );
        let at = |subset, port| Effective::of(&[&rule], subset, port);
        assert_eq!(simple(at(None, 81)), Some(Simple::Random));
        assert!(at(None, 81).unwrap().retry_budget.is_some());
        // Only what stands for the port.
        let port = at(None, 80).unwrap();
        assert_eq!(simple(Some(port)), Some(Simple::RoundRobin));
        assert!(port.outlier_detection.is_none() && port.retry_budget.is_none());
        // Field by field.
        let of_subset = at(Some(&subset), 81).unwrap();
        assert_eq!(simple(Some(of_subset)), Some(Simple::LeastRequest));
        assert!(of_subset.outlier_detection.is_some() && of_subset.retry_budget.is_some());
        let port_of_subset = at(Some(&subset), 82).unwrap();
        assert!(port_of_subset.load_balancer.is_none() && port_of_subset.retry_budget.is_some());
        assert_eq!(Effective::of(&[], None, 80), None);
        assert_eq!(
            simple(Effective::of(&[], Some(&subset), 1)),
            Some(Simple::LeastRequest)
        );
    }

    #[test]
    fn what_was_written_stands_over_what_policies_say() {
        let written = policy(
            "{loadBalancer: {simple: RANDOM}, portLevelSettings: [{port: {number: 80}, outlierDetection: {interval: 1s}}]}",
        );
        let under = policy(
            "{loadBalancer: {}, tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, sni: a}}, {port: {number: 81}, tls: {mode: SIMPLE}}]}",
        );
        let at = |port| Effective::of(&[&written, &under], None, port).unwrap();
        assert_eq!(simple(Some(at(82))), Some(Simple::Random));
        assert!(at(82).tls.is_some());
        let port = at(80);
        assert!(port.outlier_detection.is_some() && port.load_balancer.is_none());
        assert_eq!(port.tls.unwrap().sni, "a");
        assert!(at(81).load_balancer.is_none() && at(81).tls.is_some());
    }
}
