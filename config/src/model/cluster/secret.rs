//! Where keys and roots of TLS to endpoints come from: the mesh's CA, files, the configuration itself.
//!
//! istiod names what its agent is to serve: `default` and `ROOTCA` are the workload's own, `file-cert:CHAIN~KEY` and `file-root:PATH`
//! are files, `file-root:system` the roots that the system has. Files are read where they are needed, again whenever they
//! change. What lies in Kubernetes (`kubernetes://…`, `configmap://…`) whoever configures delivers by name, as it does everything
//! else (`ads`). Other servers of secrets aren't asked, and are refused.

use std::path::PathBuf;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    ConfigSource, DataSource, config_source::ConfigSourceSpecifier, data_source::Specifier,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    SdsSecretConfig, TlsCertificate,
};
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;
use waypoint_hbone::tls::credentials::{ClientKey, ServerRoots};

use crate::model::cluster::secret_slot::{SecretSlot, SecretSlots};
use crate::model::config_source::AGGREGATED;

const FOLLOWED: &str = "files are looked at again anyway";

pub(crate) static SDS_SECRET: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig",
    fields: &[
        honoured(1, "name")
            .only("what comes by ads; default, ROOTCA, file-cert:CHAIN~KEY, file-root:PATH"),
        honoured(2, "sds_config").of(&SDS_SOURCE),
    ],
    refused: "",
    required: &[required("name", &[1])],
};

/// Of secrets that Istio's agent serves the name says where they are.
static SDS_SOURCE: Table = Table {
    name: "envoy.config.core.v3.ConfigSource",
    fields: &[
        harmless(
            2,
            "api_config_source",
            "names that Istio's agent serves are honoured, and others refused",
        ),
        honoured(3, "ads").of(&AGGREGATED),
        harmless(
            4,
            "initial_fetch_timeout",
            "a cluster doesn't wait for its secrets; connections do, for 15 s at most",
        ),
        harmless(6, "resource_api_version", "there is one version"),
    ],
    refused: "1 path, 5 self, 7 authorities, 8 path_config_source",
    required: &[],
};

pub(crate) static TLS_CERTIFICATE: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
    fields: &[
        honoured(1, "certificate_chain").of(&DATA_SOURCE),
        honoured(2, "private_key").of(&DATA_SOURCE),
        harmless(4, "ocsp_staple", "a client has nothing to staple"),
        harmless(7, "watched_directory", FOLLOWED),
    ],
    refused: "3 password, 5 signed_certificate_timestamp, 6 private_key_provider, \
              8 pkcs12, 9 tls_params",
    required: &[
        required("certificate_chain", &[1]),
        required("private_key", &[2]),
    ],
};

pub(crate) static DATA_SOURCE: Table = Table {
    name: "envoy.config.core.v3.DataSource",
    fields: &[
        honoured(1, "filename"),
        honoured(2, "inline_bytes"),
        honoured(3, "inline_string"),
        harmless(5, "watched_directory", FOLLOWED),
    ],
    refused: "4 environment_variable",
    required: &[required("specifier", &[1, 2, 3])],
};

/// What the waypoint shows of itself.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// The workload's own certificate.
    Own,
    Files {
        chain: PathBuf,
        key: PathBuf,
    },
    Inline(ClientKey),
    /// By name, from whoever configures.
    Delivered(Arc<SecretSlot<ClientKey>>),
}

/// What servers' chains must lead to.
#[derive(Clone, Debug)]
pub enum RootsSource {
    /// Those of the mesh.
    Mesh,
    System,
    File(PathBuf),
    Inline(ServerRoots),
    /// By name, from whoever configures.
    Delivered(Arc<SecretSlot<ServerRoots>>),
}

/// Lists of revoked certificates, in PEM.
#[derive(Clone, Debug)]
pub enum RevocationsSource {
    File(PathBuf),
    Inline(Vec<u8>),
}

impl KeySource {
    pub(crate) fn named(
        proto: &SdsSecretConfig,
        slots: &SecretSlots,
    ) -> Result<KeySource, Refusal> {
        let name = proto.name.as_str();
        if name == "default" {
            return Ok(KeySource::Own);
        }
        let files = name.strip_prefix("file-cert:");
        if let Some((chain, key)) = files.and_then(|files| files.split_once('~')) {
            return Ok(KeySource::Files {
                chain: chain.into(),
                key: key.into(),
            });
        }
        delivered(proto)?;
        Ok(KeySource::Delivered(slots.key(name)))
    }

    pub(crate) fn from_proto(proto: &TlsCertificate) -> Result<KeySource, Refusal> {
        let chain =
            data(proto.certificate_chain.as_ref()).map_err(|e| e.within("certificate_chain"))?;
        let key = data(proto.private_key.as_ref()).map_err(|e| e.within("private_key"))?;
        match (chain, key) {
            (Data::File(chain), Data::File(key)) => Ok(KeySource::Files { chain, key }),
            (Data::Inline(chain), Data::Inline(key)) => ClientKey::from_pem(&chain, &key)
                .map(KeySource::Inline)
                .map_err(|error| Refusal::new("certificate_chain", error.to_string())),
            _ => Err(Refusal::new(
                "private_key",
                "comes from elsewhere than the certificate (one a file, the other not)",
            )),
        }
    }
}

impl RootsSource {
    pub(crate) fn named(
        proto: &SdsSecretConfig,
        slots: &SecretSlots,
    ) -> Result<RootsSource, Refusal> {
        match (proto.name.as_str(), proto.name.strip_prefix("file-root:")) {
            ("ROOTCA", _) => Ok(RootsSource::Mesh),
            (_, Some("system")) => Ok(RootsSource::System),
            (_, Some(path)) if !path.is_empty() => Ok(RootsSource::File(path.into())),
            (name, _) => {
                delivered(proto)?;
                Ok(RootsSource::Delivered(slots.roots(name)))
            }
        }
    }

    pub(crate) fn from_proto(proto: &DataSource) -> Result<RootsSource, Refusal> {
        match data(Some(proto))? {
            Data::File(path) => Ok(RootsSource::File(path)),
            Data::Inline(pem) => ServerRoots::from_pem(&pem)
                .map(RootsSource::Inline)
                .map_err(|error| Refusal::new("inline_bytes", error.to_string())),
        }
    }
}

impl RevocationsSource {
    pub(crate) fn from_proto(proto: &DataSource) -> Result<RevocationsSource, Refusal> {
        Ok(match data(Some(proto))? {
            Data::File(path) => RevocationsSource::File(path),
            Data::Inline(pem) => RevocationsSource::Inline(pem),
        })
    }
}

/// Whether a secret comes the way that everything else does.
fn delivered(proto: &SdsSecretConfig) -> Result<(), Refusal> {
    let of_stream = |source: &ConfigSource| {
        let specifier = source.config_source_specifier.as_ref();
        matches!(specifier, Some(ConfigSourceSpecifier::Ads(_)))
    };
    if proto.sds_config.as_ref().is_some_and(of_stream) {
        return Ok(());
    }
    let name = &proto.name;
    let reason = format!(
        "secret {name:?} is not fetched: only default, ROOTCA, file-cert:…, file-root:… and what comes by ads are"
    );
    Err(Refusal::new("name", reason))
}

enum Data {
    File(PathBuf),
    Inline(Vec<u8>),
}

fn data(proto: Option<&DataSource>) -> Result<Data, Refusal> {
    match proto.and_then(|proto| proto.specifier.as_ref()) {
        None => Err(Refusal::missing("specifier")),
        Some(Specifier::Filename(path)) => Ok(Data::File(path.into())),
        Some(Specifier::InlineBytes(bytes)) => Ok(Data::Inline(bytes.clone())),
        Some(Specifier::InlineString(text)) => Ok(Data::Inline(text.clone().into_bytes())),
        Some(Specifier::EnvironmentVariable(_)) => {
            Err(Refusal::unsupported("environment_variable"))
        }
    }
}
