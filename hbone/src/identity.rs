//! A workload's SPIFFE identity, as it stands in the URI SAN of its certificate.
//!
//! The parse is strict, after the SPIFFE-ID standard: only `spiffe://`, a lower-case trust domain of at most 255
//! bytes, and a path of plain segments. No percent-encoding, port, user, query or fragment, no empty, `.` or `..`
//! segment, no trailing slash, at most 2048 bytes. An identity that could be spelled in two ways would let a policy
//! compare the wrong one, so nothing is normalized: what isn't canonical is refused. An identity of a workload has
//! a path (X.509-SVID §4.1); a bare trust domain isn't one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
const MAX_LEN: usize = 2048;
const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// A valid SPIFFE ID of a workload. Cloning it costs one reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    text: Arc<str>,
}

/// Why a text isn't a SPIFFE ID. The fault lies with whoever issued or configured the text; a retry won't help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("a SPIFFE ID has at most {MAX_LEN} bytes, this one has {0}")]
    TooLong(usize),
    #[error("a SPIFFE ID starts with {SCHEME:?}")]
    Scheme,
    #[error("the trust domain is empty")]
    TrustDomainEmpty,
    #[error("the trust domain has more than {MAX_TRUST_DOMAIN_LEN} bytes")]
    TrustDomainTooLong,
    #[error("the trust domain contains {0:?}; allowed are a-z, 0-9, '.', '-', '_'")]
    TrustDomainCharacter(char),
    #[error("a workload's SPIFFE ID has a path")]
    PathMissing,
    #[error("the path has an empty segment or ends with a slash")]
    EmptySegment,
    #[error("the path has a relative segment ('.' or '..')")]
    RelativeSegment,
    #[error("the path contains {0:?}; allowed are a-z, A-Z, 0-9, '.', '-', '_'")]
    PathCharacter(char),
}

impl Identity {
    /// The identity in Istio's form, `spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}`.
    pub fn istio(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Identity, IdentityError> {
        let identity: Identity =
            format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()?;
        // A slash inside a part would still parse, but as another identity.
        let whole = identity.namespace() == Some(namespace)
            && identity.service_account() == Some(service_account)
            && identity.trust_domain() == trust_domain;
        if whole {
            Ok(identity)
        } else {
            Err(IdentityError::PathCharacter('/'))
        }
    }

    /// The whole SPIFFE ID, `spiffe://` included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The SPIFFE ID as a shared string, for those that keep it.
    pub fn as_arc(&self) -> &Arc<str> {
        &self.text
    }

    /// The trust domain, e.g. `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        self.split().0
    }

    /// The path without its first slash, e.g. `ns/default/sa/reviews`.
    pub fn path(&self) -> &str {
        self.split().1
    }

    /// The namespace, if the path has Istio's form `ns/…/sa/…`.
    pub fn namespace(&self) -> Option<&str> {
        self.istio_parts().map(|(namespace, _)| namespace)
    }

    /// The service account, if the path has Istio's form `ns/…/sa/…`.
    pub fn service_account(&self) -> Option<&str> {
        self.istio_parts().map(|(_, account)| account)
    }

    fn split(&self) -> (&str, &str) {
        let rest = self.text.strip_prefix(SCHEME).unwrap_or(&self.text);
        rest.split_once('/').unwrap_or((rest, ""))
    }

    fn istio_parts(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Identity, IdentityError> {
        if text.len() > MAX_LEN {
            return Err(IdentityError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (trust_domain, path) = match rest.split_once('/') {
            Some((trust_domain, path)) => (trust_domain, Some(path)),
            None => (rest, None),
        };
        check_trust_domain(trust_domain)?;
        for segment in path.ok_or(IdentityError::PathMissing)?.split('/') {
            check_segment(segment)?;
        }
        Ok(Identity { text: text.into() })
    }
}

/// Checks a trust domain's name by the same rules as inside an identity.
pub fn check_trust_domain(name: &str) -> Result<(), IdentityError> {
    if name.is_empty() {
        return Err(IdentityError::TrustDomainEmpty);
    }
    if name.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(IdentityError::TrustDomainTooLong);
    }
    let allowed = |c: &char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match name.chars().find(|c| !allowed(c)) {
        Some(c) => Err(IdentityError::TrustDomainCharacter(c)),
        None => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), IdentityError> {
    let allowed = |c: &char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_');
    match segment {
        "" => Err(IdentityError::EmptySegment),
        "." | ".." => Err(IdentityError::RelativeSegment),
        _ => match segment.chars().find(|c| !allowed(c)) {
            Some(c) => Err(IdentityError::PathCharacter(c)),
            None => Ok(()),
        },
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl AsRef<str> for Identity {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_istio_identity() {
        let id: Identity = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
            .parse()
            .unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), Some("default"));
        assert_eq!(id.service_account(), Some("bookinfo-reviews"));
        assert_eq!(
            id,
            Identity::istio("cluster.local", "default", "bookinfo-reviews").unwrap()
        );
        assert_eq!(
            id.to_string(),
            "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
        );
    }

    #[test]
    fn other_paths_are_identities_without_namespace() {
        for text in [
            "spiffe://td/a",
            "spiffe://td/ns/x",
            "spiffe://td/ns/a/b/sa/c",
            "spiffe://td/ns/a/sa/b/c",
        ] {
            let id: Identity = text.parse().unwrap();
            assert_eq!(
                (id.namespace(), id.service_account()),
                (None, None),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        use IdentityError::*;
        for (text, error) in [
            ("", Scheme),
            ("https://td/a", Scheme),
            ("SPIFFE://td/a", Scheme),
            ("spiffe:/td/a", Scheme),
            ("spiffe:///a", TrustDomainEmpty),
            ("spiffe://td", PathMissing),
            ("spiffe://td/", EmptySegment),
            ("spiffe://td/a/", EmptySegment),
            ("spiffe://td//a", EmptySegment),
            ("spiffe://td/a/../b", RelativeSegment),
            ("spiffe://td/.", RelativeSegment),
            ("spiffe://TD/a", TrustDomainCharacter('T')),
            ("spiffe://td:443/a", TrustDomainCharacter(':')),
            ("spiffe://user@td/a", TrustDomainCharacter('@')),
            ("spiffe://td?x/a", TrustDomainCharacter('?')),
            ("spiffe://td/a?b", PathCharacter('?')),
            ("spiffe://td/a#b", PathCharacter('#')),
            ("spiffe://td/a%2fb", PathCharacter('%')),
            ("spiffe://td/a b", PathCharacter(' ')),
            ("spiffe://td/ä", PathCharacter('ä')),
            ("spiffe://td/a\0", PathCharacter('\0')),
        ] {
            assert_eq!(text.parse::<Identity>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        assert!(longest.parse::<Identity>().is_ok());
        assert_eq!(
            format!("{longest}a").parse::<Identity>(),
            Err(IdentityError::TooLong(2049))
        );
        let domain = "d".repeat(256);
        assert_eq!(
            format!("spiffe://{domain}/a").parse::<Identity>(),
            Err(IdentityError::TrustDomainTooLong)
        );
    }

    #[test]
    fn a_slash_cannot_be_smuggled_into_a_part() {
        assert!(Identity::istio("td", "a/sa/b", "c").is_err());
        assert!(Identity::istio("td/ns/x/sa/y", "a", "c").is_err());
        assert!(Identity::istio("td", "", "c").is_err());
    }
}
