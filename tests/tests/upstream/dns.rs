//! Services whose endpoints have names, and a name server that says where they are.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily,
};
use envoy_types::pb::envoy::config::core::v3::{
    Address, SocketAddress, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::google::protobuf::Duration as DurationProto;
use http::StatusCode;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::name_server::{Mood, NameServer};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

const WEB: &str = "inbound-vip|80|http|web.default.svc.cluster.local";
const NAME: &str = "web.outside.test";
/// Longer than any story.
const DAY: u32 = 24 * 3600;

/// A mesh with the service `web`, whose cluster is what [`cluster`] and the story make of it.
struct Scene {
    mesh: Mesh,
    names: NameServer,
    istiod: ControlPlane,
    web: SocketAddr,
}

impl Scene {
    async fn new() -> Scene {
        let mesh = Mesh::new();
        let web = mesh.service(1, "web");
        let istiod = ControlPlane::start(&mesh).await;
        let names = NameServer::start().await;
        let scene = Scene {
            mesh,
            names,
            istiod,
            web,
        };
        scene.configure(|_| {});
        scene
    }

    fn configure(&self, change: impl Fn(&mut Cluster)) {
        let mut resources = self.mesh.resources();
        for resource in &mut resources {
            if (resource.kind, resource.name.as_str()) == (ResourceType::Cluster, WEB) {
                by_name(resource, &change);
            }
        }
        self.istiod.discovery.set(resources);
    }

    async fn start(&self) -> Waypoint {
        let mut options = self
            .mesh
            .options(self.istiod.source(), self.istiod.certificates());
        options.dns_servers = vec![self.names.address];
        self.mesh.try_start_with(options).await.unwrap()
    }

    /// The waypoint, ready, and a client.
    async fn play(&self) -> (Waypoint, Ztunnel) {
        let waypoint = self.start().await;
        waypoint.until_ready().await;
        let client = self.mesh.client(&waypoint, "default", "curl").await;
        (waypoint, client)
    }

    fn says(&self, addresses: &[IpAddr]) {
        self.names.set(NAME, addresses, DAY);
    }

    async fn app(&self, n: u8, name: &str) -> (IpAddr, App) {
        let ip = self.mesh.pod_ip(n);
        (ip, App::http(SocketAddr::new(ip, 8080), name).await)
    }

    /// Who answers.
    async fn ask(&self, client: &Ztunnel) -> String {
        client.get(self.web, "/").await.text().trim().to_owned()
    }

    async fn until_answered(&self, client: &Ztunnel, text: &str) {
        until(&format!("an answer of {text:?}"), async || {
            let answer = client.get(self.web, "/").await;
            (answer.status == StatusCode::OK && answer.text().trim() == text).then_some(())
        })
        .await;
    }
}

/// Gives the cluster the name in place of its endpoints, looked up ten times a second.
fn by_name(resource: &mut Resource, change: impl Fn(&mut Cluster)) {
    let mut cluster = Cluster::decode(resource.body.clone()).unwrap();
    cluster.eds_cluster_config = None;
    cluster.cluster_discovery_type =
        Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into()));
    cluster.set_dns_lookup_family(DnsLookupFamily::V4Only);
    cluster.dns_refresh_rate = Some(DurationProto {
        seconds: 0,
        nanos: 100_000_000,
    });
    cluster.load_assignment = Some(assignment(8080));
    change(&mut cluster);
    resource.body = cluster.encode_to_vec().into();
}

fn assignment(port: u16) -> ClusterLoadAssignment {
    let socket = SocketAddress {
        address: NAME.into(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    let endpoint = Endpoint {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(socket)),
        }),
        ..Endpoint::default()
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    };
    ClusterLoadAssignment {
        cluster_name: WEB.into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![endpoint],
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

async fn lookups(waypoint: &Waypoint, result: &str) -> f64 {
    let labels = [("result", result)];
    waypoint.metric("waypoint_dns_lookups_total", &labels).await
}

async fn clusters(waypoint: &Waypoint) -> String {
    http_get(waypoint.running.admin_addr, "/clusters").await.1
}

#[tokio::test]
async fn addresses_come_change_and_vanish() {
    let scene = Scene::new().await;
    let ((a, _), (b, _)) = (scene.app(1, "a").await, scene.app(2, "b").await);
    scene.says(&[a]);
    let (waypoint, client) = scene.play().await;
    // Readiness has waited for the name.
    assert_eq!(scene.ask(&client).await, "a");
    let shown = clusters(&waypoint).await;
    assert!(
        shown.contains(&format!("{WEB}::{a}:8080::health_flags::healthy")),
        "{shown}"
    );

    // How long the answer holds isn't asked for, so it doesn't matter.
    scene.says(&[b]);
    scene.until_answered(&client, "b").await;
    let shown = clusters(&waypoint).await;
    assert!(!shown.contains(&format!("{a}:8080")), "{shown}");

    scene.says(&[a, b]);
    scene.until_answered(&client, "a").await;
    scene.until_answered(&client, "b").await;

    scene.says(&[]);
    until("no endpoint", async || {
        let answer = client.get(scene.web, "/gone").await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    waypoint.until_logged(" 503 UH ").await;
    assert!(lookups(&waypoint, "answered").await > 0.0);
    assert!(lookups(&waypoint, "empty").await > 0.0);
    assert_eq!(lookups(&waypoint, "failed").await, 0.0);
}

#[tokio::test]
async fn a_server_that_fails_takes_no_address_away() {
    let scene = Scene::new().await;
    let ((a, _), (b, _)) = (scene.app(1, "a").await, scene.app(2, "b").await);
    scene.says(&[a]);
    let (waypoint, client) = scene.play().await;
    scene.until_answered(&client, "a").await;
    scene.names.mood(Mood::Fails);
    until("failed lookups", async || {
        (lookups(&waypoint, "failed").await >= 2.0).then_some(())
    })
    .await;
    assert_eq!(scene.ask(&client).await, "a");
    scene.says(&[b]);
    scene.names.mood(Mood::Answers);
    scene.until_answered(&client, "b").await;
}

#[tokio::test]
async fn an_answer_holds_as_long_as_it_says_where_that_counts() {
    let scene = Scene::new().await;
    scene.configure(|cluster| {
        cluster.respect_dns_ttl = true;
        cluster.dns_refresh_rate = Some(DurationProto {
            seconds: 600,
            nanos: 0,
        });
    });
    let ((a, _), (b, _)) = (scene.app(1, "a").await, scene.app(2, "b").await);
    scene.names.set(NAME, &[a], 1);
    let (_waypoint, client) = scene.play().await;
    scene.until_answered(&client, "a").await;
    scene.names.set(NAME, &[b], DAY);
    scene.until_answered(&client, "b").await;
    let asked = scene.names.queries(NAME);
    scene.says(&[a]);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        scene.names.queries(NAME),
        asked,
        "the answer holds for a day"
    );
    assert_eq!(scene.ask(&client).await, "b");
}

#[tokio::test]
async fn ipv6_goes_first_where_nothing_else_is_said() {
    let scene = Scene::new().await;
    let localhost = Ipv6Addr::LOCALHOST;
    let port = TcpListener::bind((localhost, 0)).unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let _six = App::http(address, "six").await;
    let four = SocketAddr::new(scene.mesh.pod_ip(1), address.port());
    let _four = App::http(four, "four").await;
    let family = |family: DnsLookupFamily| {
        scene.configure(|cluster| {
            cluster.set_dns_lookup_family(family);
            cluster.load_assignment = Some(assignment(address.port()));
        });
    };
    scene.says(&[four.ip()]);
    family(DnsLookupFamily::Auto);
    let (waypoint, client) = scene.play().await;
    scene.until_answered(&client, "four").await;
    scene.says(&[four.ip(), localhost.into()]);
    scene.until_answered(&client, "six").await;
    family(DnsLookupFamily::V4Preferred);
    scene.until_answered(&client, "four").await;
    family(DnsLookupFamily::V6Only);
    scene.until_answered(&client, "six").await;
    family(DnsLookupFamily::All);
    until("both addresses", async || {
        let shown = clusters(&waypoint).await;
        let both = [four, address].map(|a| shown.contains(&format!("::{a}::weight")));
        (both == [true, true]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_logical_host_is_where_the_first_address_is() {
    let scene = Scene::new().await;
    scene.configure(|cluster| {
        let kind = DiscoveryType::LogicalDns.into();
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind));
    });
    let ((a, in_a), (b, in_b)) = (scene.app(1, "a").await, scene.app(2, "b").await);
    scene.says(&[b, a]);
    let (waypoint, client) = scene.play().await;
    for _ in 0..10 {
        assert_eq!(scene.ask(&client).await, "b");
    }
    assert_eq!(in_a.connections(), 0);
    scene.says(&[a, b]);
    scene.until_answered(&client, "a").await;
    in_b.forget();
    for _ in 0..10 {
        assert_eq!(scene.ask(&client).await, "a");
    }
    assert_eq!(in_b.seen().len(), 0);
    // It doesn't vanish.
    scene.says(&[]);
    until("empty answers", async || {
        (lookups(&waypoint, "empty").await >= 2.0).then_some(())
    })
    .await;
    assert_eq!(scene.ask(&client).await, "a");
}

#[tokio::test]
async fn a_logical_host_that_is_not_at_its_first_address_is_at_the_next() {
    let scene = Scene::new().await;
    scene.configure(|cluster| {
        let kind = DiscoveryType::LogicalDns.into();
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind));
    });
    let (a, _) = scene.app(1, "a").await;
    // Nobody is at the first.
    scene.says(&[scene.mesh.pod_ip(2), a]);
    let (waypoint, client) = scene.play().await;
    assert_eq!(scene.ask(&client).await, "a");
    let shown = clusters(&waypoint).await;
    let first = format!("{WEB}::{}::weight", scene.mesh.backend(2));
    assert!(shown.contains(&first), "{shown}");
}

#[tokio::test]
async fn who_stays_keeps_their_connections() {
    let scene = Scene::new().await;
    let ((a, in_a), (b, in_b)) = (scene.app(1, "a").await, scene.app(2, "b").await);
    scene.says(&[a]);
    let (_waypoint, client) = scene.play().await;
    let mut connection = client.http1(scene.web).await;
    let mut send = async |n: usize| {
        for _ in 0..n {
            let answer = connection.send(waypoint_tests::ztunnel::get("/")).await;
            assert_eq!(answer.status, StatusCode::OK);
        }
    };
    send(3).await;
    for order in [[a, b], [b, a], [a, b]] {
        scene.says(&order);
        let asked = scene.names.queries(NAME);
        until("more lookups", async || {
            (scene.names.queries(NAME) > asked + 2).then_some(())
        })
        .await;
        send(6).await;
    }
    assert!(!in_b.seen().is_empty());
    assert_eq!((in_a.connections(), in_b.connections()), (1, 1));
}

#[tokio::test]
async fn readiness_waits_for_names_but_not_for_ever() {
    let scene = Scene::new().await;
    let (a, _) = scene.app(1, "a").await;
    scene.says(&[a]);
    scene.names.mood(Mood::IsSilent);
    let started = Instant::now();
    let waypoint = scene.start().await;
    until("what readiness waits for", async || {
        let (status, reason) = waypoint.readiness().await;
        (status == 503 && reason.contains("not looked up yet")).then_some(())
    })
    .await;
    waypoint.until_ready().await;
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(4), "{waited:?}");
    let client = scene.mesh.client(&waypoint, "default", "curl").await;
    let answer = client.get(scene.web, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    waypoint.until_logged(" 503 UH ").await;
    scene.names.mood(Mood::Answers);
    scene.until_answered(&client, "a").await;
}

#[tokio::test]
async fn names_that_nobody_has_any_more_are_left_alone() {
    let scene = Scene::new().await;
    let (a, _) = scene.app(1, "a").await;
    scene.says(&[a]);
    let (_waypoint, client) = scene.play().await;
    scene.until_answered(&client, "a").await;
    // Another change to the cluster forgets no address.
    scene.names.mood(Mood::Fails);
    scene.configure(|cluster| {
        cluster.connect_timeout = Some(DurationProto {
            seconds: 3,
            nanos: 0,
        });
    });
    scene.istiod.discovery.until_answered().await;
    assert_eq!(scene.ask(&client).await, "a");
    // An address in place of the name needs no server.
    scene.configure(|cluster| {
        let text = a.to_string();
        let assignment = cluster.load_assignment.as_mut().unwrap();
        let endpoint = &mut assignment.endpoints[0].lb_endpoints[0].host_identifier;
        let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = endpoint else {
            unreachable!()
        };
        let address = endpoint.address.as_mut().unwrap().address.as_mut().unwrap();
        let address::Address::SocketAddress(socket) = address else {
            unreachable!()
        };
        socket.address = text;
    });
    scene.istiod.discovery.until_answered().await;
    assert_eq!(scene.istiod.discovery.refusals(), [""; 0]);
    assert_eq!(scene.ask(&client).await, "a");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let asked = scene.names.queries(NAME);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.names.queries(NAME), asked);
}
