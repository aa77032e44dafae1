//! Transport sockets of clusters.
//!
//! A waypoint reaches endpoints plain, or through HBONE: `internal_upstream` around `raw_buffer` is both,
//! the endpoint's address decides. TLS to endpoints (DestinationRule, BackendTLSPolicy) isn't built, and is
//! refused; so is a sidecar's mutual TLS, for endpoints that ask for it.

use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::google::protobuf::Any;
use waypoint_filters::xds::coverage::well_known::STRUCT;
use waypoint_filters::xds::coverage::{Table, decode_any, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::endpoint::CONNECT_ORIGINATE;

pub(crate) static TRANSPORT_SOCKET: Table = Table {
    name: "envoy.config.core.v3.TransportSocket",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(3, "typed_config").any(&[&[&INTERNAL_UPSTREAM, &RAW_BUFFER, &UPSTREAM_TLS]]),
    ],
    refused: "",
    required: &[required("typed_config", &[3])],
};

static INTERNAL_UPSTREAM: Table = Table {
    name: "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
    fields: &[
        harmless(
            1,
            "passthrough_metadata",
            "endpoints' metadata is read where they are chosen",
        )
        .list(),
        honoured(3, "transport_socket").of(&TRANSPORT_SOCKET),
    ],
    refused: "",
    required: &[required("transport_socket", &[3])],
};

static RAW_BUFFER: Table = Table {
    name: "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    fields: &[],
    refused: "",
    required: &[],
};

/// TLS is refused by its type; what it would be like is nobody's loss.
const NOT_BUILT: &str = "TLS is HBONE's own, or the cluster is refused for it";

static UPSTREAM_TLS: Table = Table {
    name: "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    fields: &[
        harmless(1, "common_tls_context", NOT_BUILT),
        harmless(2, "sni", NOT_BUILT),
        harmless(3, "allow_renegotiation", NOT_BUILT),
        harmless(4, "max_session_keys", NOT_BUILT),
        harmless(5, "enforce_rsa_key_usage", NOT_BUILT),
        harmless(6, "auto_host_sni", NOT_BUILT),
        harmless(7, "auto_sni_san_validation", NOT_BUILT),
    ],
    refused: "",
    required: &[],
};

pub(crate) static TRANSPORT_SOCKET_MATCH: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
    fields: &[
        honoured(1, "name"),
        honoured(2, "match").of(&STRUCT),
        honoured(3, "transport_socket").of(&TRANSPORT_SOCKET),
    ],
    refused: "",
    required: &[],
};

/// Clusters of the HBONE machinery itself: their TLS is HBONE's.
const INFRASTRUCTURE: [&str; 3] = [
    CONNECT_ORIGINATE,
    "inner_connect_originate",
    "outer_connect_originate",
];

/// Whether a cluster only holds Envoy's way to open tunnels.
pub(crate) fn is_infrastructure(cluster: &str) -> bool {
    INFRASTRUCTURE.contains(&cluster)
}

/// Refuses a cluster whose endpoints are to be reached in a way that isn't built.
pub(crate) fn check(cluster: &ClusterProto) -> Result<(), Refusal> {
    if is_infrastructure(&cluster.name) {
        return Ok(());
    }
    if let Some(socket) = &cluster.transport_socket {
        check_socket(socket).map_err(|e| e.within("transport_socket"))?;
    }
    for candidate in &cluster.transport_socket_matches {
        // Chosen by endpoints with `tlsMode: istio` only, which are refused where they appear.
        let is_sidecar = candidate.name == "tlsMode-istio"
            && candidate
                .r#match
                .as_ref()
                .is_some_and(|m| !m.fields.is_empty());
        if let (false, Some(socket)) = (is_sidecar, &candidate.transport_socket) {
            check_socket(socket).map_err(|e| {
                let name = &candidate.name;
                e.within(format!(
                    "transport_socket_matches[{name:?}].transport_socket"
                ))
            })?;
        }
    }
    Ok(())
}

fn check_socket(socket: &TransportSocket) -> Result<(), Refusal> {
    let any = typed(socket)?;
    if RAW_BUFFER.has_type_url(&any.type_url) {
        return Ok(());
    }
    if !INTERNAL_UPSTREAM.has_type_url(&any.type_url) {
        let reason = format!("type {} is not built in", any.type_url);
        return Err(Refusal::new("typed_config", reason));
    }
    let proto: InternalUpstreamTransport = decode_any(any)?;
    match &proto.transport_socket {
        None => Err(Refusal::missing("transport_socket")),
        Some(inner) => check_socket(inner).map_err(|e| e.within("typed_config.transport_socket")),
    }
}

pub(crate) fn typed(socket: &TransportSocket) -> Result<&Any, Refusal> {
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) => Ok(any),
        None => Err(Refusal::missing("typed_config")),
    }
}
