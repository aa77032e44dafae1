//! What `/explain` says of a request is what becomes of it, and asking sends nothing.

use std::process::Command;

use http::{Method, StatusCode};
use serde_json::Value;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::tokens::{Signer, claims, key_set};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{Mesh, Waypoint};

use crate::authorization::policy;

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - name: moved
    matches: [{path: {type: PathPrefix, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  - name: beta
    matches: [{headers: [{name: x-beta, value: 'yes'}]}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /beta}}
    backendRefs: [{name: web, port: 80}]
  - name: rest
    matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{name: web, port: 80, weight: 3}, {name: other, port: 80, weight: 1}]
";

fn policies() -> [String; 2] {
    let allow = ", action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}], \
                 to: [{operation: {methods: [GET, PUT], paths: ['/a*', /old, /beta]}}]}]";
    let deny = ", action: DENY, rules: [{to: [{operation: {notPaths: [/nothing]}}], \
                when: [{key: 'request.headers[x-role]', values: [guest]}]}, {to: [{operation: {methods: [PUT]}}]}]";
    [policy("allow", "web", allow), policy("deny", "web", deny)]
}

async fn asked(waypoint: &Waypoint, query: &str) -> Value {
    let path = format!("/explain?format=json&{query}");
    let (status, body) = http_get(waypoint.running.admin_addr, &path).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn what_is_explained_is_what_happens() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (_, other) = mesh.http_service(2, "other").await;
    for (n, text) in policies().iter().enumerate() {
        mesh.manifest(&format!("policy-{n}.yaml"), text);
    }
    mesh.manifest("route.yaml", ROUTE);
    let (waypoint, friend) = mesh.started().await;
    let stranger = mesh.client(&waypoint, "elsewhere", "stranger").await;
    let clients = [
        (&friend, "default/client"),
        (&stranger, "elsewhere/stranger"),
    ];
    let methods = [Method::GET, Method::PUT, Method::POST];
    let paths = ["/a/1", "/b", "/old", "/a%2e./x", "//a"];
    let heads: [&[(&str, &str)]; 3] = [&[], &[("x-role", "guest")], &[("x-beta", "yes")]];
    let mut outcomes = std::collections::BTreeSet::new();
    for (client, from) in clients {
        for method in &methods {
            for path in paths {
                for head in heads {
                    app.forget();
                    other.forget();
                    let headers: String = head
                        .iter()
                        .map(|(n, v)| format!("&header={n}:{v}"))
                        .collect();
                    let escaped = path.replace('%', "%25");
                    let query = format!(
                        "from={from}&method={method}&url={escaped}&to=web.default:80{headers}"
                    );
                    let said = asked(&waypoint, &query).await;
                    assert!(
                        app.seen().is_empty() && other.seen().is_empty(),
                        "sent: {query}"
                    );
                    let answer = client
                        .request(to, request(method.clone(), path, head))
                        .await;
                    let seen = app.seen().into_iter().chain(other.seen()).next();
                    let outcome = said["verdict"]["outcome"].as_str().unwrap();
                    outcomes.insert(outcome.to_owned());
                    match seen {
                        Some(seen) => {
                            assert_eq!(outcome, "forwarded", "{query}: {said:#}");
                            assert_eq!(said["upstream"]["target"], seen.target, "{query}");
                        }
                        None => {
                            assert_eq!(
                                said["verdict"]["status"],
                                answer.status.as_u16(),
                                "{query}"
                            );
                            let denied = answer.status == StatusCode::FORBIDDEN;
                            assert_eq!(outcome == "denied", denied, "{query}: {said:#}");
                        }
                    }
                }
            }
        }
    }
    assert_eq!(outcomes.len(), 3, "each happened: {outcomes:?}");
}

#[tokio::test]
async fn it_says_which_rule_decided_and_what_the_others_missed() {
    let mesh = Mesh::new();
    let _web = mesh.http_service(1, "web").await;
    let _other = mesh.http_service(2, "other").await;
    for (n, text) in policies().iter().enumerate() {
        mesh.manifest(&format!("policy-{n}.yaml"), text);
    }
    mesh.manifest("route.yaml", ROUTE);
    let (waypoint, _client) = mesh.started().await;
    let said = asked(
        &waypoint,
        "from=default/a&url=http://web/a&header=x-role:guest",
    )
    .await;
    let deny = &said["policies"][0];
    assert_eq!(
        (&deny["action"], &deny["allowed"]),
        (&"DENY".into(), &false.into())
    );
    let rule = &deny["rules"][0];
    assert_eq!(
        (
            &rule["namespace"],
            &rule["policy"],
            &rule["rule"],
            &rule["matches"]
        ),
        (&"default".into(), &"deny".into(), &"0".into(), &true.into())
    );
    let missed = deny["rules"][1]["misses"][0].as_str().unwrap();
    assert_eq!(missed, "method is \"PUT\", and it is \"GET\"");
    assert_eq!(
        said["policies"].as_array().unwrap().len(),
        1,
        "nothing behind it was asked"
    );

    let said = asked(&waypoint, "from=else/a&url=http://web.default/a").await;
    let misses = said["policies"][1]["rules"][0]["misses"].to_string();
    assert!(misses.contains("source identity"), "{misses}");
    assert!(
        misses.contains("spiffe://cluster.local/ns/else/sa/a"),
        "{misses}"
    );

    let said = asked(
        &waypoint,
        "from=default/a&url=http://web.default/a&header=x-beta:no",
    )
    .await;
    let routes = said["routes"].as_array().unwrap();
    let misses = |n: usize| routes[n]["misses"].to_string();
    assert_eq!(routes.len(), 3, "{routes:#?}");
    assert!(misses(0).contains("/old"), "{}", misses(0));
    assert!(
        misses(1).contains("header x-beta is \\\"yes\\\", and it is \\\"no\\\""),
        "{}",
        misses(1)
    );
    assert_eq!(misses(2), "[]");
    let clusters = &said["upstream"]["clusters"];
    assert_eq!(
        (&clusters[0]["percent"], &clusters[1]["percent"]),
        (&75.0.into(), &25.0.into())
    );
    assert_eq!(clusters[0]["endpoints"][0]["healthy"], true);

    for (query, says) in [
        ("from=default/a&url=http://nobody/", "serves no nobody"),
        (
            "from=default/a&url=http://web:81/",
            "has no port 81, but 80",
        ),
        (
            "from=spiffe://else/ns/a/sa/b&url=http://web.default/",
            "identities of cluster.local alone",
        ),
        ("from=default/a&url=/&to=10.9.9.9:80", "no service or pod"),
    ] {
        let said = asked(&waypoint, query).await;
        assert_eq!(said["verdict"]["outcome"], "unserved");
        let details = said["verdict"]["details"].as_str().unwrap();
        assert!(details.contains(says), "{details}");
    }
    let (status, body) =
        http_get(waypoint.running.admin_addr, "/explain?from=x&url=http://a/").await;
    assert_eq!((status, body.contains("from \"x\"")), (400, true), "{body}");
}

#[tokio::test]
async fn a_tcp_port_is_explained_by_its_connection() {
    let mesh = Mesh::new();
    let (_, _backend) = mesh.bare_tcp_service(1, "db");
    let allow = ", action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}]}]";
    mesh.manifest("policy.yaml", &policy("allow", "db", allow));
    let (waypoint, _client) = mesh.started().await;
    let said = asked(&waypoint, "from=default/a&url=/&to=db.default:80").await;
    assert_eq!(said["verdict"]["outcome"], "forwarded", "{said:#}");
    let said = asked(&waypoint, "from=other/a&url=/&to=db.default:80").await;
    assert_eq!(said["verdict"]["outcome"], "denied", "{said:#}");
    assert!(said["notes"].to_string().contains("TCP"));
}

#[tokio::test]
async fn a_refused_token_is_told_with_what_to_do_and_a_good_one_with_what_it_proves() {
    let mesh = Mesh::new();
    let _web = mesh.http_service(1, "web").await;
    let signer = Signer::new("ES256", "k1");
    mesh.manifest(
        "tokens.yaml",
        &format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt, namespace: default}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], jwtRules: [{{issuer: 'https://i.test', audiences: [shop], \
             jwks: '{}'}}]}}\n",
            key_set(&[&signer])
        ),
    );
    let boss = ", action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['https://i.test/boss']}}]}]";
    mesh.manifest("policy.yaml", &policy("boss", "web", boss));
    let (waypoint, _client) = mesh.started().await;
    let ask = async |change: serde_json::Value| {
        let mut claims = claims("https://i.test", "boss");
        let all = claims.as_object_mut().unwrap();
        all.insert("aud".into(), "shop".into());
        all.extend(change.as_object().cloned().unwrap_or_default());
        let token = signer.token(&claims);
        let query = format!("from=default/a&url=http://web.default/&jwt={token}");
        asked(&waypoint, &query).await
    };
    let good = ask(serde_json::json!({})).await;
    assert_eq!(good["verdict"]["outcome"], "forwarded", "{good:#}");
    let token = &good["tokens"][0];
    assert_eq!(
        (&token["good"], &token["subject"], &token["place"]),
        (&true.into(), &"boss".into(), &"header authorization".into())
    );
    for (change, failure, advice) in [
        (
            serde_json::json!({"exp": 1000}),
            "Jwt is expired",
            "the client needs a new one",
        ),
        (
            serde_json::json!({"aud": "else"}),
            "Audiences in Jwt are not allowed",
            "it is for else, and taken are those for shop",
        ),
        (
            serde_json::json!({"iss": "https://else.test"}),
            "Jwt issuer is not configured",
            "here tokens are taken of https://i.test",
        ),
    ] {
        let said = ask(change).await;
        assert_eq!(said["verdict"]["outcome"], "denied", "{said:#}");
        let token = &said["tokens"][0];
        assert_eq!(token["failure"], failure);
        let told = token["advice"].as_str().unwrap();
        assert!(told.contains(advice), "{told}");
    }
    let other = ask(serde_json::json!({"sub": "someone"})).await;
    assert_eq!(
        other["verdict"]["deniedBy"], "ALLOW default/boss",
        "{other:#}"
    );
    assert_eq!(
        waypoint
            .metric("waypoint_policy_denials_total", &[("policy", "boss")])
            .await,
        0.0,
        "a question is no denial"
    );
}

#[tokio::test]
async fn who_is_asked_is_told_and_a_server_name_may_be_given() {
    let mesh = Mesh::new();
    let _web = mesh.http_service(1, "web").await;
    let (_, _authz) = mesh.bare_service(2, "authz");
    mesh.manifest(
        "mesh.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
         extensionProviders:\n    - name: ext\n      envoyExtAuthzHttp: {service: authz.default.svc.cluster.local, port: 80}\n",
    );
    let custom =
        ", action: CUSTOM, provider: {name: ext}, rules: [{to: [{operation: {paths: [/asked]}}]}]";
    mesh.manifest("policy.yaml", &policy("custom", "web", custom));
    let (_, _backend) = mesh.bare_tcp_service(3, "db");
    let sni = ", action: ALLOW, rules: [{when: [{key: connection.sni, values: [db.test]}]}]";
    mesh.manifest("sni.yaml", &policy("sni", "db", sni));
    let (waypoint, _client) = mesh.started().await;
    for (path, asks) in [("/asked", true), ("/else", false)] {
        let said = asked(
            &waypoint,
            &format!("from=default/a&url=http://web.default{path}"),
        )
        .await;
        let step = &said["policies"][0];
        assert_eq!(
            (&step["action"], &step["asks"], &step["dryRun"]),
            (&"CUSTOM".into(), &asks.into(), &false.into()),
            "{said:#}"
        );
        assert_eq!(said["notes"].to_string().contains("would be asked"), asks);
        assert_eq!(said["verdict"]["dryRunDeniedBy"], Value::Null);
    }
    for (sni, outcome) in [
        ("&sni=DB.test", "forwarded"),
        ("&sni=x.test", "denied"),
        ("", "denied"),
    ] {
        let said = asked(
            &waypoint,
            &format!("from=default/a&url=/&to=db.default:80{sni}"),
        )
        .await;
        assert_eq!(said["verdict"]["outcome"], outcome, "{said:#}");
    }
}

#[tokio::test]
async fn a_running_pod_is_asked_from_the_command_line() {
    let mesh = Mesh::new();
    let _web = mesh.http_service(1, "web").await;
    for (n, text) in policies().iter().enumerate() {
        mesh.manifest(&format!("policy-{n}.yaml"), text);
    }
    let (waypoint, _client) = mesh.started().await;
    let cases: [(&str, &[&str], i32, &str); 3] = [
        ("GET", &[], 0, "verdict   forwarded\n"),
        ("PUT", &[], 1, "  by      DENY default/deny rule 1\n"),
        (
            "PUT",
            &["--json"],
            1,
            "\"deniedBy\": \"DENY default/deny rule 1\"",
        ),
    ];
    for (method, form, code, says) in cases {
        let pod = waypoint.running.admin_addr.to_string();
        let words = [
            "explain",
            "--pod",
            &pod,
            "--from",
            "default/a",
            method,
            "http://web.default/a",
        ];
        let mut asking = Command::new(env!("CARGO_BIN_EXE_waypoint-under-test"));
        asking.args(words.iter().chain(form));
        let output = tokio::task::spawn_blocking(move || asking.output().unwrap());
        let output = output.await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{method}: {said}");
        assert!(said.contains(says), "{method}: {says:?} in {said}");
    }
}
