//! `UpstreamTlsContext`: TLS with a cluster's endpoints, inside of HBONE where that leads to them.
//!
//! As in Envoy, the server isn't checked where there are no roots, and its names only where some are asked for, whatever SNI says. Both
//! are told when the cluster comes.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, TlsParameters, UpstreamTlsContext,
    certificate_validation_context::TrustChainVerification,
    common_tls_context::ValidationContextType, tls_parameters::TlsProtocol,
};
use waypoint_filters::matcher::string::STRING_MATCHER;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{Table, harmless, honoured};
use waypoint_filters::xds::rejected::Refusal;
use waypoint_hbone::tls::origination::{TlsVersions, is_server_name};
use waypoint_hbone::tls::tls_choice::TlsChoice;

use crate::model::cluster::secret::{
    DATA_SOURCE, KeySource, RevocationsSource, RootsSource, SDS_SECRET, TLS_CERTIFICATE,
};
use crate::model::cluster::secret_slot::SecretSlots;
use crate::model::cluster::server_names::{SUBJECT_ALT_NAME, ServerNames};

pub(crate) static UPSTREAM_TLS: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    fields: &[
        honoured(1, "common_tls_context").of(&COMMON_TLS),
        honoured(2, "sni"),
        harmless(4, "max_session_keys", "sessions are never resumed").of(&UINT32_VALUE),
        honoured(7, "auto_sni_san_validation"),
    ],
    refused: "3 allow_renegotiation, 5 enforce_rsa_key_usage, 6 auto_host_sni",
    required: &[],
};

static COMMON_TLS: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
    fields: &[
        honoured(1, "tls_params").of(&TLS_PARAMETERS),
        honoured(2, "tls_certificates").list().of(&TLS_CERTIFICATE),
        honoured(3, "validation_context").of(&VALIDATION),
        honoured(4, "alpn_protocols").list(),
        honoured(6, "tls_certificate_sds_secret_configs")
            .list()
            .of(&SDS_SECRET),
        honoured(7, "validation_context_sds_secret_config").of(&SDS_SECRET),
        honoured(8, "combined_validation_context").of(&COMBINED_VALIDATION),
    ],
    refused: "9 tls_certificate_certificate_provider, 10 validation_context_certificate_provider, \
              11 tls_certificate_certificate_provider_instance, \
              12 validation_context_certificate_provider_instance, 13 custom_handshaker, \
              14 tls_certificate_provider_instance, 15 key_log, 16 custom_tls_certificate_selector",
    required: &[],
};

static TLS_PARAMETERS: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
    fields: &[
        honoured(1, "tls_minimum_protocol_version").only("TLSv1_2, TLSv1_3"),
        honoured(2, "tls_maximum_protocol_version").only("TLSv1_2, TLSv1_3"),
        honoured(3, "cipher_suites")
            .only("ECDHE-… with AES-GCM or CHACHA20-POLY1305")
            .list(),
        honoured(4, "ecdh_curves")
            .only("X25519, P-256, P-384, X25519MLKEM768")
            .list(),
    ],
    refused: "5 signature_algorithms, 6 compliance_policies",
    required: &[],
};

static COMBINED_VALIDATION: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
    fields: &[
        honoured(1, "default_validation_context").of(&VALIDATION),
        honoured(2, "validation_context_sds_secret_config").of(&SDS_SECRET),
    ],
    refused: "3 validation_context_certificate_provider, \
              4 validation_context_certificate_provider_instance",
    required: &[],
};

static VALIDATION: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
    fields: &[
        honoured(1, "trusted_ca").of(&DATA_SOURCE),
        honoured(7, "crl").of(&DATA_SOURCE),
        honoured(9, "match_subject_alt_names")
            .list()
            .of(&STRING_MATCHER),
        honoured(10, "trust_chain_verification"),
        harmless(11, "watched_directory", "files are looked at again anyway"),
        honoured(15, "match_typed_subject_alt_names")
            .list()
            .of(&SUBJECT_ALT_NAME),
        honoured(17, "system_root_certs").of(&SYSTEM_ROOTS),
        harmless(18, "suppress_client_ca_list", "of servers alone"),
    ],
    refused: "2 verify_certificate_hash, 3 verify_certificate_spki, \
              6 require_signed_certificate_timestamp, 8 allow_expired_certificate, \
              12 custom_validator_config, 13 ca_certificate_provider_instance, \
              14 only_verify_leaf_cert_crl, 16 max_verify_depth",
    required: &[],
};

static SYSTEM_ROOTS: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.SystemRootCerts",
    fields: &[],
    refused: "",
    required: &[],
};

/// Envoy's bound of `sni`.
const MAX_SNI: usize = 255;

/// TLS with a cluster's endpoints.
pub struct UpstreamTls {
    pub sni: Option<Box<str>>,
    /// Whether the name that SNI says, whoever chose it, must be the server's.
    pub verifies_sni: bool,
    pub alpn: Vec<Vec<u8>>,
    pub versions: TlsVersions,
    pub choice: TlsChoice,
    pub key: Option<KeySource>,
    /// `None`: nothing is checked of the server.
    pub roots: Option<RootsSource>,
    /// Unless the roots are delivered with some of their own.
    pub revocations: Option<RevocationsSource>,
    pub names: Arc<ServerNames>,
    /// The data path's own: what connections are made with.
    pub live: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls")
            .field("sni", &self.sni)
            .field("verifies_sni", &self.verifies_sni)
            .field("alpn", &self.alpn)
            .field("versions", &self.versions)
            .field("choice", &self.choice)
            .field("key", &self.key)
            .field("roots", &self.roots)
            .field("revocations", &self.revocations.is_some())
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl UpstreamTls {
    pub(crate) fn from_proto(
        proto: &UpstreamTlsContext,
        slots: &SecretSlots,
    ) -> Result<UpstreamTls, Refusal> {
        let sni = Some(proto.sni.as_str()).filter(|sni| !sni.is_empty());
        if sni.is_some_and(|sni| sni.len() > MAX_SNI || !is_server_name(sni)) {
            return Err(Refusal::new(
                "sni",
                format!("{:?} is no host name", proto.sni),
            ));
        }
        let common = proto.common_tls_context.clone().unwrap_or_default();
        let within = |e: Refusal| e.within("common_tls_context");
        let Validation {
            roots,
            revocations,
            names,
        } = Validation::of(&common, slots).map_err(within)?;
        if proto.auto_sni_san_validation && roots.is_none() {
            return Err(Refusal::new("auto_sni_san_validation", WITHOUT_ROOTS));
        }
        Ok(UpstreamTls {
            sni: sni.map(Into::into),
            verifies_sni: proto.auto_sni_san_validation,
            alpn: alpn(&common).map_err(within)?,
            versions: versions(common.tls_params.as_ref())
                .map_err(|e| e.within("tls_params"))
                .map_err(within)?,
            choice: choice(common.tls_params.as_ref())
                .map_err(|e| e.within("tls_params"))
                .map_err(within)?,
            key: key(&common, slots).map_err(within)?,
            roots,
            revocations,
            names: Arc::new(names),
            live: OnceLock::new(),
        })
    }

    /// What isn't checked of servers, if that is something.
    pub(crate) fn unchecked(&self, checks_host: bool) -> Option<&'static str> {
        if self.roots.is_none() {
            return Some(
                "anybody may answer: no roots are given, so that servers' certificates are not checked",
            );
        }
        let checks_names = checks_host || self.verifies_sni || !self.names.is_empty();
        (!checks_names).then_some(
            "any server with a certificate of these roots may answer: no subject alternative names are given, and sni alone is not checked",
        )
    }
}

const WITHOUT_ROOTS: &str = "names are asked for and no roots, so that anybody could have them";

fn key(common: &CommonTlsContext, slots: &SecretSlots) -> Result<Option<KeySource>, Refusal> {
    let (certificates, named) = (
        &common.tls_certificates,
        &common.tls_certificate_sds_secret_configs,
    );
    match (certificates.as_slice(), named.as_slice()) {
        ([], []) => Ok(None),
        ([certificate], []) => KeySource::from_proto(certificate)
            .map(Some)
            .map_err(|e| e.within("tls_certificates[0]")),
        ([], [secret]) => KeySource::named(secret, slots)
            .map(Some)
            .map_err(|e| e.within("tls_certificate_sds_secret_configs[0]")),
        ([], _) => Err(Refusal::new(
            "tls_certificate_sds_secret_configs",
            "a client shows one certificate",
        )),
        _ => Err(Refusal::new(
            "tls_certificates",
            "a client shows one certificate",
        )),
    }
}

/// What is checked of servers.
#[derive(Default)]
struct Validation {
    roots: Option<RootsSource>,
    revocations: Option<RevocationsSource>,
    names: ServerNames,
}

impl Validation {
    fn of(common: &CommonTlsContext, slots: &SecretSlots) -> Result<Validation, Refusal> {
        let default = CertificateValidationContext::default();
        let (context, named, field) = match &common.validation_context_type {
            None => return Ok(Validation::default()),
            Some(ValidationContextType::ValidationContext(context)) => {
                (context, None, "validation_context")
            }
            Some(ValidationContextType::ValidationContextSdsSecretConfig(named)) => (
                &default,
                Some(named),
                "validation_context_sds_secret_config",
            ),
            Some(ValidationContextType::CombinedValidationContext(combined)) => (
                combined
                    .default_validation_context
                    .as_ref()
                    .unwrap_or(&default),
                combined.validation_context_sds_secret_config.as_ref(),
                "combined_validation_context",
            ),
            Some(_) => return Err(Refusal::unsupported("validation_context_type")),
        };
        let own = |e: Refusal| match field {
            "combined_validation_context" => e.within("default_validation_context").within(field),
            field => e.within(field),
        };
        let own_roots = own_roots(context).map_err(own)?;
        let names = ServerNames::from_proto(context).map_err(own)?;
        let named = named.map(|named| {
            RootsSource::named(named, slots).map_err(|e| match field {
                "combined_validation_context" => e
                    .within("validation_context_sds_secret_config")
                    .within(field),
                field => e.within(field),
            })
        });
        let roots = named.transpose()?.or(own_roots);
        let revocations = context.crl.as_ref().map(RevocationsSource::from_proto);
        let revocations = revocations.transpose().map_err(|e| own(e.within("crl")))?;
        match TrustChainVerification::try_from(context.trust_chain_verification) {
            Ok(TrustChainVerification::VerifyTrustChain) => {}
            // Whatever the verdict is: the connection stands.
            Ok(TrustChainVerification::AcceptUntrusted) => return Ok(Validation::default()),
            Err(_) => {
                return Err(own(Refusal::new(
                    "trust_chain_verification",
                    "unknown value",
                )));
            }
        }
        if roots.is_none() && !names.is_empty() {
            return Err(own(Refusal::new("trusted_ca", WITHOUT_ROOTS)));
        }
        if roots.is_none() && revocations.is_some() {
            let reason = "is given and no roots, whose certificates it could revoke";
            return Err(own(Refusal::new("crl", reason)));
        }
        Ok(Validation {
            roots,
            revocations,
            names,
        })
    }
}

fn own_roots(context: &CertificateValidationContext) -> Result<Option<RootsSource>, Refusal> {
    match (&context.trusted_ca, &context.system_root_certs) {
        (Some(_), Some(_)) => Err(Refusal::new("system_root_certs", "stand beside trusted_ca")),
        (Some(given), None) => RootsSource::from_proto(given)
            .map(Some)
            .map_err(|e| e.within("trusted_ca")),
        (None, Some(_)) => Ok(Some(RootsSource::System)),
        (None, None) => Ok(None),
    }
}

/// By which sidecars tell each other who they are before the first byte. A sidecar that agreed on it would send bytes of its own
/// before the application's.
const PEER_EXCHANGE: &str = "istio-peer-exchange";

fn alpn(common: &CommonTlsContext) -> Result<Vec<Vec<u8>>, Refusal> {
    let names = common.alpn_protocols.iter();
    // istiod writes one name each; Envoy takes several in one, too.
    let names: Vec<&str> = names.flat_map(|names| names.split(',')).collect();
    if names.iter().any(|name| name.is_empty() || name.len() > 255) || names.len() > 64 {
        return Err(Refusal::new("alpn_protocols", "no names of protocols"));
    }
    let spoken = names.into_iter().filter(|name| *name != PEER_EXCHANGE);
    Ok(spoken.map(|name| name.as_bytes().to_vec()).collect())
}

fn versions(proto: Option<&TlsParameters>) -> Result<TlsVersions, Refusal> {
    let Some(proto) = proto else {
        return Ok(TlsVersions::Both);
    };
    let old = |field: &str| Err(Refusal::new(field, "TLS 1.2 and 1.3 are spoken"));
    let from = match TlsProtocol::try_from(proto.tls_minimum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv12) => TlsProtocol::TlSv12,
        Ok(TlsProtocol::TlSv13) => TlsProtocol::TlSv13,
        _ => return old("tls_minimum_protocol_version"),
    };
    let to = match TlsProtocol::try_from(proto.tls_maximum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => TlsProtocol::TlSv13,
        Ok(TlsProtocol::TlSv12) => TlsProtocol::TlSv12,
        _ => return old("tls_maximum_protocol_version"),
    };
    match (from, to) {
        (TlsProtocol::TlSv12, TlsProtocol::TlSv12) => Ok(TlsVersions::Tls12),
        (TlsProtocol::TlSv13, TlsProtocol::TlSv12) => Err(Refusal::new(
            "tls_maximum_protocol_version",
            "is below the minimum",
        )),
        (TlsProtocol::TlSv13, _) => Ok(TlsVersions::Tls13),
        _ => Ok(TlsVersions::Both),
    }
}

/// Ciphers and key exchanges. An error is one that isn't spoken.
pub(crate) fn choice(proto: Option<&TlsParameters>) -> Result<TlsChoice, Refusal> {
    let Some(proto) = proto else {
        return Ok(TlsChoice::default());
    };
    // `[A|B]`: equally welcome, which is up to the server anyway.
    let suites = proto.cipher_suites.iter();
    let suites = suites.flat_map(|names| names.trim_matches(['[', ']']).split('|'));
    let none = || std::iter::empty::<&str>();
    let suites = TlsChoice::new(suites, none());
    suites.map_err(|reason| Refusal::new("cipher_suites", reason))?;
    let suites = proto.cipher_suites.iter();
    let suites = suites.flat_map(|names| names.trim_matches(['[', ']']).split('|'));
    let groups = proto.ecdh_curves.iter().map(String::as_str);
    TlsChoice::new(suites, groups).map_err(|reason| Refusal::new("ecdh_curves", reason))
}
