//! Generated policies, tokens and requests. Few values in many combinations, so that what rules name is often what is sent.

use std::fmt::Write;

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::seeds::{chance, one};
use crate::tokens::{Signer, claims, now};

const ISSUERS: [&str; 2] = ["https://one.test", "two@test"];
const SOURCES: &[(&str, &[&str])] = &[
    (
        "principals",
        &[
            "cluster.local/ns/default/sa/curl",
            "*/sa/curl",
            "cluster.local/ns/*",
            "*",
            "cluster.local/ns/other/sa/stranger",
        ],
    ),
    ("namespaces", &["default", "other", "oth*", "*", "none"]),
    ("serviceAccounts", &["default/curl", "other/stranger"]),
    (
        "requestPrincipals",
        &[
            "*",
            "https://one.test/ann",
            "https://one.test/*",
            "*/bob",
            "two@test/*",
            "https://*",
        ],
    ),
    ("remoteIpBlocks", &["10.1.0.0/16", "10.1.2.3", "fd00::/8"]),
];
const OPERATIONS: &[(&str, &[&str])] = &[
    (
        "hosts",
        &["web", "WEB.example.com", "*.example.com", "web*", "*"],
    ),
    ("ports", &["80", "8080"]),
    ("methods", &["GET", "POST", "*", "PU*", "DELETE"]),
    (
        "paths",
        &[
            "/a", "/a/*", "*/b", "/a/b", "*", "/a%2Fb", "/{*}/b", "/a/{**}", "/a/{*}/c", "/A",
            "/a;x", "/", "/~a",
        ],
    ),
];
const CONDITIONS: &[(&str, &[&str])] = &[
    (
        "request.headers[x-team]",
        &["blue", "b*", "*e", "*", "blue,red"],
    ),
    ("request.headers[x-none]", &["*", "x"]),
    ("request.headers[:authority]", &["web", "web:80"]),
    ("request.headers[user-agent]", &["curl*"]),
    ("remote.ip", &["10.1.2.3/32", "fd00::1"]),
    ("source.namespace", &["default", "o*"]),
    (
        "source.principal",
        &["cluster.local/ns/default/sa/curl", "*"],
    ),
    ("request.auth.principal", &["https://one.test/ann", "*"]),
    ("request.auth.audiences", &["web", "a*", "*"]),
    ("request.auth.presenter", &["me", "*"]),
    ("request.auth.claims[groups]", &["admins", "a*", "*s", "*"]),
    ("request.auth.claims[scope]", &["read", "w*"]),
    ("request.auth.claims[realm][role]", &["admin", "*"]),
    ("request.auth.claims[n]", &["1", "*"]),
    ("request.auth.claims[iss]", &["https://one.test"]),
    ("destination.port", &["80", "81"]),
    ("connection.sni", &["web", "*"]),
];

/// Some of the values, as a list of YAML.
fn some(rng: &mut Rng, values: &[&str]) -> String {
    let count = 1 + rng.usize(..2);
    let values: Vec<_> = (0..count)
        .map(|_| format!("'{}'", one(rng, values)))
        .collect();
    format!("[{}]", values.join(", "))
}

/// Some of the fields, or of what they are not.
fn fields(rng: &mut Rng, fields: &[(&str, &[&str])]) -> String {
    let count = 1 + rng.usize(..2);
    let mut chosen: Vec<String> = Vec::new();
    for _ in 0..count {
        let (name, values) = fields[rng.usize(..fields.len())];
        let name = match chance(rng, 30) {
            true => format!("not{}{}", name[..1].to_uppercase(), &name[1..]),
            false => name.to_owned(),
        };
        let accounts = |all: &[String]| {
            let has = |part: &str| all.iter().any(|field| field.contains(part));
            has("erviceAccounts") && (has("rincipals: ") || has("amespaces"))
        };
        let field = format!("{name}: {}", some(rng, values));
        let mut with = chosen.clone();
        with.push(field);
        // Istio doesn't allow accounts beside other names of the same.
        let again = chosen.iter().any(|c| c.starts_with(&format!("{name}:")));
        if !again && !accounts(&with) {
            chosen = with;
        }
    }
    chosen.join(", ")
}

fn rule(rng: &mut Rng) -> String {
    let mut parts = Vec::new();
    if chance(rng, 40) {
        let list: Vec<_> = (0..1 + rng.usize(..2))
            .map(|_| format!("{{source: {{{}}}}}", fields(rng, SOURCES)))
            .collect();
        parts.push(format!("from: [{}]", list.join(", ")));
    }
    if chance(rng, 60) {
        let list: Vec<_> = (0..1 + rng.usize(..2))
            .map(|_| format!("{{operation: {{{}}}}}", fields(rng, OPERATIONS)))
            .collect();
        parts.push(format!("to: [{}]", list.join(", ")));
    }
    if chance(rng, 50) || parts.is_empty() {
        let list: Vec<_> = (0..1 + rng.usize(..2))
            .map(|_| {
                let (key, values) = CONDITIONS[rng.usize(..CONDITIONS.len())];
                let not = if chance(rng, 30) {
                    "notValues"
                } else {
                    "values"
                };
                format!("{{key: '{key}', {not}: {}}}", some(rng, values))
            })
            .collect();
        parts.push(format!("when: [{}]", list.join(", ")));
    }
    format!("{{{}}}", parts.join(", "))
}

/// AuthorizationPolicies of a service.
pub fn some_policies(rng: &mut Rng, service: &str) -> String {
    let mut text = String::new();
    for n in 0..1 + rng.usize(..4) {
        let (action, dry) = match rng.u8(..10) {
            0..=3 => ("DENY", false),
            4..=6 => ("ALLOW", false),
            7 => ("AUDIT", false),
            8 => ("DENY", true),
            _ => ("ALLOW", true),
        };
        let annotations = match dry {
            true => ", annotations: {istio.io/dry-run: 'true'}",
            false => "",
        };
        let rules: Vec<_> = (0..1 + rng.usize(..3)).map(|_| rule(rng)).collect();
        let _ = writeln!(
            text,
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: p{n}, namespace: default{annotations}}}\n\
             spec:\n  targetRefs: [{{group: '', kind: Service, name: {service}}}]\n  action: {action}\n  \
             rules: [{}]\n---",
            rules.join(", ")
        );
    }
    text
}

/// A RequestAuthentication of a service: two issuers, the second one's tokens in a header, a parameter and a cookie.
#[must_use]
pub fn authentication(service: &str, keys: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{name: tokens, namespace: default}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: {service}}}]\n  jwtRules:\n  \
         - {{issuer: '{}', jwks: '{keys}', forwardOriginalToken: true}}\n  \
         - {{issuer: '{}', jwks: '{keys}', fromHeaders: [{{name: x-token, prefix: 'Token '}}], \
         fromParams: [token], fromCookies: [session], audiences: [web, api]}}\n",
        ISSUERS[0], ISSUERS[1]
    )
}

/// A token of one of the issuers, or what is none.
fn some_token(rng: &mut Rng, signer: &Signer, issuer: &str) -> String {
    let mut token = claims(issuer, one(rng, &["ann", "bob", ""]));
    let set = |rng: &mut Rng, claim: &str, token: &mut Value, values: &[Value]| {
        if chance(rng, 50) {
            token[claim] = values[rng.usize(..values.len())].clone();
        }
    };
    let audiences = [
        json!("web"),
        json!(["api", "web"]),
        json!(["other"]),
        json!([]),
    ];
    set(rng, "aud", &mut token, &audiences);
    let groups = [
        json!("admins"),
        json!(["users", "admins"]),
        json!([]),
        json!([1]),
        json!({"a": 1}),
    ];
    set(rng, "groups", &mut token, &groups);
    let scopes = [
        json!("read write"),
        json!("read"),
        json!(""),
        json!(["read"]),
    ];
    set(rng, "scope", &mut token, &scopes);
    let realms = [
        json!({"role": "admin"}),
        json!({"role": ["x", "admin"]}),
        json!("admin"),
        json!({}),
    ];
    set(rng, "realm", &mut token, &realms);
    set(
        rng,
        "n",
        &mut token,
        &[json!(1), json!("1"), json!(true), json!(null)],
    );
    set(rng, "azp", &mut token, &[json!("me"), json!("you")]);
    match rng.u8(..20) {
        0 => token["exp"] = json!(now() - 1000),
        1 => token["nbf"] = json!(now() + 1000),
        2 => token["iss"] = json!("https://else.test"),
        _ => {}
    }
    let token = signer.token(&token);
    match rng.u8(..20) {
        0 => token[..token.len() - 6].to_owned(),
        1 => "no.token.this".to_owned(),
        _ => token,
    }
}

fn some_path(rng: &mut Rng) -> String {
    const PARTS: &[&str] = &[
        "a", "a", "b", "b", "c", "A", "%61", "%41", ".", "..", "", "%2e", "a;x", "~a", "%7ea", "*",
        "a%2Fb", "a%5Cb", "%2f", "a|b", "a%7Cb", "%25", "a=b&c", "a:b", "@", "%2E%2e",
    ];
    let mut path = String::new();
    for _ in 0..1 + rng.usize(..3) {
        path.push('/');
        path.push_str(one(rng, PARTS));
    }
    // Envoy leaves two slashes where a path has nothing else.
    if is_root(&path) {
        path = "/b".to_owned();
    }
    if chance(rng, 20) {
        path.push_str(one(rng, &["?", "?x=/a/b", "?a", "?token=x", "?/../a"]));
    }
    path
}

/// Whether nothing is left of the path once its dots have had their way.
fn is_root(path: &str) -> bool {
    let mut path = path.to_ascii_lowercase();
    for (escaped, plain) in [("%2e", "."), ("%2f", "/"), ("%5c", "/")] {
        path = path.replace(escaped, plain);
    }
    let mut left = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => left = left.saturating_sub(1),
            _ => left += 1,
        }
    }
    left == 0
}

/// A request, with a number by which logs know it.
pub fn some_request(rng: &mut Rng, signer: &Signer, number: usize) -> Request<Full<Bytes>> {
    let method = one(
        rng,
        &["GET", "GET", "POST", "PUT", "DELETE", "PURGE", "OPTIONS"],
    );
    let mut path = some_path(rng);
    let hosts = [
        "web",
        "web",
        "web:80",
        "WEB",
        "web.example.com",
        "Web.Example.Com:80",
        "a.example.com",
        "other",
    ];
    let mut headers = vec![
        ("host", one(rng, &hosts).to_owned()),
        ("x-id", format!("id-{number}")),
        (
            "x-forwarded-for",
            one(
                rng,
                &[
                    "10.1.2.3",
                    "1.1.1.1",
                    "1.1.1.1, 10.1.9.9",
                    "10.1.2.3,1.1.1.1",
                    "fd00::1",
                ],
            )
            .to_owned(),
        ),
    ];
    for _ in 0..rng.usize(..3) {
        headers.push((
            "x-team",
            one(rng, &["blue", "red", "", "Blue", "b", "blue,red", "sage"]).to_owned(),
        ));
    }
    if chance(rng, 30) {
        headers.push((
            "user-agent",
            one(rng, &["curl/8", "Curl", "wget"]).to_owned(),
        ));
    }
    if chance(rng, 60) {
        headers.push((
            "authorization",
            format!("Bearer {}", some_token(rng, signer, ISSUERS[0])),
        ));
    }
    if chance(rng, 25) {
        let token = some_token(rng, signer, ISSUERS[1]);
        match rng.u8(..4) {
            // Envoy writes the other parameters anew where one is taken away, each with a `=`.
            0 if !path.contains('?') => path = format!("{path}?x=y&token={token}"),
            1 => headers.push(("cookie", format!("a=b; session={token}"))),
            _ => headers.push(("x-token", format!("Token {token}"))),
        }
    }
    let mut request = Request::new(Full::default());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = path.parse().unwrap_or_else(|_| "/a".parse().unwrap());
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value).unwrap();
        request
            .headers_mut()
            .append(HeaderName::from_static(name), value);
    }
    if chance(rng, 15) {
        // What is no UTF-8 is a proper value.
        let values: [&[u8]; 4] = [b"blue\xff", b"\xffe", b"b\xe4\xfce", b"\xff"];
        let value = HeaderValue::from_bytes(values[rng.usize(..4)]).unwrap();
        request.headers_mut().append("x-team", value);
    }
    request
}
