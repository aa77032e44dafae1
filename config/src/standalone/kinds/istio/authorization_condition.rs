//! The conditions (`when`) of an AuthorizationPolicy's rules. What one is about is known when it is read: one that nobody
//! translates would be left out, and the rule would match more than it says.

use serde::Deserialize;

use crate::standalone::kinds::istio::authorization_value::{
    Check, check_lists, filled, ip_block, port, service_account, trust_domain,
};
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// One more attribute that must match.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub attribute: Attribute,
    pub values: Vec<String>,
    pub not_values: Vec<String>,
}

/// What a condition is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    SourceServiceAccount,
    SourceTrustDomain,
    RequestPrincipal,
    RequestAudiences,
    RequestPresenter,
    RequestHeader(String),
    /// Claim, or path to a nested one.
    RequestClaim(Vec<String>),
    DestinationIp,
    DestinationPort,
    ServerName,
    /// Dynamic metadata: `experimental.envoy.filters.<filter>[<key>]`.
    FilterMetadata {
        filter: String,
        key: String,
    },
}

impl Attribute {
    fn of_key(key: &str) -> Result<Attribute, String> {
        Ok(match key {
            "source.ip" => Attribute::SourceIp,
            "remote.ip" => Attribute::RemoteIp,
            "source.namespace" => Attribute::SourceNamespace,
            "source.principal" => Attribute::SourcePrincipal,
            "source.serviceAccount" => Attribute::SourceServiceAccount,
            "source.trustDomain" => Attribute::SourceTrustDomain,
            "request.auth.principal" => Attribute::RequestPrincipal,
            "request.auth.audiences" => Attribute::RequestAudiences,
            "request.auth.presenter" => Attribute::RequestPresenter,
            "destination.ip" => Attribute::DestinationIp,
            "destination.port" => Attribute::DestinationPort,
            "connection.sni" => Attribute::ServerName,
            key => return Attribute::in_brackets(key),
        })
    }

    /// `a[b]`.
    fn in_brackets(key: &str) -> Result<Attribute, String> {
        let filter = key.strip_prefix("experimental.");
        let filter = filter.filter(|filter| filter.starts_with("envoy.filters."));
        let opens = |name: &str| key.strip_prefix(name).is_some_and(|r| r.starts_with('['));
        let (is_header, is_claim) = (opens("request.headers"), opens("request.auth.claims"));
        if filter.is_none() && !is_header && !is_claim {
            return Err(format!("unknown attribute {key:?}"));
        }
        let parts = key.strip_suffix(']').and_then(|key| key.split_once('['));
        let Some((_, inner)) = parts.filter(|(_, inner)| !inner.is_empty()) else {
            return Err(format!("{key:?} should have the form a[b]"));
        };
        Ok(match filter.and_then(|filter| filter.split_once('[')) {
            Some((filter, _)) => Attribute::FilterMetadata {
                filter: filter.to_owned(),
                key: inner.to_owned(),
            },
            None if is_header => Attribute::RequestHeader(inner.to_owned()),
            None => Attribute::RequestClaim(inner.split("][").map(str::to_owned).collect()),
        })
    }

    /// What its values may be.
    fn check(&self) -> Check {
        match self {
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => ip_block,
            Attribute::SourceServiceAccount => service_account,
            Attribute::SourceTrustDomain => trust_domain,
            Attribute::DestinationPort => port,
            Attribute::SourceNamespace
            | Attribute::SourcePrincipal
            | Attribute::RequestPrincipal
            | Attribute::RequestAudiences
            | Attribute::RequestPresenter
            | Attribute::RequestHeader(_)
            | Attribute::RequestClaim(_)
            | Attribute::ServerName
            | Attribute::FilterMetadata { .. } => filled,
        }
    }
}

/// A condition as it is written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct WireCondition {
    key: String,
    values: Vec<String>,
    not_values: Vec<String>,
}

impl WireCondition {
    pub(super) fn read(self) -> Result<Condition, Refusal> {
        if self.values.is_empty() && self.not_values.is_empty() {
            return Err(refusal("values", "values or notValues is required"));
        }
        let attribute = Attribute::of_key(&self.key).map_err(|reason| refusal("key", reason))?;
        let check = attribute.check();
        check_lists(&[
            ("values", &self.values, check),
            ("notValues", &self.not_values, check),
        ])
        .map_err(|(field, reason)| (field.trim_start_matches('.').to_owned(), reason))?;
        Ok(Condition {
            attribute,
            values: self.values,
            not_values: self.not_values,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let nested = ["realm", "roles"].map(str::to_owned).to_vec();
        for (key, attribute) in [
            ("source.ip", Attribute::SourceIp),
            (
                "request.headers[x]",
                Attribute::RequestHeader("x".to_owned()),
            ),
            (
                "request.auth.claims[realm][roles]",
                Attribute::RequestClaim(nested),
            ),
            (
                "experimental.envoy.filters.a.b[c.d]",
                Attribute::FilterMetadata {
                    filter: "envoy.filters.a.b".to_owned(),
                    key: "c.d".to_owned(),
                },
            ),
        ] {
            assert_eq!(Attribute::of_key(key), Ok(attribute), "{key}");
        }
        for (key, reason) in [
            ("", "unknown attribute"),
            ("source.mac", "unknown attribute"),
            ("request.headers", "unknown attribute"),
            ("experimental.other[a]", "unknown attribute"),
            ("request.headers[]", "the form a[b]"),
            ("request.headers[x", "the form a[b]"),
            ("request.auth.claims[]", "the form a[b]"),
            ("experimental.envoy.filters.a", "the form a[b]"),
        ] {
            let refused = Attribute::of_key(key);
            assert!(
                refused.as_ref().is_err_and(|told| told.contains(reason)),
                "{key}: {refused:?}"
            );
        }
    }
}
