//! Keys of tokens that are fetched: when, from whom, and what holds while they can't be.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HttpUri, http_uri::HttpUpstreamType};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwksAsyncFetch, JwtAuthentication, JwtProvider, RemoteJwks, jwt_provider::JwksSourceSpecifier,
};
use envoy_types::pb::google::protobuf::Duration as DurationProto;
use waypoint_config::resource::ResourceType;
use waypoint_tests::Mesh;
use waypoint_tests::key_server::{Answers, KeyServer};
use waypoint_tests::request_authentication::{authentication, provider};
use waypoint_tests::tokens::{Signer, claims, key_set};
use waypoint_tests::wait::until;

use crate::tokens::{ISSUER, Scene};

const FETCHES: &str = "waypoint_jwks_fetches_total";

/// Keys are old after this.
const BRIEF: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(600);

/// A mesh with a server of keys, and its provider.
async fn mesh(answers: Answers, cache: Duration) -> (Mesh, KeyServer, JwtAuthentication) {
    let mesh = Mesh::new();
    let (_, backend) = mesh.bare_service(2, "keys");
    let server = KeyServer::start(backend, answers).await;
    let clusters = mesh.resources().into_iter();
    let cluster = clusters
        .filter(|resource| resource.kind == ResourceType::Cluster)
        .find(|resource| resource.name.contains("keys.default"));
    let authentication = authentication(vec![remote(&cluster.unwrap().name, cache)]);
    (mesh, server, authentication)
}

fn remote(cluster: &str, cache: Duration) -> JwtProvider {
    let duration = |time: Duration| {
        Some(DurationProto {
            seconds: time.as_secs().try_into().unwrap(),
            nanos: time.subsec_nanos().try_into().unwrap(),
        })
    };
    JwtProvider {
        jwks_source_specifier: Some(JwksSourceSpecifier::RemoteJwks(RemoteJwks {
            http_uri: Some(HttpUri {
                uri: "http://keys.test:8443/jwks?v=1".into(),
                timeout: duration(Duration::from_secs(2)),
                http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.into())),
            }),
            cache_duration: duration(cache),
            async_fetch: Some(JwksAsyncFetch {
                fast_listener: true,
                failed_refetch_duration: duration(BRIEF),
            }),
            retry_policy: None,
        })),
        ..provider(ISSUER, "")
    }
}

#[tokio::test]
async fn keys_are_fetched_once_for_all_and_stay_while_the_configuration_changes() {
    let signer = Signer::new("ES256", "k1");
    let keys = Answers::With(key_set(&[&signer]));
    let (mesh, server, authentication) = mesh(keys, LONG).await;
    let scene = Scene::start(mesh, &authentication).await;
    let token = signer.token(&claims(ISSUER, "someone"));
    assert_eq!(scene.refuses(&token).await, None);
    assert_eq!(server.asked(), ["GET /jwks?v=1 HTTP/1.1 keys.test:8443"]);
    for n in 0..5 {
        let policy = crate::authorization::policy(&format!("p{n}"), "web", ", rules: [{}]");
        scene.mesh.manifest("policy.yaml", &policy);
        scene.push(&authentication);
        assert_eq!(scene.refuses(&token).await, None);
    }
    assert_eq!(server.asked().len(), 1);
    scene
        .waypoint
        .until_metric(FETCHES, &[("result", "success")], 1.0)
        .await;
    assert_eq!(scene.waypoint.problems().await, "");
}

#[tokio::test]
async fn keys_rotate_and_those_before_prove_nothing_any_more() {
    let (old, new) = (Signer::new("ES256", "old"), Signer::new("RS256", "new"));
    let keys = Answers::With(key_set(&[&old]));
    let (mesh, server, authentication) = mesh(keys, BRIEF).await;
    let scene = Scene::start(mesh, &authentication).await;
    let [by_old, by_new] = [&old, &new].map(|signer| signer.token(&claims(ISSUER, "x")));
    assert_eq!(scene.refuses(&by_old).await, None);
    assert!(scene.refuses(&by_new).await.is_some());
    server.set(Answers::With(key_set(&[&old, &new])));
    until("the new key", async || {
        scene.refuses(&by_new).await.is_none().then_some(())
    })
    .await;
    assert_eq!(scene.refuses(&by_old).await, None);
    server.set(Answers::With(key_set(&[&new])));
    let refused = until("the old key's end", async || scene.refuses(&by_old).await).await;
    assert_eq!(
        refused,
        "Jwks doesn't have key to match kid or alg from Jwt"
    );
    assert_eq!(scene.refuses(&by_new).await, None);
}

#[tokio::test]
async fn the_last_good_keys_stay_when_no_others_can_be_had() {
    let signer = Signer::new("ES256", "k1");
    let good = Answers::With(key_set(&[&signer]));
    let (mesh, server, authentication) = mesh(good.clone(), BRIEF).await;
    let scene = Scene::start(mesh, &authentication).await;
    let token = signer.token(&claims(ISSUER, "x"));
    assert_eq!(scene.refuses(&token).await, None);
    for (answers, result, told) in [
        (Answers::Status(503), "status", "the answer is 503"),
        (
            Answers::With("{}".into()),
            "no_key_set",
            "has no list [keys]",
        ),
        (
            Answers::Large(600 * 1024),
            "too_large",
            "the answer is too large",
        ),
        (
            Answers::Late(Duration::from_secs(9), String::new()),
            "timeout",
            "its time is over",
        ),
        (Answers::Not, "broken_off", "the exchange broke off"),
    ] {
        server.set(answers);
        let problem = scene.waypoint.until_problem(told).await;
        assert!(
            problem.starts_with("tokens of \"https://issuer.test\": its keys can't be fetched from http://keys.test:8443/jwks?v=1: ")
                && problem.ends_with("; those before stay\n"),
            "{problem}"
        );
        assert!(scene.waypoint.metric(FETCHES, &[("result", result)]).await >= 1.0);
        assert_eq!(scene.refuses(&token).await, None, "{told}");
        server.set(good.clone());
        until("no problem", async || {
            scene.waypoint.problems().await.is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn without_keys_no_token_is_good_and_the_first_fetch_is_waited_for() {
    let signer = Signer::new("ES256", "k1");
    let (mesh, server, authentication) = mesh(Answers::Status(500), LONG).await;
    let scene = Scene::start(mesh, &authentication).await;
    let token = signer.token(&claims(ISSUER, "x"));
    assert_eq!(
        scene.refuses(&token).await.as_deref(),
        Some("Jwks remote fetch is failed")
    );
    let problem = scene.waypoint.until_problem("500").await;
    assert!(problem.contains("no token is accepted"), "{problem}");
    // Who has none isn't concerned.
    assert_eq!(scene.get("/", &[]).await.status, http::StatusCode::OK);
    let slowly = Answers::Late(Duration::from_millis(400), key_set(&[&signer]));
    server.set(slowly);
    until("the keys", async || {
        scene.refuses(&token).await.is_none().then_some(())
    })
    .await;
    // Another configuration has no keys yet: who shows a token waits for them.
    let mut other = authentication;
    let provider = other.providers.get_mut("origins-0").unwrap();
    provider.forward = true;
    scene.push(&other);
    until("the other configuration", async || {
        assert_eq!(scene.refuses(&token).await, None);
        let seen = scene.app.last();
        (!seen.header("authorization").is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_fetched_for_configuration_that_is_gone() {
    let signer = Signer::new("ES256", "k1");
    let keys = Answers::With(key_set(&[&signer]));
    let (mesh, server, authentication) = mesh(keys, BRIEF).await;
    let scene = Scene::start(mesh, &authentication).await;
    until("fetches", async || (server.asked().len() > 3).then_some(())).await;
    scene.istiod.discovery.set(scene.mesh.resources());
    until("no filter", async || {
        scene.refuses("x").await.is_none().then_some(())
    })
    .await;
    let asked = until("quiet", async || {
        let asked = server.asked().len();
        tokio::time::sleep(4 * BRIEF).await;
        (server.asked().len() == asked).then_some(asked)
    })
    .await;
    assert!(asked > 3);
}
