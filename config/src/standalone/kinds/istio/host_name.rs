//! Hosts as Istio's own kinds write them: whole names, names that begin with `*`, and short ones.

use std::net::IpAddr;

use crate::standalone::kinds::core::port::is_dns_label;
use crate::standalone::kinds::core::service::CLUSTER_DOMAIN;

/// What a host means that is written in this namespace: without a dot it is the name of a Service there.
pub(crate) fn resolved(host: &str, namespace: &str) -> String {
    if host == "*" || host.contains('.') || host.parse::<IpAddr>().is_ok() {
        return host.to_owned();
    }
    format!("{host}.{namespace}.{CLUSTER_DOMAIN}")
}

/// Whether two hosts have a name in common, of which either may begin with `*`.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (None, None) => one == other,
        (Some(suffix), None) => other.ends_with(suffix),
        (None, Some(suffix)) => one.ends_with(suffix),
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
    }
}

/// Whether all names of a host are names of the other.
pub(crate) fn is_within(host: &str, other: &str) -> bool {
    match (host.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(_), None) => false,
        (Some(host), Some(other)) => host.ends_with(other),
        (None, Some(suffix)) => host.ends_with(suffix),
        (None, None) => host == other,
    }
}

/// A host, which may begin with `*` and end with a dot.
pub(crate) fn is_host(text: &str) -> bool {
    let (first, rest) = text.split_once('.').unwrap_or((text, ""));
    let bare = first.strip_prefix("*-").or_else(|| first.strip_prefix('*'));
    let rest: Vec<&str> = rest.strip_suffix('.').unwrap_or(rest).split('.').collect();
    let is_rest = match rest.as_slice() {
        [""] => true,
        labels => labels.iter().all(|label| is_label(label)),
    };
    let last = rest.last().copied().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|c| c.is_ascii_digit());
    let is_first = first == "*" || is_label(bare.unwrap_or(first));
    text.len() <= 255 && is_first && is_rest && !is_number
}

/// A DNS label as Istio reads it: in any case of letters.
pub(crate) fn is_label(text: &str) -> bool {
    is_dns_label(&text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (host, expected) in [
            ("a.test", true),
            ("A-b.test", true),
            ("*.test", true),
            ("*a.test", true),
            ("*-a.test", true),
            ("*", true),
            ("a", true),
            ("a.test.", true),
            ("", false),
            ("a.*", false),
            ("a..b", false),
            ("*-.test", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(is_host(host), expected, "{host}");
        }
    }

    #[test]
    fn short_names_are_services_of_the_namespace() {
        for (host, expected) in [
            ("web", "web.shop.svc.cluster.local"),
            ("web.other", "web.other"),
            ("*", "*"),
            ("::1", "::1"),
        ] {
            assert_eq!(resolved(host, "shop"), expected);
        }
    }

    #[test]
    fn names_in_common() {
        for (one, other, expected) in [
            ("a.test", "a.test", (true, true)),
            ("a.test", "b.test", (false, false)),
            ("*.test", "a.test", (true, false)),
            ("a.test", "*.test", (true, true)),
            ("*.a.test", "*.test", (true, true)),
            ("*.test", "*.a.test", (true, false)),
            ("*.a.test", "a.test", (false, false)),
            ("*", "a.test", (true, false)),
        ] {
            let found = (overlap(one, other), is_within(one, other));
            assert_eq!(found, expected, "{one} {other}");
        }
    }
}
