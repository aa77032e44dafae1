//! Consistent hashing: whoever has the same key finds the same pod, and few have to move when pods come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier,
};
use envoy_types::pb::envoy::r#type::v3::hash_policy::SourceIp;
use envoy_types::pb::envoy::r#type::v3::{HashPolicy as TcpHashPolicy, hash_policy};
use envoy_types::pb::google::protobuf::Duration;
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::resource::Resource;
use waypoint_tests::balancing::{clusters, pods, routes, tcp_proxies};
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::{Http1, Ztunnel, get, request};
use waypoint_tests::{App, ControlPlane, Mesh};

fn by(specifier: PolicySpecifier) -> HashPolicy {
    HashPolicy {
        terminal: false,
        policy_specifier: Some(specifier),
    }
}

fn by_user() -> HashPolicy {
    by(PolicySpecifier::Header(Header {
        header_name: "x-user".into(),
        regex_rewrite: None,
    }))
}

fn by_cookie() -> HashPolicy {
    by(PolicySpecifier::Cookie(Cookie {
        name: "place".into(),
        ttl: Some(Duration {
            seconds: 3600,
            nanos: 0,
        }),
        path: "/".into(),
        attributes: vec![CookieAttribute {
            name: "SameSite".into(),
            value: "Lax".into(),
        }],
    }))
}

/// The mesh's resources, where `web` balances so.
fn hashing(mesh: &Mesh, policy: LbPolicy, by: &HashPolicy) -> Vec<Resource> {
    let mut resources = mesh.resources();
    clusters(&mut resources, "web", |c| c.lb_policy = policy as i32);
    routes(&mut resources, "web", |r| r.hash_policy = vec![by.clone()]);
    resources
}

/// Which pod each of 60 users finds, each asked twice.
async fn places(connection: &mut Http1) -> BTreeMap<u32, String> {
    let mut places = BTreeMap::new();
    for turn in 0..2 {
        for user in 0..60 {
            let asked = request(Method::GET, "/", &[("x-user", &format!("user-{user}"))]);
            let answer = connection.send(asked).await;
            assert_eq!(answer.status, StatusCode::OK);
            let pod = answer.header("x-app");
            let before = places.insert(user, pod.clone());
            assert!(turn == 0 || before == Some(pod), "user {user} moved");
        }
    }
    places
}

#[tokio::test]
async fn users_keep_their_pod_and_only_those_of_a_pod_that_leaves_move() {
    for policy in [LbPolicy::RingHash, LbPolicy::Maglev] {
        let mesh = Mesh::new();
        let apps = pods(&mesh, 4).await;
        let to = mesh.service(1, "web");
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(hashing(&mesh, policy, &by_user()));
        let (_waypoint, client) = mesh.started_under(&istiod).await;
        let mut connection = client.http1(to).await;
        let first = places(&mut connection).await;
        let pods: BTreeSet<_> = first.values().collect();
        assert_eq!(pods.len(), apps.len(), "{first:?}");

        mesh.remove_manifest("pod-web-2.yaml");
        istiod.discovery.set(hashing(&mesh, policy, &by_user()));
        istiod.discovery.until_answered().await;
        let without = places(&mut connection).await;
        assert!(without.values().all(|pod| pod != "web-2"), "{without:?}");
        let stayed = first.iter().filter(|(_, pod)| *pod != "web-2");
        let (stayed, moved): (Vec<_>, Vec<_>) =
            stayed.partition(|(user, pod)| without[user] == **pod);
        assert!(
            moved.len() < stayed.len(),
            "{policy:?}: {} of {} moved",
            moved.len(),
            stayed.len()
        );

        mesh.describe_pod(2, "web-2", "web", false);
        istiod.discovery.set(hashing(&mesh, policy, &by_user()));
        istiod.discovery.until_answered().await;
        assert_eq!(places(&mut connection).await, first);
    }
}

#[tokio::test]
async fn a_client_without_a_cookie_gets_one_that_leads_to_its_pod() {
    let mesh = Mesh::new();
    let _apps = pods(&mesh, 4).await;
    let to = mesh.service(1, "web");
    let istiod = ControlPlane::start(&mesh).await;
    let hashed = hashing(&mesh, LbPolicy::RingHash, &by_cookie());
    istiod.discovery.set(hashed);
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    let mut found = BTreeSet::new();
    for _ in 0..12 {
        let mut connection = client.http1(to).await;
        let first = connection.send(get("/")).await;
        let set = first.header("set-cookie");
        let (cookie, rest) = set.split_once(';').unwrap();
        assert_eq!(rest, " Max-Age=3600; Path=/; SameSite=Lax; HttpOnly");
        // Others of the same connection that have none yet get the same.
        assert_eq!(connection.send(get("/")).await.header("set-cookie"), set);
        let cookies = format!("a=b; {cookie}");
        for _ in 0..3 {
            let again = request(Method::GET, "/", &[("cookie", &cookies)]);
            let answer = client.request(to, again).await;
            assert_eq!(answer.header("x-app"), first.header("x-app"));
            assert_eq!(answer.header("set-cookie"), "");
        }
        found.insert((cookie.to_owned(), first.header("x-app")));
    }
    assert_eq!(found.len(), 12);
    let pods: BTreeSet<_> = found.iter().map(|(_, pod)| pod).collect();
    assert!(pods.len() > 1, "{found:?}");

    // A cluster that doesn't hash asks for no cookie.
    istiod
        .discovery
        .set(hashing(&mesh, LbPolicy::RoundRobin, &by_cookie()));
    istiod.discovery.until_answered().await;
    assert_eq!(client.get(to, "/").await.header("set-cookie"), "");
}

/// Ztunnels of ten pods.
async fn ten_clients(mesh: &Mesh, via: SocketAddr) -> Vec<Ztunnel> {
    let certificate = mesh.certificate("default", "curl");
    let mut clients = Vec::new();
    for n in 100..110 {
        let from = Ztunnel::connect_from(mesh.pod_ip(n), via, &certificate).await;
        clients.push(from.unwrap());
    }
    clients
}

#[tokio::test]
async fn clients_keep_their_pod_by_their_address_whatever_headers_say() {
    let mesh = Mesh::new();
    let _apps = pods(&mesh, 4).await;
    let to = mesh.service(1, "web");
    let istiod = ControlPlane::start(&mesh).await;
    let source = PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true });
    let hashed = hashing(&mesh, LbPolicy::Maglev, &by(source));
    istiod.discovery.set(hashed);
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    let mut found = BTreeSet::new();
    for client in ten_clients(&mesh, waypoint.address()).await {
        let mut pods = BTreeSet::new();
        for n in 0..6 {
            let claimed = format!("10.9.8.{n}");
            let asked = request(Method::GET, "/", &[("x-forwarded-for", &claimed)]);
            pods.insert(client.request(to, asked).await.header("x-app"));
        }
        assert_eq!(pods.len(), 1, "{pods:?}");
        found.extend(pods);
    }
    assert!(found.len() > 1, "{found:?}");
}

#[tokio::test]
async fn streams_of_tcp_keep_their_pod_by_their_clients_address() {
    let mesh = Mesh::new();
    for n in 1..=4 {
        mesh.describe_pod(n, &format!("web-{n}"), "web", false);
        App::tcp(mesh.backend(n), move |mut tcp| async move {
            let _ = tcp.write_all(&[n]).await;
            let _ = tcp.shutdown().await;
        })
        .await;
    }
    let to = mesh.service_with_port(1, "web", "{name: tcp, port: 80, targetPort: 8080}");
    let istiod = ControlPlane::start(&mesh).await;
    let mut resources = mesh.resources();
    clusters(&mut resources, "web", |cluster| {
        cluster.lb_policy = LbPolicy::Maglev as i32;
    });
    tcp_proxies(&mut resources, "web", |proxy| {
        let source = hash_policy::PolicySpecifier::SourceIp(SourceIp {});
        proxy.hash_policy = vec![TcpHashPolicy {
            policy_specifier: Some(source),
        }];
    });
    istiod.discovery.set(resources);
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    let mut found = BTreeSet::new();
    for client in ten_clients(&mesh, waypoint.address()).await {
        let mut pods = BTreeSet::new();
        for _ in 0..6 {
            let mut said = Vec::new();
            let mut stream = client.tunnel(to).await;
            within("the pod's number", stream.read_to_end(&mut said))
                .await
                .unwrap();
            pods.insert(said);
        }
        assert_eq!(pods.len(), 1, "{pods:?}");
        found.extend(pods);
    }
    assert!(found.len() > 1, "{found:?}");
}
