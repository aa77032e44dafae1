//! The tables of the real istioctl, of Envoy and of the waypoint with the same resources from an istiod each; and Envoy's admin pages.
//!
//! Tables are made of dumps (`--file`), row by row; what may differ has a reason here and in `docs/differences.md`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ConfigSource, ExtensionConfigSource, TypedExtensionConfig,
    config_source::ConfigSourceSpecifier,
};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::google::protobuf::{Any, Struct, Value as ProtoValue, value::Kind};
use http::StatusCode;
use prost::Message;
use serde_json::Value;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_proxy::run::ConfigSource as Source;
use waypoint_tests::envoy::{Envoy, Settings, asked};
use waypoint_tests::istioctl::Istioctl;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::telemetry::{http_exchange, http_request};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel, envoy_ads, envoy_secrets};

use crate::beside::program;

const MANIFESTS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: default}
spec:
  host: web.default.svc.cluster.local
  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 10}}, outlierDetection: {consecutive5xxErrors: 5}}
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /a}}, {path: {type: Exact, value: /b}, headers: [{name: x, value: 'one'}]}]
    backendRefs: [{name: far, port: 80, weight: 1}, {name: web, port: 80, weight: 3}]
  - filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example}}]
    matches: [{path: {type: Exact, value: /away}}]
  - backendRefs: [{name: web, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: own, namespace: default}
spec: {targetRefs: [{group: '', kind: Service, name: web}], rules: [{from: [{source: {namespaces: [default]}}]}]}
";

const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
/// A filter of the services' chains that comes by itself (ECDS).
const DISCOVERED: &str = "default.own";

/// The same resources with such a filter.
fn with_extension(mut resources: Vec<Resource>) -> Vec<Resource> {
    let is_services =
        |r: &&mut Resource| r.kind == ResourceType::Listener && r.name == "main_internal";
    for resource in resources.iter_mut().filter(is_services) {
        let mut listener = Listener::decode(&*resource.body).unwrap();
        let chains = listener.filter_chains.iter_mut();
        for filter in chains.flat_map(|chain| &mut chain.filters) {
            let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else {
                continue;
            };
            if any.type_url != HCM {
                continue;
            }
            let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
            manager.http_filters.insert(0, discovered());
            any.value = manager.encode_to_vec();
        }
        resource.body = listener.encode_to_vec().into();
    }
    let extension = TypedExtensionConfig {
        name: DISCOVERED.into(),
        typed_config: Some(Any {
            type_url: RBAC.into(),
            value: Vec::new(),
        }),
    };
    resources.push(Resource {
        kind: ResourceType::Extension,
        name: DISCOVERED.into(),
        body: extension.encode_to_vec().into(),
    });
    resources
}

fn discovered() -> HttpFilter {
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    HttpFilter {
        name: DISCOVERED.into(),
        config_type: Some(http_filter::ConfigType::ConfigDiscovery(
            ExtensionConfigSource {
                config_source: Some(ConfigSource {
                    config_source_specifier: Some(ads),
                    ..ConfigSource::default()
                }),
                type_urls: vec![RBAC.into()],
                ..ExtensionConfigSource::default()
            },
        )),
        ..HttpFilter::default()
    }
}

/// What a pod says of itself that istioctl prints.
fn metadata() -> Struct {
    let fields = [
        ("ISTIO_VERSION", "1.31.0"),
        ("ISTIO_PROXY_SHA", "istio-proxy:abc"),
    ];
    let text = |text: &str| ProtoValue {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    Struct {
        fields: fields
            .map(|(name, value)| (name.to_owned(), text(value)))
            .into(),
    }
}

/// Both, each after one request to each service.
pub(super) struct Pair {
    pub(super) mesh: Mesh,
    waypoint: Waypoint,
    pub(super) envoy_admin: SocketAddr,
    _rest: (Envoy, [ControlPlane; 2], Vec<App>, PodZtunnel),
}

impl Pair {
    pub(super) async fn start() -> Pair {
        let mesh = Mesh::new();
        mesh.manifest("all.yaml", MANIFESTS);
        let (web, app) = mesh.http_service(1, "web").await;
        let (far, far_app, ztunnel) = mesh.captured_service(2, "far").await;
        mesh.bare_tcp_service(3, "tcp");
        let settings = Settings {
            hbone: SocketAddr::new(mesh.pod_ip(253), 15008),
            admin: SocketAddr::new(mesh.pod_ip(253), 15000),
            certs: mesh.folder().join("envoy-certs"),
        };
        let identity = mesh.certificate("default", "waypoint");
        identity.write(&settings.certs).unwrap();
        envoy_secrets::write(&settings.certs);
        let resources = with_extension(mesh.resources());
        let ours = ControlPlane::start(&mesh).await;
        ours.discovery.set(resources.clone());
        let Source::Istiod { plane, mut node } = ours.source() else {
            unreachable!("it is an istiod");
        };
        node.metadata = Some(metadata());
        let source = Source::Istiod {
            plane,
            node: node.clone(),
        };
        let options = mesh.options(source, ours.certificates());
        let waypoint = mesh.try_start_with(options).await.unwrap();
        waypoint.until_ready().await;
        let theirs = ControlPlane::start(&mesh).await;
        theirs
            .discovery
            .set(envoy_ads::resources(resources, &settings));
        let mut bootstrap = envoy_ads::bootstrap(&settings, &theirs.address());
        bootstrap.node = Some(*node);
        let folder = mesh.folder().join("envoy");
        std::fs::create_dir_all(&folder).unwrap();
        let admin = settings.admin;
        let starting = tokio::task::spawn_blocking(move || {
            Envoy::start(&[&program()], &bootstrap, &folder, admin)
        });
        let envoy = starting.await.unwrap();
        let certificate = mesh.certificate("default", "curl");
        for via in [waypoint.address(), settings.hbone] {
            let client = Ztunnel::connect(via, &certificate).await.unwrap();
            for to in [web, far] {
                assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
            }
        }
        Pair {
            mesh,
            waypoint,
            envoy_admin: settings.admin,
            _rest: (envoy, [ours, theirs], vec![app, far_app], ztunnel),
        }
    }

    fn admins(&self) -> [(&'static str, SocketAddr); 2] {
        [
            ("waypoint", self.waypoint.running.admin_addr),
            ("envoy", self.envoy_admin),
        ]
    }

    /// A page of both.
    async fn both(&self, path: &str) -> [String; 2] {
        let pages = self.admins().map(|(_, admin)| {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || asked(admin, &path, Duration::from_secs(10)))
        });
        let [ours, theirs] = pages;
        let page = |page: Option<String>, whose| page.unwrap_or_else(|| panic!("{whose}: {path}"));
        [
            page(ours.await.unwrap(), "waypoint"),
            page(theirs.await.unwrap(), "envoy"),
        ]
    }
}

/// Rows, without order, and without the columns' widths.
fn rows(table: &str) -> BTreeSet<String> {
    let lines = table.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .map(|row| shared(&row))
        .collect()
}

/// What is to be the same of a row. Each has a version, and a certificate of its own: serial number and times are left out.
fn shared(row: &str) -> String {
    let own = [
        "Envoy Version:",
        "default Cert Chain ACTIVE true",
        "secret/default Cert Chain ACTIVE true",
    ];
    let own = own.into_iter().find(|begin| row.starts_with(begin));
    own.unwrap_or(row).to_owned()
}

const HANDS_ON: &str = "a stream goes on by a function call where Envoy has an internal listener: these clusters have no endpoints";

/// Rows of Envoy's that aren't ours, each by a text in it (`$` is its end); and why.
const ENVOY_ONLY: &[(&str, &str)] = &[
    (
        "xds-grpc",
        "istiod is no cluster here: there is no bootstrap with static clusters",
    ),
    ("HEALTHY connect_originate$", HANDS_ON),
    ("HEALTHY inner_connect_originate$", HANDS_ON),
    ("HEALTHY main_internal$", HANDS_ON),
    ("HEALTHY encap$", HANDS_ON),
];

/// What must be among the rows, of tables that could both have none.
const IN_BOTH: &[(&str, &str)] = &[
    ("secret", "default Cert Chain ACTIVE true"),
    ("secret", "ROOTCA CA ACTIVE true"),
    (
        "ecds",
        "default.own envoy.extensions.filters.http.rbac.v3.RBAC",
    ),
    ("bootstrap -o short", "Istio Version: 1.31.0"),
    ("all", "secret/ROOTCA CA ACTIVE true"),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy, istioctl"]
async fn istioctl_prints_the_same_tables_of_both() {
    let pair = Pair::start().await;
    let istioctl = Istioctl::without_cluster(&pair.mesh);
    let mut differences = Vec::new();
    for (page, commands) in [
        (
            "/config_dump?include_eds",
            &[
                "cluster",
                "cluster --fqdn web.default.svc.cluster.local",
                "listener",
                "listener --waypoint",
                "route",
                "eds",
                "secret",
                "ecds",
                "bootstrap -o short",
                "all",
            ][..],
        ),
        ("/clusters?format=json", &["endpoint"]),
    ] {
        let dumps = pair.both(page).await;
        let files = ["waypoint.json", "envoy.json"].map(|name| pair.mesh.folder().join(name));
        for (file, dump) in files.iter().zip(&dumps) {
            std::fs::write(file, dump).unwrap();
        }
        for command in commands {
            let [ours, theirs] = files.each_ref().map(|file| {
                let file = file.to_str().unwrap();
                let mut words = vec!["proxy-config"];
                words.extend(command.split(' '));
                words.extend(["--file", file]);
                rows(&istioctl.says(&words))
            });
            assert!(ours.len() > 1, "{command}: {ours:?}");
            for (_, row) in IN_BOTH.iter().filter(|(of, _)| of == command) {
                let there = ours.iter().any(|ours| ours.starts_with(row));
                assert!(there, "{command}: {row}: {ours:?}");
            }
            // This Envoy has an address of its own beside the waypoint.
            let address = format!("{} 15008 ", pair.mesh.pod_ip(253));
            let own = |row: &String| row.replace(&address, "0.0.0.0 15008 ");
            let theirs: BTreeSet<String> = theirs.iter().map(own).collect();
            let excused = |row: &str| {
                let row = format!("{}$", row.replace(" OK ", " "));
                ENVOY_ONLY.iter().any(|(part, _)| row.contains(part))
            };
            for row in theirs.difference(&ours).filter(|row| !excused(row)) {
                differences.push(format!("{command}: envoy    {row}"));
            }
            for row in ours.difference(&theirs) {
                differences.push(format!("{command}: waypoint {row}"));
            }
            for row in ours.iter().filter(|row| excused(row)) {
                differences.push(format!("{command}: listed as different and isn't: {row}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What is shown of a process itself: who it is, as it told istiod.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy, istioctl"]
async fn istioctl_prints_the_same_node_of_both() {
    let pair = Pair::start().await;
    let istioctl = Istioctl::without_cluster(&pair.mesh);
    let dumps = pair.both("/config_dump").await;
    let nodes = dumps.map(|dump| {
        let file = pair.mesh.folder().join("dump.json");
        std::fs::write(&file, dump).unwrap();
        let file = file.to_str().unwrap();
        let printed = istioctl.says(&["proxy-config", "bootstrap", "--file", file]);
        let printed: Value = serde_json::from_str(&printed).unwrap();
        let mut node = printed["bootstrap"]["node"].clone();
        // What kind of program it is, and what it can do.
        for own in ["userAgentName", "userAgentBuildVersion", "extensions"] {
            node.as_object_mut().unwrap().remove(own);
        }
        node
    });
    let [ours, theirs] = nodes;
    assert_eq!(ours["metadata"]["ISTIO_VERSION"], "1.31.0");
    assert_eq!(ours, theirs);
}

/// Pages of Envoy's that aren't here, and why.
const NO_PAGES: &[(&str, &str)] = &[
    (
        "memory/tcmalloc",
        "that isn't the allocator; /memory is here",
    ),
    (
        "reopen_logs",
        "nothing of a pod's is rotated under it: logs go to standard output",
    ),
    ("runtime_modify", "there is no runtime to modify"),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy"]
async fn every_admin_page_and_every_logger_of_envoys_is_here() {
    let pair = Pair::start().await;
    let ours = pair.waypoint.running.admin_addr;
    let [_, help] = pair.both("/help").await;
    let mut missing = Vec::new();
    let pages = help.lines().filter_map(|line| {
        let path = line.trim().strip_prefix('/')?;
        path.split([' ', ':', '?']).next()
    });
    let pages: BTreeSet<&str> = pages.collect();
    assert!(pages.len() > 20, "{help}");
    for page in pages {
        // Asked so, nothing is done; what changes something says that it wants POST.
        let (status, _, _) = http_request(ours, "GET", &format!("/{page}")).await;
        let excused = NO_PAGES.iter().any(|(path, _)| *path == page);
        if (status == 404) != excused {
            missing.push(format!("/{page}: {status}"));
        }
    }
    assert!(missing.is_empty(), "{missing:?}");

    // What `istioctl proxy-config log` reads, and `x envoy-stats`.
    let logging = async |admin: SocketAddr| {
        let post = format!(
            "POST /logging HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        http_exchange(admin, &post).await.2
    };
    let our_loggers = logging(ours).await;
    let loggers = logging(pair.envoy_admin).await;
    let lines = |page: &str| -> BTreeSet<String> {
        let lines = page.lines().filter_map(|line| line.strip_prefix("  "));
        let names = lines.filter_map(|line| Some(line.split_once(": ")?.0.to_owned()));
        names.collect()
    };
    let (our_loggers, loggers) = (lines(&our_loggers), lines(&loggers));
    let missing: Vec<_> = loggers.difference(&our_loggers).collect();
    assert!(loggers.len() > 40 && missing.is_empty(), "{missing:?}");
    let [our_stats, stats] = pair.both("/stats").await;
    let values = |page: &str| -> BTreeSet<String> {
        let of_clusters = page.lines().filter(|line| {
            let counted = [
                "membership_total:",
                "membership_healthy:",
                "upstream_cx_total:",
                "upstream_cx_active:",
                "_open:",
            ];
            line.starts_with("cluster.inbound-vip|80|http|")
                && counted.iter().any(|name| line.contains(name))
                && !line.contains("circuit_breakers.high.")
        });
        of_clusters.map(str::to_owned).collect()
    };
    let (our_values, values) = (values(&our_stats), values(&stats));
    let invented: Vec<_> = our_values.difference(&values).collect();
    assert!(
        our_values.len() > 6 && invented.is_empty(),
        "{invented:?} of {values:?}"
    );
}
