//! Real Envoy as the same waypoint: the resources that the waypoint gets, as a static bootstrap.
//!
//! Envoy's own build doesn't know Istio's filters, so those are left out (peer metadata, metadata
//! exchange, `istio.stats`), which is less work for Envoy; Istio's string object becomes Envoy's. Endpoints
//! and certificates, which istiod sends on demand, are put where they are used.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::bootstrap::v3::{
    Admin, Bootstrap, LayeredRuntime, RuntimeLayer, bootstrap::StaticResources, runtime_layer,
};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{
    Address, DataSource, Node, SocketAddress, TransportSocket, TypedExtensionConfig, address,
    data_source, socket_address, transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Filter, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
use envoy_types::pb::envoy::extensions::filters::http::set_filter_state::v3::Config as HttpFilterState;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as NetworkFilterState;
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, TlsCertificate, UpstreamTlsContext,
    common_tls_context::ValidationContextType,
};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value};
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};

use crate::envoy_secrets;
use crate::mesh::Mesh;
use crate::wait::PATIENCE;

const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const HTTP_STATE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config";
const NETWORK_STATE: &str =
    "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config";
const DOWNSTREAM_TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
pub(crate) const UPSTREAM_TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const INTERNAL_UPSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport";
const INTERNAL_LISTENER: &str =
    "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
/// What only Istio's build of Envoy has.
const ISTIO_ONLY: [&str; 3] = [
    "type.googleapis.com/udpa.type.v1.TypedStruct",
    "type.googleapis.com/xds.type.v3.TypedStruct",
    "type.googleapis.com/stats.PluginConfig",
];

/// Where Envoy's waypoint listens and what it is.
#[derive(Clone, Debug)]
pub struct Settings {
    pub hbone: SocketAddr,
    pub admin: SocketAddr,
    /// `cert-chain.pem`, `key.pem`, `root-cert.pem`.
    pub certs: PathBuf,
}

/// The bootstrap for these resources.
#[must_use]
pub fn bootstrap(resources: &[Resource], settings: &Settings) -> Bootstrap {
    let mut assignments: HashMap<String, ClusterLoadAssignment> = HashMap::new();
    for resource in of(resources, ResourceType::Endpoints) {
        assignments.insert(resource.name.clone(), decode(&resource.body));
    }
    let listeners = of(resources, ResourceType::Listener)
        .map(|resource| listener(decode(&resource.body), settings))
        .collect();
    let clusters = of(resources, ResourceType::Cluster)
        .map(|resource| with_endpoints(decode(&resource.body), &assignments))
        .map(|found| cluster(found, settings))
        .collect();
    Bootstrap {
        node: Some(Node {
            id: "waypoint".into(),
            cluster: "waypoint".into(),
            ..Node::default()
        }),
        static_resources: Some(StaticResources {
            listeners,
            clusters,
            secrets: Vec::new(),
        }),
        admin: Some(Admin {
            address: Some(socket(settings.admin)),
            ..Admin::default()
        }),
        bootstrap_extensions: internal_listeners(),
        layered_runtime: Some(istio_runtime()),
        ..Bootstrap::default()
    }
}

/// The flag of Istio's bootstrap that requests notice: a fragment is cut off, not refused.
fn istio_runtime() -> LayeredRuntime {
    let flag = "envoy.reloadable_features.http_reject_path_with_fragment";
    let off = Value {
        kind: Some(value::Kind::BoolValue(false)),
    };
    LayeredRuntime {
        layers: vec![RuntimeLayer {
            name: "global config".into(),
            layer_specifier: Some(runtime_layer::LayerSpecifier::StaticLayer(Struct {
                fields: [(flag.to_owned(), off)].into(),
            })),
        }],
    }
}

/// What lets Envoy's listeners hand streams to each other.
pub(crate) fn internal_listeners() -> Vec<TypedExtensionConfig> {
    vec![TypedExtensionConfig {
        name: "envoy.bootstrap.internal_listener".into(),
        typed_config: Some(Any {
            type_url: INTERNAL_LISTENER.into(),
            value: Vec::new(),
        }),
    }]
}

fn of(resources: &[Resource], kind: ResourceType) -> impl Iterator<Item = &Resource> {
    resources
        .iter()
        .filter(move |resource| resource.kind == kind)
}

pub(crate) fn decode<T: Message + Default>(bytes: &[u8]) -> T {
    T::decode(bytes).unwrap()
}

/// Decodes, changes, and encodes what is in `any`.
fn change<T: Message + Default>(any: &mut Any, change: impl FnOnce(&mut T)) {
    let mut message: T = decode(&any.value);
    change(&mut message);
    any.value = message.encode_to_vec();
}

pub(crate) fn listener(mut listener: Listener, settings: &Settings) -> Listener {
    if listener.name == "connect_terminate" {
        listener.address = Some(socket(settings.hbone));
    }
    for chain in listener
        .filter_chains
        .iter_mut()
        .chain(&mut listener.default_filter_chain)
    {
        chain
            .filters
            .retain(|filter| !typed(filter).is_some_and(is_istio_only));
        for filter in &mut chain.filters {
            if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type {
                match any.type_url.as_str() {
                    HCM => change(any, connection_manager),
                    NETWORK_STATE => change(any, |state: &mut NetworkFilterState| {
                        plain_strings(&mut state.on_new_connection);
                        plain_strings(&mut state.on_downstream_tls_handshake);
                    }),
                    _ => {}
                }
            }
        }
        if let Some(socket) = &mut chain.transport_socket {
            with_files(socket, settings);
        }
    }
    listener
}

fn typed(filter: &Filter) -> Option<&Any> {
    match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    }
}

fn is_istio_only(any: &Any) -> bool {
    ISTIO_ONLY.contains(&any.type_url.as_str())
}

fn connection_manager(manager: &mut HttpConnectionManager) {
    manager
        .http_filters
        .retain(|filter| match &filter.config_type {
            Some(http_filter::ConfigType::TypedConfig(any)) => !is_istio_only(any),
            _ => true,
        });
    for filter in &mut manager.http_filters {
        if let Some(http_filter::ConfigType::TypedConfig(any)) = &mut filter.config_type
            && any.type_url == HTTP_STATE
        {
            change(any, |state: &mut HttpFilterState| {
                plain_strings(&mut state.on_request_headers)
            });
        }
    }
}

fn plain_strings(values: &mut [FilterStateValue]) {
    for value in values {
        if value.factory_key == "istio.hashable_string" {
            value.factory_key = "envoy.hashable_string".into();
        }
    }
}

fn with_endpoints(
    mut cluster: Cluster,
    assignments: &HashMap<String, ClusterLoadAssignment>,
) -> Cluster {
    if let Some(eds) = cluster.eds_cluster_config.take() {
        let name = if eds.service_name.is_empty() {
            &cluster.name
        } else {
            &eds.service_name
        };
        let assignment = assignments.get(name).cloned();
        cluster.load_assignment = Some(assignment.unwrap_or_else(|| ClusterLoadAssignment {
            cluster_name: cluster.name.clone(),
            ..ClusterLoadAssignment::default()
        }));
        cluster.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static as i32,
        ));
    }
    cluster
}

pub(crate) fn cluster(mut cluster: Cluster, settings: &Settings) -> Cluster {
    cluster
        .filters
        .retain(|filter| !filter.typed_config.as_ref().is_some_and(is_istio_only));
    if let Some(socket) = &mut cluster.transport_socket {
        with_files(socket, settings);
    }
    for candidate in &mut cluster.transport_socket_matches {
        if let Some(socket) = &mut candidate.transport_socket {
            with_files(socket, settings);
        }
    }
    cluster
}

/// Certificates from files instead of SDS.
fn with_files(socket: &mut TransportSocket, settings: &Settings) {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &mut socket.config_type else {
        return;
    };
    match any.type_url.as_str() {
        DOWNSTREAM_TLS => change(any, |context: &mut DownstreamTlsContext| {
            context
                .common_tls_context
                .iter_mut()
                .for_each(|c| files(c, &settings.certs));
        }),
        INTERNAL_UPSTREAM => change(any, |internal: &mut InternalUpstreamTransport| {
            internal
                .transport_socket
                .iter_mut()
                .for_each(|socket| with_files(socket, settings));
        }),
        UPSTREAM_TLS => change(any, |context: &mut UpstreamTlsContext| {
            context
                .common_tls_context
                .iter_mut()
                .for_each(|c| files(c, &settings.certs));
        }),
        _ => {}
    }
}

fn files(context: &mut CommonTlsContext, certs: &Path) {
    if context.tls_certificate_sds_secret_configs.is_empty() {
        // It isn't the mesh's, and says itself where all is; roots in a file by the name that istiod gives such a secret.
        if let Some(ValidationContextType::CombinedValidationContext(combined)) =
            &mut context.validation_context_type
            && let Some(sds) = &combined.validation_context_sds_secret_config
            && let Some(path) = sds.name.strip_prefix("file-root:")
            && path != "system"
        {
            let mut validation = combined
                .default_validation_context
                .clone()
                .unwrap_or_default();
            validation.trusted_ca = Some(DataSource {
                specifier: Some(data_source::Specifier::Filename(path.to_owned())),
                ..DataSource::default()
            });
            context.validation_context_type =
                Some(ValidationContextType::ValidationContext(validation));
        }
        return;
    }
    if envoy_secrets::discover(context, certs) {
        return;
    }
    let file = |name: &str| {
        let path = certs.join(name).to_string_lossy().into_owned();
        Some(DataSource {
            specifier: Some(data_source::Specifier::Filename(path)),
            ..DataSource::default()
        })
    };
    context.tls_certificate_sds_secret_configs.clear();
    context.tls_certificates = vec![TlsCertificate {
        certificate_chain: file("cert-chain.pem"),
        private_key: file("key.pem"),
        ..TlsCertificate::default()
    }];
    if let Some(ValidationContextType::CombinedValidationContext(combined)) =
        context.validation_context_type.take()
    {
        let mut validation = combined.default_validation_context.unwrap_or_default();
        validation.trusted_ca = file("root-cert.pem");
        context.validation_context_type =
            Some(ValidationContextType::ValidationContext(validation));
    }
}

/// A socket address as Envoy writes it.
#[must_use]
pub fn socket(address: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(
                address.port().into(),
            )),
            ..SocketAddress::default()
        })),
    }
}

/// A running Envoy; it ends with this value.
pub struct Envoy {
    child: Child,
    log: PathBuf,
}

impl Envoy {
    /// The binary that `WAYPOINT_ENVOY` names as the waypoint of this mesh, with these resources, and where
    /// it takes HBONE.
    ///
    /// # Panics
    /// There is none, or it doesn't start.
    pub async fn beside(mesh: &Mesh, resources: &[Resource]) -> (Envoy, SocketAddr) {
        let program = std::env::var("WAYPOINT_ENVOY").expect("WAYPOINT_ENVOY names Envoy's binary");
        let settings = Settings {
            hbone: SocketAddr::new(mesh.pod_ip(253), 15008),
            admin: SocketAddr::new(mesh.pod_ip(253), 15000),
            certs: mesh.folder().join("envoy-certs"),
        };
        mesh.certificate("default", "waypoint")
            .write(&settings.certs)
            .unwrap();
        let bootstrap = bootstrap(resources, &settings);
        let folder = mesh.folder().to_path_buf();
        let starting = tokio::task::spawn_blocking(move || {
            Envoy::start(&[&program], &bootstrap, &folder, settings.admin)
        });
        (starting.await.unwrap(), settings.hbone)
    }

    /// Starts `program` (a path, with words before it such as `taskset -c 1`) with a bootstrap written to
    /// `folder`, and waits until it is ready.
    pub fn start(
        program: &[&str],
        bootstrap: &Bootstrap,
        folder: &Path,
        admin: SocketAddr,
    ) -> Envoy {
        let config = folder.join("envoy.pb");
        std::fs::write(&config, bootstrap.encode_to_vec()).unwrap();
        Envoy::with_config(program, &config, folder, admin)
    }

    /// As [`Envoy::start`], with a bootstrap file as it is.
    pub fn with_config(program: &[&str], config: &Path, folder: &Path, admin: SocketAddr) -> Envoy {
        let log = folder.join("envoy.log");
        let out = std::fs::File::create(&log).unwrap();
        let (first, rest) = program.split_first().unwrap();
        let child = Command::new(first)
            .args(rest)
            .arg("-c")
            .arg(config)
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "error",
                "--file-flush-interval-msec",
                "100",
            ])
            .stdout(Stdio::from(out.try_clone().unwrap()))
            .stderr(Stdio::from(out))
            .spawn()
            .unwrap();
        let mut envoy = Envoy { child, log };
        envoy.until_ready(admin);
        envoy
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn until_ready(&mut self, admin: SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if is_ready(admin) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "Envoy doesn't start ({ended:?}): {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    asked(admin, "/ready", Duration::from_secs(1)).is_some()
}

/// What the admin port answers with 200. `None`: nothing, or something else.
#[must_use]
pub fn asked(admin: SocketAddr, path: &str, patience: Duration) -> Option<String> {
    use std::io::{Read, Write};
    let mut tcp = std::net::TcpStream::connect(admin).ok()?;
    let _ = tcp.set_read_timeout(Some(patience));
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    tcp.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).ok()?;
    let (head, mut body) = answer.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") {
        return None;
    }
    if !head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return Some(body.to_owned());
    }
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        whole.push_str(rest.get(..size)?);
        body = rest.get(size..)?.trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    Some(whole)
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
