//! TCPRoute and TLSRoute: connections that are passed on as they are go where their route says.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::wait::{until, within};
use waypoint_tests::{App, Mesh, Ztunnel};

fn route(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: {kind}\nmetadata: {{name: db, namespace: default}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: db, port: 80}}], {spec}}}\n"
    )
}

/// Services whose pods say their names, on TCP ports; the address of the first.
async fn named(mesh: &Mesh, names: &[&'static str]) -> SocketAddr {
    for (n, name) in (1..).zip(names.iter().copied()) {
        let (_, backend) = mesh.bare_tcp_service(n, name);
        App::tcp(backend, move |mut tcp| async move {
            let mut asked = [0; 3];
            let _ = tcp.read_exact(&mut asked).await;
            let _ = tcp.write_all(name.as_bytes()).await;
        })
        .await;
    }
    mesh.vip(1)
}

/// Who answers; empty: nobody.
async fn who(client: &Ztunnel, to: SocketAddr) -> String {
    let asked = async {
        let mut stream = client.tunnel(to).await;
        let mut answer = Vec::new();
        let _ = stream.write_all(b"who").await;
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    within("an answer or an end", asked).await
}

#[tokio::test]
async fn connections_are_shared_out_and_follow_a_changed_route() {
    let mesh = Mesh::new();
    let to = named(&mesh, &["db", "replica"]).await;
    let (shop, _shop) = mesh.http_service(3, "shop").await;
    let backends = "[{name: db, port: 80, weight: 3}, {name: replica, port: 80}]";
    mesh.manifest(
        "route.yaml",
        &route("TCPRoute", &format!("rules: [{{backendRefs: {backends}}}]")),
    );
    let (waypoint, client) = mesh.started().await;
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..60 {
        *answers.entry(who(&client, to).await).or_default() += 1;
    }
    assert_eq!(
        answers.keys().collect::<Vec<_>>(),
        ["db", "replica"],
        "{answers:?}"
    );
    assert!(
        (30..60).contains(&answers["db"]),
        "three of four: {answers:?}"
    );
    assert_eq!(waypoint.problems().await, "");

    // Backends are known by their own protocol, and need not speak TCP alone.
    mesh.manifest(
        "route.yaml",
        &route(
            "TCPRoute",
            "rules: [{backendRefs: [{name: shop, port: 80}]}]",
        ),
    );
    until("the new route", async || {
        let asked = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let (answer, _) = client.exchange(to, asked).await;
        answer.ends_with("shop\n").then_some(())
    })
    .await;
    assert_eq!(client.get(shop, "/").await.header("x-app"), "shop");
}

#[tokio::test]
async fn what_leads_to_nobody_is_closed_and_told() {
    let mesh = Mesh::new();
    let to = named(&mesh, &["db"]).await;
    mesh.manifest(
        "route.yaml",
        &route(
            "TCPRoute",
            "rules: [{backendRefs: [{name: gone, port: 80}]}]",
        ),
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(who(&client, to).await, "");
    let gone =
        "TCPRoute default/db (no effect): spec.rules[0].backendRefs[0]: no Service default/gone";
    waypoint.until_problem(gone).await;
    mesh.manifest(
        "route.yaml",
        &route(
            "TCPRoute",
            "rules: [{backendRefs: [{name: db, port: 80, weight: 0}]}]",
        ),
    );
    waypoint.until_problem("no backend has a weight").await;
    assert_eq!(who(&client, to).await, "");
}

#[tokio::test]
async fn a_tls_route_counts_where_its_name_is_the_services() {
    let mesh = Mesh::new();
    let to = named(&mesh, &["db", "replica"]).await;
    let spec =
        |names: &str| format!("{names}rules: [{{backendRefs: [{{name: replica, port: 80}}]}}]");
    let own = "hostnames: [db.default.svc.cluster.local], ";
    mesh.manifest("route.yaml", &route("TLSRoute", &spec(own)));
    let (waypoint, client) = mesh.started().await;
    assert_eq!(who(&client, to).await, "replica");
    let other = "hostnames: [elsewhere.example], ";
    mesh.manifest("route.yaml", &route("TLSRoute", &spec(other)));
    until("the own service", async || {
        (who(&client, to).await == "db").then_some(())
    })
    .await;
    waypoint
        .until_problem("TLSRoute default/db (no effect): spec.hostnames: ")
        .await;
    mesh.manifest("route.yaml", &route("TLSRoute", &spec(own)));
    until("the route", async || {
        (who(&client, to).await == "replica").then_some(())
    })
    .await;
}
