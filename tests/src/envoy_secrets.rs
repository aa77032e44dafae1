//! Secrets of Envoy's that are discovered, from files, by the names that istiod has for them: so that its dump has them as that
//! of a pod does.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, ConfigSource, PathConfigSource, config_source::ConfigSourceSpecifier,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, SdsSecretConfig, common_tls_context::ValidationContextType,
};
use serde_json::{Value, json};

/// Certificate and roots, as istiod's agent calls them.
const NAMES: [&str; 2] = ["default", "ROOTCA"];

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

/// Writes them for what is in the folder (`cert-chain.pem`, `key.pem`, `root-cert.pem`).
pub fn write(folder: &Path) {
    let bytes = |name: &str| {
        let pem = fs::read(folder.join(name)).unwrap();
        json!({"inline_bytes": STANDARD.encode(pem)})
    };
    let certificate = json!({"tls_certificate": {
        "certificate_chain": bytes("cert-chain.pem"), "private_key": bytes("key.pem"),
    }});
    let roots = json!({"validation_context": {"trusted_ca": bytes("root-cert.pem")}});
    for (name, mut secret) in NAMES.into_iter().zip([certificate, roots]) {
        secret["name"] = Value::from(name);
        secret["@type"] =
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".into();
        let resources = json!({"resources": [secret]});
        fs::write(file(folder, name), resources.to_string()).unwrap();
    }
}

/// Has a TLS context take its secrets from there, if they were written.
pub(crate) fn discover(context: &mut CommonTlsContext, folder: &Path) -> bool {
    if !NAMES.iter().all(|name| file(folder, name).exists()) {
        return false;
    }
    let certificates = context.tls_certificate_sds_secret_configs.iter_mut();
    let roots = match &mut context.validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined.validation_context_sds_secret_config.as_mut()
        }
        _ => None,
    };
    for secret in certificates.chain(roots) {
        from_file(secret, folder);
    }
    true
}

fn from_file(secret: &mut SdsSecretConfig, folder: &Path) {
    let path = file(folder, &secret.name).to_string_lossy().into_owned();
    secret.sds_config = Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
            path,
            ..PathConfigSource::default()
        })),
        resource_api_version: ApiVersion::V3 as i32,
        ..ConfigSource::default()
    });
}
