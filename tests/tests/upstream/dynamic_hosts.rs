//! Services whose hosts begin with `*`: requests, and TLS clients, name the host, and it is looked up then.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::cluster_config::ClusterImplementationSpecifier;
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::{
    DnsCacheCircuitBreakers, DnsCacheConfig,
};
use envoy_types::pb::google::protobuf::{Duration as DurationProto, UInt32Value};
use http::Method;
use prost::Message;
use waypoint_config::resource::ResourceType;
use waypoint_tests::name_server::{Mood, NameServer};
use waypoint_tests::route_changes;
use waypoint_tests::server_names::{TlsApp, asks_for};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Answer, request};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

const DAY: u32 = 24 * 3600;
const HTTP: &str = "inbound-vip|80|http|*.wild.test";
const LOG: &str = "%REQ(:AUTHORITY)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
     %UPSTREAM_HOST% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %REQUESTED_SERVER_NAME% \
     %UPSTREAM_TRANSPORT_FAILURE_REASON%|\n";

/// A mesh with a ServiceEntry for `*.wild.test`, of which hosts may name ports, too.
struct Scene {
    mesh: Mesh,
    names: NameServer,
    istiod: ControlPlane,
    vip: IpAddr,
}

impl Scene {
    async fn new() -> Scene {
        let mesh = Mesh::new();
        mesh.access_log_format(LOG);
        let vip = mesh.vip(1).ip();
        let entry = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: wild, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}\n\
             spec: {{hosts: ['*.wild.test'], resolution: DYNAMIC_DNS, location: MESH_EXTERNAL, ports: [\
             {{number: 80, name: http, protocol: HTTP}}, {{number: 8443, name: tls, protocol: TLS}}]}}\n\
             status: {{addresses: [{{value: {vip}, host: '*.wild.test'}}]}}\n"
        );
        mesh.manifest("wild.yaml", &entry);
        let istiod = ControlPlane::start(&mesh).await;
        let names = NameServer::start().await;
        let scene = Scene {
            mesh,
            names,
            istiod,
            vip,
        };
        scene.configure(|_| {});
        scene
    }

    /// Any host at all has routes: what the cluster is for is its own to say.
    fn configure(&self, change: impl Fn(&mut DnsCacheConfig)) {
        let mut resources = route_changes::changed(self.mesh.resources(), |host| {
            host.domains = vec!["*".to_owned()];
        });
        for resource in &mut resources {
            if (resource.kind, resource.name.as_str()) == (ResourceType::Cluster, HTTP) {
                let mut cluster = Cluster::decode(resource.body.clone()).unwrap();
                with_cache(&mut cluster, &change);
                resource.body = cluster.encode_to_vec().into();
            }
        }
        self.istiod.discovery.set(resources);
    }

    async fn play(&self) -> (Waypoint, Ztunnel) {
        self.play_allowing(&["127.0.0.0/8"]).await
    }

    async fn play_allowing(&self, near: &[&str]) -> (Waypoint, Ztunnel) {
        let (source, certificates) = (self.istiod.source(), self.istiod.certificates());
        let mut options = self.mesh.options(source, certificates);
        options.dns_servers = vec![self.names.address];
        options.near_allowed = near.iter().map(|net| net.parse().unwrap()).collect();
        let waypoint = self.mesh.try_start_with(options).await.unwrap();
        waypoint.until_ready().await;
        let client = self.mesh.client(&waypoint, "default", "curl").await;
        (waypoint, client)
    }

    /// An app in pod `n`, which is where the name leads.
    async fn host(&self, n: u8, name: &str) -> App {
        self.names.set(name, &[self.mesh.pod_ip(n)], DAY);
        App::http(self.mesh.backend(n), name).await
    }

    async fn ask(&self, client: &Ztunnel, host: &str) -> Answer {
        let asked = request(Method::GET, "/", &[("host", host)]);
        client.request(SocketAddr::new(self.vip, 80), asked).await
    }

    /// The server that answers TLS for this name.
    async fn greet(&self, client: &Ztunnel, name: Option<&str>) -> Option<String> {
        let to = SocketAddr::new(self.vip, 8443);
        asks_for(client.tunnel(to).await, name, usize::MAX).await
    }
}

fn with_cache(cluster: &mut Cluster, change: impl Fn(&mut DnsCacheConfig)) {
    let Some(ClusterDiscoveryType::ClusterType(kind)) = &mut cluster.cluster_discovery_type else {
        panic!("{:?}", cluster.cluster_discovery_type);
    };
    let any = kind.typed_config.as_mut().unwrap();
    let mut config = ClusterConfig::decode(&*any.value).unwrap();
    match &mut config.cluster_implementation_specifier {
        Some(ClusterImplementationSpecifier::DnsCacheConfig(cache)) => change(cache),
        other => panic!("{other:?}"),
    }
    any.value = config.encode_to_vec();
}

fn is_unresolved(answer: &Answer) -> bool {
    (answer.status.as_u16(), answer.text().as_str()) == (503, "DNS resolution failure")
}

async fn lookups(waypoint: &Waypoint, result: &str) -> f64 {
    let labels = [("result", result)];
    waypoint
        .metric("waypoint_dynamic_lookups_total", &labels)
        .await
}

#[tokio::test]
async fn a_host_is_looked_up_when_a_request_names_it() {
    let scene = Scene::new().await;
    let (in_a, in_b) = (
        scene.host(1, "a.wild.test").await,
        scene.host(2, "b.deep.wild.test").await,
    );
    let (waypoint, client) = scene.play().await;
    assert_eq!(scene.names.queries("a.wild.test"), 0);
    for host in ["a.wild.test:8080", "A.Wild.Test:8080"] {
        let answer = scene.ask(&client, host).await;
        assert_eq!(answer.header("x-app"), "a.wild.test", "{answer:?}");
        assert_eq!(in_a.last().header("host"), host);
    }
    let answer = scene.ask(&client, "b.deep.wild.test:8080").await;
    assert_eq!(answer.header("x-app"), "b.deep.wild.test", "{answer:?}");
    assert_eq!(in_b.seen().len(), 1);
    assert_eq!(scene.names.queries("a.wild.test"), 1);
    // Without a port it is HTTP's, where nobody is.
    let answer = scene.ask(&client, "a.wild.test").await;
    assert_eq!(answer.status, 503);
    let why = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}";
    let tried = scene.mesh.backend(1).ip();
    let told = format!("a.wild.test 503 URX,UF {why} {tried}:80 3 ");
    waypoint.until_logged(&told).await;
    let shown = http_get(waypoint.running.admin_addr, "/clusters").await.1;
    let of_a = format!("{HTTP}::{}::health_flags::healthy", scene.mesh.backend(1));
    assert!(shown.contains(&of_a), "{shown}");
}

#[tokio::test]
async fn a_host_that_nobody_knows_is_answered_as_envoy_does() {
    let scene = Scene::new().await;
    scene.names.set(
        "v6.wild.test",
        &[IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1])],
        DAY,
    );
    let (waypoint, client) = scene.play().await;
    for _ in 0..2 {
        assert!(is_unresolved(&scene.ask(&client, "nobody.wild.test").await));
    }
    let failed = "503 DF dns_resolution_failure{cares_norecords:";
    waypoint
        .until_logged(&format!(
            "nobody.wild.test {failed}Domain_name_not_found}} - 0"
        ))
        .await;
    assert_eq!(scene.names.queries("nobody.wild.test"), 1);
    assert!(is_unresolved(&scene.ask(&client, "v6.wild.test").await));
    waypoint
        .until_logged(&format!(
            "v6.wild.test {failed}DNS_server_returned_answer_with_no_data}} - 0"
        ))
        .await;
    scene.names.mood(Mood::Fails);
    assert!(is_unresolved(&scene.ask(&client, "fails.wild.test").await));
    waypoint
        .until_logged("fails.wild.test 503 DF dns_resolution_failure{cares_failure:DNS_server_returned_general_failure} - 0")
        .await;
    assert_eq!(lookups(&waypoint, "empty").await, 2.0);
    assert_eq!(lookups(&waypoint, "failed").await, 1.0);
}

#[tokio::test]
async fn nobody_gets_to_hosts_that_the_wildcard_does_not_admit() {
    let scene = Scene::new().await;
    scene.names.set("evil.test", &[scene.mesh.pod_ip(1)], DAY);
    let app = App::http(scene.mesh.backend(1), "evil").await;
    let (waypoint, client) = scene.play().await;
    let ip = scene.mesh.backend(1).to_string();
    for host in ["evil.test:8080", "wild.test:8080", "evilwild.test", &ip] {
        let answer = scene.ask(&client, host).await;
        assert!(is_unresolved(&answer), "{host}: {answer:?}");
        waypoint
            .until_logged(&format!(
                "{host} 503 DF dns_resolution_failure{{host_not_admitted}} - 0"
            ))
            .await;
    }
    assert_eq!(scene.names.queries("evil.test"), 0);
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_name_leads_to_nothing_near() {
    let scene = Scene::new().await;
    let near: [(&str, IpAddr); 3] = [
        ("loopback.wild.test", Ipv4Addr::LOCALHOST.into()),
        ("metadata.wild.test", [169, 254, 169, 254].into()),
        ("nowhere.wild.test", Ipv4Addr::UNSPECIFIED.into()),
    ];
    for (name, address) in near {
        scene.names.set(name, &[address], DAY);
    }
    let app = scene.host(1, "pod.wild.test").await;
    let pod = scene.mesh.pod_ip(1);
    scene
        .names
        .set("both.wild.test", &[Ipv4Addr::LOCALHOST.into(), pod], DAY);
    let (waypoint, client) = scene.play_allowing(&[&format!("{pod}/32")]).await;
    let admin = waypoint.running.admin_addr.port();
    for (name, _) in near {
        let answer = scene.ask(&client, &format!("{name}:{admin}")).await;
        assert!(is_unresolved(&answer), "{name}: {answer:?}");
        waypoint
            .until_logged(&format!(
                "{name}:{admin} 503 DF dns_resolution_failure{{addresses_not_allowed}} - 0"
            ))
            .await;
    }
    assert_eq!(lookups(&waypoint, "denied").await, 3.0);
    // What is near is left out, and the rest counts.
    let answer = scene.ask(&client, "both.wild.test:8080").await;
    assert_eq!(answer.header("x-app"), "pod.wild.test", "{answer:?}");
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn the_table_of_hosts_has_a_bound() {
    let scene = Scene::new().await;
    scene.configure(|cache| cache.max_hosts = Some(UInt32Value { value: 1 }));
    let _app = scene.host(1, "a.wild.test").await;
    scene.names.set("b.wild.test", &[scene.mesh.pod_ip(1)], DAY);
    let (waypoint, client) = scene.play().await;
    // A name that leads nowhere takes nobody's place.
    assert!(is_unresolved(&scene.ask(&client, "junk.wild.test").await));
    let answer = scene.ask(&client, "a.wild.test:8080").await;
    assert_eq!(answer.header("x-app"), "a.wild.test", "{answer:?}");
    let answer = scene.ask(&client, "b.wild.test:8080").await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.text()),
        (503, "DNS cache overflow")
    );
    waypoint
        .until_logged("b.wild.test:8080 503 - dns_cache_overflow - 0")
        .await;
    let answer = scene.ask(&client, "a.wild.test:8080").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn so_many_requests_wait_for_a_lookup_and_no_longer_than_it_may_take() {
    let scene = Scene::new().await;
    scene.configure(|cache| {
        cache.dns_cache_circuit_breaker = Some(DnsCacheCircuitBreakers {
            max_pending_requests: Some(UInt32Value { value: 1 }),
        });
        cache.dns_query_timeout = Some(DurationProto {
            seconds: 2,
            nanos: 0,
        });
    });
    scene.names.mood(Mood::IsSilent);
    let (waypoint, client) = scene.play().await;
    let (first, second) = tokio::join!(scene.ask(&client, "silent.wild.test"), async {
        until("a query", async || {
            (scene.names.queries("silent.wild.test") > 0).then_some(())
        })
        .await;
        scene.ask(&client, "other.wild.test").await
    });
    assert!(is_unresolved(&first), "{first:?}");
    waypoint
        .until_logged("silent.wild.test 503 DF dns_resolution_failure{resolve_timeout} - 0")
        .await;
    let text = "Dynamic forward proxy pending request overflow";
    assert_eq!((second.status.as_u16(), &*second.text()), (503, text));
    waypoint
        .until_logged("other.wild.test 503 - dynamic_forward_proxy_pending_request_overflow - 0")
        .await;
}

#[tokio::test]
async fn addresses_change_and_hosts_that_nobody_asks_for_are_forgotten() {
    let scene = Scene::new().await;
    let millis = |n: i32| {
        Some(DurationProto {
            seconds: 0,
            nanos: n * 1_000_000,
        })
    };
    scene.configure(|cache| {
        cache.dns_refresh_rate = millis(100);
        cache.dns_min_refresh_rate = millis(100);
        cache.host_ttl = millis(900);
    });
    let (_a, _b) = (
        App::http(scene.mesh.backend(1), "a").await,
        App::http(scene.mesh.backend(2), "b").await,
    );
    let says = |n| scene.names.set("x.wild.test", &[scene.mesh.pod_ip(n)], 0);
    says(1);
    let (waypoint, client) = scene.play().await;
    let until_app = async |app: &str| {
        until(&format!("an answer of {app}"), async || {
            let answer = scene.ask(&client, "x.wild.test:8080").await;
            (answer.header("x-app") == app).then_some(())
        })
        .await;
    };
    until_app("a").await;
    says(2);
    until_app("b").await;
    // A server that fails takes nothing away.
    scene.names.mood(Mood::Fails);
    let failed = lookups(&waypoint, "failed").await;
    until("a failed lookup", async || {
        scene.ask(&client, "x.wild.test:8080").await;
        (lookups(&waypoint, "failed").await > failed).then_some(())
    })
    .await;
    until_app("b").await;
    let clusters = async || http_get(waypoint.running.admin_addr, "/clusters").await.1;
    let host = format!("{HTTP}::{}", scene.mesh.backend(2));
    assert!(clusters().await.contains(&host));
    until("the host to be forgotten", async || {
        (!clusters().await.contains(&host)).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = scene.names.queries("x.wild.test");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.names.queries("x.wild.test"), asked);
}

#[tokio::test]
async fn tls_goes_to_the_server_that_its_client_asks_for() {
    let scene = Scene::new().await;
    let at = SocketAddr::new(scene.mesh.pod_ip(1), 8443);
    let server = TlsApp::start(at).await;
    scene.names.set("a.wild.test", &[at.ip()], DAY);
    scene.names.set("evil.test", &[at.ip()], DAY);
    let (waypoint, client) = scene.play().await;
    let greeted = scene.greet(&client, Some("a.wild.test")).await;
    assert_eq!(greeted.as_deref(), Some("a.wild.test"));
    waypoint
        .until_logged(&format!(" 0 - - {at} 1 a.wild.test -|"))
        .await;
    // The name decides where it goes, and the service for which names it does.
    for (name, reason) in [
        (Some("evil.test"), "host_not_admitted"),
        (Some("nobody.wild.test"), "-"),
        (None, "-"),
    ] {
        assert_eq!(scene.greet(&client, name).await, None, "{name:?}");
        let said = name.unwrap_or("-");
        waypoint
            .until_logged(&format!(" 0 UH - - 0 {said} {reason}|"))
            .await;
    }
    assert_eq!(scene.names.queries("evil.test"), 0);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn of_several_addresses_the_first_that_answers_is_taken() {
    let scene = Scene::new().await;
    let _app = App::http(scene.mesh.backend(2), "second").await;
    // Nobody listens at the first.
    let addresses = [scene.mesh.pod_ip(1), scene.mesh.pod_ip(2)];
    scene.names.set("two.wild.test", &addresses, DAY);
    let (waypoint, client) = scene.play().await;
    let answer = scene.ask(&client, "two.wild.test:8080").await;
    assert_eq!(answer.header("x-app"), "second", "{answer:?}");
    waypoint
        .until_logged("two.wild.test:8080 200 - via_upstream")
        .await;
}
