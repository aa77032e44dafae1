//! VirtualService as Istio's CRD (1.31) and istiod's admission let it through: unknown fields refused by name, short
//! names of hosts made whole ones.
//!
//! One without hosts is a delegate: its rules count where another VirtualService hands requests on to it.

pub mod answer;
pub(crate) mod delegate;
pub mod destination;
pub mod gateways;
pub mod http_match;
pub mod http_policy;
pub mod http_route;
pub mod stream_route;
pub mod string_match;

use std::net::IpAddr;

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::istio::host_name::{is_host, overlap, resolved};
use crate::standalone::kinds::istio::virtual_service::gateways::{
    ExportTo, check_gateways, takes_in_mesh,
};
use crate::standalone::kinds::istio::virtual_service::http_match::HttpMatch;
use crate::standalone::kinds::istio::virtual_service::http_route::HttpRoute;
use crate::standalone::kinds::istio::virtual_service::stream_route::StreamRule;
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, PartialEq)]
pub struct VirtualService {
    /// Whole names. Empty: it is a delegate.
    pub hosts: Vec<String>,
    pub gateways: Vec<String>,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<StreamRule>,
    pub tcp: Vec<StreamRule>,
    pub export_to: ExportTo,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spec {
    hosts: Vec<String>,
    gateways: Vec<String>,
    http: Vec<HttpRoute>,
    tls: Vec<StreamRule>,
    tcp: Vec<StreamRule>,
    export_to: Vec<String>,
}

impl VirtualService {
    /// # Errors
    /// What Istio's admission would refuse, and fields that nobody knows.
    pub fn read(manifest: &Manifest) -> Result<Object<VirtualService>, LoadError> {
        manifest.has_only_spec_and_status()?;
        let mut spec: Spec = manifest.part("spec")?;
        let at = |(field, reason): Refusal| manifest.refused(format!("spec.{field}"), reason);
        spec.check().map_err(at)?;
        let namespace = manifest.meta.namespace.as_str();
        let export_to = ExportTo::read(&spec.export_to, namespace).map_err(at)?;
        spec.http
            .iter_mut()
            .for_each(|rule| rule.resolve(namespace));
        let streams = spec.tls.iter_mut().chain(&mut spec.tcp);
        for to in streams.flat_map(|rule| &mut rule.route) {
            to.destination.resolve(namespace);
        }
        let hosts = spec.hosts.iter();
        Ok(manifest.object(VirtualService {
            hosts: hosts.map(|host| resolved(host, namespace)).collect(),
            gateways: spec.gateways,
            http: spec.http,
            tls: spec.tls,
            tcp: spec.tcp,
            export_to,
        }))
    }

    pub fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Whether it is for the mesh, and not for gateways alone.
    pub fn is_for_mesh(&self) -> bool {
        takes_in_mesh(&self.gateways)
    }
}

impl Spec {
    fn check(&self) -> Result<(), Refusal> {
        if self.hosts.is_empty() {
            for (field, given) in [
                ("gateways", !self.gateways.is_empty()),
                ("tls", !self.tls.is_empty()),
                ("tcp", !self.tcp.is_empty()),
            ] {
                if given {
                    let reason = "without hosts it is a delegate, which has nothing but http";
                    return Err(refusal(field, reason));
                }
            }
        }
        check_gateways(&self.gateways)?;
        self.check_hosts()?;
        if self.http.is_empty() && self.tls.is_empty() && self.tcp.is_empty() {
            return Err(refusal("", "must have http, tls or tcp"));
        }
        if takes_in_mesh(&self.gateways) {
            self.check_claims()?;
        }
        for (index, rule) in self.http.iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("http[{index}].{field}"), reason);
            rule.check(self.hosts.is_empty()).map_err(at)?;
        }
        for (list, rules, hosts) in [
            ("tls", &self.tls, Some(self.hosts.as_slice())),
            ("tcp", &self.tcp, None),
        ] {
            for (index, rule) in rules.iter().enumerate() {
                let at = |(field, reason): Refusal| (format!("{list}[{index}].{field}"), reason);
                rule.check(hosts).map_err(at)?;
            }
        }
        Ok(())
    }

    /// Claims of tokens choose routes at gateways only.
    fn check_claims(&self) -> Result<(), Refusal> {
        for (index, rule) in self.http.iter().enumerate() {
            let mut claims = rule.r#match.iter().map(HttpMatch::claim).enumerate();
            if let Some((position, Some(claim))) = claims.find(|(_, claim)| claim.is_some()) {
                let field = format!("http[{index}].match[{position}].{claim}");
                let reason = "claims of tokens choose routes at gateways only";
                return Err(refusal(field, reason));
            }
        }
        Ok(())
    }

    fn check_hosts(&self) -> Result<(), Refusal> {
        let of_mesh = takes_in_mesh(&self.gateways);
        for (index, host) in self.hosts.iter().enumerate() {
            let field = format!("hosts[{index}]");
            // Names that Istio's own gateways give to servers of other networks.
            let of_gateway = !of_mesh && host.starts_with("outbound_");
            if !is_host(host) && !of_gateway && host.parse::<IpAddr>().is_err() {
                return Err(refusal(field, format!("{host:?} is no host")));
            }
            if host == "*" && of_mesh {
                return Err(refusal(field, "* is for gateways only"));
            }
            if self
                .hosts
                .iter()
                .take(index)
                .any(|other| overlap(other, host))
            {
                return Err(refusal(field, format!("{host:?} is given twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Result<VirtualService, LoadError> {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: v, namespace: shop}}, spec: {{{spec}}}}}"
        );
        VirtualService::read(&Manifest::of(&text)).map(|object| object.spec)
    }

    const TO: &str = "route: [{destination: {host: web}}]";

    fn rule(rule: &str) -> String {
        format!("hosts: [web], http: [{{{rule}}}]")
    }

    #[test]
    fn short_names_are_made_whole() {
        let found = read(&format!(
            "hosts: [web, '*.shop.test'], http: [{{{TO}, mirror: {{host: copy}}}}], tcp: [{{{TO}}}]"
        ))
        .unwrap();
        assert_eq!(found.hosts, ["web.shop.svc.cluster.local", "*.shop.test"]);
        let hosts: Vec<&str> = found.http[0]
            .destinations()
            .map(|to| to.host.as_str())
            .collect();
        assert_eq!(
            hosts,
            ["web.shop.svc.cluster.local", "copy.shop.svc.cluster.local"]
        );
        assert_eq!(
            found.tcp[0].route[0].destination.host,
            "web.shop.svc.cluster.local"
        );
        assert!(found.is_for_mesh() && !found.is_delegate());
        let found = read(&format!("hosts: [web], gateways: [edge], http: [{{{TO}}}]")).unwrap();
        assert!(!found.is_for_mesh());
        // What only gateways know doesn't stop a waypoint.
        let claim = "match: [{headers: {'@request.auth.claims.a': {exact: b}}}]";
        read(&format!(
            "hosts: ['*'], gateways: [edge], http: [{{{claim}, {TO}}}]"
        ))
        .unwrap();
    }

    #[test]
    fn what_admission_refuses_of_the_whole() {
        for (spec, field) in [
            ("hosts: [web]".to_owned(), "spec."),
            (
                format!("http: [{{{TO}}}], gateways: [mesh]"),
                "spec.gateways",
            ),
            (format!("http: [{{{TO}}}], tcp: [{{{TO}}}]"), "spec.tcp"),
            (format!("hosts: ['*'], http: [{{{TO}}}]"), "spec.hosts[0]"),
            (format!("hosts: [a_b], http: [{{{TO}}}]"), "spec.hosts[0]"),
            (
                format!("hosts: ['*.test', a.test], http: [{{{TO}}}]"),
                "spec.hosts[1]",
            ),
            (
                format!("hosts: [web], gateways: [a/b/c], http: [{{{TO}}}]"),
                "spec.gateways[0]",
            ),
            (
                format!("hosts: [web], exportTo: ['*', a], http: [{{{TO}}}]"),
                "spec.exportTo[0]",
            ),
            (
                format!("hosts: [web], exportTo: ['.', shop], http: [{{{TO}}}]"),
                "spec.exportTo[1]",
            ),
            (
                format!("hosts: [web], exportTo: ['~'], http: [{{{TO}}}]"),
                "spec.exportTo[0]",
            ),
            (format!("hosts: [web], https: [{{{TO}}}]"), "spec.https"),
            (
                format!("hosts: [web], tls: [{{{TO}}}]"),
                "spec.tls[0].match",
            ),
            (
                format!("hosts: [a.test], tls: [{{match: [{{sniHosts: [b.test]}}], {TO}}}]"),
                "spec.tls[0].match[0].sniHosts[0]",
            ),
            (
                format!("hosts: [web], tcp: [{{match: [{{sniHosts: [web]}}], {TO}}}]"),
                "spec.tcp[0].match[0].sniHosts",
            ),
            ("hosts: [web], tcp: [{}]".to_owned(), "spec.tcp[0].route"),
            (
                format!("hosts: [web], tcp: [{{match: [{{destinationSubnets: [a]}}], {TO}}}]"),
                "spec.tcp[0].match[0].destinationSubnets[0]",
            ),
        ] {
            let error = read(&spec).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{spec}: {error}");
        }
    }

    #[test]
    fn what_admission_refuses_of_a_rule() {
        for (text, field) in [
            ("name: a".to_owned(), "route"),
            ("route: [{}]".to_owned(), "route[0]"),
            (
                "route: [{destination: {host: '*'}}]".to_owned(),
                "route[0].destination.host",
            ),
            (
                "route: [{destination: {host: a, subset: a_b}}]".to_owned(),
                "route[0].destination.subset",
            ),
            (
                "route: [{destination: {host: a, port: {}}}]".to_owned(),
                "route[0].destination.port.number",
            ),
            (
                "route: [{destination: {host: a}, weight: -1}]".to_owned(),
                "route[0].weight",
            ),
            (
                "route: [{destination: {host: a}}, {destination: {host: b}}]".to_owned(),
                "route",
            ),
            (
                format!("{TO}, match: [{{uri: {{exact: a, prefix: b}}}}]"),
                "match[0].uri",
            ),
            (
                format!("{TO}, match: [{{uri: {{regex: '('}}}}]"),
                "match[0].uri",
            ),
            (
                format!("{TO}, match: [{{method: {{prefix: ''}}}}]"),
                "match[0].method",
            ),
            (
                format!("{TO}, match: [{{headers: {{'a b': {{}}}}}}]"),
                "match[0].headers.a b",
            ),
            (
                format!("{TO}, match: [{{headers: {{a: {{regex: '*'}}}}}}]"),
                "match[0].headers.a",
            ),
            (
                format!("{TO}, match: [{{headers: {{'@request.auth.claims.a': {{exact: b}}}}}}]"),
                "match[0].headers.@request.auth.claims.a",
            ),
            (format!("{TO}, match: [{{port: 65536}}]"), "match[0].port"),
            (
                format!("{TO}, match: [{{sourceLabels: {{a: 'b c'}}}}]"),
                "match[0].sourceLabels.a",
            ),
            (
                format!("{TO}, match: [{{sourceNamespace: a_b}}]"),
                "match[0].sourceNamespace",
            ),
            (format!("{TO}, redirect: {{uri: /a}}"), "route"),
            ("redirect: {}".to_owned(), "redirect"),
            (
                "redirect: {uri: /a, redirectCode: 200}".to_owned(),
                "redirect.redirectCode",
            ),
            (
                "redirect: {uri: /a, port: 1, derivePort: FROM_REQUEST_PORT}".to_owned(),
                "redirect",
            ),
            (
                "redirect: {uri: /a, scheme: ftp}".to_owned(),
                "redirect.scheme",
            ),
            ("directResponse: {}".to_owned(), "directResponse"),
            (
                "directResponse: {status: 100}".to_owned(),
                "directResponse.status",
            ),
            (
                "directResponse: {status: 200, body: {bytes: '!'}}".to_owned(),
                "directResponse.body",
            ),
            (
                "directResponse: {status: 200}, fault: {abort: {}}".to_owned(),
                "fault",
            ),
            (format!("{TO}, rewrite: {{}}"), "rewrite"),
            (
                format!("{TO}, rewrite: {{uri: /a, uriRegexRewrite: {{match: a, rewrite: b}}}}"),
                "rewrite",
            ),
            (
                format!("{TO}, rewrite: {{uriRegexRewrite: {{match: a}}}}"),
                "rewrite.uriRegexRewrite.rewrite",
            ),
            (format!("{TO}, timeout: 0s"), "timeout"),
            (format!("{TO}, timeout: 1"), "timeout"),
            (
                format!("{TO}, retries: {{attempts: -1}}"),
                "retries.attempts",
            ),
            (
                format!("{TO}, retries: {{retryOn: 5xx}}"),
                "retries.attempts",
            ),
            (
                format!("{TO}, retries: {{attempts: 1, retryOn: '5xx, reset'}}"),
                "retries.retryOn",
            ),
            (
                format!("{TO}, retries: {{attempts: 1, perTryTimeout: 1us}}"),
                "retries.perTryTimeout",
            ),
            (format!("{TO}, fault: {{}}"), "fault"),
            (
                format!("{TO}, fault: {{delay: {{exponentialDelay: 1s}}}}"),
                "fault.delay.exponentialDelay",
            ),
            (
                format!("{TO}, fault: {{abort: {{httpStatus: 99}}}}"),
                "fault.abort.httpStatus",
            ),
            (
                format!("{TO}, fault: {{abort: {{grpcStatus: NO}}}}"),
                "fault.abort.grpcStatus",
            ),
            (
                format!("{TO}, fault: {{abort: {{httpStatus: 500, percentage: {{value: 101}}}}}}"),
                "fault.abort.percentage.value",
            ),
            (
                format!("{TO}, mirror: {{host: a}}, mirrors: [{{destination: {{host: a}}}}]"),
                "mirrors",
            ),
            (format!("{TO}, mirror_percent: 101"), "mirrorPercent"),
            (format!("{TO}, mirrors: [{{}}]"), "mirrors[0]"),
            (
                format!("{TO}, corsPolicy: {{allowOrigins: [{{}}]}}"),
                "corsPolicy.allowOrigins[0]",
            ),
            (
                format!("{TO}, corsPolicy: {{allowMethods: [GETT]}}"),
                "corsPolicy.allowMethods",
            ),
            (
                format!("{TO}, corsPolicy: {{maxAge: 1.5s}}"),
                "corsPolicy.maxAge",
            ),
            (
                format!("{TO}, headers: {{request: {{remove: [Host]}}}}"),
                "headers.request.remove[0]",
            ),
            (
                format!("{TO}, headers: {{response: {{set: {{':a': b}}}}}}"),
                "headers.response.set.:a",
            ),
            (
                format!(
                    "{TO}, rewrite: {{authority: a}}, headers: {{request: {{set: {{host: b}}}}}}"
                ),
                "headers.request",
            ),
            (format!("{TO}, delegate: {{name: a}}"), "route"),
            (format!("{TO}, heders: {{}}"), "heders"),
        ] {
            let error = read(&rule(&text)).unwrap_err();
            let expected = format!("spec.http[0].{field}");
            assert_eq!(error.field, Some(expected), "{text}: {error}");
        }
        let error = read("http: [{delegate: {name: a}}]").unwrap_err();
        assert_eq!(error.field.as_deref(), Some("spec.http[0].delegate"));
    }

    #[test]
    fn delegates_narrow_what_their_root_matches() {
        let rule_of = |text: &str| read(&rule(text)).unwrap().http.remove(0);
        let root = rule_of(
            "name: r, match: [{name: m, uri: {prefix: /a}, headers: {x: {exact: '1'}}}, {uri: {exact: /b}}], timeout: 1s, delegate: {name: d}",
        );
        let merged = |text: &str| delegate::merged(&root, &rule_of(&format!("{TO}, {text}")));
        let found = merged("name: d, match: [{uri: {prefix: /a/b}, port: 80}]").unwrap();
        assert_eq!((found.name.as_str(), found.r#match.len()), ("r-d", 1));
        let only = &found.r#match[0];
        assert_eq!((only.name.as_str(), only.port), ("m", 80));
        assert!(only.headers.contains_key("x"));
        assert_eq!(found.timeout, Some(std::time::Duration::from_secs(1)));
        assert!(found.delegate.is_none() && found.route.len() == 1);
        // Without a URI it is within both.
        assert_eq!(
            merged("match: [{method: {exact: GET}}]")
                .unwrap()
                .r#match
                .len(),
            2
        );
        assert_eq!(merged("timeout: 2s").unwrap().r#match, root.r#match);
        for text in [
            "match: [{uri: {prefix: /}}]",
            "match: [{uri: {regex: /a/.*}}]",
            "match: [{uri: {prefix: /a/b}}, {uri: {exact: /c}}]",
            "match: [{uri: {prefix: /a}, headers: {x: {exact: '2'}}}]",
            "match: [{uri: {prefix: /a}, ignoreUriCase: true}]",
        ] {
            assert_eq!(merged(text), None, "{text}");
        }
    }
}
