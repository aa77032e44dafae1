//! A waypoint under an istiod that does what istiods do, and what they don't.

use std::net::SocketAddr;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource as ResourceProto,
};
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::discovery::AdsStream;
use waypoint_tests::load::Load;
use waypoint_tests::wait::until;
use waypoint_tests::{ControlPlane, Mesh, Waypoint, Ztunnel, logs};

pub(crate) const WEB: &str = "inbound-vip|80|http|web.default.svc.cluster.local";
pub(crate) const LATE: &str = "inbound-vip|80|http|late.default.svc.cluster.local";

pub(crate) async fn updates(waypoint: &Waypoint, result: &str) -> f64 {
    let labels = [("result", result)];
    waypoint
        .metric("waypoint_config_updates_total", &labels)
        .await
}

pub(crate) async fn granted(client: &Ztunnel, to: SocketAddr) -> bool {
    let (status, _) = client.connect_to(&to.to_string(), &[]).await.unwrap();
    status == StatusCode::OK
}

pub(crate) fn resource(kind: ResourceType, name: &str, body: &'static [u8]) -> Resource {
    Resource {
        kind,
        name: name.into(),
        body: body.into(),
    }
}

/// The cluster or assignment of this name, as istiod has it.
pub(crate) fn named(istiod: &ControlPlane, kind: ResourceType, name: &str) -> Resource {
    let all = istiod.discovery.resources(kind);
    all.into_iter().find(|r| r.name == name).unwrap()
}

/// A waypoint that has all that a good istiod has to say; the stream on which that came; and a client.
pub(crate) async fn configured(mesh: &Mesh) -> (ControlPlane, AdsStream, Waypoint, Ztunnel) {
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
