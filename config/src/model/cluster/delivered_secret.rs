//! `Secret`: a key or roots, as whoever configures delivers them by name.
//!
//! What a refusal says never has anything of the secret in it.

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret as SecretProto, secret,
};
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;
use waypoint_hbone::tls::credentials::{ClientKey, ServerRoots};

use crate::model::cluster::secret::{DATA_SOURCE, KeySource, TLS_CERTIFICATE};
use crate::model::cluster::secret_slot::SecretKind;

pub static SECRET: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.Secret",
    fields: &[
        honoured(1, "name"),
        honoured(2, "tls_certificate").of(&TLS_CERTIFICATE),
        honoured(4, "validation_context").of(&VALIDATION),
    ],
    refused: "3 session_ticket_keys, 5 generic_secret",
    required: &[required("type", &[2, 4])],
};

/// The same message as in a cluster, of which less may be said: the names that servers must have are the cluster's to say.
static VALIDATION: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
    fields: &[
        honoured(1, "trusted_ca").of(&DATA_SOURCE),
        honoured(7, "crl").of(&DATA_SOURCE),
        harmless(18, "suppress_client_ca_list", "of servers alone"),
    ],
    refused: "2 verify_certificate_hash, 3 verify_certificate_spki, \
              6 require_signed_certificate_timestamp, 8 allow_expired_certificate, \
              9 match_subject_alt_names, 10 trust_chain_verification, 11 watched_directory, \
              12 custom_validator_config, 13 ca_certificate_provider_instance, \
              14 only_verify_leaf_cert_crl, 15 match_typed_subject_alt_names, 16 max_verify_depth, \
              17 system_root_certs",
    required: &[required("trusted_ca", &[1])],
};

/// What a secret holds.
#[derive(Clone, Debug)]
pub(crate) enum DeliveredSecret {
    Key(ClientKey),
    Roots(ServerRoots),
}

impl DeliveredSecret {
    pub(crate) fn from_proto(proto: &SecretProto) -> Result<DeliveredSecret, Refusal> {
        match &proto.r#type {
            None => Err(Refusal::missing("type")),
            Some(secret::Type::TlsCertificate(certificate)) => {
                let key = match KeySource::from_proto(certificate) {
                    Ok(KeySource::Inline(key)) => Ok(DeliveredSecret::Key(key)),
                    Ok(_) => Err(Refusal::new("certificate_chain.filename", OF_FILES)),
                    Err(refusal) => Err(refusal),
                };
                key.map_err(|e| e.within("tls_certificate"))
            }
            Some(secret::Type::ValidationContext(context)) => roots(context)
                .map(DeliveredSecret::Roots)
                .map_err(|e| e.within("validation_context")),
            Some(secret::Type::SessionTicketKeys(_)) => {
                Err(Refusal::unsupported("session_ticket_keys"))
            }
            Some(secret::Type::GenericSecret(_)) => Err(Refusal::unsupported("generic_secret")),
        }
    }

    pub(crate) fn kind(&self) -> SecretKind {
        match self {
            DeliveredSecret::Key(_) => SecretKind::Key,
            DeliveredSecret::Roots(_) => SecretKind::Roots,
        }
    }
}

const OF_FILES: &str = "a secret that is delivered has its content with it, and no files";

fn roots(context: &CertificateValidationContext) -> Result<ServerRoots, Refusal> {
    let text = |source: &DataSource| match &source.specifier {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        Some(Specifier::Filename(_)) => Err(Refusal::new("filename", OF_FILES)),
        Some(Specifier::EnvironmentVariable(_)) => {
            Err(Refusal::unsupported("environment_variable"))
        }
        None => Err(Refusal::missing("specifier")),
    };
    let given = context.trusted_ca.as_ref();
    let given = given.ok_or_else(|| Refusal::missing("trusted_ca"))?;
    let pem = text(given).map_err(|e| e.within("trusted_ca"))?;
    let unusable = |field: &'static str| {
        move |error: waypoint_hbone::tls::credentials::OriginationError| {
            Refusal::new(field, error.to_string())
        }
    };
    let roots = ServerRoots::from_pem(&pem).map_err(unusable("trusted_ca"))?;
    let Some(crl) = &context.crl else {
        return Ok(roots);
    };
    let pem = text(crl).map_err(|e| e.within("crl"))?;
    roots.with_revocations(&pem).map_err(unusable("crl"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, SystemTime};

    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;
    use waypoint_hbone::certificates::dev_ca::DevCa;
    use waypoint_hbone::identity::Identity;

    use super::*;

    fn inline(text: &str) -> Option<DataSource> {
        Some(DataSource {
            specifier: Some(Specifier::InlineString(text.into())),
            ..DataSource::default()
        })
    }

    fn key(chain: &str, key: &str) -> Result<SecretKind, String> {
        read(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(chain),
            private_key: inline(key),
            ..TlsCertificate::default()
        }))
    }

    fn read(kind: secret::Type) -> Result<SecretKind, String> {
        let proto = SecretProto {
            name: "s".into(),
            r#type: Some(kind),
        };
        let read = DeliveredSecret::from_proto(&proto);
        read.map(|read| read.kind()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_cannot_be_used_is_told_without_any_of_it() {
        let ca = DevCa::ephemeral().unwrap();
        let identity = Identity::istio("td", "ns", "sa").unwrap();
        let mint = || ca.mint(&identity, Duration::from_secs(60)).unwrap();
        let (own, other) = (mint(), mint());
        let (chain, private) = (own.chain_pem(), own.key_pem());
        assert_eq!(key(chain, private), Ok(SecretKind::Key));
        let body = private.lines().nth(1).unwrap();
        let one_line = private.replace('\n', "");
        for broken in [
            private.replace("-----END", "-----AND"),
            one_line,
            private.replace(body, &format!("{body}*")),
            String::new(),
        ] {
            let told = key(chain, &broken).unwrap_err();
            assert!(told.contains("private key"), "{told}");
            assert!(!told.contains(&body[..8]), "{told}");
        }
        let told = key(other.chain_pem(), private).unwrap_err();
        assert!(told.contains("doesn't belong"), "{told}");
        // A key among the certificates isn't told, either.
        let told = key(private, private).unwrap_err();
        assert!(!told.contains(&body[..8]), "{told}");
    }

    #[test]
    fn roots_and_lists_of_revoked_certificates() {
        let ca = DevCa::ephemeral().unwrap();
        let now = SystemTime::now();
        let list = ca
            .revoke(&["0a"], now, now + Duration::from_secs(60))
            .unwrap();
        let roots = |ca: Option<DataSource>, crl: Option<DataSource>| {
            read(secret::Type::ValidationContext(
                CertificateValidationContext {
                    trusted_ca: ca,
                    crl,
                    ..CertificateValidationContext::default()
                },
            ))
        };
        let good = || inline(ca.root_pem());
        assert_eq!(roots(good(), None), Ok(SecretKind::Roots));
        assert_eq!(roots(good(), inline(&list)), Ok(SecretKind::Roots));
        for (ca, crl, told) in [
            (good(), inline("nothing"), "validation_context.crl"),
            (inline("x"), None, "validation_context.trusted_ca"),
            (None, None, "validation_context.trusted_ca"),
        ] {
            let error = roots(ca, crl).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
