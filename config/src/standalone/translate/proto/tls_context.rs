//! TLS of the mesh, as it stands on both sides of HBONE: own certificate and roots by SDS, TLS 1.3, ALPN h2,
//! and the peer's SPIFFE URI in one of the trust domains.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;

use crate::standalone::kinds::istio::jwks::Host;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::boolean;
use crate::standalone::translate::proto::packed::seconds;
use crate::standalone::translate::proto::packed::transport_socket;

/// The socket of `connect_terminate`.
pub(crate) fn downstream(trust_domains: &[String]) -> core::TransportSocket {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common(prefixes(trust_domains))),
        require_client_certificate: boolean(true),
        ..tls::DownstreamTlsContext::default()
    };
    transport_socket("tls", any(&context))
}

/// The socket towards a ztunnel or gateway; `also` is one more prefix that a peer may have.
pub(crate) fn upstream(trust_domains: &[String], also: Option<String>) -> core::TransportSocket {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common(prefixes(trust_domains).chain(also))),
        ..tls::UpstreamTlsContext::default()
    };
    transport_socket("tls", any(&context))
}

/// The socket towards a sidecar: Istio's mutual TLS with a server name and exact identities.
#[allow(deprecated)] // istiod still matches sidecars' names in the untyped field
pub(crate) fn sidecar(sni: &str, identities: Vec<String>, http2: bool) -> core::TransportSocket {
    let mut context = common(std::iter::empty());
    let names = identities
        .into_iter()
        .map(|identity| matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(identity)),
            ..matcher::StringMatcher::default()
        });
    if let Some(tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined)) =
        &mut context.validation_context_type
        && let Some(validation) = &mut combined.default_validation_context
    {
        validation.match_subject_alt_names = names.collect();
    }
    if let Some(params) = &mut context.tls_params {
        params.tls_minimum_protocol_version = tls::tls_parameters::TlsProtocol::TlSv12.into();
    }
    context.alpn_protocols = vec!["istio-peer-exchange".to_owned(), "istio".to_owned()];
    if http2 {
        context.alpn_protocols.push("h2".to_owned());
    }
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(context),
        sni: sni.to_owned(),
        ..tls::UpstreamTlsContext::default()
    };
    transport_socket("envoy.transport_sockets.tls", any(&context))
}

/// The socket towards a host outside of the mesh: the system's roots, and a certificate for that host.
pub(crate) fn outside(host: &Host) -> core::TransportSocket {
    let (kind, sni) = match host {
        Host::Name(name) => (SanType::Dns, name.as_str()),
        Host::Address(_) => (SanType::IpAddress, ""),
    };
    let name = tls::SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(exactly(host.to_string())),
        ..tls::SubjectAltNameMatcher::default()
    };
    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: vec![name],
            ..tls::CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(secret("file-root:system")),
        ..Default::default()
    };
    let common = tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            ..tls::TlsParameters::default()
        }),
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined),
        ),
        ..tls::CommonTlsContext::default()
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: sni.to_owned(),
        ..tls::UpstreamTlsContext::default()
    };
    transport_socket("envoy.transport_sockets.tls", any(&context))
}

fn exactly(text: String) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(text)),
        ..matcher::StringMatcher::default()
    }
}

fn prefixes(trust_domains: &[String]) -> impl Iterator<Item = String> {
    trust_domains
        .iter()
        .map(|domain| format!("spiffe://{domain}/"))
}

fn common(san_prefixes: impl Iterator<Item = String>) -> tls::CommonTlsContext {
    let validation = tls::CertificateValidationContext {
        match_typed_subject_alt_names: san_prefixes.map(san_matcher).collect(),
        ..tls::CertificateValidationContext::default()
    };
    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(validation),
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..Default::default()
    };
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            ..tls::TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        alpn_protocols: vec!["h2".to_owned()],
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined),
        ),
        ..tls::CommonTlsContext::default()
    }
}

fn san_matcher(prefix: String) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Prefix(prefix)),
            ..matcher::StringMatcher::default()
        }),
        ..tls::SubjectAltNameMatcher::default()
    }
}

/// A secret of a DestinationRule, which istiod lets Envoy wait for 15 seconds at most. `of_control_plane`: it comes
/// from whoever configures, else from the process itself.
pub(crate) fn secret_without_timeout(name: &str, of_control_plane: bool) -> tls::SdsSecretConfig {
    let mut found = secret(name);
    if let Some(source) = &mut found.sds_config {
        source.initial_fetch_timeout = None;
        if of_control_plane {
            source.config_source_specifier = Some(core::config_source::ConfigSourceSpecifier::Ads(
                core::AggregatedConfigSource {},
            ));
        }
    }
    found
}

fn secret(name: &str) -> tls::SdsSecretConfig {
    let service = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
            core::grpc_service::EnvoyGrpc {
                cluster_name: "sds-grpc".to_owned(),
                ..Default::default()
            },
        )),
        ..core::GrpcService::default()
    };
    let source = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![service],
        set_node_on_first_message_only: true,
        ..core::ApiConfigSource::default()
    };
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            initial_fetch_timeout: seconds(0),
            resource_api_version: core::ApiVersion::V3.into(),
            config_source_specifier: Some(
                core::config_source::ConfigSourceSpecifier::ApiConfigSource(source),
            ),
            ..core::ConfigSource::default()
        }),
    }
}
