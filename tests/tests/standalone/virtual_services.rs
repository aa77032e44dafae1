//! VirtualService: rules in the order in which they are written, what they do with requests, delegates, subsets, age, TCP.

use std::net::SocketAddr;
use std::time::Instant;

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{Answer, App, Mesh, Ztunnel};

fn virtual_service(name: &str, created: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: {name}, namespace: default, creationTimestamp: '{created}'}}\nspec:\n{spec}"
    )
}

const OLDER: &str = "2026-01-01T00:00:00Z";
const YOUNGER: &str = "2026-02-01T00:00:00Z";

/// Services `shop`, `cart` and `till`, each with a pod that says its name; the address of the first.
async fn three(mesh: &Mesh) -> (SocketAddr, [App; 3]) {
    let (to, shop) = mesh.http_service(1, "shop").await;
    let (_, cart) = mesh.http_service(2, "cart").await;
    let (_, till) = mesh.http_service(3, "till").await;
    (to, [shop, cart, till])
}

async fn ask(
    client: &Ztunnel,
    to: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    client.request(to, request(method, path, headers)).await
}

const ALL: &str = r#"
  hosts: [shop]
  http:
  - name: users
    match:
    - {uri: {prefix: /by}, headers: {x-user: {regex: "j.*n"}}, withoutHeaders: {x-no: {}}, queryParams: {q: {exact: "1"}}, ignoreUriCase: true}
    - {uri: {exact: /put}, method: {exact: PUT}, authority: {prefix: shop}}
    route: [{destination: {host: cart}}]
    headers: {request: {set: {x-set: "a %PROTOCOL%"}, remove: [x-gone]}, response: {add: {x-answered: "yes"}}}
  - match: [{uri: {prefix: /share}}]
    route:
    - {destination: {host: cart.default.svc.cluster.local}, weight: 3}
    - {destination: {host: till, port: {number: 80}}, weight: 1, headers: {request: {set: {x-till: "yes"}}}}
  - match: [{uri: {exact: /moved}}]
    redirect: {uri: /new, authority: new.test, scheme: https, port: 8443, redirectCode: 308}
  - match: [{uri: {prefix: /teapot}}]
    directResponse: {status: 418, body: {bytes: c2hvcnQ=}}
    headers: {response: {set: {content-type: text/short}}}
  - match: [{uri: {prefix: /rw/}}]
    rewrite: {uri: /, authority: other.test}
    route: [{destination: {host: till}}]
  - match: [{uri: {prefix: /rx/}}]
    rewrite: {uriRegexRewrite: {match: "^/rx/([a-z]+)/.*", rewrite: '/\1'}}
    route: [{destination: {host: till}}]
  - match: [{uri: {prefix: /abort}}]
    fault: {abort: {httpStatus: 451, percentage: {value: 100}}}
    route: [{destination: {host: till}}]
  - match: [{uri: {prefix: /late}}]
    fault: {delay: {fixedDelay: 300ms, percentage: {value: 100}}}
    route: [{destination: {host: till}}]
  - match: [{uri: {prefix: /copied}}]
    route: [{destination: {host: till}}]
    mirrors: [{destination: {host: cart}}]
  - match: [{uri: {prefix: /cors}}]
    corsPolicy: {allowOrigins: [{exact: "https://a.test"}], allowMethods: [PUT], maxAge: 60s}
    route: [{destination: {host: till}}]
  - match: [{uri: {prefix: /retried}}]
    retries: {attempts: 3, retryOn: "503"}
    route: [{destination: {host: till}}]
  - match: [{uri: {prefix: /none}}]
    route: [{destination: {host: shop, subset: none}}]
  - match: [{uri: {prefix: /host}}]
    route: [{destination: {host: till}, headers: {request: {set: {host: set.test}}}}]
"#;

#[tokio::test]
async fn rules_in_their_order_and_what_they_do() {
    let mesh = Mesh::new();
    let (to, [_shop, cart, till]) = three(&mesh).await;
    mesh.manifest("vs.yaml", &virtual_service("shop", OLDER, ALL));
    let (waypoint, client) = mesh.started().await;
    let get = async |path: &str, headers: &[(&str, &str)]| {
        ask(&client, to, Method::GET, path, headers).await
    };

    let john = [("x-user", "john"), ("x-gone", "1")];
    let answer = get("/BY/him?q=1", &john).await;
    assert_eq!(
        (
            answer.header("x-app").as_str(),
            answer.header("x-answered").as_str()
        ),
        ("cart", "yes")
    );
    assert_eq!(cart.last().header("x-set"), "a HTTP/1.1");
    assert_eq!(cart.last().header("x-gone"), "");
    for (path, headers) in [
        ("/by?q=1", &[("x-user", "joe")][..]),
        ("/by?q=2", &john),
        ("/by?q=1", &[("x-user", "john"), ("x-no", "1")]),
        ("/else", &[]),
    ] {
        assert_eq!(
            get(path, headers).await.status,
            StatusCode::NOT_FOUND,
            "{path} {headers:?}"
        );
    }
    let answer = ask(&client, to, Method::PUT, "/put", &[("host", "shop.test")]).await;
    assert_eq!(answer.header("x-app"), "cart");

    cart.forget();
    for _ in 0..40 {
        get("/share", &[]).await;
    }
    let tills = till.seen();
    assert_eq!(cart.seen().len() + tills.len(), 40);
    assert!(
        (20..40).contains(&cart.seen().len()),
        "three of four: {}",
        cart.seen().len()
    );
    assert!(tills.iter().all(|seen| seen.header("x-till") == "yes"));

    let answer = get("/moved", &[]).await;
    assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(answer.header("location"), "https://new.test:8443/new");
    let answer = get("/teapot", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (418, "short")
    );
    assert_eq!(answer.header("content-type"), "text/short");
    get("/rw/a?b=c", &[]).await;
    assert_eq!(till.last().target, "/a?b=c");
    assert_eq!(till.last().header("host"), "other.test");
    get("/rx/abc/def", &[]).await;
    assert_eq!(till.last().target, "/abc");
    get("/host", &[]).await;
    assert_eq!(till.last().header("host"), "set.test");

    assert_eq!(get("/abort", &[]).await.status.as_u16(), 451);
    let asked = Instant::now();
    assert_eq!(get("/late", &[]).await.header("x-app"), "till");
    assert!(asked.elapsed().as_millis() >= 300);
    cart.forget();
    assert_eq!(get("/copied", &[]).await.header("x-app"), "till");
    until("a copy", async || cart.seen().pop()).await;
    let preflight = [
        ("origin", "https://a.test"),
        ("access-control-request-method", "PUT"),
    ];
    let answer = ask(&client, to, Method::OPTIONS, "/cors", &preflight).await;
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://a.test"
    );
    assert_eq!(answer.header("access-control-max-age"), "60");
    till.forget();
    till.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    get("/retried", &[]).await;
    assert_eq!(till.seen().len(), 4);

    // A subset that no cluster is for.
    assert_eq!(
        get("/none", &[]).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let problems = waypoint.problems().await;
    let told =
        "spec.http[11].route[0].destination: shop.default.svc.cluster.local has no subset \"none\"";
    assert!(
        problems.contains(told) && problems.trim().lines().count() == 1,
        "{problems}"
    );

    let path = "/explain?format=json&from=default/curl&to=shop.default:80&url=/moved";
    let (status, body) = http_get(waypoint.running.admin_addr, path).await;
    assert!(
        status == 200 && body.contains("https://new.test:8443/new"),
        "{body}"
    );
}

#[tokio::test]
async fn delegates_age_and_routes_of_the_gateway_api() {
    let mesh = Mesh::new();
    let (to, _apps) = three(&mesh).await;
    let root = "  hosts: ['*.default.svc.cluster.local']\n  http: [{match: [{uri: {prefix: /d}}], delegate: {name: leaf}}]\n";
    let leaf = "  http:\n  - {match: [{uri: {prefix: /d/cart}}], route: [{destination: {host: cart}}]}\n\
                \x20 - {match: [{uri: {prefix: /other}}], route: [{destination: {host: cart}}]}\n\
                \x20 - {route: [{destination: {host: till}}]}\n";
    let rest = "  hosts: [shop]\n  http: [{match: [{uri: {prefix: /}}], route: [{destination: {host: shop}}]}]\n";
    let to_till = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: default}\n\
        spec: {parentRefs: [{group: '', kind: Service, name: shop}], rules: [{matches: [{path: {value: /route}}], backendRefs: [{name: till, port: 80}]}]}\n";
    let delegated = virtual_service("root", OLDER, root) + &virtual_service("leaf", OLDER, leaf);
    let manifest = delegated + &virtual_service("rest", YOUNGER, rest);
    mesh.manifest("vs.yaml", &manifest);
    mesh.manifest("route.yaml", to_till);
    let (waypoint, client) = mesh.started().await;
    let who = async |path: &str| client.get(to, path).await.header("x-app");
    for (path, app) in [
        ("/d/cart", "cart"),
        ("/d", "till"),
        ("/other", "shop"),
        // The waypoint's own namespace's routes stand before all public VirtualServices.
        ("/route", "till"),
    ] {
        assert_eq!(who(path).await, app, "{path}");
    }
    waypoint
        .until_problem(
            "VirtualService default/leaf (no effect): spec.http[1].match: not all of it is within",
        )
        .await;
    // One that only this namespace sees stands before routes of the Gateway API.
    let private = rest.replace("hosts:", "exportTo: ['.']\n  hosts:");
    mesh.manifest("vs.yaml", &virtual_service("rest", YOUNGER, &private));
    until("the private one", async || {
        (who("/route").await == "shop").then_some(())
    })
    .await;
    waypoint
        .until_problem("HTTPRoute default/r (no effect): spec.rules[0]: no request gets here: spec.http[0] of VirtualService default/rest")
        .await;
    mesh.remove_manifest("vs.yaml");
    until("the route alone", async || {
        (who("/route").await == "till").then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_follow_rules_of_tcp_and_tls() {
    let mesh = Mesh::new();
    for (n, name) in (1..).zip(["db", "replica"]) {
        let (_, backend) = mesh.bare_tcp_service(n, name);
        App::tcp(backend, move |mut tcp| async move {
            let mut asked = [0; 3];
            let _ = tcp.read_exact(&mut asked).await;
            let _ = tcp.write_all(name.as_bytes()).await;
        })
        .await;
    }
    let to = mesh.vip(1);
    let rule = |rule: &str| {
        let spec = format!("  hosts: [db.default.svc.cluster.local]\n  {rule}\n");
        virtual_service("db", OLDER, &spec)
    };
    let to_replica = "route: [{destination: {host: replica}}]";
    mesh.manifest(
        "vs.yaml",
        &rule(&format!("tcp: [{{match: [{{port: 80}}], {to_replica}}}]")),
    );
    let (waypoint, client) = mesh.started().await;
    let who = async || {
        let asked = async {
            let mut stream = client.tunnel(to).await;
            let mut answer = Vec::new();
            let _ = stream.write_all(b"who").await;
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        };
        within("an answer or an end", asked).await
    };
    assert_eq!(who().await, "replica");
    assert_eq!(waypoint.problems().await, "");
    mesh.manifest(
        "vs.yaml",
        &rule(&format!("tcp: [{{match: [{{port: 81}}], {to_replica}}}]")),
    );
    until("the service itself", async || {
        (who().await == "db").then_some(())
    })
    .await;
    let own = "sniHosts: [db.default.svc.cluster.local]";
    mesh.manifest(
        "vs.yaml",
        &rule(&format!("tls: [{{match: [{{{own}}}], {to_replica}}}]")),
    );
    until("the rule of tls", async || {
        (who().await == "replica").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_added_stays_beside_what_is_set() {
    let mesh = Mesh::new();
    let (to, [_, cart, _]) = three(&mesh).await;
    let rule = "  hosts: [shop]\n  http:\n  - headers: {request: {add: {x-user: added}}}\n    \
                route: [{destination: {host: cart}, headers: {request: {set: {x-user: set}}}}]\n";
    mesh.manifest("vs.yaml", &virtual_service("shop", OLDER, rule));
    let (_waypoint, client) = mesh.started().await;
    let own = [("x-user", "own")];
    ask(&client, to, Method::GET, "/", &own).await;
    let seen = cart.last();
    let values: Vec<_> = seen.headers.get_all("x-user").iter().collect();
    // istiod makes one list of both; in Envoy what replaces others goes first.
    assert_eq!(values, ["set", "added"]);
}
