//! RequestAuthentication as an istiod sends it: who shows which token, and what policies make of that.

use std::net::SocketAddr;

use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtProvider,
};
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    MetadataMatcher, StringMatcher, ValueMatcher, value_matcher,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use waypoint_tests::request_authentication::{self, authentication, provider};
use waypoint_tests::route_changes::changed;
use waypoint_tests::tokens::{Signer, claims, key_set, now};
use waypoint_tests::ztunnel::{Answer, request};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

use crate::authorization::policy;

pub(super) const ISSUER: &str = "https://issuer.test";

/// A service behind a waypoint that has its configuration from an istiod.
pub(super) struct Scene {
    pub(super) mesh: Mesh,
    pub(super) istiod: ControlPlane,
    pub(super) waypoint: Waypoint,
    pub(super) client: Ztunnel,
    pub(super) to: SocketAddr,
    pub(super) app: App,
}

impl Scene {
    pub(super) async fn start(mesh: Mesh, authentication: &JwtAuthentication) -> Scene {
        let (to, app) = mesh.http_service(1, "web").await;
        let istiod = ControlPlane::start(&mesh).await;
        let resources = request_authentication::with(mesh.resources(), "web", authentication);
        istiod.discovery.set(resources);
        let (waypoint, client) = mesh.started_under(&istiod).await;
        Scene {
            mesh,
            istiod,
            waypoint,
            client,
            to,
            app,
        }
    }

    /// istiod has this now.
    pub(super) fn push(&self, authentication: &JwtAuthentication) {
        let resources = request_authentication::with(self.mesh.resources(), "web", authentication);
        self.istiod.discovery.set(resources);
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.app.forget();
        let asked = request(Method::GET, path, headers);
        self.client.request(self.to, asked).await
    }

    pub(super) async fn show(&self, token: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.get("/", &[("authorization", &bearer)]).await
    }

    /// Whether a token is refused, and with which words.
    pub(super) async fn refuses(&self, token: &str) -> Option<String> {
        let answer = self.show(token).await;
        match answer.status {
            StatusCode::OK => None,
            StatusCode::UNAUTHORIZED => {
                assert!(self.app.seen().is_empty(), "refused and delivered");
                Some(answer.text())
            }
            other => panic!("{other} {}", answer.text()),
        }
    }
}

fn with(mut claims: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn one_provider(signer: &Signer) -> JwtProvider {
    provider(ISSUER, &key_set(&[signer]))
}

#[tokio::test]
async fn principals_and_claims_of_tokens_decide() {
    let signer = Signer::new("RS256", "k1");
    let mesh = Mesh::new();
    mesh.manifest(
        "policy.yaml",
        &policy(
            "p",
            "web",
            r#", rules: [
              {from: [{source: {requestPrincipals: ["https://issuer.test/boss"]}}]},
              {when: [{key: "request.auth.claims[groups]", values: [admins]}]},
              {when: [{key: "request.auth.claims[realm][roles]", values: ["oper*"]}]},
              {when: [{key: "request.auth.claims[scope]", values: [write]}]},
              {when: [{key: request.auth.audiences, values: [api]}, {key: request.auth.presenter, values: [cli]}]}]"#,
        ),
    );
    let scene = Scene::start(mesh, &authentication(vec![one_provider(&signer)])).await;
    let someone = || claims(ISSUER, "someone");
    for (claims, status) in [
        (claims(ISSUER, "boss"), StatusCode::OK),
        (someone(), StatusCode::FORBIDDEN),
        (
            with(someone(), &json!({"groups": ["users", "admins"]})),
            StatusCode::OK,
        ),
        (
            with(someone(), &json!({"groups": "admins"})),
            StatusCode::OK,
        ),
        (
            with(someone(), &json!({"groups": ["users"]})),
            StatusCode::FORBIDDEN,
        ),
        (
            with(someone(), &json!({"realm": {"roles": ["operator"]}})),
            StatusCode::OK,
        ),
        (
            with(someone(), &json!({"realm": {"roles": ["reader"]}})),
            StatusCode::FORBIDDEN,
        ),
        (
            with(someone(), &json!({"scope": "read write"})),
            StatusCode::OK,
        ),
        (
            with(someone(), &json!({"scope": "read writer"})),
            StatusCode::FORBIDDEN,
        ),
        (
            with(someone(), &json!({"aud": ["api", "x"], "azp": "cli"})),
            StatusCode::OK,
        ),
        (
            with(someone(), &json!({"aud": "api", "azp": "other"})),
            StatusCode::FORBIDDEN,
        ),
    ] {
        let token = signer.token(&claims);
        for _ in 0..2 {
            assert_eq!(scene.show(&token).await.status, status, "{claims}");
        }
    }
    let nobody = scene.get("/", &[]).await;
    assert_eq!(nobody.status, StatusCode::FORBIDDEN);
    assert_eq!(nobody.text(), "RBAC: access denied");
}

#[tokio::test]
async fn who_has_no_token_is_let_through_and_who_has_a_bad_one_is_not() {
    let signer = Signer::new("ES256", "k1");
    let mesh = Mesh::new();
    mesh.access_log_format(
        "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(envoy.filters.http.jwt_authn)%",
    );
    let scene = Scene::start(mesh, &authentication(vec![one_provider(&signer)])).await;
    assert_eq!(scene.get("/", &[]).await.status, StatusCode::OK);
    let good = claims(ISSUER, "someone");
    let late = with(good.clone(), &json!({"exp": now() - 61}));
    let answer = scene.show(&signer.token(&late)).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.text(), "Jwt is expired");
    assert_eq!(
        answer.header("www-authenticate"),
        "Bearer realm=\"http://test/\", error=\"invalid_token\""
    );
    scene
        .waypoint
        .until_logged("401 jwt_authn_access_denied{Jwt_is_expired} -")
        .await;
    let stranger = Signer::new("ES256", "k1");
    assert_eq!(
        scene.refuses(&stranger.token(&good)).await.as_deref(),
        Some("Jwt verification fails")
    );
    let good = json!({"iss": ISSUER, "sub": "someone", "nested": {"list": [1, "two"]}});
    let answer = scene.show(&signer.token(&good)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(scene.app.last().header("authorization"), "");
    scene
        .waypoint
        .until_logged(r#"{"payload":{"iss":"https://issuer.test","nested":{"list":[1,"two"]},"sub":"someone"}}"#)
        .await;
}

#[tokio::test]
async fn a_client_cannot_write_what_only_tokens_say() {
    let signer = Signer::new("EdDSA", "k1");
    let claim = |header: &str, claim: &str| JwtClaimToHeader {
        header_name: header.into(),
        claim_name: claim.into(),
        ..JwtClaimToHeader::default()
    };
    let provider = JwtProvider {
        forward: true,
        forward_payload_header: "x-payload".into(),
        claim_to_headers: vec![claim("x-user", "sub"), claim("x-role", "nested.role")],
        ..one_provider(&signer)
    };
    let scene = Scene::start(Mesh::new(), &authentication(vec![provider])).await;
    let spoofed = [
        ("x-user", "root"),
        ("x-role", "admin"),
        ("X-Payload", "e30"),
    ];
    let seen = |name: &str| scene.app.last().header(name);
    assert_eq!(scene.get("/", &spoofed).await.status, StatusCode::OK);
    assert_eq!(
        [seen("x-user"), seen("x-role"), seen("x-payload")],
        ["", "", ""]
    );
    let token = signer.token(&claims(ISSUER, "someone"));
    let bearer = format!("Bearer {token}");
    let shown = [&spoofed[..], &[("authorization", &bearer)]].concat();
    for _ in 0..2 {
        assert_eq!(scene.get("/", &shown).await.status, StatusCode::OK);
        assert_eq!([seen("x-user"), seen("x-role")], ["someone", ""]);
        assert_eq!(seen("x-payload"), token.split('.').nth(1).unwrap());
        assert_eq!(seen("authorization"), bearer);
    }
}

#[tokio::test]
async fn a_late_token_is_refused_though_it_is_remembered() {
    let signer = Signer::new("PS256", "k1");
    let provider = JwtProvider {
        clock_skew_seconds: 1,
        ..one_provider(&signer)
    };
    let scene = Scene::start(Mesh::new(), &authentication(vec![provider])).await;
    let token = signer.token(&json!({"iss": ISSUER, "exp": now() + 1}));
    assert_eq!(scene.refuses(&token).await, None);
    waypoint_tests::wait::until("the token's end", async || {
        let refused = scene.refuses(&token).await?;
        assert_eq!(refused, "Jwt is expired");
        Some(())
    })
    .await;
}

const BY_ROLE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{headers: [{name: x-role, value: admin}]}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: admins.example, statusCode: 302}}]
  - backendRefs: [{name: web, port: 80}]
"#;

#[tokio::test]
async fn a_claim_chooses_the_route_and_a_client_does_not() {
    let signer = Signer::new("RS512", "k1");
    let provider = JwtProvider {
        claim_to_headers: vec![JwtClaimToHeader {
            header_name: "x-role".into(),
            claim_name: "role".into(),
            ..JwtClaimToHeader::default()
        }],
        ..one_provider(&signer)
    };
    let mesh = Mesh::new();
    mesh.manifest("route.yaml", BY_ROLE);
    let scene = Scene::start(mesh, &authentication(vec![provider])).await;
    let spoofed = scene.get("/", &[("x-role", "admin")]).await;
    assert_eq!(spoofed.status, StatusCode::OK);
    let role = |role: &str| signer.token(&with(claims(ISSUER, "x"), &json!({"role": role})));
    assert_eq!(scene.show(&role("admin")).await.status, StatusCode::FOUND);
    assert_eq!(scene.show(&role("reader")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_claim_that_no_header_tells_chooses_the_route() {
    let signer = Signer::new("ES256", "k1");
    let provider = JwtProvider {
        clear_route_cache: true,
        ..one_provider(&signer)
    };
    let authentication = authentication(vec![provider]);
    let mesh = Mesh::new();
    mesh.manifest("route.yaml", BY_ROLE);
    let scene = Scene::start(mesh, &authentication).await;
    let key = |key: &str| PathSegment {
        segment: Some(Segment::Key(key.to_owned())),
    };
    let admin = StringMatcher {
        match_pattern: Some(MatchPattern::Exact("admin".to_owned())),
        ..StringMatcher::default()
    };
    let role = MetadataMatcher {
        filter: "envoy.filters.http.jwt_authn".to_owned(),
        path: vec![key("payload"), key("role")],
        value: Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(admin)),
        }),
        ..MetadataMatcher::default()
    };
    let by_metadata = changed(scene.mesh.resources(), |host| {
        let matches = host.routes.iter_mut().filter_map(|r| r.r#match.as_mut());
        for found in matches.filter(|found| !found.headers.is_empty()) {
            found.headers.clear();
            found.dynamic_metadata = vec![role.clone()];
        }
    });
    let resources = request_authentication::with(by_metadata, "web", &authentication);
    scene.istiod.discovery.set(resources);
    scene.istiod.discovery.until_answered().await;
    assert_eq!(scene.istiod.discovery.refusals(), [""; 0]);
    let token = |role: &str| signer.token(&with(claims(ISSUER, "x"), &json!({"role": role})));
    assert_eq!(scene.show(&token("admin")).await.status, StatusCode::FOUND);
    assert_eq!(scene.show(&token("reader")).await.status, StatusCode::OK);
    let told = scene.get("/", &[("x-role", "admin")]).await;
    assert_eq!(told.status, StatusCode::OK);
}

#[tokio::test]
async fn grpc_is_told_in_its_own_way() {
    let signer = Signer::new("ES384", "k1");
    let scene = Scene::start(Mesh::new(), &authentication(vec![one_provider(&signer)])).await;
    let grpc = [
        ("content-type", "application/grpc"),
        ("authorization", "Bearer x.y.z"),
    ];
    let answer = scene.get("/", &grpc).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("grpc-status"), "16");
    assert_eq!(
        answer.header("grpc-message"),
        "Jwt header is an invalid Base64url encoded"
    );
    assert!(scene.app.seen().is_empty());
}

#[tokio::test]
async fn keys_that_are_none_are_refused_by_name() {
    let signer = Signer::new("ES512", "k1");
    let scene = Scene::start(Mesh::new(), &authentication(vec![one_provider(&signer)])).await;
    scene.push(&authentication(vec![provider(ISSUER, "{\"keys\": []}")]));
    let problem = scene
        .waypoint
        .until_problem("providers[\"origins-0\"]")
        .await;
    assert!(
        problem.contains("local_jwks.inline_string: the key set has no key that can be used"),
        "{problem}"
    );
    // What was good before stays.
    assert_eq!(
        scene.refuses(&signer.token(&claims(ISSUER, "x"))).await,
        None
    );
    assert!(scene.refuses("x").await.is_some());
}
