//! Attributes of who sends, as RBAC principals in istiod's shape. The peer's identity is read from filter state, since
//! the tunnel's TLS session ended one hop earlier.

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use matcher::string_matcher::MatchPattern;
use rbac::Principal;
use rbac::principal::{Identifier, Set as PrincipalSet};

use crate::standalone::translate::proto::regex::quote;
use crate::standalone::translate::security::rbac_rule::{CannotTell, principal};
use crate::standalone::translate::security::value_matcher::{
    any_value, cidr, header, list_or, metadata, pattern, regex, spiffe, string, string_value,
};

pub(in crate::standalone::translate) const PEER_PRINCIPAL: &str = "io.istio.peer_principal";
pub(super) const JWT: &str = "envoy.filters.http.jwt_authn";

/// Attributes of who sends.
pub(crate) enum PrincipalName<'a> {
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

impl PrincipalName<'_> {
    pub(crate) fn is_http(&self) -> bool {
        matches!(
            self,
            PrincipalName::RequestPrincipal | PrincipalName::Header(_) | PrincipalName::Claim(_)
        )
    }

    /// Whether it is of an identity that a request brings along and a RequestAuthentication checks.
    pub(crate) fn is_of_token(&self) -> bool {
        matches!(
            self,
            PrincipalName::RequestPrincipal | PrincipalName::Claim(_)
        )
    }

    pub(crate) fn any_of(
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

#[allow(deprecated)] // istiod sends `metadata`, not `sourced_metadata`
fn claim(path: &[&str], value: matcher::ValueMatcher) -> Principal {
    let mut keys = vec!["payload"];
    keys.extend(path);
    principal(Identifier::Metadata(metadata(JWT, &keys, value)))
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
}
