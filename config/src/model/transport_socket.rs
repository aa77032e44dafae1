//! Transport sockets of clusters, and the trust domains of HBONE's TLS contexts.
//!
//! A waypoint reaches endpoints plain, or through HBONE: `internal_upstream` around `raw_buffer` is both,
//! the endpoint's address decides. TLS to endpoints (DestinationRule, BackendTLSPolicy) isn't built, and is
//! refused; so is a sidecar's mutual TLS, for endpoints that ask for it.

use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, common_tls_context::ValidationContextType,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::Any;
use waypoint_filters::rejected::Refusal;

const INTERNAL_UPSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport";
const RAW_BUFFER: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// Clusters of the HBONE machinery itself: their TLS is HBONE's.
const INFRASTRUCTURE: [&str; 3] = [
    "connect_originate",
    "inner_connect_originate",
    "outer_connect_originate",
];

/// Refuses a cluster whose endpoints are to be reached in a way that isn't built.
pub(crate) fn check(cluster: &ClusterProto) -> Result<(), Refusal> {
    if INFRASTRUCTURE.contains(&cluster.name.as_str()) {
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
            check_socket(socket)
                .map_err(|e| e.within(format!("transport_socket_matches[{}]", candidate.name)))?;
        }
    }
    Ok(())
}

fn check_socket(socket: &TransportSocket) -> Result<(), Refusal> {
    let any = typed(socket)?;
    match any.type_url.as_str() {
        RAW_BUFFER => Ok(()),
        INTERNAL_UPSTREAM => {
            let proto = waypoint_filters::whole::decode::<InternalUpstreamTransport>(&any.value)
                .map_err(|e| e.within("typed_config"))?;
            match &proto.transport_socket {
                None => Err(Refusal::missing("transport_socket")),
                Some(inner) => check_socket(inner),
            }
        }
        other => Err(Refusal::unsupported(format!("typed_config {other}"))),
    }
}

pub(crate) fn typed(socket: &TransportSocket) -> Result<&Any, Refusal> {
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) => Ok(any),
        None => Err(Refusal::missing("typed_config")),
    }
}

/// The trust domains that a TLS context accepts: its URI prefixes `spiffe://<domain>/…`.
pub(crate) fn trust_domains(context: Option<&CommonTlsContext>) -> Vec<String> {
    let Some(ValidationContextType::CombinedValidationContext(combined)) =
        context.and_then(|c| c.validation_context_type.as_ref())
    else {
        return Vec::new();
    };
    let names = combined
        .default_validation_context
        .iter()
        .flat_map(|context| &context.match_typed_subject_alt_names);
    let mut domains: Vec<String> = names
        .filter_map(
            |name| match name.matcher.as_ref()?.match_pattern.as_ref()? {
                MatchPattern::Prefix(prefix) => {
                    let domain = prefix.strip_prefix("spiffe://")?.split('/').next()?;
                    Some(domain.to_owned())
                }
                _ => None,
            },
        )
        .collect();
    domains.sort();
    domains.dedup();
    domains
}
