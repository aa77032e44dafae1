//! `connect_terminate`'s TLS context: HBONE is TLS 1.3 with client certificates, whatever else it says.
//!
//! What it may choose is whose certificates are accepted: the trust domains. A matcher that asks for more
//! than a trust domain is refused, since to ignore it would let others in.

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, TlsParameters,
    common_tls_context::ValidationContextType, subject_alt_name_matcher::SanType,
    tls_parameters::TlsProtocol,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use waypoint_filters::matcher::string::STRING_MATCHER;
use waypoint_filters::xds::coverage::well_known::BOOL_VALUE;
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

const OWN_CERTIFICATE: &str = "certificate and roots are the workload's own, from the mesh's CA";
const NO_SESSIONS: &str = "sessions are never resumed";

pub(crate) static DOWNSTREAM_TRANSPORT_SOCKET: Table = Table {
    name: "envoy.config.core.v3.TransportSocket",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(3, "typed_config").any(&[&[&DOWNSTREAM_TLS]]),
    ],
    refused: "",
    required: &[required("typed_config", &[3])],
};

static DOWNSTREAM_TLS: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    fields: &[
        honoured(1, "common_tls_context").of(&COMMON_TLS),
        honoured(2, "require_client_certificate")
            .only("true")
            .of(&BOOL_VALUE),
        harmless(7, "disable_stateless_session_resumption", NO_SESSIONS),
        harmless(10, "disable_stateful_session_resumption", NO_SESSIONS),
    ],
    refused: "3 require_sni, 4 session_ticket_keys, 5 session_ticket_keys_sds_secret_config, \
              6 session_timeout, 8 ocsp_staple_policy, 9 full_scan_certs_on_sni_mismatch, \
              11 prefer_client_ciphers",
    required: &[required("require_client_certificate", &[2])],
};

static COMMON_TLS: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
    fields: &[
        honoured(1, "tls_params").of(&TLS_PARAMETERS),
        honoured(4, "alpn_protocols").only("h2").list(),
        harmless(6, "tls_certificate_sds_secret_configs", OWN_CERTIFICATE).list(),
        honoured(8, "combined_validation_context").of(&COMBINED_VALIDATION),
    ],
    refused: "2 tls_certificates, 3 validation_context, 7 validation_context_sds_secret_config, \
              9 tls_certificate_certificate_provider, 10 validation_context_certificate_provider, \
              11 tls_certificate_certificate_provider_instance, \
              12 validation_context_certificate_provider_instance, 13 custom_handshaker, \
              14 tls_certificate_provider_instance, 15 key_log, 16 custom_tls_certificate_selector",
    required: &[],
};

static TLS_PARAMETERS: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
    fields: &[
        harmless(1, "tls_minimum_protocol_version", "only TLS 1.3 is spoken"),
        honoured(2, "tls_maximum_protocol_version").only("TLSv1_3"),
        harmless(3, "cipher_suites", "those of TLS 1.2, which is not spoken").list(),
    ],
    refused: "4 ecdh_curves, 5 signature_algorithms, 6 compliance_policies",
    required: &[],
};

static COMBINED_VALIDATION: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
    fields: &[
        honoured(1, "default_validation_context").of(&VALIDATION),
        harmless(2, "validation_context_sds_secret_config", OWN_CERTIFICATE),
    ],
    refused: "3 validation_context_certificate_provider, \
              4 validation_context_certificate_provider_instance",
    required: &[],
};

const WHOLE_DOMAINS: &str = "URI prefixes of whole trust domains (spiffe://DOMAIN/)";

static VALIDATION: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
    fields: &[
        honoured(9, "match_subject_alt_names")
            .only(WHOLE_DOMAINS)
            .list()
            .of(&STRING_MATCHER),
        honoured(15, "match_typed_subject_alt_names")
            .only(WHOLE_DOMAINS)
            .list()
            .of(&SUBJECT_ALT_NAME),
    ],
    refused: "1 trusted_ca, 2 verify_certificate_hash, 3 verify_certificate_spki, \
              6 require_signed_certificate_timestamp, 7 crl, 8 allow_expired_certificate, \
              10 trust_chain_verification, 11 watched_directory, 12 custom_validator_config, \
              13 ca_certificate_provider_instance, 14 only_verify_leaf_cert_crl, \
              16 max_verify_depth, 17 system_root_certs, 18 suppress_client_ca_list",
    required: &[],
};

static SUBJECT_ALT_NAME: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
    fields: &[
        honoured(1, "san_type"),
        honoured(2, "matcher").of(&STRING_MATCHER),
    ],
    refused: "3 oid",
    required: &[required("san_type", &[1]), required("matcher", &[2])],
};

/// The trust domains that the context accepts; none: the waypoint's own.
pub(crate) fn trust_domains(proto: &DownstreamTlsContext) -> Result<Vec<String>, Refusal> {
    if !(proto.require_client_certificate.as_ref()).is_some_and(|required| required.value) {
        return Err(Refusal::new(
            "require_client_certificate",
            "HBONE without a client certificate is not served",
        ));
    }
    let Some(common) = &proto.common_tls_context else {
        return Ok(Vec::new());
    };
    of_common(common).map_err(|e| e.within("common_tls_context"))
}

fn of_common(common: &CommonTlsContext) -> Result<Vec<String>, Refusal> {
    if let Some(parameters) = &common.tls_params {
        check_version(parameters).map_err(|e| e.within("tls_params"))?;
    }
    if common.alpn_protocols.iter().any(|name| name != "h2") {
        return Err(Refusal::new("alpn_protocols", "HBONE is h2 alone"));
    }
    let Some(ValidationContextType::CombinedValidationContext(combined)) =
        &common.validation_context_type
    else {
        return Ok(Vec::new());
    };
    let Some(context) = &combined.default_validation_context else {
        return Ok(Vec::new());
    };
    let typed = context.match_typed_subject_alt_names.iter();
    let typed = typed.map(|name| {
        let matcher = name.matcher.as_ref();
        matcher.filter(|_| name.san_type() == SanType::Uri)
    });
    // The deprecated form of the same, which matches names of all types.
    let untyped = context.match_subject_alt_names.iter().map(Some);
    let mut domains = typed
        .chain(untyped)
        .map(|matcher| matcher.and_then(trust_domain).map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| {
            Refusal::new(
                "combined_validation_context.default_validation_context",
                "has a name that is no URI of a whole trust domain (spiffe://DOMAIN/)",
            )
        })?;
    domains.sort();
    domains.dedup();
    Ok(domains)
}

fn check_version(proto: &TlsParameters) -> Result<(), Refusal> {
    match TlsProtocol::try_from(proto.tls_maximum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => Ok(()),
        _ => Err(Refusal::new(
            "tls_maximum_protocol_version",
            "HBONE is TLS 1.3 alone",
        )),
    }
}

/// The domain, if the matcher lets every identity in it pass.
fn trust_domain(matcher: &StringMatcher) -> Option<&str> {
    let MatchPattern::Prefix(prefix) = matcher.match_pattern.as_ref()? else {
        return None;
    };
    let domain = prefix.strip_prefix("spiffe://")?.strip_suffix('/')?;
    let is_whole = !domain.is_empty() && !domain.contains('/') && !matcher.ignore_case;
    is_whole.then_some(domain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, SubjectAltNameMatcher,
        common_tls_context::CombinedCertificateValidationContext,
    };
    use envoy_types::pb::google::protobuf::BoolValue;

    use super::*;

    fn context(san_type: SanType, patterns: &[MatchPattern]) -> DownstreamTlsContext {
        let names = patterns.iter().map(|pattern| SubjectAltNameMatcher {
            san_type: san_type.into(),
            matcher: Some(StringMatcher {
                match_pattern: Some(pattern.clone()),
                ..StringMatcher::default()
            }),
            ..SubjectAltNameMatcher::default()
        });
        let combined = CombinedCertificateValidationContext {
            default_validation_context: Some(CertificateValidationContext {
                match_typed_subject_alt_names: names.collect(),
                ..CertificateValidationContext::default()
            }),
            ..CombinedCertificateValidationContext::default()
        };
        DownstreamTlsContext {
            require_client_certificate: Some(BoolValue { value: true }),
            common_tls_context: Some(CommonTlsContext {
                alpn_protocols: vec!["h2".into()],
                validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                    combined,
                )),
                ..CommonTlsContext::default()
            }),
            ..DownstreamTlsContext::default()
        }
    }

    fn untyped(mut context: DownstreamTlsContext, text: &str) -> DownstreamTlsContext {
        let common = context.common_tls_context.as_mut().unwrap();
        if let Some(ValidationContextType::CombinedValidationContext(combined)) =
            &mut common.validation_context_type
        {
            let names = combined.default_validation_context.as_mut().unwrap();
            names.match_subject_alt_names.push(StringMatcher {
                match_pattern: Some(prefix(text)),
                ..StringMatcher::default()
            });
        }
        context
    }

    fn prefix(text: &str) -> MatchPattern {
        MatchPattern::Prefix(text.into())
    }

    #[test]
    fn matchers_of_whole_trust_domains_are_taken_and_nothing_narrower() {
        let two = context(
            SanType::Uri,
            &[prefix("spiffe://td/"), prefix("spiffe://alias/")],
        );
        assert_eq!(trust_domains(&two).unwrap(), ["alias", "td"]);
        let deprecated = context(SanType::Uri, &[]);
        assert_eq!(
            trust_domains(&untyped(deprecated.clone(), "spiffe://td/")).unwrap(),
            ["td"]
        );
        assert!(trust_domains(&untyped(deprecated, "spiffe://td/ns/a/")).is_err());
        for narrower in [
            prefix("spiffe://td/ns/prod/"),
            prefix("spiffe://t"),
            prefix("https://td/"),
            MatchPattern::Exact("spiffe://td/ns/a/sa/b".into()),
            MatchPattern::Suffix("/sa/b".into()),
        ] {
            let refused = trust_domains(&context(SanType::Uri, std::slice::from_ref(&narrower)));
            assert!(refused.is_err(), "{narrower:?}");
        }
        assert!(trust_domains(&context(SanType::Dns, &[prefix("spiffe://td/")])).is_err());
    }

    #[test]
    fn hbone_is_tls_1_3_and_h2_with_client_certificates() {
        let mut old = context(SanType::Uri, &[]);
        let common = old.common_tls_context.as_mut().unwrap();
        common.tls_params = Some(TlsParameters {
            tls_maximum_protocol_version: TlsProtocol::TlSv12.into(),
            ..TlsParameters::default()
        });
        assert!(trust_domains(&old).is_err());
        let mut http1 = context(SanType::Uri, &[]);
        let common = http1.common_tls_context.as_mut().unwrap();
        common.alpn_protocols.push("http/1.1".into());
        assert!(trust_domains(&http1).is_err());
        let mut anonymous = context(SanType::Uri, &[]);
        anonymous.require_client_certificate = None;
        assert!(trust_domains(&anonymous).is_err());
    }
}
