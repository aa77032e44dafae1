//! External authorization of TCP streams: asked before anything is connected, and again when the filter changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::ext_authz::{Authorizer, Reply, check};
use waypoint_tests::ext_authz_resources::{
    asks_of_tcp, cluster_of, custom_tcp, guarded_tcp, rules, seconds, tcp_filter,
};
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::wait::{until, within};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

struct Scene {
    mesh: Mesh,
    to: SocketAddr,
    /// The backend's connections.
    connections: Arc<AtomicUsize>,
    authz: Authorizer,
    istiod: ControlPlane,
    waypoint: Waypoint,
    client: Ztunnel,
}

/// A service of raw TCP that speaks first, and echoes.
async fn scene(change: impl FnOnce(&mut ExtAuthz)) -> Scene {
    let mesh = Mesh::new();
    mesh.access_log_format(
        "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(envoy.filters.network.ext_authz:who)% tcp\n",
    );
    let (to, backend) = mesh.bare_tcp_service(1, "db");
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    App::tcp(backend, move |mut tcp| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let _ = tcp.write_all(b"hello\n").await;
            let (mut read, mut write) = tcp.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    })
    .await;
    mesh.describe_pod(2, "authz-1", "authz", false);
    mesh.service_with_port(2, "authz", "{name: grpc, port: 80, targetPort: 8080}");
    let authz = Authorizer::start(mesh.backend(2)).await;
    let mut asks = asks_of_tcp(&cluster_of(&mesh, "authz"));
    change(&mut asks);
    let istiod = ControlPlane::start(&mesh).await;
    let filters = custom_tcp("ext-grpc", asks);
    istiod.discovery.set(guarded_tcp(&mesh, "db", &filters));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
    Scene {
        mesh,
        to,
        connections,
        authz,
        istiod,
        waypoint,
        client,
    }
}

impl Scene {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn greeted(stream: &mut HboneStream) {
    let mut greeting = [0; 6];
    within("the greeting", stream.read_exact(&mut greeting))
        .await
        .unwrap();
    assert_eq!(&greeting, b"hello\n");
}

async fn ended(stream: &mut HboneStream) {
    let mut rest = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_connection_is_asked_about_before_anything_is_connected() {
    let scene = scene(|_| ()).await;
    let mut answer = check(0);
    let who = Value {
        kind: Some(Kind::StringValue("ana".into())),
    };
    answer.dynamic_metadata = Some(Struct {
        fields: [("who".to_owned(), who)].into(),
    });
    scene.authz.says(answer);
    let mut stream = scene.client.tunnel(scene.to).await;
    greeted(&mut stream).await;
    let told = scene.authz.asked_once().attributes.unwrap();
    let source = told.source.unwrap();
    assert_eq!(
        source.principal,
        "spiffe://cluster.local/ns/default/sa/curl"
    );
    let destination = format!("{:?}", told.destination.unwrap().address.unwrap());
    assert!(
        destination.contains(&scene.to.ip().to_string()),
        "{destination}"
    );
    assert!(told.request.is_none());
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    within("the echo", stream.read_exact(&mut echo))
        .await
        .unwrap();
    drop(stream);
    let line = scene.waypoint.until_logged(" tcp").await;
    assert!(line.ends_with("ana tcp"), "{line}");

    scene.authz.says(check(7));
    ended(&mut scene.client.tunnel(scene.to).await).await;
    assert_eq!(scene.connections(), 1);
    let line = scene.waypoint.until_logged("UAEX").await;
    assert_eq!(line, "UAEX ext_authz_denied - tcp");
    let labels = [
        ("filter", "network"),
        ("stat_prefix", "tcp."),
        ("result", "denied"),
    ];
    scene
        .waypoint
        .until_metric("waypoint_ext_authz_total", &labels, 1.0)
        .await;
}

#[tokio::test]
async fn without_an_answer_a_connection_is_closed_or_passes_as_is_said() {
    for allow in [false, true] {
        let scene = scene(|asks| asks.failure_mode_allow = allow).await;
        for reply in [Reply::Status(14), Reply::Http(503), Reply::Reset] {
            scene.authz.replies(reply);
            let mut stream = scene.client.tunnel(scene.to).await;
            match allow {
                true => greeted(&mut stream).await,
                false => ended(&mut stream).await,
            }
        }
        assert_eq!(scene.connections(), 3 * usize::from(allow));
        if !allow {
            let line = scene.waypoint.until_logged("UAEX").await;
            assert_eq!(line, "UAEX ext_authz_error - tcp");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_check_along() {
    let scene = scene(|asks| {
        if let Some(grpc) = &mut asks.grpc_service {
            grpc.timeout = Some(seconds(600));
        }
    })
    .await;
    scene.authz.replies(Reply::Never);
    let stream = scene.client.tunnel(scene.to).await;
    scene.authz.until_asked().await;
    drop(stream);
    until("the call's end", async || {
        (scene.authz.cancelled() == 1).then_some(())
    })
    .await;
    assert_eq!(scene.connections(), 0);
    scene.waypoint.until_logged("DC").await;
}

#[tokio::test]
async fn an_open_connection_is_asked_about_again_only_if_the_filter_has_changed() {
    let scene = scene(|_| ()).await;
    let mut stream = scene.client.tunnel(scene.to).await;
    greeted(&mut stream).await;
    assert_eq!(scene.authz.take().len(), 1);
    // Another policy beside it.
    let mut asks = asks_of_tcp(&cluster_of(&scene.mesh, "authz"));
    let mut filters: Vec<_> = custom_tcp("ext-grpc", asks.clone()).into();
    let beside = Rbac {
        stat_prefix: "tcp.".into(),
        shadow_rules: Some(rules("nobody", None)),
        ..Rbac::default()
    };
    filters.push(tcp_filter("envoy.filters.network.rbac", &beside));
    let set = |filters: &[_]| {
        let resources = guarded_tcp(&scene.mesh, "db", filters);
        scene.istiod.discovery.set(resources);
    };
    scene.authz.says(check(7));
    set(&filters);
    scene.istiod.discovery.until_answered().await;
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    within("the echo", stream.read_exact(&mut echo))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(scene.authz.take().is_empty());
    // Another filter: whoever is open meanwhile goes on until there is an answer.
    asks.include_tls_session = true;
    set(&custom_tcp("ext-grpc", asks));
    ended(&mut stream).await;
    let told = scene.authz.asked_once().attributes.unwrap();
    assert!(told.tls_session.is_some());
    scene.waypoint.until_logged("UAEX ext_authz_denied").await;
}
