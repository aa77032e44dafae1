//! What an istiod says of TLS to a service's endpoints, changed in the mesh's own resources.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ConfigSource, DataSource, TransportSocket,
    config_source::ConfigSourceSpecifier, data_source::Specifier, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, Secret, SubjectAltNameMatcher,
    TlsCertificate, UpstreamTlsContext,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    secret,
    subject_alt_name_matcher::SanType,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use waypoint_config::resource::{Resource, ResourceType};

use crate::mesh::Mesh;
use crate::tls_server::Pair;

/// The mesh's resources, with a change to the cluster of the service of this name.
#[must_use]
pub fn changed(mesh: &Mesh, service: &str, change: impl Fn(&mut Cluster)) -> Vec<Resource> {
    let mut resources = mesh.resources();
    change_one(&mut resources, service, change);
    resources
}

/// Changes the cluster of the service of this name.
pub fn change_one(resources: &mut [Resource], service: &str, change: impl Fn(&mut Cluster)) {
    let mut found = false;
    for resource in resources {
        let is_its = resource.name.contains(&format!("|{service}."));
        if resource.kind == ResourceType::Cluster && is_its {
            let mut cluster = Cluster::decode(resource.body.clone()).unwrap();
            change(&mut cluster);
            resource.body = cluster.encode_to_vec().into();
            found = true;
        }
    }
    assert!(found, "no cluster of {service}");
}

/// As [`changed`], where the endpoints are spoken to through TLS.
#[must_use]
pub fn with_tls(mesh: &Mesh, service: &str, context: &UpstreamTlsContext) -> Vec<Resource> {
    changed(mesh, service, |cluster| {
        cluster.transport_socket = Some(socket(context));
    })
}

#[must_use]
pub fn socket(context: &UpstreamTlsContext) -> TransportSocket {
    packed("envoy.transport_sockets.tls", context)
}

#[must_use]
pub fn packed<M: Message + Name>(name: &str, message: &M) -> TransportSocket {
    TransportSocket {
        name: name.into(),
        config_type: Some(ConfigType::TypedConfig(any(message))),
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// Sets how HTTP is spoken.
pub fn speak(cluster: &mut Cluster, options: &HttpProtocolOptions) {
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned();
    cluster.typed_extension_protocol_options = HashMap::from([(name, any(options))]);
}

/// Roots and names that are given with the configuration.
#[must_use]
pub fn trusting(roots: &str, names: &[&str]) -> CertificateValidationContext {
    CertificateValidationContext {
        trusted_ca: Some(inline(roots)),
        match_typed_subject_alt_names: names.iter().map(|name| dns(name)).collect(),
        ..CertificateValidationContext::default()
    }
}

#[must_use]
pub fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineString(text.into())),
        ..DataSource::default()
    }
}

fn dns(name: &str) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: SanType::Dns.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.into())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    }
}

#[must_use]
pub fn context(sni: &str, validation: CertificateValidationContext) -> UpstreamTlsContext {
    UpstreamTlsContext {
        sni: sni.into(),
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    }
}

/// As istiod has it: roots, and the own certificate, by the names that its agent serves.
#[must_use]
pub fn named(
    sni: &str,
    certificate: Option<&str>,
    roots: &str,
    names: &[&str],
) -> UpstreamTlsContext {
    referring(sni, certificate, roots, names, None)
}

/// As [`named`], where both come by ADS.
#[must_use]
pub fn delivered(
    sni: &str,
    certificate: Option<&str>,
    roots: &str,
    names: &[&str],
) -> UpstreamTlsContext {
    let ads = ConfigSource {
        config_source_specifier: Some(
            ConfigSourceSpecifier::Ads(AggregatedConfigSource::default()),
        ),
        ..ConfigSource::default()
    };
    referring(sni, certificate, roots, names, Some(&ads))
}

/// A secret with a certificate and its key.
#[must_use]
pub fn key_secret(name: &str, pair: &Pair) -> Resource {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(&pair.chain)),
        private_key: Some(inline(&pair.key)),
        ..TlsCertificate::default()
    };
    resource(name, secret::Type::TlsCertificate(certificate))
}

/// A secret with roots.
#[must_use]
pub fn roots_secret(name: &str, roots: &str) -> Resource {
    validation_secret(name, trusting(roots, &[]))
}

#[must_use]
pub fn validation_secret(name: &str, validation: CertificateValidationContext) -> Resource {
    resource(name, secret::Type::ValidationContext(validation))
}

fn resource(name: &str, kind: secret::Type) -> Resource {
    let secret = Secret {
        name: name.into(),
        r#type: Some(kind),
    };
    Resource {
        kind: ResourceType::Secret,
        name: name.into(),
        body: secret.encode_to_vec().into(),
    }
}

fn referring(
    sni: &str,
    certificate: Option<&str>,
    roots: &str,
    names: &[&str],
    source: Option<&ConfigSource>,
) -> UpstreamTlsContext {
    let secret = |name: &str| SdsSecretConfig {
        name: name.into(),
        sds_config: source.cloned(),
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: names.iter().map(|name| dns(name)).collect(),
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(secret(roots)),
        ..CombinedCertificateValidationContext::default()
    };
    UpstreamTlsContext {
        sni: sni.into(),
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: certificate.map(secret).into_iter().collect(),
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                combined,
            )),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    }
}
