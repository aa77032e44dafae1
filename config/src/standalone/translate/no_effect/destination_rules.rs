//! DestinationRules: which hold for no service of this waypoint, and what of the others says nothing.

use std::collections::BTreeSet;

use crate::standalone::input::manifest::{Object, resource};
use crate::standalone::input::near::meant;
use crate::standalone::input::problem::Severity;
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::istio::destination_rule::DestinationRule;
use crate::standalone::kinds::traffic_policy::TrafficPolicy;
use crate::standalone::kinds::traffic_policy::client_tls::{ClientTls, TlsMode};
use crate::standalone::kinds::traffic_policy::connection_pool::H2UpgradePolicy;
use crate::standalone::kinds::traffic_policy::connection_pool::HttpPool;
use crate::standalone::kinds::traffic_policy::load_balancer::{
    ConsistentHash, LoadBalancer, Simple,
};
use crate::standalone::kinds::traffic_policy::outlier_detection::OutlierDetection;
use crate::standalone::state::destination_rules::MergedRule;
use crate::standalone::state::mesh_service::{MeshService, Resolution};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::no_effect::{Telling, Why};

const RULE: &str = "DestinationRule";

impl Telling<'_, '_> {
    pub(super) fn destination_rules(&mut self) {
        let mesh = self.mesh;
        let rules: Vec<_> = mesh.state.destination_rules.values().collect();
        for rule in rules {
            if !mesh.effects.shows(rule) {
                let (field, why) = self.unused_rule(rule);
                self.part(RULE, rule, field, why);
                continue;
            }
            let services = services_of(mesh, rule);
            self.shared_rule(rule, &services);
            self.subsets(rule, &services);
            self.hashes(rule, &services);
            if let Some(policy) = &rule.spec.traffic_policy {
                self.policy(rule, "spec.trafficPolicy", policy, &services);
            }
            for (index, subset) in rule.spec.subsets.iter().enumerate() {
                if let Some(policy) = &subset.traffic_policy {
                    let at = format!("spec.subsets[{index}].trafficPolicy");
                    self.policy(rule, &at, policy, &services);
                }
            }
        }
    }

    /// Why no cluster follows a rule.
    fn unused_rule(&self, rule: &Object<DestinationRule>) -> (&'static str, Why) {
        let mesh = self.mesh;
        let elsewhere = |reason: &str| Why::Elsewhere(reason.to_owned());
        if rule.spec.has_selector {
            let reason = "with a workloadSelector it is for sidecars";
            return ("spec.workloadSelector", elsewhere(reason));
        }
        let host = rule.spec.host.as_str();
        let covered = |name: &str| match host.strip_prefix('*') {
            Some(suffix) => name.ends_with(suffix),
            None => name == host,
        };
        let mut own = mesh.waypoint.services.iter();
        if let Some(service) = own.find(|service| covered(&service.hostname)) {
            let reason = match mesh.rule_for(service).and_then(MergedRule::first) {
                Some(other) => format!(
                    "for {} the DestinationRule {} holds",
                    service.hostname,
                    other.name()
                ),
                None => format!(
                    "rules of namespace {} don't hold for {}: those of the waypoint's namespace, the service's and the root namespace do, as far as exportTo lets them",
                    rule.meta.namespace, service.hostname
                ),
            };
            return ("", Why::Mistake(reason));
        }
        let services = mesh.state.services.values().map(MeshService::of_service);
        let entries = mesh.state.service_entries.values();
        let entries = entries.flat_map(MeshService::of_entry);
        let known: BTreeSet<String> = services.chain(entries).map(|s| s.hostname).collect();
        if host.starts_with('*') || known.contains(host) {
            return ("", elsewhere("its host is none of this waypoint's"));
        }
        let near = meant(host, known.iter().map(String::as_str));
        let reason = format!("no Service and no ServiceEntry has the host {host:?}{near}");
        ("spec.host", Why::Mistake(reason))
    }

    /// What of a rule another one of the same host says already.
    fn shared_rule(&mut self, rule: &Object<DestinationRule>, services: &[MeshService<'_>]) {
        let mesh = self.mesh;
        let Some(merged) = services.first().and_then(|service| mesh.rule_for(service)) else {
            return;
        };
        let older: Vec<_> = merged
            .rules
            .iter()
            .take_while(|own| !std::ptr::eq(**own, rule))
            .collect();
        let policy = |own: &&&Object<DestinationRule>| own.spec.traffic_policy.is_some();
        let layered = merged.first().is_some_and(|first| first.spec.of_policies);
        if layered {
            self.younger_rule(rule, merged);
        } else if rule.spec.traffic_policy.is_some()
            && let Some(other) = older.iter().find(|own| policy(own))
        {
            let reason = format!("that of {} stands, which has the same host", other.name());
            self.part(RULE, rule, "spec.trafficPolicy", Why::Mistake(reason));
        }
        for (index, subset) in rule.spec.subsets.iter().enumerate() {
            let has = |own: &&&&Object<DestinationRule>| {
                own.spec
                    .subsets
                    .iter()
                    .any(|other| other.name == subset.name)
            };
            if let Some(other) = older.iter().find(has) {
                let reason = format!("the subset {:?} is that of {}", subset.name, other.name());
                let field = format!("spec.subsets[{index}]");
                self.part(RULE, rule, &field, Why::Mistake(reason));
            }
        }
    }

    /// Beside policies of the Gateway API the youngest rule stands over older ones, field by field.
    fn younger_rule(&mut self, rule: &Object<DestinationRule>, merged: &MergedRule<'_>) {
        let younger = merged.rules.iter().rev();
        let mut younger = younger.take_while(|own| !std::ptr::eq(**own, rule));
        if rule.spec.traffic_policy.is_some()
            && let Some(other) = younger.find(|own| own.spec.traffic_policy.is_some())
        {
            let reason = format!(
                "what {} says stands, which is younger: as with istiod beside a policy of the Gateway API for the same host",
                other.name()
            );
            self.part(RULE, rule, "spec.trafficPolicy", Why::Mistake(reason));
        }
    }

    /// Subsets that nobody is in.
    fn subsets(&mut self, rule: &Object<DestinationRule>, services: &[MeshService<'_>]) {
        let mesh = self.mesh;
        let named = |s: &MeshService<'_>| {
            matches!(s.resolution(), Resolution::Dns | Resolution::LogicalDns)
        };
        if !rule.spec.subsets.is_empty() && services.iter().any(named) {
            let reason = "a host that is looked up has no parts: each subset has all its endpoints";
            self.part(RULE, rule, "spec.subsets", Why::Mistake(reason.to_owned()));
            return;
        }
        for (index, subset) in rule.spec.subsets.iter().enumerate() {
            let mut endpoints = services.iter().flat_map(|service| {
                let of_port = |port| service.endpoints(mesh.state, port);
                service.ports.iter().flat_map(of_port).collect::<Vec<_>>()
            });
            let found = endpoints.any(|endpoint| {
                let mut labels = subset.labels.iter();
                labels.all(|(name, value)| endpoint.label(name) == Some(value))
            });
            let counts = services
                .iter()
                .any(|s| s.resolution() == Resolution::Endpoints);
            if !found && counts {
                let reason = format!("no endpoint is in the subset {:?} (503)", subset.name);
                let field = format!("spec.subsets[{index}].labels");
                self.part(RULE, rule, &field, Why::Mistake(reason));
            }
        }
    }

    /// Hashing by what the requests or streams of a port don't have, or that their route doesn't look at.
    fn hashes(&mut self, rule: &Object<DestinationRule>, services: &[MeshService<'_>]) {
        let Some(policy) = &rule.spec.traffic_policy else {
            return;
        };
        let own = policy.load_balancer.as_ref();
        let own = own.and_then(|balancer| balancer.consistent_hash.as_ref());
        for service in services {
            for port in &service.ports {
                let number = port.number;
                let of_port = policy.of_port(number);
                let settings = of_port.and_then(|found| found.load_balancer.as_ref());
                let settings = settings.and_then(|balancer| balancer.consistent_hash.as_ref());
                let http = port.protocol.is_http() || port.protocol == Protocol::Unknown;
                let hash = if of_port.is_some() { settings } else { own };
                let by_source = own.is_some_and(|hash| hash.use_source_ip == Some(true));
                let Some(hash) = hash.filter(|hash| !without_key(hash)) else {
                    continue;
                };
                let reason = if !http && !by_source {
                    format!(
                        "port {number} of {} carries no HTTP: its connections are hashed by nothing but useSourceIp of the rule's own policy, and go anywhere",
                        service.hostname
                    )
                } else if http && own != Some(hash) && self.mesh.attached(service).is_empty() {
                    format!(
                        "the default route of {} looks at the rule's own policy only, not at settings of port {number}",
                        service.hostname
                    )
                } else {
                    continue;
                };
                let field = "spec.trafficPolicy";
                self.part(RULE, rule, field, Why::Mistake(reason));
            }
        }
    }

    /// Settings that say nothing to a waypoint, or not beside what else stands there.
    fn policy(
        &mut self,
        rule: &Object<DestinationRule>,
        at: &str,
        policy: &TrafficPolicy,
        services: &[MeshService<'_>],
    ) {
        if policy.tunnel.is_some() {
            let reason = "is for TCP streams of sidecars and gateways".to_owned();
            self.part(RULE, rule, &format!("{at}.tunnel"), Why::Mistake(reason));
        }
        self.parts(
            rule,
            at,
            (
                policy.load_balancer.as_ref(),
                policy.outlier_detection.as_ref(),
                policy.tls.as_ref(),
            ),
        );
        let http = policy
            .connection_pool
            .as_ref()
            .and_then(|pool| pool.http.as_ref());
        if let Some(http) = http {
            let ports = services.iter().flat_map(|service| &service.ports);
            let http2 = ports.clone().any(|port| port.protocol.is_http2());
            self.http2_settings(rule, at, http, http2);
        }
        let mut seen = BTreeSet::new();
        for (index, own) in policy.port_level_settings.iter().flatten().enumerate() {
            let at = format!("{at}.portLevelSettings[{index}]");
            let number = own.port.map_or(0, |port| port.number);
            let ports = || services.iter().flat_map(|service| &service.ports);
            let known = ports().any(|port| u32::from(port.number) == number);
            if !known || !seen.insert(number) {
                let reason = match known {
                    true => format!("settings of port {number} stand above it"),
                    false => format!("no service that the rule holds for has the port {number}"),
                };
                self.part(RULE, rule, &format!("{at}.port"), Why::Mistake(reason));
                continue;
            }
            let parts = (
                own.load_balancer.as_ref(),
                own.outlier_detection.as_ref(),
                own.tls.as_ref(),
            );
            self.parts(rule, &at, parts);
            let mut found = ports().filter(|port| u32::from(port.number) == number);
            if let Some(http) = own
                .connection_pool
                .as_ref()
                .and_then(|pool| pool.http.as_ref())
            {
                let http2 = found.any(|port| port.protocol.is_http2());
                self.http2_settings(rule, &at, http, http2);
            }
        }
    }

    fn parts(
        &mut self,
        rule: &Object<DestinationRule>,
        at: &str,
        (balancer, outlier, tls): (
            Option<&LoadBalancer>,
            Option<&OutlierDetection>,
            Option<&ClientTls>,
        ),
    ) {
        if let Some(balancer) = balancer {
            let place = self.mesh.place.is_known();
            for (field, reason) in of_balancer(balancer, outlier.is_some(), place) {
                let field = format!("{at}.loadBalancer.{field}");
                self.part(RULE, rule, &field, Why::Mistake(reason.to_owned()));
            }
        }
        if let Some(outlier) = outlier {
            for (field, reason) in of_outlier(outlier) {
                let field = format!("{at}.outlierDetection.{field}");
                self.part(RULE, rule, &field, Why::Mistake(reason.to_owned()));
            }
        }
        for reason in tls
            .filter(|tls| tls.originates())
            .map(|tls| self.mesh.missing_credentials(tls))
            .unwrap_or_default()
        {
            let reason = format!("connections fail: {reason}");
            let field = format!("{at}.tls.credentialName");
            let name = resource(RULE, &rule.meta);
            self.tell(Severity::FailClosed, name, &rule.origin, &field, reason);
        }
        if let Some(tls) = tls.filter(|tls| !tls.originates()) {
            let mode = match tls.mode {
                TlsMode::IstioMutual => "ISTIO_MUTUAL",
                _ => "DISABLE",
            };
            let reason = format!(
                "tls.mode {mode} is for sidecars: a waypoint reaches each endpoint over HBONE where it can"
            );
            self.part(RULE, rule, at, Why::Elsewhere(reason));
        }
    }

    fn http2_settings(
        &mut self,
        rule: &Object<DestinationRule>,
        at: &str,
        http: &HttpPool,
        http2: bool,
    ) {
        let upgrades = match http.h2_upgrade_policy {
            H2UpgradePolicy::Upgrade => true,
            H2UpgradePolicy::DoNotUpgrade => false,
            H2UpgradePolicy::Default => self.mesh.config.of_clusters(true).upgrades,
        };
        let given = [
            ("maxConcurrentStreams", http.max_concurrent_streams > 0),
            ("http2KeepAlive", http.http2_keepalive.is_some()),
        ];
        for (field, _) in given.iter().filter(|(_, given)| *given && !http2) {
            let reason = match upgrades {
                true => {
                    "as with istiod a waypoint has it only where the port itself speaks HTTP/2, not where h2UpgradePolicy makes it"
                }
                false => "the port doesn't speak HTTP/2 to its endpoints whatever clients speak",
            };
            let field = format!("{at}.connectionPool.http.{field}");
            self.part(RULE, rule, &field, Why::Mistake(reason.to_owned()));
        }
    }
}

/// Services whose clusters follow a rule: the waypoint's own, and those of others that it sends to.
fn services_of<'a>(mesh: &Mesh<'a>, rule: &Object<DestinationRule>) -> Vec<MeshService<'a>> {
    let named = mesh.state.services.values();
    let named = named.filter(|service| mesh.effects.shows(*service));
    let named = named.map(MeshService::of_service);
    let own = mesh.waypoint.services.iter().cloned();
    let follows = |service: &MeshService<'_>| {
        let merged = mesh.rule_for(service);
        merged.is_some_and(|merged| merged.rules.iter().any(|own| std::ptr::eq(*own, rule)))
    };
    own.chain(named).filter(follows).collect()
}

fn of_balancer(
    balancer: &LoadBalancer,
    outlier: bool,
    place: bool,
) -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    if balancer.zone_aware_lb_setting.is_some() {
        let reason = "is for sidecars: as with istiod a waypoint balances without it, and by no distance either";
        found.push(("zoneAwareLbSetting", reason));
    }
    let warms = matches!(
        balancer.simple,
        None | Some(
            Simple::Unspecified | Simple::LeastConn | Simple::LeastRequest | Simple::RoundRobin
        )
    ) && balancer.consistent_hash.is_none();
    let both = balancer.warmup.is_some() && balancer.warmup_duration_secs.is_some();
    for (field, given) in [
        ("warmup", balancer.warmup.is_some()),
        (
            "warmupDurationSecs",
            balancer.warmup_duration_secs.is_some(),
        ),
    ] {
        if given && !warms {
            found.push((field, "only LEAST_REQUEST and ROUND_ROBIN know it"));
        } else if given && both && field == "warmupDurationSecs" {
            found.push((field, "warmup stands above it"));
        }
    }
    if balancer.consistent_hash.as_ref().is_some_and(without_key) {
        found.push((
            "consistentHash",
            "nothing to hash by is given: requests go anywhere",
        ));
    }
    let Some(setting) = &balancer.locality_lb_setting else {
        return found;
    };
    let fails_over = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    if setting.enabled == Some(false) {
        if fails_over || !setting.distribute.is_empty() {
            found.push(("localityLbSetting", "enabled: false turns it off"));
        }
        return found;
    }
    if !setting.distribute.is_empty() {
        let anywhere = setting
            .distribute
            .iter()
            .any(|own| own.from.starts_with('*'));
        if !place && !anywhere {
            found.push(("localityLbSetting.distribute", UNKNOWN_PLACE));
        }
        if fails_over {
            found.push(("localityLbSetting", "distribute stands above failover"));
        }
    } else if fails_over && !outlier {
        let reason = "without outlierDetection beside it nothing fails over";
        found.push(("localityLbSetting", reason));
    } else if fails_over && !place {
        found.push(("localityLbSetting", UNKNOWN_PLACE));
    }
    found
}

pub(super) const UNKNOWN_PLACE: &str = "where the waypoint runs isn't known: no pod with the label gateway.networking.k8s.io/gateway-name for it, with its node and that node's region, is among the manifests";

fn without_key(hash: &ConsistentHash) -> bool {
    hash.http_header_name.is_none()
        && hash.http_cookie.is_none()
        && hash.use_source_ip != Some(true)
        && hash.http_query_parameter_name.is_none()
}

fn of_outlier(outlier: &OutlierDetection) -> Vec<(&'static str, &'static str)> {
    let given = [
        (
            outlier.consecutive_errors != 0,
            "consecutiveErrors",
            "says nothing any more: write consecutive5xxErrors or consecutiveGatewayErrors",
        ),
        (
            !outlier.outlier_detection_http_error_codes.is_empty(),
            "outlierDetectionHttpErrorCodes",
            "as with istiod it is for sidecars and gateways",
        ),
    ];
    let told = given.into_iter().filter(|(given, _, _)| *given);
    told.map(|(_, field, reason)| (field, reason)).collect()
}
