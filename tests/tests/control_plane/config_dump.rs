//! `/config_dump`: what is in force, in Envoy's form, and what isn't shown.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource as ResourceProto,
};
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::resource::ResourceType;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::{until, within};
use waypoint_tests::{ControlPlane, Mesh, Waypoint};

use super::admin::{PLAIN, PROBE, WEB, find, get, message, scene};

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
