//! The fields of HTTPRoute's CRD (experimental channel, Gateway API 1.6) that have bounds or a form.
//!
//! What several fields must hold together is checked where they are read.

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::is_group;
use crate::standalone::input::schema::is_header_value;
use crate::standalone::input::schema::is_hostname;
use crate::standalone::input::schema::is_kind;
use crate::standalone::input::schema::is_subdomain;
use crate::standalone::input::schema::is_token;
use crate::standalone::input::schema::{self, Row, Rule};

use crate::standalone::kinds::core::port::is_dns_label;
use crate::standalone::kinds::gateway_api::http_route_match::is_path;

const KIND: Rule = Rule::Form(is_kind, "kind");
const GROUP: Rule = Rule::Form(is_group, "group");
const NAMESPACE: Rule = Rule::Form(is_dns_label, "namespace");
const SUBDOMAIN: Rule = Rule::Form(is_subdomain, "DNS name");
const TOKEN: Rule = Rule::Form(is_token, "name of a header or parameter");
const VALUE: Rule = Rule::Form(
    is_header_value,
    "value of a header: visible ASCII, with single spaces between words",
);
const NAME: Rule = Rule::Length(1, 253);
const PORT: Rule = Rule::Between(1, 65535);
const DURATION: Rule = Rule::Form(is_duration, "duration such as 10s");
const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*",
];

const SPEC: &[Row] = &[
    ("hostnames", Rule::Items(0, 16)),
    ("hostnames[]", Rule::Form(is_hostname, "host name")),
    ("parentRefs", Rule::Items(0, 32)),
    ("parentRefs[].group", GROUP),
    ("parentRefs[].kind", KIND),
    ("parentRefs[].name", NAME),
    ("parentRefs[].namespace", NAMESPACE),
    ("parentRefs[].sectionName", SUBDOMAIN),
    ("parentRefs[].port", PORT),
    ("useDefaultGateways", Rule::OneOf(&["All", "None"])),
    ("rules[].name", SUBDOMAIN),
    ("rules[].matches[].headers", Rule::Items(0, 16)),
    ("rules[].matches[].headers[].name", TOKEN),
    ("rules[].matches[].headers[].value", VALUE),
    ("rules[].matches[].queryParams", Rule::Items(0, 16)),
    ("rules[].matches[].queryParams[].name", TOKEN),
    (
        "rules[].matches[].queryParams[].value",
        Rule::Length(1, 1024),
    ),
    ("rules[].matches[].path.value", Rule::Length(0, 1024)),
    ("rules[].backendRefs", Rule::Items(0, 16)),
    ("rules[].backendRefs[].group", GROUP),
    ("rules[].backendRefs[].kind", KIND),
    ("rules[].backendRefs[].name", NAME),
    ("rules[].backendRefs[].namespace", NAMESPACE),
    ("rules[].backendRefs[].port", PORT),
    ("rules[].backendRefs[].weight", Rule::Between(0, 1_000_000)),
    ("rules[].retry.attempts", Rule::Between(1, i64::MAX)),
    ("rules[].retry.codes", Rule::Once),
    ("rules[].retry.backoff", DURATION),
    (
        "rules[].sessionPersistence.sessionName",
        Rule::Length(0, 128),
    ),
    ("rules[].sessionPersistence.absoluteTimeout", DURATION),
    ("rules[].timeouts.request", DURATION),
    ("rules[].timeouts.backendRequest", DURATION),
];

/// Of a GRPCRoute besides.
const GRPC: &[Row] = &[
    ("rules", Rule::Items(0, 16)),
    ("rules[].matches", Rule::Items(0, 64)),
    ("rules[].matches[].method.service", Rule::Length(0, 1024)),
    ("rules[].matches[].method.method", Rule::Length(0, 1024)),
];

/// Below each list of filters.
const FILTER: &[Row] = &[
    ("requestMirror.backendRef.group", GROUP),
    ("requestMirror.backendRef.kind", KIND),
    ("requestMirror.backendRef.name", NAME),
    ("requestMirror.backendRef.namespace", NAMESPACE),
    ("requestMirror.backendRef.port", PORT),
    (
        "requestMirror.fraction.numerator",
        Rule::Between(0, i32::MAX as i64),
    ),
    (
        "requestMirror.fraction.denominator",
        Rule::Between(1, i32::MAX as i64),
    ),
    ("extensionRef.group", GROUP),
    ("extensionRef.kind", KIND),
    ("extensionRef.name", NAME),
    ("externalAuth.backendRef.group", GROUP),
    ("externalAuth.backendRef.kind", KIND),
    ("externalAuth.backendRef.name", NAME),
    ("externalAuth.backendRef.namespace", NAMESPACE),
    ("externalAuth.backendRef.port", PORT),
    ("externalAuth.grpc.allowedHeaders", Rule::Items(0, 64)),
    ("externalAuth.http.allowedHeaders", Rule::Items(0, 64)),
    (
        "externalAuth.http.allowedResponseHeaders",
        Rule::Items(0, 64),
    ),
    ("externalAuth.http.path", Rule::Length(0, 1024)),
    ("externalAuth.http.path", Rule::Form(is_path, "path")),
    ("requestRedirect.hostname", SUBDOMAIN),
    ("requestRedirect.port", PORT),
    (
        "requestRedirect.path.replaceFullPath",
        Rule::Length(0, 1024),
    ),
    (
        "requestRedirect.path.replacePrefixMatch",
        Rule::Length(0, 1024),
    ),
    ("urlRewrite.hostname", SUBDOMAIN),
    ("urlRewrite.path.replaceFullPath", Rule::Length(0, 1024)),
    ("urlRewrite.path.replacePrefixMatch", Rule::Length(0, 1024)),
    ("cors.allowOrigins", Rule::Items(0, 64)),
    ("cors.allowOrigins", Rule::Once),
    ("cors.allowOrigins", Rule::StarAlone),
    (
        "cors.allowOrigins[]",
        Rule::Form(is_origin, "origin such as https://a.test"),
    ),
    ("cors.allowMethods", Rule::Items(0, 9)),
    ("cors.allowMethods", Rule::Once),
    ("cors.allowMethods", Rule::StarAlone),
    ("cors.allowMethods[]", Rule::OneOf(METHODS)),
    ("cors.allowHeaders", Rule::Items(0, 64)),
    ("cors.allowHeaders", Rule::Once),
    ("cors.allowHeaders", Rule::StarAlone),
    ("cors.allowHeaders[]", TOKEN),
    ("cors.exposeHeaders", Rule::Items(0, 64)),
    ("cors.exposeHeaders", Rule::Once),
    ("cors.exposeHeaders[]", TOKEN),
    ("cors.maxAge", Rule::Between(1, i32::MAX as i64)),
];

/// Of both header modifiers.
const MODIFIER: &[Row] = &[
    ("set", Rule::Items(0, 16)),
    ("set[].name", TOKEN),
    ("set[].value", VALUE),
    ("add", Rule::Items(0, 16)),
    ("add[].name", TOKEN),
    ("add[].value", VALUE),
    ("remove", Rule::Items(0, 16)),
    ("remove", Rule::Once),
];

/// Checks a route's fields one by one.
pub(crate) fn check(manifest: &Manifest) -> Result<(), LoadError> {
    schema::check(manifest, "spec", SPEC)?;
    for list in ["rules[].filters[]", "rules[].backendRefs[].filters[]"] {
        schema::check_below(manifest, "spec", list, FILTER)?;
        for modifier in ["requestHeaderModifier", "responseHeaderModifier"] {
            schema::check_below(manifest, "spec", &format!("{list}.{modifier}"), MODIFIER)?;
        }
    }
    let rules = manifest.body.get("spec").and_then(|spec| spec.get("rules"));
    let rules = rules.and_then(serde_json::Value::as_array);
    let matches = rules.into_iter().flatten().map(|rule| {
        let matches = rule.get("matches").and_then(serde_json::Value::as_array);
        matches.map_or(1, Vec::len)
    });
    if matches.sum::<usize>() > 128 {
        return Err(manifest.refused("spec.rules", "have more than 128 matches together"));
    }
    Ok(())
}

/// As [`check`], for a GRPCRoute.
pub(crate) fn check_grpc(manifest: &Manifest) -> Result<(), LoadError> {
    check(manifest)?;
    schema::check(manifest, "spec", GRPC)
}

/// As [`check`], for a TCPRoute or TLSRoute.
pub(crate) fn check_stream(manifest: &Manifest) -> Result<(), LoadError> {
    schema::check(manifest, "spec", SPEC)?;
    schema::check(manifest, "spec", &[("rules", Rule::Items(1, 1))])
}

/// Up to four numbers of up to five digits with h, m, s or ms.
pub(crate) fn is_duration(text: &str) -> bool {
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let after = rest.get(digits..).unwrap_or_default();
        let unit = ["ms", "h", "m", "s"]
            .into_iter()
            .find_map(|unit| after.strip_prefix(unit));
        match unit {
            Some(more) if (1..=5).contains(&digits) => rest = more,
            _ => return false,
        }
        parts += 1;
    }
    (1..=4).contains(&parts)
}

/// `*`, or scheme and host, which may be `*` or begin with `*.`, and perhaps a port.
fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let rest = text
        .strip_prefix("http")
        .map(|rest| rest.strip_prefix('s').unwrap_or(rest));
    let Some(rest) = rest.and_then(|rest| rest.strip_prefix("://")) else {
        return false;
    };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let labels = host.strip_prefix("*.").unwrap_or(host);
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    let digits =
        |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|c| c.is_ascii_digit());
    (host == "*" || labels.split('.').all(is_label)) && port.is_none_or(digits) && text.len() <= 253
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_origins() {
        for text in ["10s", "1m30s", "99999ms", "1h1m1s1ms"] {
            assert!(is_duration(text), "{text}");
        }
        for text in [
            "",
            "10",
            "0",
            "1.5s",
            "123456s",
            "1s1s1s1s1s",
            "10us",
            "-1s",
        ] {
            assert!(!is_duration(text), "{text}");
        }
        for text in ["*", "https://a.test", "http://*.a.test:8080", "https://*"] {
            assert!(is_origin(text), "{text}");
        }
        for text in [
            "a.test",
            "ftp://a",
            "https://a/b",
            "https://a:",
            "https://a.*",
            "null",
        ] {
            assert!(!is_origin(text), "{text}");
        }
    }
}
