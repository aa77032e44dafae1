//! DestinationRule: how a waypoint reaches a host's endpoints, and which of them a name of its own stands for.
//!
//! The reader refuses what Istio's CRD and admission check refuse, and fields that it doesn't know.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use crate::standalone::input::labels::{check_label, is_dns_label};
use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::istio::export_to;
use crate::standalone::kinds::istio::host_name::resolved;
use crate::standalone::kinds::istio::selector::Selector;
use crate::standalone::kinds::refusal::{Refusal, below, refusal};
use crate::standalone::kinds::traffic_policy::TrafficPolicy;

#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// With the domain of the cluster where only a service was named; may begin with `*`.
    pub host: String,
    pub traffic_policy: Option<TrafficPolicy>,
    pub subsets: Vec<Subset>,
    /// Namespaces, `.` and `*`; empty: all.
    pub export_to: Vec<String>,
    /// Only for sidecars that it selects.
    pub has_selector: bool,
    /// Nobody wrote it: it is what policies of the Gateway API come to.
    pub of_policies: bool,
}

/// Endpoints of the host that have these labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Subset {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub traffic_policy: Option<TrafficPolicy>,
}

impl Subset {
    /// Whether it has settings for a port, which stand alone.
    pub fn has_port(&self, port: u16) -> bool {
        let policy = self.traffic_policy.as_ref();
        policy.is_some_and(|policy| policy.of_port(port).is_some())
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spec {
    host: String,
    traffic_policy: Option<TrafficPolicy>,
    subsets: Vec<Subset>,
    export_to: Vec<String>,
    workload_selector: Option<Selector>,
}

impl DestinationRule {
    pub fn read(manifest: &Manifest) -> Result<Object<DestinationRule>, LoadError> {
        let spec: Spec = manifest.part("spec")?;
        let namespace = &manifest.meta.namespace;
        spec.check(namespace).map_err(|(field, reason)| {
            manifest.refused(format!("spec.{field}").trim_end_matches('.'), reason)
        })?;
        Ok(manifest.object(DestinationRule {
            host: resolved(&spec.host, namespace),
            traffic_policy: spec.traffic_policy,
            subsets: spec.subsets,
            export_to: spec.export_to,
            has_selector: spec.workload_selector.is_some(),
            of_policies: false,
        }))
    }
}

impl Spec {
    fn check(&self, namespace: &str) -> Result<(), Refusal> {
        if !is_wildcard_domain(&self.host) {
            return Err(refusal("host", format!("{:?} is no host", self.host)));
        }
        if let Some(policy) = &self.traffic_policy {
            policy.check(namespace).map_err(below("trafficPolicy"))?;
        }
        let mut names = HashSet::new();
        for (index, subset) in self.subsets.iter().enumerate() {
            let at = format!("subsets[{index}]");
            if !names.insert(&subset.name) {
                let reason = format!("{:?} is given twice", subset.name);
                return Err(refusal(format!("{at}.name"), reason));
            }
            subset.check(namespace).map_err(below(&at))?;
        }
        export_to::check(&self.export_to, namespace)?;
        let Some(selector) = &self.workload_selector else {
            return Ok(());
        };
        let beyond = |to: &String| to != "." && to != namespace;
        if self.export_to.iter().any(beyond) {
            let reason = "a rule with a workloadSelector is for its own namespace only";
            return Err(refusal("exportTo", reason));
        }
        selector
            .check()
            .map_err(|(field, reason)| (field.replacen("selector", "workloadSelector", 1), reason))
    }
}

impl Subset {
    fn check(&self, namespace: &str) -> Result<(), Refusal> {
        if !is_dns_label(&self.name) {
            return Err(refusal("name", format!("{:?} is no DNS label", self.name)));
        }
        for (name, value) in &self.labels {
            check_label(name, value).map_err(|reason| refusal(format!("labels.{name}"), reason))?;
        }
        match &self.traffic_policy {
            Some(policy) => policy.check(namespace).map_err(below("trafficPolicy")),
            None => Ok(()),
        }
    }
}

/// A domain whose first label may be, or begin with, `*`.
fn is_wildcard_domain(host: &str) -> bool {
    let label = |label: &str| {
        label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    let (first, rest) = host.split_once('.').unwrap_or((host, ""));
    let starred = first
        .strip_prefix('*')
        .map(|rest| rest.trim_start_matches('-'));
    let first_is = match starred {
        Some(rest) => label(rest),
        None => !first.is_empty() && label(first),
    };
    let rest = rest.strip_suffix('.').unwrap_or(rest);
    host.len() <= 255
        && first_is
        && (rest.is_empty() || rest.split('.').all(|part| !part.is_empty() && label(part)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Result<DestinationRule, (String, String)> {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r, namespace: shop}}, spec: {spec}}}"
        );
        let found = DestinationRule::read(&Manifest::of(&text));
        found
            .map(|object| object.spec)
            .map_err(|error| (error.field.unwrap_or_default(), error.reason))
    }

    #[test]
    fn hosts() {
        for (host, whole) in [
            ("cart", "cart.shop.svc.cluster.local"),
            ("cart.other", "cart.other"),
            ("'*'", "*"),
            ("'*.example.com'", "*.example.com"),
        ] {
            assert_eq!(read(&format!("{{host: {host}}}")).unwrap().host, whole);
        }
        for host in ["''", "a..b", "'a.*.b'", "-a.b", "'**.a'", "a_b"] {
            let error = read(&format!("{{host: {host}}}")).unwrap_err();
            assert_eq!(error.0, "spec.host", "{host}");
        }
    }

    #[test]
    fn what_admission_refuses() {
        for (rest, field) in [
            ("subsets: [{name: a}, {name: a}]", "subsets[1].name"),
            ("subsets: [{name: A_}]", "subsets[0].name"),
            (
                "subsets: [{name: a, labels: {'-': b}}]",
                "subsets[0].labels.-",
            ),
            (
                "subsets: [{name: a, trafficPolicy: {}}]",
                "subsets[0].trafficPolicy",
            ),
            ("exportTo: ['*', a]", "exportTo"),
            ("exportTo: ['.', shop]", "exportTo"),
            ("exportTo: ['~']", "exportTo"),
            (
                "workloadSelector: {matchLabels: {a: b}}, exportTo: ['*']",
                "exportTo",
            ),
            (
                "workloadSelector: {matchLabels: {'a*': b}}",
                "workloadSelector.matchLabels",
            ),
            ("trafficPolicy: {}", "trafficPolicy"),
            (
                "trafficPolicy: {loadBalancer: {simple: FASTEST}}",
                "trafficPolicy.loadBalancer.simple",
            ),
            (
                "trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {}}}",
                "trafficPolicy.loadBalancer.simple",
            ),
            (
                "trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}}",
                "trafficPolicy.loadBalancer.consistentHash",
            ),
            (
                "trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {ttl: 1s}}}}",
                "trafficPolicy.loadBalancer.consistentHash.httpCookie.name",
            ),
            (
                "trafficPolicy: {loadBalancer: {consistentHash: {maglev: {tableSize: 4}}}}",
                "trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
            ),
            (
                "trafficPolicy: {loadBalancer: {consistentHash: {maglev: {tableSize: 5}, minimumRingSize: 1}}}",
                "trafficPolicy.loadBalancer.consistentHash.minimumRingSize",
            ),
            (
                "trafficPolicy: {loadBalancer: {warmup: {aggression: 1}}}",
                "trafficPolicy.loadBalancer.warmup.duration",
            ),
            (
                "trafficPolicy: {loadBalancer: {warmup: {duration: 1s, aggression: 0}}}",
                "trafficPolicy.loadBalancer.warmup.aggression",
            ),
            (
                "trafficPolicy: {loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {}}}",
                "trafficPolicy.loadBalancer.zoneAwareLbSetting",
            ),
            (
                "trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 99}}]}}}",
                "trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
            ),
            (
                "trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}}",
                "trafficPolicy.loadBalancer.localityLbSetting.failover[0]",
            ),
            (
                "trafficPolicy: {connectionPool: {}}",
                "trafficPolicy.connectionPool",
            ),
            (
                "trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}",
                "trafficPolicy.connectionPool.tcp.maxConnections",
            ),
            (
                "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 0s}}}",
                "trafficPolicy.connectionPool.tcp.connectTimeout",
            ),
            (
                "trafficPolicy: {connectionPool: {http: {idleTimeout: 1us}}}",
                "trafficPolicy.connectionPool.http.idleTimeout",
            ),
            (
                "trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}",
                "trafficPolicy.connectionPool.http.useClientProtocol",
            ),
            (
                "trafficPolicy: {connectionPool: {http: {http2KeepAlive: {interval: 1s}}}}",
                "trafficPolicy.connectionPool.http.http2KeepAlive.timeout",
            ),
            (
                "trafficPolicy: {connectionPool: {http: {maxConnections: 1}}}",
                "trafficPolicy.connectionPool.http.maxConnections",
            ),
            (
                "trafficPolicy: {outlierDetection: {consecutiveLocalOriginFailures: 1}}",
                "trafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
            ),
            (
                "trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}",
                "trafficPolicy.outlierDetection.maxEjectionPercent",
            ),
            (
                "trafficPolicy: {retryBudget: {percent: 101}}",
                "trafficPolicy.retryBudget.percent",
            ),
            (
                "trafficPolicy: {tls: {mode: MUTUAL}}",
                "trafficPolicy.tls.clientCertificate",
            ),
            (
                "trafficPolicy: {tls: {mode: SIMPLE, credentialName: a, caCertificates: /b}}",
                "trafficPolicy.tls.credentialName",
            ),
            (
                "trafficPolicy: {tls: {mode: SIMPLE, credentialName: 'configmap://other/a'}}",
                "trafficPolicy.tls.credentialName",
            ),
            (
                "trafficPolicy: {tunnel: {targetHost: a, targetPort: 1}, proxyProtocol: {}}",
                "trafficPolicy.tunnel",
            ),
            (
                "trafficPolicy: {portLevelSettings: [{loadBalancer: {simple: RANDOM}}]}",
                "trafficPolicy.portLevelSettings[0].port",
            ),
            (
                "trafficPolicy: {portLevelSettings: [{port: {number: 1}}]}",
                "trafficPolicy.portLevelSettings[0]",
            ),
        ] {
            let error = read(&format!("{{host: cart, {rest}}}")).unwrap_err();
            assert_eq!(error.0, format!("spec.{field}"), "{rest}: {}", error.1);
        }
    }
}
