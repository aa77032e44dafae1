//! TLS and PROXY protocol that a DestinationRule asks for towards endpoints.
//!
//! As with istiod: certificates in files come by SDS of the process itself (`file-root:…`), those of Secrets and
//! ConfigMaps from whoever configures. Without a server's name it is taken from each request, and is what the
//! certificate must be for; where a name is given and no other names are, nobody compares it.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};

use crate::standalone::kinds::core::tls_defaults::TlsDefaults;
use crate::standalone::kinds::traffic_policy::Effective;
use crate::standalone::kinds::traffic_policy::client_tls::{
    ClientTls, ProxyProtocol, ProxyProtocolVersion, TlsMode,
};
use crate::standalone::translate::clusters::credentials::{SecretNames, is_own};
use crate::standalone::translate::clusters::protocol::Options;
use crate::standalone::translate::proto::packed::{any, raw_buffer, transport_socket};
use crate::standalone::translate::proto::tls_context::secret_without_timeout;

/// The roots of the system.
const SYSTEM: &str = "system";

/// What stands inside the hop to an endpoint of an own service.
pub(super) fn inner_socket(
    policy: &Effective<'_>,
    choice: &TlsDefaults,
    options: &mut Options,
) -> core::TransportSocket {
    let tls = policy.tls.filter(|tls| tls.originates());
    let socket = tls.map_or_else(raw_buffer, |tls| originated(tls, choice, options));
    behind_proxy_protocol(policy.proxy_protocol, socket)
}

pub(super) fn behind_proxy_protocol(
    protocol: Option<&ProxyProtocol>,
    socket: core::TransportSocket,
) -> core::TransportSocket {
    let Some(protocol) = protocol else {
        return socket;
    };
    let version = match protocol.version {
        ProxyProtocolVersion::V1 => core::proxy_protocol_config::Version::V1,
        ProxyProtocolVersion::V2 => core::proxy_protocol_config::Version::V2,
    };
    let transport = ProxyProtocolUpstreamTransport {
        config: Some(core::ProxyProtocolConfig {
            version: version.into(),
            ..core::ProxyProtocolConfig::default()
        }),
        transport_socket: Some(socket),
        ..ProxyProtocolUpstreamTransport::default()
    };
    let name = "envoy.transport_sockets.upstream_proxy_protocol";
    transport_socket(name, any(&transport))
}

/// TLS that the waypoint begins itself; the protocol learns which names come from requests.
pub(super) fn originated(
    settings: &ClientTls,
    choice: &TlsDefaults,
    options: &mut Options,
) -> core::TransportSocket {
    let by_request = settings.sni.is_empty();
    let named = !settings.subject_alt_names.is_empty();
    if by_request {
        options.upstream = Some(core::UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: !named && !settings.skips_verification(),
            ..core::UpstreamHttpProtocolOptions::default()
        });
    }
    let mut parameters = tls::TlsParameters {
        tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
        tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
        ..tls::TlsParameters::default()
    };
    choice.apply(&mut parameters);
    let mut common = tls::CommonTlsContext {
        tls_params: Some(parameters),
        alpn_protocols: match options.speaks_http2() {
            true => vec!["h2".to_owned()],
            false => Vec::new(),
        },
        ..tls::CommonTlsContext::default()
    };
    match SecretNames::of(settings) {
        None => from_files(settings, &mut common),
        Some(names) => from_credential(settings, &names, &mut common),
    }
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: settings.sni.clone(),
        ..tls::UpstreamTlsContext::default()
    };
    transport_socket("envoy.transport_sockets.tls", any(&context))
}

fn from_files(settings: &ClientTls, common: &mut tls::CommonTlsContext) {
    if settings.mode == TlsMode::Mutual {
        let (certificate, key) = (&settings.client_certificate, &settings.private_key);
        let secret = secret_without_timeout(&format!("file-cert:{certificate}~{key}"), false);
        common.tls_certificate_sds_secret_configs = vec![secret];
    }
    if settings.skips_verification() {
        common.validation_context_type = Some(ValidationContextType::ValidationContext(
            tls::CertificateValidationContext::default(),
        ));
        return;
    }
    let roots = match settings.ca_certificates.as_str() {
        "" => SYSTEM,
        file => file,
    };
    let crl = (!settings.ca_crl.is_empty()).then(|| core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(
            settings.ca_crl.clone(),
        )),
        ..core::DataSource::default()
    });
    let secret = secret_without_timeout(&format!("file-root:{roots}"), false);
    common.validation_context_type = Some(checked(settings, secret, crl));
}

fn from_credential(settings: &ClientTls, names: &SecretNames, common: &mut tls::CommonTlsContext) {
    let secret = |name: &str| secret_without_timeout(name, !is_own(name));
    let key = names.key.as_deref().map(secret);
    common.tls_certificate_sds_secret_configs = key.into_iter().collect();
    common.validation_context_type = names
        .roots
        .as_deref()
        .map(|name| checked(settings, secret(name), None));
}

#[allow(deprecated)] // istiod still matches servers' names in the untyped field
fn checked(
    settings: &ClientTls,
    secret: tls::SdsSecretConfig,
    crl: Option<core::DataSource>,
) -> ValidationContextType {
    let names = settings.subject_alt_names.iter();
    let exact = |name: &String| matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name.clone())),
        ..matcher::StringMatcher::default()
    };
    let validation = tls::CertificateValidationContext {
        match_subject_alt_names: names.map(exact).collect(),
        crl,
        ..tls::CertificateValidationContext::default()
    };
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(validation),
        validation_context_sds_secret_config: Some(secret),
        ..CombinedCertificateValidationContext::default()
    })
}
