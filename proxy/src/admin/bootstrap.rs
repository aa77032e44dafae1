//! What Envoy is started with, as far as `istioctl proxy-config bootstrap` asks for it: who this process is.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::bootstrap::v3::{Admin as AdminProto, Bootstrap};
use envoy_types::pb::envoy::config::core::v3::{
    Address, BuildVersion, Node, SocketAddress, address, node::UserAgentVersionType,
    socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::metrics::exposition::{Exposition, Kind as MetricKind, Sample};
use waypoint_hbone::identity::Identity;

use crate::run::ConfigSource;

/// The library that does TLS, where Envoy names BoringSSL.
const TLS_LIBRARY: &str = "rustls-aws-lc";

/// The node that istiod is told of, or a like one where there is no istiod; with this program's version.
pub(crate) fn node(source: &ConfigSource, identity: &Identity, hbone: SocketAddr) -> Node {
    let node = match source {
        ConfigSource::Istiod { node, .. } => (**node).clone(),
        _ => standalone(identity, hbone),
    };
    Node {
        user_agent_name: "waypoint".into(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build_version())),
        ..node
    }
}

/// As in a pod of the waypoint's service account.
fn standalone(identity: &Identity, hbone: SocketAddr) -> Node {
    let namespace = identity.namespace().unwrap_or_default();
    let account = identity.service_account().unwrap_or_default();
    let metadata = [
        ("NAME", account),
        ("NAMESPACE", namespace),
        ("SERVICE_ACCOUNT", account),
    ];
    Node {
        id: format!(
            "waypoint~{}~{account}.{namespace}~{namespace}.svc.cluster.local",
            hbone.ip().to_canonical()
        ),
        cluster: format!("{account}.{namespace}"),
        metadata: Some(texts(metadata)),
        ..Node::default()
    }
}

fn build_version() -> BuildVersion {
    let part = |text: &str| text.parse().unwrap_or_default();
    BuildVersion {
        version: Some(SemanticVersion {
            major_number: part(env!("CARGO_PKG_VERSION_MAJOR")),
            minor_number: part(env!("CARGO_PKG_VERSION_MINOR")),
            patch: part(env!("CARGO_PKG_VERSION_PATCH")),
        }),
        metadata: Some(texts([
            (
                "build.type",
                if cfg!(debug_assertions) {
                    "DEBUG"
                } else {
                    "RELEASE"
                },
            ),
            ("ssl.version", TLS_LIBRARY),
        ])),
    }
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> Struct {
    let value = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    Struct {
        fields: pairs.map(|(k, v)| (k.to_owned(), value(v))).into(),
    }
}

/// The version as Envoy writes it: revision, version, state of the tree, kind of build, TLS library.
pub(super) fn version() -> String {
    let build = if cfg!(debug_assertions) {
        "DEBUG"
    } else {
        "RELEASE"
    };
    format!(
        "-/{}/Clean/{build}/{TLS_LIBRARY}",
        env!("CARGO_PKG_VERSION")
    )
}

/// The metric by which Istio's dashboards tell versions apart: which Istio this process stands for.
pub(crate) fn tell_build(node: &Node, metrics: &MetricRegistry) {
    let fields = node.metadata.as_ref().map(|metadata| &metadata.fields);
    let version = fields.and_then(|fields| fields.get("ISTIO_VERSION"));
    let tag = match version.and_then(|version| version.kind.as_ref()) {
        Some(Kind::StringValue(version)) => version.clone(),
        _ => "unknown".to_owned(),
    };
    metrics.register(move |out: &mut dyn Exposition| {
        out.family(
            "istio_build",
            "Istio component build info",
            MetricKind::Gauge,
        )?;
        out.series(&[("component", "proxy"), ("tag", &tag)], &Sample::Whole(1))
    });
}

pub(super) fn bootstrap(node: &Node, admin: SocketAddr) -> Bootstrap {
    Bootstrap {
        node: Some(node.clone()),
        admin: Some(AdminProto {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address: admin.ip().to_string(),
                    port_specifier: Some(PortSpecifier::PortValue(admin.port().into())),
                    ..SocketAddress::default()
                })),
            }),
            ..AdminProto::default()
        }),
        ..Bootstrap::default()
    }
}
