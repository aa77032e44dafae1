//! The admin port as `istioctl` and Istio's agent read it.
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource as ResourceProto,
};
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::descriptors;
use waypoint_config::resource::ResourceType;
use waypoint_tests::telemetry::{http_get, http_request};
use waypoint_tests::wait::{until, within};
use waypoint_tests::{ControlPlane, Mesh, Waypoint};

const WEB: &str = "inbound-vip|80|http|web.default.svc.cluster.local";
const PLAIN: &str = "inbound-vip|80|http|plain.default.svc.cluster.local";

/// A service whose pod has a ztunnel, and one whose pod has none.
async fn scene(mesh: &Mesh) -> (Waypoint, SocketAddr) {
    let (web, _app, _ztunnel) = mesh.captured_service(1, "web").await;
    let _plain = mesh.http_service(2, "plain").await;
    (mesh.start().await, web)
}

async fn get(waypoint: &Waypoint, path: &str) -> String {
    let (status, body) = http_get(waypoint.running.admin_addr, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// A page as JSON that is a message of Envoy's admin API: its reader reads all of it.
async fn message(waypoint: &Waypoint, path: &str, name: &str) -> Value {
    let (status, head, body) = http_request(waypoint.running.admin_addr, "GET", path).await;
    assert_eq!(status, 200, "{path}: {body}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let json: Value = serde_json::from_str(&body).unwrap();
    let pool = descriptors::pool().unwrap();
    let descriptor = pool
        .get_message_by_name(&format!("envoy.admin.v3.{name}"))
        .unwrap();
    DynamicMessage::deserialize(descriptor, &json).unwrap();
    json
}

async fn dump(waypoint: &Waypoint, parameters: &str) -> Value {
    let path = format!("/config_dump{parameters}");
    message(waypoint, &path, "ConfigDump").await["configs"].clone()
}

fn section<'a>(configs: &'a Value, name: &str) -> &'a Value {
    let type_url = format!("type.googleapis.com/envoy.admin.v3.{name}");
    let mut sections = configs.as_array().unwrap().iter();
    sections
        .find(|section| section["@type"] == *type_url)
        .unwrap()
}

/// The element of a list whose field at `pointer` says `value`.
fn find<'a>(list: &'a Value, pointer: &str, value: &str) -> &'a Value {
    let list = list.as_array().unwrap();
    let is_it = |element: &&Value| element.pointer(pointer).is_some_and(|v| v == value);
    list.iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("no {value} in {list:?}"))
}

fn decode_base64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut have) = (Vec::new(), 0u32, 0);
    for digit in text.bytes().filter(|c| *c != b'=') {
        let value = DIGITS.iter().position(|d| *d == digit).unwrap();
        (bits, have) = ((bits << 6) | value as u32, have + 6);
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn the_dump_holds_what_is_in_force() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    let configs = dump(&waypoint, "?include_eds=true").await;

    let bootstrap = &section(&configs, "BootstrapConfigDump")["bootstrap"];
    let id = bootstrap["node"]["id"].as_str().unwrap();
    assert!(
        id.ends_with("~waypoint.default~default.svc.cluster.local"),
        "{id}"
    );
    assert_eq!(bootstrap["node"]["user_agent_name"], "waypoint");
    assert_eq!(
        bootstrap["admin"]["address"]["socket_address"]["port_value"],
        waypoint.running.admin_addr.port()
    );

    let clusters = &section(&configs, "ClustersConfigDump")["dynamic_active_clusters"];
    let web = find(clusters, "/cluster/name", WEB);
    assert_eq!(web["cluster"]["type"], "EDS");
    assert_eq!(web["version_info"], "1");

    let endpoints = &section(&configs, "EndpointsConfigDump")["dynamic_endpoint_configs"];
    let web = find(endpoints, "/endpoint_config/cluster_name", WEB);
    let address = &web["endpoint_config"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
    assert_eq!(
        address["envoy_internal_address"],
        json!({
            "server_listener_name": "connect_originate",
            "endpoint_id": format!("{}:8080", mesh.pod_ip(1)),
        })
    );

    let listeners = &section(&configs, "ListenersConfigDump")["dynamic_listeners"];
    let main = &find(listeners, "/name", "main_internal")["active_state"]["listener"];
    let chain = find(&main["filter_chains"], "/name", WEB);
    let manager = chain["filters"].as_array().unwrap().last().unwrap();
    assert_eq!(
        manager["name"],
        "envoy.filters.network.http_connection_manager"
    );
    find(listeners, "/name", "connect_terminate");

    let routes = &section(&configs, "RoutesConfigDump")["static_route_configs"];
    let web = find(routes, "/route_config/name", WEB);
    assert_eq!(
        web["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"],
        WEB
    );

    // Without being asked for, endpoints aren't in it.
    let configs = dump(&waypoint, "").await;
    assert_eq!(configs.as_array().unwrap().len(), 6, "{configs}");
    let masked = dump(
        &waypoint,
        "?mask=dynamic_route_configs,static_route_configs",
    )
    .await;
    assert_eq!(masked.as_array().unwrap().len(), 1);
    assert!(masked[0]["static_route_configs"].as_array().unwrap().len() >= 3);
}

#[tokio::test]
async fn one_resource_and_what_is_no_resource() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    let configs = dump(
        &waypoint,
        "?resource=dynamic_active_clusters&mask=cluster.name&name_regex=.*%5C%7Cplain.default.*",
    )
    .await;
    assert_eq!(
        configs,
        json!([{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster",
            "cluster": {
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": PLAIN,
            },
        }])
    );
    let admin = waypoint.running.admin_addr;
    let (status, body) = http_get(admin, "/config_dump?resource=dynamic_clutters").await;
    assert_eq!(
        (status, body.contains("dynamic_clutters")),
        (404, true),
        "{body}"
    );
    let (status, body) = http_get(admin, "/config_dump?name_regex=a(").await;
    assert_eq!(
        (status, body.starts_with("name_regex a(")),
        (400, true),
        "{body}"
    );
}

#[tokio::test]
async fn certificates_are_shown_and_keys_are_not() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    let mask = "?mask=dynamic_active_secrets,dynamic_warming_secrets";
    let configs = dump(&waypoint, mask).await;
    assert!(configs[0].get("dynamic_warming_secrets").is_none());
    let secrets = &configs[0]["dynamic_active_secrets"];
    let own = &find(secrets, "/name", "default")["secret"]["tls_certificate"];
    let chain = decode_base64(own["certificate_chain"]["inline_bytes"].as_str().unwrap());
    assert!(
        chain.starts_with("-----BEGIN CERTIFICATE-----\n"),
        "{chain}"
    );
    let key = decode_base64(own["private_key"]["inline_bytes"].as_str().unwrap());
    assert_eq!(key, "[redacted]");
    let roots = &find(secrets, "/name", "ROOTCA")["secret"]["validation_context"];
    let roots = decode_base64(roots["trusted_ca"]["inline_bytes"].as_str().unwrap());
    assert_eq!(
        roots.trim(),
        mesh.ca.root_pem().trim().replace("\r\n", "\n")
    );
    let whole = get(&waypoint, "/config_dump?include_eds").await;
    assert!(
        !whole.contains("PRIVATE") && !whole.contains("UFJJVkFURQ"),
        "no key in any form"
    );

    let certs = message(&waypoint, "/certs", "Certificates").await;
    let own = &certs["certificates"][0]["cert_chain"][0];
    assert_eq!(
        own["subject_alt_names"],
        json!([{"uri": "spiffe://cluster.local/ns/default/sa/waypoint"}])
    );
    // It lives for a day.
    assert_eq!(own["days_until_expiration"], "0");
    let times = [&own["valid_from"], &own["expiration_time"]].map(|t| t.as_str().unwrap());
    assert!(times[0] < times[1] && times[1].ends_with('Z'), "{times:?}");
    let root = &certs["certificates"][0]["ca_cert"][0];
    assert_ne!(root["days_until_expiration"], "0", "{root}");
}

#[tokio::test]
async fn clusters_and_listeners_as_they_are_used() {
    let mesh = Mesh::new();
    let (waypoint, web) = scene(&mesh).await;
    let clusters = message(&waypoint, "/clusters?format=json", "Clusters").await;
    let web_cluster = find(&clusters["cluster_statuses"], "/name", WEB);
    assert_eq!(web_cluster["added_via_api"], true);
    assert_eq!(web_cluster["eds_service_name"], WEB);
    let host = &web_cluster["host_statuses"][0];
    let internal = format!("{}:8080", mesh.pod_ip(1));
    assert_eq!(
        host["address"]["envoy_internal_address"]["endpoint_id"],
        internal
    );
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    assert_eq!(host["weight"], 1);
    let plain = find(&clusters["cluster_statuses"], "/name", PLAIN);
    assert_eq!(
        plain["host_statuses"][0]["address"]["socket_address"],
        json!({"address": mesh.pod_ip(2).to_string(), "port_value": 8080})
    );

    // A request that is under way is counted at its endpoint.
    let client = mesh.client(&waypoint, "default", "curl").await;
    let tunnel = client.tunnel(web).await;
    let text = get(&waypoint, "/clusters").await;
    drop(tunnel);
    let line = |rest: &str| format!("{WEB}::envoy://connect_originate/{internal}::{rest}\n");
    assert!(text.contains(&line("health_flags::healthy")), "{text}");
    assert!(text.contains(&line("rq_active::0")), "{text}");

    let listeners = message(&waypoint, "/listeners?format=json", "Listeners").await;
    let terminate = find(
        &listeners["listener_statuses"],
        "/name",
        "connect_terminate",
    );
    assert_eq!(
        terminate["local_address"]["socket_address"],
        json!({
            "address": waypoint.address().ip().to_string(),
            "port_value": waypoint.address().port(),
        })
    );
    find(&listeners["listener_statuses"], "/name", "main_internal");
    let text = get(&waypoint, "/listeners").await;
    assert!(
        text.contains(&format!("connect_terminate::{}\n", waypoint.address())),
        "{text}"
    );
}

#[tokio::test]
async fn a_change_is_a_new_version_of_what_changed() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    let (_, _third) = mesh.http_service(3, "third").await;
    let third = "inbound-vip|80|http|third.default.svc.cluster.local";
    let configs = until("the new service", async || {
        let configs = dump(&waypoint, "?mask=dynamic_active_clusters,dynamic_listeners").await;
        configs.to_string().contains(third).then_some(configs)
    })
    .await;
    let clusters = &section(&configs, "ClustersConfigDump")["dynamic_active_clusters"];
    assert_eq!(find(clusters, "/cluster/name", WEB)["version_info"], "1");
    assert_ne!(find(clusters, "/cluster/name", third)["version_info"], "1");
    let listeners = &section(&configs, "ListenersConfigDump")["dynamic_listeners"];
    let main = find(listeners, "/name", "main_internal");
    assert_ne!(main["active_state"]["version_info"], "1");
    find(
        &main["active_state"]["listener"]["filter_chains"],
        "/name",
        third,
    );

    mesh.remove_manifest("service-third.yaml");
    until("its end", async || {
        let configs = dump(&waypoint, "?mask=dynamic_active_clusters").await;
        (!configs.to_string().contains(third)).then_some(())
    })
    .await;
    let clusters = get(&waypoint, "/clusters").await;
    assert!(!clusters.contains(third), "{clusters}");
}

/// Somebody who asks and reads nothing doesn't keep others from the port.
#[tokio::test]
async fn a_reader_who_stalls_holds_up_dumps_only() {
    let mesh = Mesh::new();
    for n in 1..=150 {
        mesh.service(n, &format!("service-{n}"));
    }
    let waypoint = mesh.start().await;
    let admin = waypoint.running.admin_addr;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stalled = socket.connect(admin).await.unwrap();
    let request = b"GET /config_dump HTTP/1.0\r\n\r\n";
    stalled.write_all(request).await.unwrap();
    let mut first = [0];
    stalled.read_exact(&mut first).await.unwrap();
    for path in ["/ready", "/clusters", "/stats"] {
        within(path, get(&waypoint, path)).await;
    }
    let turn = tokio::time::timeout(Duration::from_millis(300), get(&waypoint, "/config_dump"));
    assert!(turn.await.is_err(), "dumps are made one at a time");
    drop(stalled);
    within("the next dump", get(&waypoint, "/config_dump")).await;
}

#[tokio::test]
async fn what_istiod_sent_is_shown_with_its_version_and_so_is_what_was_refused() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    let configs = dump(&waypoint, "?mask=bootstrap").await;
    let node = &configs[0]["bootstrap"]["node"];
    assert_eq!(node["user_agent_name"], "waypoint", "{node}");

    istiod.discovery.by_hand(true);
    let stream = istiod.discovery.stream(0).await;
    let clusters = istiod.discovery.resources(ResourceType::Cluster);
    let good = clusters.into_iter().find(|r| r.name == WEB).unwrap();
    let send = |version: &str, change: fn(&mut Cluster)| {
        let mut proto = Cluster::decode(good.body.clone()).unwrap();
        change(&mut proto);
        stream.send(DeltaDiscoveryResponse {
            type_url: ResourceType::Cluster.type_url().into(),
            system_version_info: version.into(),
            resources: vec![ResourceProto {
                name: WEB.into(),
                resource: Some(Any {
                    type_url: ResourceType::Cluster.type_url().into(),
                    value: proto.encode_to_vec(),
                }),
                ..ResourceProto::default()
            }],
            ..DeltaDiscoveryResponse::default()
        })
    };
    let nonce = send("2026-01-01/1", |cluster| {
        cluster.alt_stat_name = "one".into()
    });
    assert_eq!(stream.verdict(&nonce).await, Ok(()));
    let nonce = send("2026-01-01/2", |cluster| cluster.lb_policy = 99);
    assert!(stream.verdict(&nonce).await.is_err());

    let configs = dump(&waypoint, "?mask=dynamic_active_clusters").await;
    let shown = find(&configs[0]["dynamic_active_clusters"], "/cluster/name", WEB);
    assert_eq!(shown["version_info"], "2026-01-01/1");
    assert_eq!(shown["cluster"]["alt_stat_name"], "one");
    assert_eq!(shown["error_state"]["version_info"], "2026-01-01/2");
    let details = shown["error_state"]["details"].as_str().unwrap();
    assert!(details.contains("lb_policy"), "{details}");
    let stats = get(&waypoint, PROBE).await;
    assert!(
        stats.contains("cluster_manager.cds.update_rejected: 1\n"),
        "{stats}"
    );
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
}

/// What Istio's agent asks before it says that its Envoy is ready.
const PROBE: &str = "/stats?usedonly&filter=%5E(server.state%7Clistener_manager.workers_started\
    %7Ccluster_manager.cds.update_(success%7Crejected)%7Clistener_manager.lds.update_(success%7Crejected))$";

#[tokio::test]
async fn stats_tell_the_truth_to_istios_probe() {
    let mesh = Mesh::new();
    let (waypoint, web) = scene(&mesh).await;
    assert_eq!(
        get(&waypoint, PROBE).await,
        "cluster_manager.cds.update_success: 1\n\
         listener_manager.lds.update_success: 1\n\
         listener_manager.workers_started: 1\n\
         server.state: 0\n"
    );
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    waypoint
        .until_metric("istio_requests_total", &[("response_code", "200")], 1.0)
        .await;
    let stats = get(&waypoint, "/stats?filter=%5Eistio_requests_total").await;
    let line = stats
        .lines()
        .find(|l| l.contains("destination_service_name.web"))
        .unwrap();
    assert!(
        line.contains(".reporter.waypoint.") && line.ends_with(": 1"),
        "{line}"
    );
    let membership = format!("cluster.{WEB}.membership_healthy");
    assert!(
        get(&waypoint, "/stats")
            .await
            .contains(&format!("{membership}: 1\n"))
    );
    let json: Value = serde_json::from_str(&get(&waypoint, "/stats?format=json").await).unwrap();
    assert_eq!(find(&json["stats"], "/name", &membership)["value"], 1.0);
    for path in [
        "/stats/prometheus",
        "//stats/prometheus",
        "/stats?format=prometheus",
    ] {
        let text = get(&waypoint, path).await;
        assert!(
            text.contains("# TYPE istio_requests_total counter"),
            "{path}"
        );
    }
    let (status, body) = http_get(waypoint.running.admin_addr, "/stats?filter=(").await;
    assert_eq!(
        (status, body.starts_with("filter: ")),
        (400, true),
        "{body}"
    );

    // A change that adds a service counts as one more for each type that it touches.
    let _third = mesh.http_service(3, "third").await;
    until("the update", async || {
        let stats = get(&waypoint, PROBE).await;
        (!stats.contains("lds.update_success: 1\n")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_process_tells_of_itself() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    let info = message(&waypoint, "/server_info", "ServerInfo").await;
    assert_eq!(info["state"], "LIVE");
    assert!(
        info["version"]
            .as_str()
            .unwrap()
            .contains(env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        info["command_line_options"]["service_cluster"],
        "waypoint.default"
    );
    assert_eq!(info["node"]["metadata"]["NAMESPACE"], "default");
    let memory = message(&waypoint, "/memory", "Memory").await;
    let physical: u64 = memory["total_physical_bytes"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(physical > 1 << 20, "{memory}");
    assert_eq!(get(&waypoint, "/ready").await, "LIVE\n");
    let runtime: Value = serde_json::from_str(&get(&waypoint, "/runtime").await).unwrap();
    assert_eq!(runtime["entries"], json!({}));
    assert!(
        get(&waypoint, "/")
            .await
            .contains("<a href=\"/config_dump\">")
    );
    assert!(
        get(&waypoint, "/help")
            .await
            .contains("/quitquitquit: end at once (POST)\n")
    );
    let admin = waypoint.running.admin_addr;
    let (status, body) = http_get(admin, "/nonsense").await;
    assert_eq!(
        (status, body.contains("/config_dump")),
        (404, true),
        "{body}"
    );
    // Levels of a log that isn't this process's own are shown and can't be changed.
    assert!(
        get(&waypoint, "/logging")
            .await
            .starts_with("active loggers:\n  admin: ")
    );
    let (status, ..) = http_request(admin, "POST", "/logging?level=debug").await;
    assert_eq!(status, 400);
}

/// `istioctl bug-report` drops all that it knows of a pod when one of these fails.
#[tokio::test]
async fn a_bug_report_gets_all_that_it_asks_for() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    for path in [
        "certs",
        "clusters",
        "config_dump?include_eds",
        "listeners",
        "memory",
        "server_info",
        "stats/prometheus",
        "runtime",
    ] {
        assert!(
            !get(&waypoint, &format!("/{path}")).await.is_empty(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn told_to_fail_and_to_drain_it_goes_on_serving() {
    let mesh = Mesh::new();
    let (waypoint, web) = scene(&mesh).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let (admin, stats, readiness) = (
        waypoint.running.admin_addr,
        waypoint.running.stats_addr,
        waypoint.running.readiness_addr,
    );
    let ready = async || http_get(readiness, "/healthz/ready").await.0;
    assert_eq!(ready().await, 200);
    assert_eq!(http_get(admin, "/healthcheck/fail").await.0, 405);
    let (status, _, body) = http_request(admin, "POST", "/healthcheck/fail").await;
    assert_eq!((status, body.as_str(), ready().await), (200, "OK\n", 503));
    assert!(get(&waypoint, PROBE).await.contains("server.state: 1\n"));
    http_request(admin, "POST", "/healthcheck/ok").await;
    assert_eq!(ready().await, 200);
    let answer = client.get(web, "/").await;
    assert_ne!(answer.header("connection"), "close");

    let (status, head, _) = http_request(stats, "GET", "/drain").await;
    assert_eq!(
        (status, head.contains("allow: post")),
        (405, true),
        "{head}"
    );
    assert_eq!(ready().await, 200);
    let (status, ..) = http_request(stats, "POST", "/drain").await;
    assert_eq!((status, ready().await), (200, 503));
    assert_eq!(
        http_get(stats, "/healthz/ready").await,
        (503, "draining\n".to_owned())
    );
    let info = message(&waypoint, "/server_info", "ServerInfo").await;
    assert_eq!(info["state"], "DRAINING");
    assert!(get(&waypoint, PROBE).await.contains("server.state: 1\n"));
    // The client is told to go; whoever comes all the same is served.
    until("the client's connection to end", async || {
        client
            .connect_to(&web.to_string(), &[])
            .await
            .is_err()
            .then_some(())
    })
    .await;
    let late = mesh.client(&waypoint, "default", "curl").await;
    let answer = late.get(web, "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("connection"), "close");
    let (status, ..) = http_request(admin, "POST", "/drain_listeners?graceful").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn the_port_for_metrics_has_metrics_only() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    let stats = waypoint.running.stats_addr;
    for path in ["/stats/prometheus", "/metrics"] {
        let (status, head, body) = http_request(stats, "GET", path).await;
        assert_eq!(status, 200);
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        assert!(
            body.contains("# TYPE waypoint_config_updates_total counter"),
            "{body}"
        );
    }
    let build = [("component", "proxy"), ("tag", "unknown")];
    assert_eq!(waypoint.metric("istio_build", &build).await, 1.0);
    for path in ["/config_dump", "/certs", "/logging", "/"] {
        assert_eq!(http_get(stats, path).await.0, 404, "{path}");
        assert_eq!(http_get(waypoint.running.readiness_addr, path).await.0, 404);
    }
}
