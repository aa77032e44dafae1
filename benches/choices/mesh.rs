//! A mesh of manifests, compiled: the chain of its service `web`.

use std::path::PathBuf;
use std::sync::Arc;

use waypoint_config::model::http::connection_manager::HttpConnectionManager;
use waypoint_config::model::listener::chain::FilterChain;
use waypoint_config::resource::Update;
use waypoint_config::standalone::StandaloneSource;
use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_config::store::{OnRefused, Store};
use waypoint_filters::host::detached::DetachedHost;

const CHAIN: &str = "inbound-vip|80|http|web.default.svc.cluster.local";

const BASE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: default}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
";

/// The connection manager of `web`, with its routes and clusters. The store is kept: clusters live in it.
pub(crate) fn compiled(name: &str, manifests: &str) -> (Store, Arc<HttpConnectionManager>) {
    let folder = folder(name);
    std::fs::write(folder.join("mesh.yaml"), format!("{BASE}{manifests}")).unwrap();
    let source = StandaloneSource::new(vec![folder.clone()], None);
    let loaded = source.load().unwrap();
    let host = Arc::new(DetachedHost::default());
    let mut store = Store::new(host, WorkloadIndex::default(), OnRefused::Keep);
    let outcome = store.apply(Update {
        added: loaded.resources,
        ..Update::default()
    });
    assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
    let snapshot = store.handle().load().unwrap();
    let FilterChain::Http(manager) = &*snapshot.main.chains[CHAIN].load() else {
        panic!("{CHAIN} is no HTTP");
    };
    let manager = manager.clone();
    std::fs::remove_dir_all(folder).unwrap();
    (store, manager)
}

fn folder(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("waypoint-choices-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
