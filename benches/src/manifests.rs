//! The mesh of one arrangement, as manifests, and what its requests have to bring along.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use waypoint_tests::tokens::{Signer, key_set};

use crate::scene::{ASKED, ASKED_PORT, Arrangement, More, VIP};

const SHADOW: Ipv4Addr = Ipv4Addr::new(10, 96, 30, 2);
const AUTHZ: Ipv4Addr = Ipv4Addr::new(10, 96, 30, 3);
const ISSUER: &str = "https://issuer.test";

/// The manifests of an arrangement in this folder, and the tokens that its requests bring along.
pub(crate) fn of(arrangement: Arrangement, folder: &Path) -> (String, Vec<String>) {
    let more = arrangement.more;
    let (log, encoding) = match (arrangement.access_log, more) {
        (true, _) => ("/dev/stdout".to_owned(), "TEXT"),
        (_, More::JsonLog) => (folder.join("access.log").display().to_string(), "JSON"),
        _ => (String::new(), "TEXT"),
    };
    let metrics = match more {
        More::NoMetrics => "",
        _ => "prometheus",
    };
    let port = match more {
        More::Grpc => "grpc",
        _ => "http",
    };
    let target = more.port();
    let captured = if arrangement.hbone_upstream {
        "enabled"
    } else {
        "disabled"
    };
    let mut text = format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    accessLogFile: "{log}"
    accessLogEncoding: {encoding}
    defaultProviders: {{metrics: [{metrics}]}}
    extensionProviders:
    - name: asked
      envoyExtAuthzGrpc: {{service: authz.default.svc.cluster.local, port: {ASKED_PORT}}}
    - name: otlp-log
      envoyOtelAls: {{service: authz.default.svc.cluster.local, port: {ASKED_PORT}}}
    - name: otlp
      opentelemetry: {{service: authz.default.svc.cluster.local, port: {ASKED_PORT}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: default, labels: {{istio.io/use-waypoint: waypoint}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: default}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec: {{clusterIP: {VIP}, selector: {{app: web}}, ports: [{{name: {port}, port: 80, targetPort: {target}}}]}}
"#
    );
    for (n, ip) in more.pods().iter().enumerate() {
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web-{n}, namespace: default, labels: {{app: web}}, annotations: {{ambient.istio.io/redirection: {captured}}}}}\n\
             spec: {{serviceAccountName: web, containers: [{{name: a, image: a}}]}}\n\
             status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: \"True\"}}]}}\n"
        ));
    }
    text.push_str(&policies(arrangement.rules));
    let mut tokens = Vec::new();
    match more {
        More::Nothing | More::Grpc | More::NoMetrics | More::JsonLog => {}
        More::Routes(number) => text.push_str(&routes(number)),
        More::Mirror => text.push_str(&mirror()),
        More::Asked => {
            text.push_str(&told());
            text.push_str(ASKED_POLICY);
        }
        More::Token { algorithm, number } => {
            let signer = Signer::new(algorithm, "bench");
            text.push_str(&authentication(&signer));
            tokens = (0..number).map(|n| token(&signer, n)).collect();
        }
        More::Hashed => text.push_str(&rule("loadBalancer: {consistentHash: {httpHeaderName: x-user}}")),
        More::Outliers => text.push_str(&rule("outlierDetection: {consecutive5xxErrors: 5}")),
        More::Tls { kept } => text.push_str(&rule(&tls(kept, folder))),
        More::Labels => text.push_str(&telemetry(&labels())),
        More::UserLabel => text.push_str(&telemetry(
            "metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {user: {value: \"request.headers['x-user']\"}}}]}]",
        )),
        More::OtlpLog => {
            text.push_str(&told());
            text.push_str(&telemetry("accessLogging: [{providers: [{name: otlp-log}]}]"));
        }
        More::Traces { percent } => {
            text.push_str(&told());
            text.push_str(&telemetry(&format!(
                "tracing: [{{providers: [{{name: otlp}}], randomSamplingPercentage: {percent}}}]"
            )));
        }
    }
    (text, tokens)
}

/// What a DestinationRule says of the service.
fn rule(policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{host: web.default.svc.cluster.local, trafficPolicy: {{{policy}}}}}\n"
    )
}

fn tls(kept: bool, folder: &Path) -> String {
    let roots = folder.join("web/root-cert.pem");
    let requests = if kept { 0 } else { 1 };
    format!(
        "tls: {{mode: SIMPLE, sni: web.test, caCertificates: {}, subjectAltNames: ['spiffe://cluster.local/ns/default/sa/web']}}, \
         connectionPool: {{http: {{maxRequestsPerConnection: {requests}}}}}",
        roots.display()
    )
}

fn telemetry(spec: &str) -> String {
    format!(
        "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], {spec}}}\n"
    )
}

/// Ten labels for all metrics, each an expression.
fn labels() -> String {
    const LABELS: [(&str, &str); 10] = [
        ("request_method", "request.method"),
        ("request_host", "request.host"),
        ("user", "request.headers['x-user']"),
        ("is_api", "request.url_path.startsWith('/api/')"),
        ("is_large", "request.total_size > 65536"),
        ("failed", "response.code >= 500 ? 'yes' : 'no'"),
        ("code_class", "string(response.code / 100) + 'xx'"),
        ("upstream", "upstream.address"),
        ("route", "xds.route_name"),
        (
            "agent",
            "has(request.headers['user-agent']) ? request.headers['user-agent'] : 'none'",
        ),
    ];
    let overrides = LABELS.map(|(name, value)| format!("{name}: {{value: \"{value}\"}}"));
    format!(
        "metrics: [{{overrides: [{{match: {{metric: ALL_METRICS}}, tagOverrides: {{{}}}}}]}}]",
        overrides.join(", ")
    )
}

/// So many rules of ALLOW policies; the last one lets the load in.
fn policies(rules: usize) -> String {
    /// A policy has 512 at most.
    const RULES: usize = 500;
    let mut text = String::new();
    for first in (1..=rules).step_by(RULES) {
        text.push_str(&format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: p-{first}, namespace: default}}\n\
             spec:\n  targetRefs: [{{group: '', kind: Service, name: web}}]\n  rules:\n"
        ));
        // Half of them fit the client and differ by path, as rules of one application do.
        for n in first..(first + RULES).min(rules + 1) {
            let (namespace, path) = match (n == rules, n % 2) {
                (true, _) => ("default", 1),
                (false, 0) => ("default", n + 1),
                (false, _) => ("elsewhere", n + 1),
            };
            text.push_str(&format!(
                "  - from: [{{source: {{namespaces: [{namespace}]}}}}]\n    to: [{{operation: {{methods: [GET], paths: [\"/p/{path}\"]}}}}]\n"
            ));
        }
    }
    text
}

/// So many rules by path, of which the last is the load's.
fn routes(number: usize) -> String {
    const RULES: usize = 16;
    let mut text = String::new();
    for first in (0..number).step_by(RULES) {
        text.push_str(&format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r-{first}, namespace: default}}\n\
             spec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules:\n"
        ));
        for n in first..(first + RULES).min(number) {
            // Equally long, and the load's comes last by its name.
            let path = match n + 1 == number {
                true => "/p/1".to_owned(),
                false => format!("/route-number-{n:05}"),
            };
            text.push_str(&format!(
                "  - matches: [{{path: {{type: Exact, value: {path}}}}}]\n    backendRefs: [{{name: web, port: 80}}]\n"
            ));
        }
    }
    text
}

fn mirror() -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: shadow, namespace: default}}\n\
         spec: {{clusterIP: {SHADOW}, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: mirrored, namespace: default}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules:\n\
         \x20 - filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: shadow, port: 80}}}}}}]\n\
         \x20   backendRefs: [{{name: web, port: 80}}]\n"
    )
}

/// The service that is asked, and told of logs and spans.
fn told() -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: authz, namespace: default}}\n\
         spec: {{clusterIP: {AUTHZ}, selector: {{app: authz}}, ports: [{{name: grpc, port: {ASKED_PORT}}}]}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: authz-1, namespace: default, labels: {{app: authz}}, annotations: {{ambient.istio.io/redirection: disabled}}}}\n\
         spec: {{serviceAccountName: web, containers: [{{name: a, image: a}}]}}\n\
         status: {{phase: Running, podIP: {ASKED}, conditions: [{{type: Ready, status: \"True\"}}]}}\n"
    )
}

const ASKED_POLICY: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: asked, namespace: default}
spec: {targetRefs: [{group: '', kind: Service, name: web}], action: CUSTOM, provider: {name: asked}, rules: [{}]}
";

fn authentication(signer: &Signer) -> String {
    let keys = key_set(&[signer]);
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], jwtRules: [{{issuer: '{ISSUER}', jwks: '{keys}'}}]}}\n\
         ---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: tokens, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], rules: [{{from: [{{source: {{requestPrincipals: ['{ISSUER}/*']}}}}]}}]}}\n"
    )
}

fn token(signer: &Signer, n: usize) -> String {
    let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
    let in_an_hour = in_an_hour.duration_since(UNIX_EPOCH).unwrap_or_default();
    signer.token(&json!({
        "iss": ISSUER,
        "sub": format!("somebody-{n}"),
        "exp": in_an_hour.as_secs(),
        "groups": ["one", "two", "three"],
    }))
}
