//! Every key of a case of `waypoint test`: with what holds it passes, and with anything else it fails and says so.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;

/// The public part of a key that is kept nowhere, and a token of it that is good to the end of the century.
const KEYS: &str = r#"{"keys":[{"kty":"RSA","alg":"RS256","kid":"k","e":"AQAB","n":"q1xbzI8uih1lBdwwuadZEvGVURpq0tIoc0oiJhHgUWx98S1CdBAg70J_q8hxVL5zOAlLh_WJegc_8YZEXHXPXiKsKQTdCfEA-7cIHayPKrLIlTGs3y9LQdgBXR-TQfqvfi0GapNKpKL3HSmXX9aPc_IV0SEaZ2DIvC73CNoirVdpTnSlnOQ9uSiYcg5QnIHoiI6ppVsrxsRLy9SQbWe-CiKC0FbTsx5GLuCjOTCWJG_YkaGwn4hKPKadGtTewoDS752erONQIa-ufZWlyWkZcuJiCTD6FmVZ_7q7ttkpN6T8kDBx-w-Ru3eLl7oMxZAM_1-UaRS7dymDVU-gFSFGnQ"}]}"#;
const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci50ZXN0Iiwic3ViIjoiYm9zcyIsImV4cCI6NDEwMjQ0NDgwMH0.P6wPw0mIWMrYOchVAxEtwb_HhixsC86NARQun8ssrs_qOadjJa6djPTfYYdecV6Yf1avz8lP2e9impr2neNfVZ_3J3mqemhssbQ6vGi2EzhJ14bkKGWRVtKziUG5p69dQj9-gXgwXYiXsuKnQaX-xiAYajj4NxjNos6IeeNUL2iMbESBimyZtePPg7KC7ihok0KB_Lfl72FvwNSVYG02PUaCQgTQzH0iq7WqhrMj9xDahNAvmc7ZosLZtClwBTK1BWdsAaCErC5Wx8dd41aSVZpqZFgBy64wMdL9VAyAbpUyjIlMy9BJULBTtzw-l_RUaPDLr65f-0_P39CXK4KFhA";

const MESH: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint, namespace: shop}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: one, namespace: shop, labels: {app: web}}, spec: {containers: [{name: a, image: a}]}, status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.0.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: new, namespace: shop}, spec: {clusterIP: 10.0.0.2, selector: {app: web}, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.0.0.3, selector: {app: web}, ports: [{name: tcp, port: 90}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
  - matches: [{path: {value: /api}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-tier, value: gold}], remove: [x-debug]}}
    backendRefs: [{name: web, port: 80, weight: 3}, {name: new, port: 80, weight: 1}]
  - backendRefs: [{name: web, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: members, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  rules:
  - from: [{source: {namespaces: [shop]}}]
  - from: [{source: {ipBlocks: [10.9.0.0/16]}}]
  - from: [{source: {requestPrincipals: ["https://issuer.test/boss"]}}]
  - when: [{key: "request.headers[x-key]", values: [sesame]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: trial, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/api/*"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: named, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  targetRefs: [{group: "", kind: Service, name: new}]
  rules: [{from: [{source: {namespaces: [shop]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: db, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: db}]
  rules: [{when: [{key: connection.sni, values: [db.test]}]}]
"#;

/// A folder of the test's own; removed with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("waypoint-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("mesh")).unwrap();
        let tokens = format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: t, namespace: shop}}, spec: \
             {{targetRefs: [{{group: '', kind: Service, name: web}}], jwtRules: [{{issuer: 'https://issuer.test', jwks: '{KEYS}'}}]}}}}\n"
        );
        std::fs::write(path.join("mesh/all.yaml"), MESH.to_owned() + &tokens).unwrap();
        Folder(path)
    }

    /// Whether a case of these keys holds, and what is said.
    fn test(&self, keys: &str) -> (bool, String) {
        let cases = self.0.join("cases.yaml");
        std::fs::write(&cases, format!("cases: [{{name: it, {keys}}}]\n")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypoint"));
        let output = command
            .args(["test", "-f"])
            .args([self.0.join("mesh"), cases])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }
}

const MEMBER: &str = "from: shop/a, request: GET http://web.shop/api/1";

#[test]
fn each_expectation_holds_or_fails() {
    let folder = Folder::new("expectations");
    let old = "from: shop/a, request: GET http://web.shop/old";
    let new = "from: other/a, request: GET http://new.shop/";
    for (request, holds, differs) in [
        (MEMBER, "outcome: forwarded", "outcome: denied"),
        (old, "status: 301", "status: 302"),
        (old, "location: 'http://web.shop/new'", "location: none"),
        (MEMBER, "policy: shop/members", "policy: shop/trial"),
        (MEMBER, "dryRun: shop/trial", "dryRun: none"),
        (old, "dryRun: none", "dryRun: shop/trial"),
        (new, "dryRun: shop/named", "dryRun: none"),
        (MEMBER, "route: shop.web.1", "route: shop.web.2"),
        (
            MEMBER,
            "backends: {web: 75, new: 25}",
            "backends: {web: 75}",
        ),
        (MEMBER, "path: /v2/1", "path: /api/1"),
        (MEMBER, "headers: {X-Tier: gold}", "headers: {x-tier: null}"),
        (
            "from: shop/a, request: GET http://web.shop/api/1, headers: {x-debug: 'yes'}",
            "headers: {x-debug: null}",
            "headers: {x-debug: 'yes'}",
        ),
    ] {
        let (passes, said) = folder.test(&format!("{request}, expect: {{{holds}}}"));
        assert!(passes, "{holds}: {said}");
        let (passes, said) = folder.test(&format!("{request}, expect: {{{differs}}}"));
        assert!(!passes && said.contains("FAILED it"), "{differs}: {said}");
        let (key, _) = differs.split_once(':').unwrap();
        let key = key.trim_end_matches('s');
        assert!(
            said.contains(key) && said.contains("got "),
            "{differs}: {said}"
        );
    }
}

#[test]
fn each_part_of_a_request_decides() {
    let folder = Folder::new("requests");
    let web = "request: GET http://web.shop/";
    let token = format!("from: other/a, jwt: {TOKEN}, {web}");
    for (request, outcome) in [
        (format!("from: shop/a, {web}"), "forwarded"),
        (
            format!("from: spiffe://cluster.local/ns/shop/sa/a, {web}"),
            "forwarded",
        ),
        (format!("from: other/a, {web}"), "denied"),
        (
            format!("from: other/a, sourceIP: 10.9.1.1, {web}"),
            "forwarded",
        ),
        (
            format!("from: other/a, sourceIP: 10.8.1.1, {web}"),
            "denied",
        ),
        (
            format!("from: other/a, headers: {{x-key: sesame}}, {web}"),
            "forwarded",
        ),
        (
            format!("from: other/a, headers: {{x-key: x}}, {web}"),
            "denied",
        ),
        (token.clone(), "forwarded"),
        (token.replace("jwt: ey", "jwt: yy"), "denied"),
        // `to` is where it goes, whatever the URL says.
        (
            format!("from: other/a, to: 'new.shop:80', {web}"),
            "forwarded",
        ),
        (
            format!("from: shop/a, to: '10.0.0.9:80', {web}"),
            "unserved",
        ),
        (
            "from: shop/a, to: 'db.shop:90', sni: db.test, request: GET /".to_owned(),
            "forwarded",
        ),
        (
            "from: shop/a, to: 'db.shop:90', sni: x.test, request: GET /".to_owned(),
            "denied",
        ),
        (
            "from: shop/a, to: 'db.shop:90', request: GET /".to_owned(),
            "denied",
        ),
    ] {
        let (passes, said) = folder.test(&format!("{request}, expect: {{outcome: {outcome}}}"));
        assert!(passes, "{request}: {said}");
    }
}
