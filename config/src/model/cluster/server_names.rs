//! Which names a server's certificate must have one of: `match_typed_subject_alt_names`, and the field before it.
//!
//! A DNS name that is asked for exactly may be covered by a wildcard of the certificate, as in Envoy.

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, SubjectAltNameMatcher, subject_alt_name_matcher::SanType,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    StringMatcher as StringMatcherProto, string_matcher::MatchPattern,
};
use waypoint_filters::matcher::string::{STRING_MATCHER, StringMatcher};
use waypoint_filters::xds::coverage::{Table, honoured, required};
use waypoint_filters::xds::rejected::Refusal;
use waypoint_hbone::certificates::certificate_fields::NameKind;
use waypoint_hbone::tls::server_verifier::dns_name_matches;

pub(crate) static SUBJECT_ALT_NAME: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
    fields: &[
        honoured(1, "san_type").only("EMAIL, DNS, URI, IP_ADDRESS"),
        honoured(2, "matcher").of(&STRING_MATCHER),
    ],
    refused: "3 oid",
    required: &[required("san_type", &[1]), required("matcher", &[2])],
};

/// Names, one of which will do; none at all: whatever the server has.
#[derive(Clone, Debug, Default)]
pub struct ServerNames(Vec<ServerNameMatcher>);

#[derive(Clone, Debug)]
struct ServerNameMatcher {
    /// `None`: of any kind but `Other`.
    kind: Option<NameKind>,
    matcher: StringMatcher,
    /// Where it is asked for exactly.
    exact: Option<Box<str>>,
}

impl ServerNames {
    pub(crate) fn from_proto(proto: &CertificateValidationContext) -> Result<ServerNames, Refusal> {
        let typed = proto.match_typed_subject_alt_names.iter();
        let typed = typed.enumerate().map(|(index, name)| {
            let field = format!("match_typed_subject_alt_names[{index}]");
            ServerNameMatcher::typed(name).map_err(|e| e.within(field))
        });
        // Envoy doesn't look at the deprecated field where there is the other.
        let untyped = proto.match_subject_alt_names.iter();
        let untyped = untyped.enumerate().map(|(index, matcher)| {
            let field = format!("match_subject_alt_names[{index}]");
            ServerNameMatcher::new(None, matcher).map_err(|e| e.within(field))
        });
        let both = !proto.match_typed_subject_alt_names.is_empty()
            && !proto.match_subject_alt_names.is_empty();
        if both {
            return Err(Refusal::new(
                "match_subject_alt_names",
                "stands beside match_typed_subject_alt_names",
            ));
        }
        let names = typed.chain(untyped).collect::<Result<_, _>>()?;
        Ok(ServerNames(names))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of a certificate's names will do.
    pub fn allow(&self, kind: NameKind, name: &str) -> bool {
        self.0.iter().any(|matcher| matcher.matches(kind, name))
    }
}

impl ServerNameMatcher {
    fn typed(proto: &SubjectAltNameMatcher) -> Result<ServerNameMatcher, Refusal> {
        let kind = match SanType::try_from(proto.san_type) {
            Ok(SanType::Email) => NameKind::Email,
            Ok(SanType::Dns) => NameKind::Dns,
            Ok(SanType::Uri) => NameKind::Uri,
            Ok(SanType::IpAddress) => NameKind::Ip,
            Ok(SanType::OtherName | SanType::Unspecified) | Err(_) => {
                return Err(Refusal::unsupported("san_type"));
            }
        };
        let matcher = proto.matcher.as_ref();
        let matcher = matcher.ok_or_else(|| Refusal::missing("matcher"))?;
        ServerNameMatcher::new(Some(kind), matcher).map_err(|e| e.within("matcher"))
    }

    fn new(
        kind: Option<NameKind>,
        proto: &StringMatcherProto,
    ) -> Result<ServerNameMatcher, Refusal> {
        Ok(ServerNameMatcher {
            kind,
            matcher: StringMatcher::from_proto(proto)?,
            exact: match &proto.match_pattern {
                Some(MatchPattern::Exact(text)) => Some(text.as_str().into()),
                _ => None,
            },
        })
    }

    fn matches(&self, kind: NameKind, name: &str) -> bool {
        if self.kind.map_or(kind == NameKind::Other, |own| own != kind) {
            return false;
        }
        match &self.exact {
            Some(exact) if kind == NameKind::Dns => dns_name_matches(exact, name),
            _ => self.matcher.matches(name),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn exactly(text: &str) -> StringMatcherProto {
        StringMatcherProto {
            match_pattern: Some(MatchPattern::Exact(text.into())),
            ..StringMatcherProto::default()
        }
    }

    #[test]
    fn a_wildcard_covers_an_exact_dns_name_and_nothing_of_another_kind() {
        let typed = CertificateValidationContext {
            match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
                san_type: SanType::Dns.into(),
                matcher: Some(exactly("api.example.com")),
                ..SubjectAltNameMatcher::default()
            }],
            ..CertificateValidationContext::default()
        };
        let typed = ServerNames::from_proto(&typed).unwrap();
        assert!(typed.allow(NameKind::Dns, "*.example.com"));
        assert!(!typed.allow(NameKind::Uri, "api.example.com"));
        assert!(!typed.allow(NameKind::Dns, "*.example.org"));
        let untyped = CertificateValidationContext {
            match_subject_alt_names: vec![exactly("spiffe://td/ns/a/sa/b")],
            ..CertificateValidationContext::default()
        };
        let untyped = ServerNames::from_proto(&untyped).unwrap();
        assert!(untyped.allow(NameKind::Uri, "spiffe://td/ns/a/sa/b"));
        assert!(!untyped.allow(NameKind::Other, "spiffe://td/ns/a/sa/b"));
        assert!(ServerNames::default().is_empty());
    }
}
