//! Routes, and the requests that the waypoint and Envoy are both given.

pub(crate) const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {type: Exact, value: /exact}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /seg}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /h}, headers: [{name: x-kind, value: blue}]}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /q}, queryParams: [{name: v, value: "2"}]}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /put}, method: PUT}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /redirect}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /fresh}, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /rewrite}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: new}], add: [{name: x-add, value: second}], remove: [x-gone]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-app, value: hidden}], add: [{name: x-more, value: "1"}]}
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /timeout}}]
    timeouts: {request: 200ms}
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /absent}}]
    backendRefs: [{name: absent, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /empty}}]
    backendRefs: [{name: empty, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /web}}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: default}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: DENY
  rules:
  - to: [{operation: {paths: ["/web/admin", "/web/admin/*"]}}]
  - to: [{operation: {methods: [DELETE]}}]
  - from: [{source: {namespaces: [other]}}]
    to: [{operation: {hosts: ["secret.example"]}}]
"#;

/// Requests as bytes; `\n` stands for CRLF. The reason says why another answer than Envoy's is right.
pub(crate) fn requests() -> Vec<(&'static str, Option<&'static str>)> {
    let bare = Some("hyper answers what it can't read with a bare 400");
    let stricter =
        Some("hyper refuses what Envoy lets pass or ends without an answer; nothing gets upstream");
    vec![
        ("GET /web HTTP/1.1\nhost: web\n\n", None),
        ("GET /web?a=1&b=2 HTTP/1.1\nhost: web:80\n\n", None),
        ("HEAD /web HTTP/1.1\nhost: web\n\n", None),
        (
            "POST /web HTTP/1.1\nhost: web\ncontent-length: 5\n\nhello",
            None,
        ),
        (
            "POST /web HTTP/1.1\nhost: web\ntransfer-encoding: chunked\n\n5\nhello\n0\n\n",
            None,
        ),
        (
            "PATCH /web HTTP/1.1\nhost: web\ncontent-length: 0\n\n",
            None,
        ),
        ("OPTIONS /web HTTP/1.1\nhost: web\n\n", None),
        ("PURGE /web HTTP/1.1\nhost: web\n\n", None),
        ("GET /exact HTTP/1.1\nhost: web\n\n", None),
        ("GET /exact/ HTTP/1.1\nhost: web\n\n", None),
        ("GET /exact?x HTTP/1.1\nhost: web\n\n", None),
        ("GET /seg HTTP/1.1\nhost: web\n\n", None),
        ("GET /seg/x HTTP/1.1\nhost: web\n\n", None),
        ("GET /segment HTTP/1.1\nhost: web\n\n", None),
        ("GET /h HTTP/1.1\nhost: web\nx-kind: blue\n\n", None),
        ("GET /h HTTP/1.1\nhost: web\nx-kind: red\n\n", None),
        (
            "GET /h HTTP/1.1\nhost: web\nx-kind: blue\nx-kind: red\n\n",
            None,
        ),
        ("GET /q?v=2 HTTP/1.1\nhost: web\n\n", None),
        ("GET /q?v=1&v=2 HTTP/1.1\nhost: web\n\n", None),
        ("GET /q?v=%32 HTTP/1.1\nhost: web\n\n", None),
        ("GET /q HTTP/1.1\nhost: web\n\n", None),
        (
            "PUT /put HTTP/1.1\nhost: web\ncontent-length: 2\n\nxy",
            None,
        ),
        ("GET /put HTTP/1.1\nhost: web\n\n", None),
        ("GET /redirect/page?x=1 HTTP/1.1\nhost: web\n\n", None),
        ("GET /redirect HTTP/1.1\nhost: web:8080\n\n", None),
        ("GET /rewrite/users?x=1 HTTP/1.1\nhost: web\n\n", None),
        ("GET /rewrite HTTP/1.1\nhost: web\n\n", None),
        (
            "GET /headers HTTP/1.1\nhost: web\nx-set: old\nx-add: first\nx-gone: 1\n\n",
            None,
        ),
        (
            "GET /timeout HTTP/1.1\nhost: web\nx-delay-ms: 1500\n\n",
            None,
        ),
        ("GET /absent HTTP/1.1\nhost: web\n\n", None),
        ("GET /empty HTTP/1.1\nhost: web\n\n", None),
        ("GET /nothing HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/admin/x HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/./admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/x/../admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/%61dmin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/x/%2e%2e/admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/x/..;/admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web//admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/a%2fb HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/a%2Fb HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/a%5cb HTTP/1.1\nhost: web\n\n", None),
        ("GET /web\\admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/%7euser HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/%zz HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/a;b=c HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/ü HTTP/1.1\nhost: web\n\n", None),
        ("GET /web#frag HTTP/1.1\nhost: web\n\n", None),
        ("GET /../../web HTTP/1.1\nhost: web\n\n", None),
        ("GET http://other.example/web HTTP/1.1\nhost: web\n\n", None),
        ("GET web HTTP/1.1\nhost: web\n\n", None),
        ("OPTIONS * HTTP/1.1\nhost: web\n\n", None),
        ("CONNECT web:80 HTTP/1.1\nhost: web:80\n\n", None),
        ("DELETE /web HTTP/1.1\nhost: web\n\n", None),
        ("GET /web HTTP/1.1\nhost: secret.example\n\n", None),
        ("GET /web HTTP/1.1\nhost: WEB.Example\n\n", None),
        ("GET /web HTTP/1.1\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: a\nhost: b\n\n",
            Some("two hosts are refused; Envoy joins them"),
        ),
        (
            "GET /web HTTP/1.1\nhost:\n\n",
            Some("an empty host is refused; Envoy passes it on"),
        ),
        ("GET /web HTTP/1.0\nhost: web\n\n", None),
        ("GET /web HTTP/1.0\n\n", None),
        ("GET /web HTTP/1.1\nhost: web\nconnection: close\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: web\nconnection: keep-alive, x-hop\nx-hop: 1\nkeep-alive: 5\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nproxy-connection: keep-alive\n\n",
            None,
        ),
        ("GET /web HTTP/1.1\nhost: web\nte: trailers\n\n", None),
        ("GET /web HTTP/1.1\nhost: web\nte: gzip, trailers\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: web\nupgrade: h2c\nconnection: upgrade, http2-settings\nhttp2-settings: x\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nupgrade: foo\nconnection: upgrade\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-forwarded-for: 1.2.3.4\nx-forwarded-proto: https\nx-forwarded-host: h\nx-forwarded-port: 1\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nforwarded: for=1.2.3.4\nvia: 1.1 x\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-forwarded-client-cert: By=spiffe://evil\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-envoy-retry-on: 5xx\nx-envoy-max-retries: 3\nx-envoy-upstream-rq-timeout-ms: 1\nx-envoy-decorator-operation: x\n\n",
            Some("a client doesn't name our spans"),
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-envoy-internal: true\nx-envoy-external-address: 9.9.9.9\n\n",
            None,
        ),
        ("GET /web HTTP/1.1\nhost: web\nx_under_score: 1\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: web\nexpect: 100-continue\ncontent-length: 0\n\n",
            None,
        ),
        ("GET /web HTTP/1.1\nhost: web\nx-status: 404\n\n", None),
        ("GET /web HTTP/1.1\nhost: web\nx-status: 204\n\n", None),
        ("GET /web HTTP/1.1\nhost: web\nx-status: 503\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: web\nx-answer-header: server=mine\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-answer-header: connection=x\n\n",
            None,
        ),
        ("GET /web HTTP/1.1\nhost: web\nx-empty:\n\n", None),
        (
            "POST /web HTTP/1.1\nhost: web\ncontent-length: 5\ntransfer-encoding: chunked\n\n0\n\n",
            bare,
        ),
        (
            "POST /web HTTP/1.1\nhost: web\ncontent-length: 1\ncontent-length: 2\n\nab",
            bare,
        ),
        (
            "POST /web HTTP/1.1\nhost: web\ncontent-length: -1\n\n",
            bare,
        ),
        (
            "POST /web HTTP/1.1\nhost: web\ntransfer-encoding: gzip\n\n",
            bare,
        ),
        ("GET /web HTTP/1.1\nhost: web\nx: 1\n folded\n\n", stricter),
        ("GET /web HTTP/1.1\nhost: web\nbad name: 1\n\n", bare),
        ("GET  /web HTTP/1.1\nhost: web\n\n", stricter),
        ("GET /web HTTP/1.2\nhost: web\n\n", bare),
        ("GARBAGE\n\n", bare),
    ]
}
