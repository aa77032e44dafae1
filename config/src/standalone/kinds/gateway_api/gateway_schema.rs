//! What the CRD of Gateway (Gateway API 1.6, experimental channel) says of the fields that no waypoint reads, and of
//! those that it does: bounds, forms, and what several must hold together.

use std::net::IpAddr;

use serde_json::Value;

use crate::standalone::input::labels::check_qualified_name;
use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::is_group;
use crate::standalone::input::schema::is_hostname;
use crate::standalone::input::schema::is_kind;
use crate::standalone::input::schema::is_subdomain;
use crate::standalone::input::schema::{self, Row, Rule};
use crate::standalone::kinds::core::port::is_dns_label;
use crate::standalone::kinds::refusal::Refusal;
use crate::standalone::kinds::refusal::refusal;

const GROUP: Rule = Rule::Form(is_group, "group");
const KIND: Rule = Rule::Form(is_kind, "kind");
const NAME: Rule = Rule::Length(1, 253);
const NAMESPACE: Rule = Rule::Form(is_dns_label, "namespace");
const PORT: Rule = Rule::Between(1, 65535);

const SPEC: &[Row] = &[
    ("gatewayClassName", NAME),
    ("addresses", Rule::Items(0, 16)),
    ("addresses[].type", Rule::Length(1, 253)),
    (
        "addresses[].type",
        Rule::Form(is_address_type, "type of an address"),
    ),
    ("addresses[].value", Rule::Length(0, 253)),
    ("defaultScope", Rule::OneOf(&["All", "None"])),
    (
        "allowedListeners.namespaces.from",
        Rule::OneOf(&["All", "Selector", "Same", "None"]),
    ),
    ("infrastructure.annotations", Rule::Fields(16)),
    (
        "infrastructure.annotations",
        Rule::Names(is_qualified_name, "name of an annotation"),
    ),
    ("infrastructure.annotations{}", Rule::Length(0, 4096)),
    ("infrastructure.labels", Rule::Fields(8)),
    (
        "infrastructure.labels",
        Rule::Names(is_qualified_name, "name of a label"),
    ),
    (
        "infrastructure.labels{}",
        Rule::Form(is_label_value, "value of a label"),
    ),
    ("infrastructure.parametersRef.group", GROUP),
    ("infrastructure.parametersRef.kind", KIND),
    ("infrastructure.parametersRef.name", NAME),
    ("listeners", Rule::Items(1, 64)),
    (
        "listeners[].name",
        Rule::Form(is_subdomain, "name of a listener"),
    ),
    ("listeners[].hostname", Rule::Form(is_hostname, "host name")),
    ("listeners[].port", PORT),
    ("listeners[].protocol", Rule::Length(1, 255)),
    (
        "listeners[].protocol",
        Rule::Form(is_protocol, "name of a protocol"),
    ),
    ("listeners[].allowedRoutes.kinds", Rule::Items(0, 8)),
    ("listeners[].allowedRoutes.kinds[].group", GROUP),
    ("listeners[].allowedRoutes.kinds[].kind", KIND),
    (
        "listeners[].tls.mode",
        Rule::OneOf(&["Terminate", "Passthrough"]),
    ),
    ("listeners[].tls.options", Rule::Fields(16)),
    ("listeners[].tls.options{}", Rule::Length(0, 4096)),
    ("listeners[].tls.certificateRefs", Rule::Items(0, 64)),
    ("listeners[].tls.certificateRefs[].group", GROUP),
    ("listeners[].tls.certificateRefs[].kind", KIND),
    ("listeners[].tls.certificateRefs[].name", NAME),
    ("listeners[].tls.certificateRefs[].namespace", NAMESPACE),
    ("tls.backend.clientCertificateRef.group", GROUP),
    ("tls.backend.clientCertificateRef.kind", KIND),
    ("tls.backend.clientCertificateRef.name", NAME),
    ("tls.backend.clientCertificateRef.namespace", NAMESPACE),
    ("tls.frontend.perPort", Rule::Items(0, 64)),
    ("tls.frontend.perPort[].port", PORT),
];

/// Of each `validation` of client certificates.
const VALIDATION: &[Row] = &[
    ("", Rule::Has(&["caCertificateRefs"])),
    ("caCertificateRefs", Rule::Items(1, 16)),
    ("caCertificateRefs[]", Rule::Has(&["group", "kind", "name"])),
    ("caCertificateRefs[].group", GROUP),
    ("caCertificateRefs[].kind", KIND),
    ("caCertificateRefs[].name", NAME),
    ("caCertificateRefs[].namespace", NAMESPACE),
    (
        "mode",
        Rule::OneOf(&["AllowValidOnly", "AllowInsecureFallback"]),
    ),
];

/// Fields that must be given where what holds them is.
const REQUIRED: &[(&str, &[&str])] = &[
    ("infrastructure.parametersRef", &["group", "kind", "name"]),
    ("listeners[].allowedRoutes.kinds[]", &["kind"]),
    ("listeners[].tls.certificateRefs[]", &["name"]),
    ("tls.backend.clientCertificateRef", &["name"]),
    ("tls.frontend", &["default"]),
    ("tls.frontend.perPort[]", &["port", "tls"]),
];

pub(crate) fn check(manifest: &Manifest) -> Result<(), LoadError> {
    schema::check(manifest, "spec", SPEC)?;
    for (place, fields) in REQUIRED {
        schema::check_below(manifest, "spec", place, &[("", Rule::Has(fields))])?;
    }
    for place in ["default", "perPort[].tls"] {
        let place = format!("tls.frontend.{place}.validation");
        schema::check_below(manifest, "spec", &place, VALIDATION)?;
    }
    let Some(spec) = manifest.body.get("spec") else {
        return Ok(());
    };
    let checks = [addresses(spec), listeners(spec), ports(spec)];
    let checked: Result<(), Refusal> = checks.into_iter().collect();
    checked.map_err(|(field, reason)| manifest.refused(format!("spec.{field}"), reason))
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    let items = value.get(name).and_then(Value::as_array);
    items.into_iter().flatten().enumerate()
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

fn addresses(spec: &Value) -> Result<(), Refusal> {
    let mut seen = Vec::new();
    for (index, address) in items(spec, "addresses") {
        let kind = text(address, "type").unwrap_or("IPAddress");
        let Some(value) = text(address, "value") else {
            continue;
        };
        let field = format!("addresses[{index}].value");
        match kind {
            "IPAddress" if value.parse::<IpAddr>().is_err() => {
                return Err(refusal(field, format!("{value:?} is no IP address")));
            }
            "Hostname" if !is_hostname(value) => {
                return Err(refusal(field, format!("{value:?} is no host name")));
            }
            "IPAddress" | "Hostname" if seen.contains(&(kind, value)) => {
                return Err(refusal(field, format!("{value:?} is given twice")));
            }
            _ => seen.push((kind, value)),
        }
    }
    Ok(())
}

fn listeners(spec: &Value) -> Result<(), Refusal> {
    for (index, listener) in items(spec, "listeners") {
        let at = |field: &str| format!("listeners[{index}].{field}");
        let protocol = text(listener, "protocol").unwrap_or_default();
        let tls = listener.get("tls");
        // The CRD's default.
        let mode = tls.map(|tls| text(tls, "mode").unwrap_or("Terminate"));
        match (protocol, mode) {
            ("HTTP" | "TCP" | "UDP", Some(_)) => {
                return Err(refusal(at("tls"), format!("is not for {protocol}")));
            }
            ("HTTPS", Some(mode)) if mode != "Terminate" => {
                return Err(refusal(at("tls.mode"), "must be Terminate for HTTPS"));
            }
            ("TLS", None) => return Err(refusal(at("tls"), "is required for TLS")),
            _ => {}
        }
        if matches!(protocol, "TCP" | "UDP") && listener.get("hostname").is_some() {
            return Err(refusal(at("hostname"), format!("is not for {protocol}")));
        }
        let given = |name: &str| match tls.and_then(|tls| tls.get(name)) {
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
            _ => false,
        };
        if mode == Some("Terminate") && !given("certificateRefs") && !given("options") {
            let reason = "certificateRefs or options are required for mode Terminate";
            return Err(refusal(at("tls"), reason));
        }
    }
    Ok(())
}

fn ports(spec: &Value) -> Result<(), Refusal> {
    let mut seen = Vec::new();
    let frontend = spec.get("tls").and_then(|tls| tls.get("frontend"));
    for (index, of_port) in frontend.into_iter().flat_map(|f| items(f, "perPort")) {
        let port = of_port.get("port");
        if seen.contains(&port) {
            let field = format!("tls.frontend.perPort[{index}].port");
            return Err(refusal(field, "is given twice"));
        }
        seen.push(port);
    }
    Ok(())
}

fn is_qualified_name(name: &str) -> bool {
    check_qualified_name(name).is_ok()
}

fn is_label_value(value: &str) -> bool {
    value.len() <= 63 && (value.is_empty() || is_qualified_name(value)) && !value.contains('/')
}

fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// As the CRD's expression has it, which is bound to neither end.
fn is_address_type(text: &str) -> bool {
    let own = |(at, _): (usize, &str)| {
        let (domain, path) = text.split_at(at);
        let path = path.get(1..).unwrap_or_default();
        let inside = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
        domain.ends_with(is_lower) && !path.is_empty() && path.chars().all(inside)
    };
    text.starts_with("Hostname")
        || ["IPAddress", "NamedAddress"]
            .iter()
            .any(|known| text.contains(known))
        || text.match_indices('/').any(own)
}

/// A word, or one with a domain before it.
fn is_protocol(text: &str) -> bool {
    let word = |word: &str| {
        let inside = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        !word.is_empty()
            && word.bytes().all(inside)
            && !word.starts_with('-')
            && !word.ends_with('-')
    };
    match text.rsplit_once('/') {
        // The CRD's expression isn't bound to the beginning.
        Some((domain, name)) => {
            domain.ends_with(is_lower)
                && !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric())
        }
        None => word(text),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;
    use crate::standalone::kinds::gateway_api::gateway::Gateway;

    fn refused(spec: &str, listener: &str) -> Option<String> {
        let text = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: w}}, spec: {{gatewayClassName: c{spec}, listeners: [{{name: a, port: 1{listener}}}]}}}}"
        );
        let read = Gateway::read(&Manifest::of(&text));
        read.err()?.field
    }

    #[test]
    fn rules_of_the_spec() {
        let http = ", protocol: HTTP";
        for (spec, field) in [
            (
                ", addresses: [{value: 192.0.2.1}, {type: Hostname, value: a.test}, {}]",
                None,
            ),
            (", addresses: [{value: a.test}]", Some("addresses[0].value")),
            (
                ", addresses: [{type: Hostname, value: a_b}]",
                Some("addresses[0].value"),
            ),
            (
                ", addresses: [{value: 192.0.2.1}, {type: IPAddress, value: 192.0.2.1}]",
                Some("addresses[1].value"),
            ),
            (
                ", infrastructure: {labels: {a/b: c}, annotations: {d: 'e f'}}",
                None,
            ),
            (
                ", infrastructure: {labels: {'a b': c}}",
                Some("infrastructure.labels"),
            ),
            (
                ", infrastructure: {labels: {a: 'b c'}}",
                Some("infrastructure.labels.a"),
            ),
            (
                ", infrastructure: {annotations: {'a b': c}}",
                Some("infrastructure.annotations"),
            ),
            (
                ", infrastructure: {parametersRef: {kind: ConfigMap, name: a}}",
                Some("infrastructure.parametersRef"),
            ),
            (", defaultScope: Some", Some("defaultScope")),
            (", tls: {frontend: {}}", Some("tls.frontend")),
            (
                ", addresses: [{type: foo, value: a}]",
                Some("addresses[0].type"),
            ),
            (", addresses: [{type: a.test/b, value: a}]", None),
            (
                ", tls: {frontend: {default: {validation: {}}}}",
                Some("tls.frontend.default.validation"),
            ),
            (
                ", tls: {frontend: {default: {}, perPort: [{port: 1, tls: {}}, {port: 1, tls: {}}]}}",
                Some("tls.frontend.perPort[1].port"),
            ),
        ] {
            let field = field.map(|field| format!("spec.{field}"));
            assert_eq!(refused(spec, http), field, "{spec}");
        }
    }

    #[test]
    fn rules_of_listeners() {
        for (listener, field) in [
            (", protocol: HBONE", None),
            (", protocol: example.com/bar", None),
            (", protocol: '-a'", Some("protocol")),
            (", protocol: HTTP, tls: {mode: Passthrough}", Some("tls")),
            (
                ", protocol: HTTPS, tls: {mode: Passthrough}",
                Some("tls.mode"),
            ),
            (", protocol: HTTPS, tls: {}", Some("tls")),
            (
                ", protocol: HTTPS, tls: {certificateRefs: [{name: a}]}",
                None,
            ),
            (", protocol: HTTPS, tls: {options: {a: b}}", None),
            (
                ", protocol: HTTPS, tls: {certificateRefs: [{}]}",
                Some("tls.certificateRefs[0]"),
            ),
            (", protocol: TLS", Some("tls")),
            (", protocol: TLS, tls: {mode: Passthrough}", None),
            (", protocol: TCP, hostname: a.test", Some("hostname")),
            (
                ", protocol: HTTP, allowedRoutes: {kinds: [{group: a}]}",
                Some("allowedRoutes.kinds[0]"),
            ),
        ] {
            let field = field.map(|field| format!("spec.listeners[0].{field}"));
            assert_eq!(refused("", listener), field, "{listener}");
        }
    }
}
