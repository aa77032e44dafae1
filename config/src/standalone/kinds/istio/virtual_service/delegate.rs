//! What becomes of a rule that leaves the rest to a delegate: the delegate's rules, each with what the root adds.
//!
//! As with istiod a delegate may narrow its root's matches and no more: a rule that would widen one is left out.

use std::collections::BTreeMap;

use crate::standalone::kinds::istio::virtual_service::http_match::HttpMatch;
use crate::standalone::kinds::istio::virtual_service::http_route::HttpRoute;
use crate::standalone::kinds::istio::virtual_service::string_match::StringMatch;

/// A rule of a delegate under a rule of its root. `None`: none of its matches is within the root's.
pub(crate) fn merged(root: &HttpRoute, delegate: &HttpRoute) -> Option<HttpRoute> {
    let (own, over) = (delegate.clone(), root.clone());
    Some(HttpRoute {
        r#match: merged_matches(&root.r#match, &delegate.r#match)?,
        name: joined(&root.name, &delegate.name),
        route: own.route,
        redirect: own.redirect,
        delegate: None,
        rewrite: own.rewrite.or(over.rewrite),
        direct_response: own.direct_response.or(over.direct_response),
        timeout: own.timeout.or(over.timeout),
        retries: own.retries.or(over.retries),
        fault: own.fault.or(over.fault),
        mirror: own.mirror.or(over.mirror),
        mirror_percent: own.mirror_percent.or(over.mirror_percent),
        mirror_percentage: own.mirror_percentage.or(over.mirror_percentage),
        cors_policy: own.cors_policy.or(over.cors_policy),
        mirrors: match own.mirrors.is_empty() {
            true => over.mirrors,
            false => own.mirrors,
        },
        headers: own.headers.or(over.headers),
    })
}

fn joined(root: &str, own: &str) -> String {
    match (root, own) {
        (root, "") => root.to_owned(),
        ("", own) => own.to_owned(),
        (root, own) => format!("{root}-{own}"),
    }
}

fn merged_matches(roots: &[HttpMatch], leaves: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if roots.is_empty() {
        return Some(leaves.to_vec());
    }
    if leaves.is_empty() {
        return Some(roots.to_vec());
    }
    let mut found = Vec::new();
    for leaf in leaves {
        let before = found.len();
        let within = roots.iter().filter(|root| !conflict(root, leaf));
        found.extend(within.map(|root| merged_match(root, leaf)));
        // One that fits nowhere makes the whole rule one that isn't the root's.
        if found.len() == before {
            return None;
        }
    }
    Some(found)
}

fn merged_match(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    let (own, over) = (leaf.clone(), root.clone());
    let text = |own: String, over: String| if own.is_empty() { over } else { own };
    HttpMatch {
        name: joined(&root.name, &leaf.name),
        uri: own.uri.or(over.uri),
        scheme: own.scheme.or(over.scheme),
        method: own.method.or(over.method),
        authority: own.authority.or(over.authority),
        headers: both(over.headers, own.headers),
        without_headers: both(over.without_headers, own.without_headers),
        query_params: both(over.query_params, own.query_params),
        ignore_uri_case: own.ignore_uri_case,
        port: if own.port == 0 { over.port } else { own.port },
        source_labels: both(over.source_labels, own.source_labels),
        source_namespace: text(own.source_namespace, over.source_namespace),
        gateways: match own.gateways.is_empty() {
            true => over.gateways,
            false => own.gateways,
        },
        stat_prefix: text(own.stat_prefix, over.stat_prefix),
    }
}

fn both<V>(mut root: BTreeMap<String, V>, own: BTreeMap<String, V>) -> BTreeMap<String, V> {
    root.extend(own);
    root
}

/// Whether a match of a delegate isn't within one of its root.
fn conflict(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    let in_texts = texts
        .iter()
        .any(|(root, leaf)| StringMatch::conflicts(root.as_ref(), leaf.as_ref()));
    let in_maps = maps.iter().any(|(root, leaf)| {
        let mut each = leaf.iter();
        each.any(|(name, own)| StringMatch::conflicts(root.get(name), Some(own)))
    });
    let other_label = leaf.source_labels.iter().any(|(name, own)| {
        root.source_labels
            .get(name)
            .is_some_and(|value| value != own)
    });
    let ports = root.port > 0 && leaf.port > 0 && root.port != leaf.port;
    let namespaces =
        !root.source_namespace.is_empty() && root.source_namespace != leaf.source_namespace;
    let gateways = !root.gateways.is_empty()
        && !leaf.gateways.is_empty()
        && (root.gateways.len() < leaf.gateways.len()
            || leaf.gateways.iter().any(|own| !root.gateways.contains(own)));
    let cases = root.ignore_uri_case != leaf.ignore_uri_case;
    in_texts || in_maps || other_label || ports || namespaces || gateways || cases
}
