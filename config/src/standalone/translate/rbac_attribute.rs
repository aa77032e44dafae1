//! Attributes of authorization rules as RBAC permissions and principals, in istiod's shape.
//!
//! Values: `*` is presence, `a*` a prefix, `*a` a suffix, else equality. The peer's identity is read from
//! filter state, since the tunnel's TLS session ended one hop earlier.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use ipnet::IpNet;
use matcher::string_matcher::MatchPattern;
use rbac::permission::{Rule as PermissionRule, Set as PermissionSet};
use rbac::principal::{Identifier, Set as PrincipalSet};
use rbac::{Permission, Principal};

use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::uint32;
use crate::standalone::translate::rbac_rule::{CannotTell, permission, principal};

const PEER_PRINCIPAL: &str = "io.istio.peer_principal";
const JWT: &str = "envoy.filters.http.jwt_authn";

/// Attributes of what is asked for.
pub(super) enum PermissionName<'a> {
    Host,
    Method,
    Path,
    Port,
    DestinationIp,
    ServerName,
    /// Dynamic metadata of a filter: `experimental.envoy.filters.<filter>[<key>]`.
    FilterMetadata(&'a str),
}

impl<'a> PermissionName<'a> {
    pub(super) fn of_key(key: &'a str) -> Option<PermissionName<'a>> {
        match key {
            "destination.ip" => Some(PermissionName::DestinationIp),
            "destination.port" => Some(PermissionName::Port),
            "connection.sni" => Some(PermissionName::ServerName),
            _ => {
                let filter = key.strip_prefix("experimental.")?;
                filter
                    .starts_with("envoy.filters.")
                    .then_some(PermissionName::FilterMetadata(filter))
            }
        }
    }

    pub(super) fn is_http(&self) -> bool {
        matches!(
            self,
            PermissionName::Host | PermissionName::Method | PermissionName::Path
        )
    }

    pub(super) fn any_of(&self, values: &[String]) -> Result<Permission, CannotTell> {
        if let PermissionName::FilterMetadata(key) = self {
            return filter_metadata(key, values);
        }
        let rules: Result<_, _> = values.iter().map(|value| self.one(value)).collect();
        Ok(permission(PermissionRule::OrRules(PermissionSet {
            rules: rules?,
        })))
    }

    fn one(&self, value: &str) -> Result<Permission, CannotTell> {
        Ok(permission(match self {
            PermissionName::Host => PermissionRule::Header(header(":authority", value, true)),
            PermissionName::Method => PermissionRule::Header(header(":method", value, false)),
            PermissionName::Path if value.contains("{*}") || value.contains("{**}") => {
                let path_template = value.replace("{**}", "**").replace("{*}", "*");
                PermissionRule::UriTemplate(core::TypedExtensionConfig {
                    name: "uri-template".to_owned(),
                    typed_config: Some(any(&UriTemplateMatchConfig { path_template })),
                })
            }
            PermissionName::Path => PermissionRule::UrlPath(matcher::PathMatcher {
                rule: Some(matcher::path_matcher::Rule::Path(string(value))),
            }),
            PermissionName::Port => PermissionRule::DestinationPort(
                value.parse::<u16>().map_err(|_| CannotTell)?.into(),
            ),
            PermissionName::DestinationIp => PermissionRule::DestinationIp(cidr(value)?),
            PermissionName::ServerName => PermissionRule::RequestedServerName(string(value)),
            PermissionName::FilterMetadata(_) => return Err(CannotTell),
        }))
    }
}

#[allow(deprecated)] // istiod sends `metadata`, not `sourced_metadata`
fn filter_metadata(key: &str, values: &[String]) -> Result<Permission, CannotTell> {
    let (filter, key) = key
        .strip_suffix(']')
        .and_then(|key| key.split_once('['))
        .ok_or(CannotTell)?;
    let value = |value: &String| match value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
        Some(inner) => list_of(string_value(string(inner))),
        None => string_value(string(value)),
    };
    let value = any_value(values.iter().map(value).collect());
    Ok(permission(PermissionRule::Metadata(metadata(
        filter,
        &[key],
        value,
    ))))
}

/// Attributes of who sends.
pub(super) enum PrincipalName<'a> {
    Principal,
    RequestPrincipal,
    /// `namespace` is meant where a value names none.
    ServiceAccount {
        namespace: &'a str,
    },
    TrustDomain,
    Namespace,
    SourceIp,
    RemoteIp,
    Header(&'a str),
    /// Claim, or path to a nested one.
    Claim(Vec<&'a str>),
}

impl<'a> PrincipalName<'a> {
    pub(super) fn of_key(key: &'a str, namespace: &'a str) -> Option<PrincipalName<'a>> {
        match key {
            "source.ip" => Some(PrincipalName::SourceIp),
            "remote.ip" => Some(PrincipalName::RemoteIp),
            "source.namespace" => Some(PrincipalName::Namespace),
            "source.trustDomain" => Some(PrincipalName::TrustDomain),
            "source.serviceAccount" => Some(PrincipalName::ServiceAccount { namespace }),
            "source.principal" => Some(PrincipalName::Principal),
            "request.auth.principal" => Some(PrincipalName::RequestPrincipal),
            "request.auth.audiences" => Some(PrincipalName::Claim(vec!["aud"])),
            "request.auth.presenter" => Some(PrincipalName::Claim(vec!["azp"])),
            _ => {
                let in_brackets = |prefix| key.strip_prefix(prefix)?.strip_suffix(']');
                let header = in_brackets("request.headers[").map(PrincipalName::Header);
                let claim = || in_brackets("request.auth.claims[");
                header.or_else(|| Some(PrincipalName::Claim(claim()?.split("][").collect())))
            }
        }
    }

    pub(super) fn is_http(&self) -> bool {
        matches!(
            self,
            PrincipalName::RequestPrincipal | PrincipalName::Header(_) | PrincipalName::Claim(_)
        )
    }

    /// Whether it is of an identity that a request brings along and a RequestAuthentication checks.
    pub(super) fn is_of_token(&self) -> bool {
        matches!(
            self,
            PrincipalName::RequestPrincipal | PrincipalName::Claim(_)
        )
    }

    pub(super) fn any_of(
        &self,
        values: &[String],
        trust_domains: &[String],
    ) -> Result<Principal, CannotTell> {
        if let PrincipalName::Claim(path) = self {
            let value = any_value(
                values
                    .iter()
                    .map(|value| string_value(string(value)))
                    .collect(),
            );
            return Ok(claim(path, list_or(value)));
        }
        let mut ids = Vec::new();
        for value in self.with_aliases(values, trust_domains) {
            ids.push(self.one(&value)?);
        }
        match (self, ids.len()) {
            (PrincipalName::RequestPrincipal, 1) => ids.pop().ok_or(CannotTell),
            _ => Ok(principal(Identifier::OrIds(PrincipalSet { ids }))),
        }
    }

    /// Values with the trust domain's aliases, each once.
    fn with_aliases(&self, values: &[String], domains: &[String]) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let expanded = values.iter().flat_map(|value| match self {
            PrincipalName::Principal => principals_of_aliases(value, domains),
            PrincipalName::TrustDomain if domains.contains(value) => domains.to_vec(),
            _ => vec![value.clone()],
        });
        for value in expanded {
            if !all.contains(&value) {
                all.push(value);
            }
        }
        all
    }

    fn one(&self, value: &str) -> Result<Principal, CannotTell> {
        let peer = |name| {
            principal(Identifier::FilterState(matcher::FilterStateMatcher {
                key: PEER_PRINCIPAL.to_owned(),
                matcher: Some(matcher::filter_state_matcher::Matcher::StringMatch(name)),
            }))
        };
        Ok(match self {
            PrincipalName::Principal => peer(spiffe(value)),
            PrincipalName::Namespace => {
                let parts: Vec<String> = value.split('*').map(quote).collect();
                peer(regex(format!(".*/ns/{}/.*", parts.join(".*"))))
            }
            PrincipalName::ServiceAccount { namespace } => {
                let (namespace, account) = value.split_once('/').unwrap_or((namespace, value));
                let (namespace, account) = (quote(namespace), quote(account));
                peer(regex(format!(
                    "spiffe://.+/ns/{namespace}/(.+/|)sa/{account}(/.+)?"
                )))
            }
            PrincipalName::TrustDomain => peer(match value.split_once('*') {
                Some(("", "")) => pattern(MatchPattern::Prefix("spiffe://".to_owned()), false),
                Some((before, after)) => regex(format!(
                    "spiffe://{}[^/]*{}/.*",
                    quote(before),
                    quote(after)
                )),
                None => pattern(MatchPattern::Prefix(format!("spiffe://{value}/")), false),
            }),
            PrincipalName::SourceIp => principal(Identifier::DirectRemoteIp(cidr(value)?)),
            PrincipalName::RemoteIp => principal(Identifier::RemoteIp(cidr(value)?)),
            PrincipalName::Header(name) => {
                principal(Identifier::Header(header(name, value, false)))
            }
            PrincipalName::RequestPrincipal => {
                let (issuer, subject) = request_principal(value);
                let ids = vec![
                    claim(&["iss"], string_value(issuer)),
                    claim(&["sub"], string_value(subject)),
                ];
                principal(Identifier::AndIds(PrincipalSet { ids }))
            }
            PrincipalName::Claim(_) => return Err(CannotTell),
        })
    }
}

/// `<trust domain>/ns/…/sa/…` for every alias, if the domain is the mesh's or `cluster.local`, which
/// stands for it. Anything else is meant as it is written.
fn principals_of_aliases(value: &str, domains: &[String]) -> Vec<String> {
    let parts: Vec<&str> = value.split('/').collect();
    let (Some(domain), 5) = (parts.first().copied(), parts.len()) else {
        return vec![value.to_owned()];
    };
    let known = |own: &String| match domain.strip_prefix('*') {
        Some(suffix) => own.ends_with(suffix),
        None => own == domain,
    };
    if domain == "*" || !(domains.iter().any(known) || domain == "cluster.local") {
        return vec![value.to_owned()];
    }
    let rest = value.get(domain.len()..).unwrap_or_default();
    let of_domain = |own: &String| {
        if domain.starts_with('*') && known(own) {
            value.to_owned()
        } else {
            format!("{own}{rest}")
        }
    };
    domains.iter().map(of_domain).collect()
}

/// Matchers of issuer and subject: cut at the last `/`, since an issuer may be a URL.
fn request_principal(value: &str) -> (matcher::StringMatcher, matcher::StringMatcher) {
    let anything = || regex(".+".to_owned());
    let suffix = |text: &str| pattern(MatchPattern::Suffix(text.to_owned()), false);
    let prefix = |text: &str| pattern(MatchPattern::Prefix(text.to_owned()), false);
    let exact = |text: &str| pattern(MatchPattern::Exact(text.to_owned()), false);
    if value == "*" {
        return (anything(), anything());
    }
    match (
        value.strip_prefix('*'),
        value.strip_suffix('*'),
        value.rsplit_once('/'),
    ) {
        (Some(_), _, Some(("*", subject))) => (anything(), exact(subject)),
        (Some(_), _, Some((issuer, subject))) => {
            (suffix(issuer.trim_start_matches('*')), exact(subject))
        }
        (Some(rest), _, None) => (anything(), suffix(rest)),
        (None, Some(_), Some((issuer, "*"))) => (exact(issuer), anything()),
        (None, Some(_), Some((issuer, subject))) => {
            (exact(issuer), prefix(subject.trim_end_matches('*')))
        }
        (None, Some(rest), None) => (prefix(rest), anything()),
        (None, None, Some((issuer, subject))) => (exact(issuer), exact(subject)),
        (None, None, None) => (exact(value), exact("")),
    }
}

fn header(name: &str, value: &str, ignore_case: bool) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier;
    let specifier = if value == "*" {
        HeaderMatchSpecifier::PresentMatch(true)
    } else if let Some(suffix) = value.strip_prefix('*') {
        HeaderMatchSpecifier::StringMatch(pattern(
            MatchPattern::Suffix(suffix.to_owned()),
            ignore_case,
        ))
    } else if let Some(prefix) = value.strip_suffix('*') {
        HeaderMatchSpecifier::StringMatch(pattern(
            MatchPattern::Prefix(prefix.to_owned()),
            ignore_case,
        ))
    } else {
        HeaderMatchSpecifier::StringMatch(pattern(
            MatchPattern::Exact(value.to_owned()),
            ignore_case,
        ))
    };
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..route::HeaderMatcher::default()
    }
}

fn string(value: &str) -> matcher::StringMatcher {
    let found = if value == "*" {
        return regex(".+".to_owned());
    } else if let Some(suffix) = value.strip_prefix('*') {
        MatchPattern::Suffix(suffix.to_owned())
    } else if let Some(prefix) = value.strip_suffix('*') {
        MatchPattern::Prefix(prefix.to_owned())
    } else {
        MatchPattern::Exact(value.to_owned())
    };
    pattern(found, false)
}

/// As `string`, for a value that is meant after `spiffe://`.
fn spiffe(value: &str) -> matcher::StringMatcher {
    if value == "*" {
        regex(".+".to_owned())
    } else if let Some(suffix) = value.strip_prefix('*') {
        regex(format!("spiffe://.*{}", quote(suffix)))
    } else if let Some(prefix) = value.strip_suffix('*') {
        pattern(MatchPattern::Prefix(format!("spiffe://{prefix}")), false)
    } else {
        pattern(MatchPattern::Exact(format!("spiffe://{value}")), false)
    }
}

fn pattern(pattern: MatchPattern, ignore_case: bool) -> matcher::StringMatcher {
    matcher::StringMatcher {
        ignore_case,
        match_pattern: Some(pattern),
    }
}

fn regex(regex: String) -> matcher::StringMatcher {
    let regex = matcher::RegexMatcher {
        regex,
        ..matcher::RegexMatcher::default()
    };
    pattern(MatchPattern::SafeRegex(regex), false)
}

/// Quotes a literal for a regular expression, as Go does it.
pub(super) fn quote(literal: &str) -> String {
    let mut quoted = String::with_capacity(literal.len());
    for c in literal.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

fn cidr(value: &str) -> Result<core::CidrRange, CannotTell> {
    let net = value
        .parse::<IpNet>()
        .or_else(|_| value.parse::<std::net::IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| CannotTell)?;
    Ok(core::CidrRange {
        address_prefix: net.addr().to_string(),
        prefix_len: uint32(net.prefix_len().into()),
    })
}

#[allow(deprecated)] // istiod sends `metadata`, not `sourced_metadata`
fn claim(path: &[&str], value: matcher::ValueMatcher) -> Principal {
    let mut keys = vec!["payload"];
    keys.extend(path);
    principal(Identifier::Metadata(metadata(JWT, &keys, value)))
}

fn metadata(filter: &str, keys: &[&str], value: matcher::ValueMatcher) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::path_segment::Segment;
    let segment = |key: &&str| matcher::metadata_matcher::PathSegment {
        segment: Some(Segment::Key((*key).to_owned())),
    };
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: keys.iter().map(segment).collect(),
        value: Some(value),
        ..matcher::MetadataMatcher::default()
    }
}

fn value(pattern: matcher::value_matcher::MatchPattern) -> matcher::ValueMatcher {
    matcher::ValueMatcher {
        match_pattern: Some(pattern),
    }
}

fn string_value(string: matcher::StringMatcher) -> matcher::ValueMatcher {
    value(matcher::value_matcher::MatchPattern::StringMatch(string))
}

fn list_of(one: matcher::ValueMatcher) -> matcher::ValueMatcher {
    use matcher::list_matcher::MatchPattern as List;
    value(matcher::value_matcher::MatchPattern::ListMatch(Box::new(
        matcher::ListMatcher {
            match_pattern: Some(List::OneOf(Box::new(one))),
        },
    )))
}

fn any_value(mut values: Vec<matcher::ValueMatcher>) -> matcher::ValueMatcher {
    match (values.len(), values.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            values.extend(last);
            let any = matcher::OrMatcher {
                value_matchers: values,
            };
            value(matcher::value_matcher::MatchPattern::OrMatch(any))
        }
    }
}

/// A claim may be the value, or a list that holds it.
fn list_or(found: matcher::ValueMatcher) -> matcher::ValueMatcher {
    let both = vec![list_of(found.clone()), found];
    value(matcher::value_matcher::MatchPattern::OrMatch(
        matcher::OrMatcher {
            value_matchers: both,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_stand_for_the_meshs_own_domain_only() {
        let domains = ["new.test".to_owned(), "old.test".to_owned()];
        let all = |value: &str| principals_of_aliases(value, &domains);
        let both = ["new.test/ns/a/sa/b", "old.test/ns/a/sa/b"];
        assert_eq!(all("old.test/ns/a/sa/b"), both);
        assert_eq!(all("cluster.local/ns/a/sa/b"), both);
        for kept in [
            "other.test/ns/a/sa/b",
            "*/ns/a/sa/b",
            "old.test/ns/*",
            "*",
            "*/sa/b",
        ] {
            assert_eq!(all(kept), [kept]);
        }
        assert_eq!(all("*.test/ns/a/sa/b"), ["*.test/ns/a/sa/b"; 2]);
    }

    #[test]
    fn request_principals_are_cut_at_the_last_slash() {
        let exact = |text: &str| pattern(MatchPattern::Exact(text.to_owned()), false);
        let prefix = |text: &str| pattern(MatchPattern::Prefix(text.to_owned()), false);
        let suffix = |text: &str| pattern(MatchPattern::Suffix(text.to_owned()), false);
        let any = || regex(".+".to_owned());
        for (value, expected) in [
            (
                "https://issuer/x/sub",
                (exact("https://issuer/x"), exact("sub")),
            ),
            ("issuer/*", (exact("issuer"), any())),
            ("issuer/su*", (exact("issuer"), prefix("su"))),
            ("*/sub", (any(), exact("sub"))),
            ("*.test/sub", (suffix(".test"), exact("sub"))),
            ("*", (any(), any())),
            ("iss*", (prefix("iss"), any())),
            ("*sub", (any(), suffix("sub"))),
        ] {
            assert_eq!(request_principal(value), expected, "{value}");
        }
    }

    #[test]
    fn literals_are_quoted() {
        assert_eq!(quote("a.b*c-d"), r"a\.b\*c-d");
    }
}
