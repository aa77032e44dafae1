//! The labels of Istio's standard metrics, and what a stream says for them.

use std::sync::Arc;

use crate::stream::peer::Peer;
use crate::stream::stream_info::{DestinationService, StreamInfo, StreamState};

/// In the order in which Istio documents them.
pub(crate) const HTTP_LABELS: &[&str] = &[
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "response_code",
    "grpc_response_status",
];
/// TCP series have neither code nor gRPC status.
pub(crate) const TCP_LABELS: &[&str] = HTTP_LABELS.split_at(HTTP_LABELS.len() - 2).0;

/// The label values of a stream, in the order of the label names.
pub(crate) fn labels(stream: &StreamInfo, state: &StreamState, http: bool) -> Vec<Arc<str>> {
    let unknown: Arc<str> = "unknown".into();
    let connection = &stream.connection;
    let nobody = Peer::default();
    let source = connection.downstream_peer.as_deref().unwrap_or(&nobody);
    let upstream = state.upstream.as_deref();
    let destination = upstream.and_then(|u| u.peer.as_deref()).unwrap_or(&nobody);
    let nowhere = DestinationService::default();
    let service = state.service.as_deref().unwrap_or(&nowhere);
    let known = |value: &Arc<str>| {
        if value.is_empty() {
            unknown.clone()
        } else {
            value.clone()
        }
    };
    let principal = |identity: Option<&str>| identity.map_or(unknown.clone(), Into::into);
    let peer = connection.peer.as_ref();
    let mut labels: Vec<Arc<str>> = vec![
        "waypoint".into(),
        known(&source.workload),
        known(&source.canonical_name),
        known(&source.canonical_revision),
        known(&source.namespace),
        principal(peer.map(|p| p.as_str())),
        known(&source.app),
        known(&source.version),
        known(&source.cluster),
        known(&destination.workload),
        known(&destination.namespace),
        principal(upstream.and_then(|u| u.principal.as_deref())),
        known(&destination.app),
        known(&destination.version),
        known(&service.host),
        known(&destination.canonical_name),
        known(&destination.canonical_revision),
        known(&service.name),
        known(&service.namespace),
        known(&destination.cluster),
        match (http, &state.grpc) {
            (false, _) => "tcp".into(),
            (true, Some(_)) => "grpc".into(),
            (true, None) => "http".into(),
        },
        state.flags.to_short().as_ref().into(),
        if peer.is_some() {
            "mutual_tls".into()
        } else {
            "none".into()
        },
    ];
    if http {
        labels.push(state.response.code.unwrap_or(0).to_string().into());
        let status = state.grpc.as_ref().and_then(|grpc| grpc.status);
        labels.push(status.map_or("".into(), |status| status.to_string().into()));
    }
    labels
}
