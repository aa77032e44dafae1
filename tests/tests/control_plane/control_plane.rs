//! A waypoint under an istiod that does what istiods do, and what they don't.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource as ResourceProto,
};
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::discovery::AdsStream;
use waypoint_tests::load::Load;
use waypoint_tests::scripted_ca::Signer;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{ControlPlane, Mesh, Waypoint, Ztunnel, logs};

const WEB: &str = "inbound-vip|80|http|web.default.svc.cluster.local";
const LATE: &str = "inbound-vip|80|http|late.default.svc.cluster.local";

async fn updates(waypoint: &Waypoint, result: &str) -> f64 {
    let labels = [("result", result)];
    waypoint
        .metric("waypoint_config_updates_total", &labels)
        .await
}

async fn granted(client: &Ztunnel, to: SocketAddr) -> bool {
    let (status, _) = client.connect_to(&to.to_string(), &[]).await.unwrap();
    status == StatusCode::OK
}

fn resource(kind: ResourceType, name: &str, body: &'static [u8]) -> Resource {
    Resource {
        kind,
        name: name.into(),
        body: body.into(),
    }
}

/// The cluster or assignment of this name, as istiod has it.
fn named(istiod: &ControlPlane, kind: ResourceType, name: &str) -> Resource {
    let all = istiod.discovery.resources(kind);
    all.into_iter().find(|r| r.name == name).unwrap()
}

/// A waypoint that has all that a good istiod has to say; the stream on which that came; and a client.
async fn configured(mesh: &Mesh) -> (ControlPlane, AdsStream, Waypoint, Ztunnel) {
    let istiod = ControlPlane::of(mesh).await;
    let (waypoint, client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    let stream = istiod.discovery.stream(0).await;
    (istiod, stream, waypoint, client)
}

#[tokio::test]
async fn a_good_istiod_configures_and_certifies() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);

    let (late, _) = mesh.http_service(2, "late").await;
    istiod.discovery.set(mesh.resources());
    until("the new service", async || {
        granted(&client, late).await.then_some(())
    })
    .await;
    assert_eq!(client.get(late, "/").await.status, StatusCode::OK);
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    assert_eq!((istiod.discovery.streams(), istiod.ca.requests()), (1, 1));
}

#[tokio::test]
async fn a_stream_that_ends_is_made_anew_and_what_comes_again_changes_nothing() {
    logs::record();
    let mesh = Mesh::new();
    let (web, _, ztunnel) = mesh.captured_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    let load = Load::start(&mesh, &waypoint, web).await;
    let first = istiod.discovery.stream(0).await;
    first.subscription(ResourceType::Listener, |_| true).await;
    istiod.discovery.until_answered().await;
    assert!(first.requests()[0].node.is_some(), "on the first message");
    assert!(first.requests()[1..].iter().all(|r| r.node.is_none()));
    let accepted = updates(&waypoint, "accepted").await;

    // As istiod does every half hour; then as a crash does.
    first.end(0, "");
    let second = istiod.discovery.stream(1).await;
    istiod.discovery.until_answered().await;
    istiod.cut();
    let third = istiod.discovery.stream(2).await;
    for stream in [&second, &third] {
        let again = stream.requests();
        assert!(again[0].node.is_some());
        assert!(again[1..].iter().all(|r| r.node.is_none()));
        let clusters = stream.subscription(ResourceType::Cluster, |_| true).await;
        assert!(clusters.initial_resource_versions.contains_key(WEB));
        let listeners = stream.subscription(ResourceType::Listener, |_| true).await;
        let held = listeners.initial_resource_versions;
        assert!(held.contains_key("main_internal"), "{held:?}");
        let endpoints = stream.subscription(ResourceType::Endpoints, |_| true).await;
        assert!(endpoints.resource_names_subscribe.contains(&WEB.to_owned()));
    }
    istiod.discovery.until_answered().await;
    load.more(100).await;
    load.finish().await;

    assert_eq!(updates(&waypoint, "accepted").await, accepted);
    assert!(updates(&waypoint, "unchanged").await >= 6.0);
    assert_eq!(updates(&waypoint, "refused").await, 0.0);
    assert_eq!(ztunnel.connections(), 1, "pools are untouched");
    assert_eq!(waypoint.readiness().await.0, 200);
    let opened = [("state", "opened")];
    let streams = waypoint.metric("waypoint_xds_streams_total", &opened).await;
    assert_eq!(streams, 3.0);
    let address = istiod.address().address;
    let told = ["WARN", "what is configured stays", address.as_str()];
    assert_eq!(logs::lines(&told).len(), 2, "{:?}", logs::lines(&told));
}

#[tokio::test]
async fn an_istiod_that_is_away_is_not_besieged() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    let load = Load::start(&mesh, &waypoint, web).await;
    istiod.away(true);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let ended = [("state", "ended")];
    let tries = waypoint.metric("waypoint_xds_streams_total", &ended).await;
    // 0.2 s, doubled each time, between half and one and a half of it.
    assert!((3.0..=8.0).contains(&tries), "{tries}");
    assert_eq!(waypoint.readiness().await.0, 200);
    istiod.away(false);
    istiod.discovery.stream(1).await;
    load.finish().await;
}

#[tokio::test]
async fn what_is_bad_is_refused_by_name_and_what_is_good_is_taken() {
    use ResourceType::{Cluster, Endpoints, Listener};
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (_, other) = mesh.http_service(2, "other").await;
    let (istiod, stream, waypoint, client) = configured(&mesh).await;
    let verdict = async |kind, added: &[Resource]| {
        let nonce = stream.push(kind, added, &[]);
        stream.verdict(&nonce).await
    };

    // The endpoints of web become those of other, in a response that is half bad.
    let other_name = WEB.replace("web", "other");
    let elsewhere = named(&istiod, Endpoints, &other_name);
    let mut misnamed = elsewhere.clone();
    misnamed.name = WEB.into();
    let refused = verdict(Endpoints, &[misnamed]).await.unwrap_err();
    assert!(
        refused.contains(WEB) && refused.contains("name: the resource calls itself"),
        "{refused}"
    );
    let problems = waypoint.until_problem("calls itself").await;
    assert!(problems.contains(WEB), "{problems}");
    assert_eq!(client.get(web, "/").await.text(), "web\n", "the last good");

    let cluster = named(&istiod, Cluster, WEB);
    let broken = resource(Cluster, "broken", b"\xff\xff\xff");
    let refused = verdict(Cluster, &[cluster.clone(), broken]).await;
    assert!(refused.unwrap_err().starts_with("broken: "));
    let twice = verdict(Cluster, &[cluster.clone(), cluster.clone()]).await;
    let refused = twice.unwrap_err();
    assert!(refused.contains("comes twice in one response"), "{refused}");
    let mixed = named(&istiod, Listener, "main_internal");
    let refused = verdict(Cluster, &[mixed]).await.unwrap_err();
    assert!(
        refused.contains("main_internal: resource: is a"),
        "{refused}"
    );
    // As large as the listener of a waypoint for thousands of services.
    let stranger = envoy_types::pb::envoy::config::listener::v3::Listener {
        name: "stranger".into(),
        stat_prefix: "x".repeat(40 << 20),
        ..Default::default()
    };
    let stranger = Resource {
        kind: Listener,
        name: "stranger".into(),
        body: prost::Message::encode_to_vec(&stranger).into(),
    };
    let refused = verdict(Listener, &[stranger]).await.unwrap_err();
    assert!(refused.starts_with("stranger: name: "), "{refused}");

    assert_eq!(verdict(Cluster, &[]).await, Ok(()), "nothing is no mistake");
    assert_eq!(verdict(Cluster, &[cluster]).await, Ok(()));
    let good = named(&istiod, Endpoints, WEB);
    assert_eq!(verdict(Endpoints, &[good]).await, Ok(()));
    until("the problem to go", async || {
        (!waypoint.problems().await.contains("calls itself")).then_some(())
    })
    .await;
    other.forget();
    assert_eq!(client.get(web, "/").await.text(), "web\n");
    assert!(other.seen().is_empty());
    assert_eq!(istiod.discovery.streams(), 1, "all on one stream");
}

#[tokio::test]
async fn what_is_no_answer_is_passed_over_or_ends_the_stream() {
    logs::record();
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (istiod, stream, waypoint, client) = configured(&mesh).await;
    for unknown in ["type.googleapis.com/unheard.Of", "", "\u{1f980}"] {
        let nonce = stream.send(DeltaDiscoveryResponse {
            type_url: unknown.into(),
            resources: vec![ResourceProto {
                resource: Some(Any::default()),
                ..ResourceProto::default()
            }],
            ..DeltaDiscoveryResponse::default()
        });
        logs::until_line(&["WARN", "not asked for", &format!("type_url={unknown:?}")]).await;
        assert!(!stream.is_answered(&nonce));
    }
    // A type that is ours and was not asked for; a name that was not asked for; a removal of what isn't there.
    let nobody = resource(ResourceType::Endpoints, "nobody", b"");
    stream.push(ResourceType::Secret, &[], &["secret"]);
    let nonces = [
        stream.push(ResourceType::Endpoints, &[nobody], &["nobody"]),
        stream.push(ResourceType::Cluster, &[], &["nobody"]),
        stream.push(ResourceType::Listener, &[], &["nobody"]),
    ];
    for nonce in nonces {
        assert_eq!(stream.verdict(&nonce).await, Ok(()));
    }
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);

    stream.garbage(&[0xff; 64]);
    let stream = istiod.discovery.stream(1).await;
    istiod.discovery.until_answered().await;
    stream.noise(b"\x07HTTP/1.1 400 Bad Request\r\n\r\n");
    let stream = istiod.discovery.stream(2).await;
    istiod.discovery.until_answered().await;
    stream.reset();
    istiod.discovery.stream(3).await;
    istiod.discovery.until_answered().await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    assert_eq!(waypoint.readiness().await.0, 200);
}

#[tokio::test]
async fn a_new_services_listener_waits_for_its_endpoints() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    istiod.discovery.withhold(ResourceType::Endpoints);

    let (late, _) = mesh.http_service(2, "late").await;
    istiod.discovery.set(mesh.resources());
    let stream = istiod.discovery.stream(0).await;
    let asked = |r: &_| names(r).contains(&LATE.to_owned());
    stream.subscription(ResourceType::Endpoints, asked).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!granted(&client, late).await, "nobody would be there");
    let endpoints = named(&istiod, ResourceType::Endpoints, LATE);
    stream.push(ResourceType::Endpoints, &[endpoints], &[]);
    until("the new service", async || {
        granted(&client, late).await.then_some(())
    })
    .await;
    assert_eq!(client.get(late, "/").await.status, StatusCode::OK);
    istiod.discovery.until_answered().await;

    // Endpoints that never come are not waited for to the end of days.
    let (never, _) = mesh.http_service(3, "never").await;
    let pushed = Instant::now();
    istiod.discovery.set(mesh.resources());
    until("the service without endpoints", async || {
        granted(&client, never).await.then_some(())
    })
    .await;
    assert!(pushed.elapsed() >= Duration::from_secs(4));
    let answer = client.get(never, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

fn names(
    request: &envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest,
) -> Vec<String> {
    request.resource_names_subscribe.clone()
}

#[tokio::test]
async fn a_cluster_goes_after_the_listener_that_used_it_and_comes_back_with_endpoints() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (late, _) = mesh.http_service(2, "late").await;
    let (istiod, stream, _waypoint, client) = configured(&mesh).await;
    let mut open = client.http1(late).await;
    assert_eq!(open.send(get("/")).await.status, StatusCode::OK);

    let nonce = stream.push(ResourceType::Cluster, &[], &[LATE]);
    assert_eq!(stream.verdict(&nonce).await, Ok(()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = open.send(get("/")).await;
    assert_eq!(answer.status, StatusCode::OK, "the listener still uses it");

    mesh.remove_manifest("service-late.yaml");
    istiod.discovery.set(mesh.resources());
    until("the end of the service", async || {
        (!granted(&client, late).await).then_some(())
    })
    .await;
    let given_up =
        |request: &envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest| {
            let names = &request.resource_names_unsubscribe;
            names.contains(&LATE.to_owned())
        };
    stream.subscription(ResourceType::Endpoints, given_up).await;

    mesh.service(2, "late");
    istiod.discovery.set(mesh.resources());
    until("the service again", async || {
        granted(&client, late).await.then_some(())
    })
    .await;
    assert_eq!(client.get(late, "/").await.status, StatusCode::OK);
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
}

#[tokio::test]
async fn endpoints_of_one_service_leave_the_others_alone() {
    let mesh = Mesh::new();
    let (web, _, ztunnel) = mesh.captured_service(1, "web").await;
    let (late, _) = mesh.http_service(2, "late").await;
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    let load = Load::start(&mesh, &waypoint, web).await;
    istiod.discovery.until_answered().await;
    // One of two services loses its only pod, and gets another.
    mesh.remove_manifest("pod-late-1.yaml");
    istiod.discovery.set(mesh.resources());
    let client = mesh.client(&waypoint, "default", "curl").await;
    until("no endpoint", async || {
        let status = client.get(late, "/").await.status;
        (status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    mesh.describe_pod(2, "late-2", "late", false);
    istiod.discovery.set(mesh.resources());
    until("the other pod", async || {
        (client.get(late, "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
    load.finish().await;
    assert_eq!(ztunnel.connections(), 1);
}

#[tokio::test]
async fn a_listener_that_is_removed_takes_no_more_and_readiness_stays() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (istiod, stream, waypoint, client) = configured(&mesh).await;
    let nonce = stream.push(ResourceType::Listener, &[], &["main_internal"]);
    assert_eq!(stream.verdict(&nonce).await, Ok(()));
    until("no tunnel", async || {
        (!granted(&client, web).await).then_some(())
    })
    .await;
    assert_eq!(waypoint.readiness().await.0, 200, "as Envoy stays LIVE");
    let listener = named(&istiod, ResourceType::Listener, "main_internal");
    let nonce = stream.push(ResourceType::Listener, &[listener], &[]);
    assert_eq!(stream.verdict(&nonce).await, Ok(()));
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_silent_istiod_leaves_a_new_pod_unready() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    istiod.discovery.by_hand(true);
    let options = mesh.options(istiod.source(), istiod.certificates());
    let waypoint = mesh.try_start_with(options).await.unwrap();
    let stream = istiod.discovery.stream(0).await;
    until("the certificate", async || {
        (istiod.ca.requests() == 1).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (status, reason) = waypoint.readiness().await;
    assert_eq!((status, reason.as_str()), (503, "no configuration yet\n"));
    assert_eq!(
        istiod.discovery.streams(),
        1,
        "waiting is no reason to ask again"
    );
    // Clusters and workloads are asked for at once, the rest when clusters have come.
    let kinds: Vec<_> = stream.requests().into_iter().map(|r| r.type_url).collect();
    let expected = [ResourceType::Cluster, ResourceType::Workload];
    assert_eq!(kinds, expected.map(ResourceType::type_url));
}

#[tokio::test]
async fn a_refused_token_is_read_again() {
    logs::record();
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    istiod.expect_token("token-2");
    let options = mesh.options(istiod.source(), istiod.certificates());
    let waypoint = mesh.try_start_with(options).await.unwrap();
    let address = istiod.address().address;
    for asked in ["the stream to istiod ended", "no certificate yet"] {
        logs::until_line(&["WARN", asked, &address, "no such token"]).await;
    }
    assert_eq!(waypoint.readiness().await.0, 503);
    istiod.write_token("token-2\n");
    waypoint.until_ready().await;
    let tokens = istiod.tokens();
    let old = tokens.iter().filter(|token| *token == "token-1").count();
    assert!(old >= 2 && tokens.len() == old + 2, "{tokens:?}");

    // kubelet rotates it; the stream that is open doesn't care, the next one shows the new one.
    istiod.write_token("token-3");
    istiod.expect_token("token-3");
    istiod.cut();
    istiod.discovery.stream(1).await;
    assert_eq!(istiod.tokens().last().unwrap(), "token-3");
}

#[tokio::test]
async fn istiods_root_and_name_are_checked_and_the_root_is_read_again() {
    logs::record();
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let ours = Signer::open(&mesh.folder().join("ca"));
    istiod.show(&ours, "somebody-else.istio-system.svc");
    let options = mesh.options(istiod.source(), istiod.certificates());
    let waypoint = mesh.try_start_with(options).await.unwrap();
    let address = istiod.address().address;
    logs::until_line(&["the stream to istiod ended", &address, "not valid for"]).await;

    waypoint_hbone::certificates::dev_ca::DevCa::open_or_create(&mesh.folder().join("other-ca"))
        .unwrap();
    let other = Signer::open(&mesh.folder().join("other-ca"));
    istiod.show(&other, waypoint_tests::control_plane::SERVER_NAME);
    let told = [
        "the stream to istiod ended",
        &address,
        "invalid peer certificate: BadSignature",
    ];
    logs::until_line(&told).await;
    assert_eq!(istiod.tokens(), [""; 0], "no token for a stranger");
    istiod.write_root(other.root_pem());
    waypoint.until_ready().await;
}
