//! Every byte in every place of a request's target, in each mode of `pathNormalization`: the verdict of
//! policies, the route, and what the backend sees.
//!
//! What Envoy makes of them is asked of Envoy (`make test-envoy`), byte by byte, raw and escaped, and of random
//! paths. [`expected`] says what may differ. `proxy/src/downstream/http/head/path_normalization.rs` pins the same table without it.

mod differences;
mod pair;
mod targets;

use std::fmt::Write as _;
use std::net::SocketAddr;

use waypoint_tests::literal_h2;
use waypoint_tests::{Mesh, Script, Then};

use differences::{asked_of_envoy, expected};
use pair::{Client, Tunnels, from_http2, pair};
use targets::{PLACES, random, with_each_byte};

const MODES: [&str; 4] = ["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"];

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The backend that got it, and the target that it got.
    Sent(String),
    /// 403, by a policy.
    Denied,
    /// 400, or the connection's end: it is no request.
    Refused,
    Other(u16),
}

/// A backend that answers with its name, the target that it got, and the one that was rewritten.
async fn backend(mesh: &Mesh, n: u8, name: &'static str) {
    mesh.describe_pod(n, &format!("{name}-1"), name, false);
    mesh.service(n, name);
    Script::start(mesh.backend(n), move |head| {
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap();
        let target = line.split(' ').nth(1).unwrap();
        let original = lines.find_map(|line| line.strip_prefix("x-envoy-original-path: "));
        let body = format!("{name} {target} {}", original.unwrap_or("-"));
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        (answer.into_bytes(), Then::Wait)
    })
    .await;
}

/// A mesh with the mode, with policies and routes that name every byte.
async fn scene(mode: &str) -> (Mesh, SocketAddr) {
    let mesh = Mesh::new();
    let base = std::fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
    let log = "accessLogFile: /dev/stdout";
    let with_mode = format!("{log}\n    pathNormalization: {{normalization: {mode}}}");
    mesh.manifest("base.yaml", &base.replace(log, &with_mode));
    backend(&mesh, 1, "web").await;
    backend(&mesh, 2, "a").await;
    mesh.manifest("policy.yaml", &policies());
    mesh.manifest("routes.yaml", &routes());
    let to = mesh.vip(1);
    (mesh, to)
}

/// Denied are, for each byte: its escape in both cases of hexadecimal digits, itself, and templates.
fn policies() -> String {
    let mut paths = String::new();
    for byte in 0..=255u8 {
        write!(paths, r#""/upper/a%{byte:02X}b", "/lower/a%{byte:02x}b", "#).unwrap();
        // Braces are a template's.
        if (0x21..0x7f).contains(&byte) && !b"{}".contains(&byte) {
            let escape = if b"\"\\".contains(&byte) { "\\" } else { "" };
            write!(paths, r#""/raw/a{escape}{}b", "#, char::from(byte)).unwrap();
        }
    }
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], action: DENY, rules: [{{to: [{{operation: {{paths: [\
         {paths} \"/one/{{*}}/end\", \"/many/{{*}}/q/{{**}}/end\"]}}}}]}}]}}\n"
    )
}

/// For each byte the form that a route may name goes to `a`. What begins with `/old` is rewritten.
fn routes() -> String {
    let mut values = Vec::new();
    for byte in 0..=255u8 {
        // A route may not name an escaped slash.
        if byte != b'/' {
            values.push(format!("/route/a%{byte:02X}b"));
        }
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            values.push(format!("/route/a{}b", char::from(byte)));
        }
    }
    let rule = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]";
    let mut text = route(
        "rest",
        &format!(
            "- matches: [{{path: {{type: PathPrefix, value: /old}}}}]\n    {rule}\n    backendRefs: [{{name: a, port: 80}}]\n  \
             - backendRefs: [{{name: web, port: 80}}]\n"
        ),
    );
    for (n, values) in values.chunks(64).enumerate() {
        let matches: Vec<_> = values
            .iter()
            .map(|value| format!("{{path: {{type: Exact, value: \"{value}\"}}}}"))
            .collect();
        let rule = format!(
            "- matches: [{}]\n    backendRefs: [{{name: a, port: 80}}]\n",
            matches.join(", ")
        );
        text.push_str(&route(&format!("bytes-{n}"), &rule));
    }
    text
}

fn route(name: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules:\n  {rules}"
    )
}

/// Asserts that all of `ours` are as `theirs` let expect.
fn compare(mode: &str, targets: &[Vec<u8>], ours: &[Outcome], theirs: &[Outcome]) {
    assert_eq!((targets.len(), targets.len()), (ours.len(), theirs.len()));
    let mut differences = String::new();
    let mut count = 0;
    for ((target, ours), theirs) in targets.iter().zip(ours).zip(theirs) {
        let expected = expected(theirs, mode);
        if *ours != expected {
            count += 1;
            let target = target.escape_ascii();
            writeln!(
                differences,
                "{target}\n  waypoint {ours:?}\n  envoy    {theirs:?}"
            )
            .unwrap();
        }
    }
    assert!(count == 0, "{mode}: {count} differences:\n{differences}");
    for (what, seen) in [
        ("sent", ours.iter().any(|o| matches!(o, Outcome::Sent(_)))),
        ("refused", ours.contains(&Outcome::Refused)),
    ] {
        assert!(seen, "{mode}: nothing was {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Envoy"]
async fn every_byte_over_http1_is_what_it_is_to_envoy() {
    for mode in MODES {
        let pair = pair(mode).await;
        let targets = [with_each_byte(), random(2500)].concat();
        let ours = pair.over_http1(pair.ours, &targets).await;
        let asked: Vec<_> = targets.iter().map(|t| asked_of_envoy(mode, t)).collect();
        let theirs = pair.over_http1(pair.theirs, &asked).await;
        compare(mode, &targets, &ours, &theirs);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Envoy"]
async fn every_byte_over_http2_is_what_it_is_to_envoy() {
    for mode in MODES {
        let pair = pair(mode).await;
        let mut targets = Vec::new();
        let bytes = (0..=255u8).map(|byte| vec![byte]);
        for form in bytes.chain(["ñ", "€", "😀"].map(|text| text.as_bytes().to_vec())) {
            for (before, after) in [PLACES[0], PLACES[7], PLACES[9]] {
                targets.push([before.as_bytes(), &form, after.as_bytes()].concat());
            }
        }
        let ours = pair.over_http2(pair.ours, &targets).await;
        let mut theirs = pair.over_http2(pair.theirs, &targets).await;
        for (target, theirs) in targets.iter().zip(&mut theirs) {
            if !an_h2_client_may_send(target) {
                *theirs = Outcome::Refused;
            }
        }
        compare(mode, &targets, &ours, &theirs);
    }
}

/// The library that reads HTTP/2 resets a stream whose path `http::Uri` can't hold.
fn an_h2_client_may_send(target: &[u8]) -> bool {
    let query = target
        .iter()
        .position(|b| *b == b'?')
        .unwrap_or(target.len());
    let (path, query) = target.split_at(query);
    std::str::from_utf8(target).is_ok()
        && !path.iter().any(|b| b"<>`".contains(b))
        && !query.iter().any(|b| b"\"<>".contains(b))
}

/// Without Envoy: what it was seen to do with the paths that people send.
#[tokio::test]
async fn a_rule_sees_the_one_form_of_every_spelling() {
    let (mesh, to) = scene("BASE").await;
    let (waypoint, client) = mesh.started().await;
    let sent = |text: &str| Outcome::Sent(text.to_owned());
    let cases: [(&[u8], Outcome, Outcome); 15] = [
        (b"/upper/a|b", Outcome::Denied, Outcome::Denied),
        (b"/upper/a%7Cb", Outcome::Denied, Outcome::Denied),
        (b"/lower/a%7cb", Outcome::Denied, Outcome::Denied),
        (b"/upper/a\"b", Outcome::Denied, Outcome::Denied),
        (b"/upper/x/../a^b", Outcome::Denied, Outcome::Denied),
        // A library in front of HTTP/2 refuses these bytes.
        (b"/upper/a<b", Outcome::Denied, Outcome::Refused),
        (b"/upper/a`b", Outcome::Denied, Outcome::Refused),
        (b"/many/a|b/q/2/end", Outcome::Denied, Outcome::Denied),
        (b"/many/a{b}/q/\"/^/end", Outcome::Denied, Outcome::Denied),
        (b"/one/..;/one/a|b/end", Outcome::Denied, Outcome::Denied),
        // Envoy refuses such bytes of HTTP/1 and escapes those of HTTP/2.
        (
            "/p\u{f1}".as_bytes(),
            Outcome::Refused,
            sent("web /p%C3%B1 -"),
        ),
        (
            "/p?\u{f1}".as_bytes(),
            Outcome::Refused,
            sent("web /p?\u{f1} -"),
        ),
        (
            b"/route/a|b?x={\"}",
            sent("a /route/a%7Cb?x={%22} -"),
            Outcome::Refused,
        ),
        (
            b"/old/a|b?|",
            sent("a /new/a%7Cb?| /old/a%7Cb?|"),
            sent("a /new/a%7Cb?| /old/a%7Cb?|"),
        ),
        (b"/100%/a#b", sent("web /100%/a -"), sent("web /100%/a -")),
    ];
    let certificate = mesh.certificate("default", "curl");
    for (target, over_http1, over_http2) in cases {
        let tunnels = Tunnels {
            via: waypoint.address(),
            certificate: &certificate,
            to,
            ztunnel: None,
            opened: 0,
        };
        let mut http1 = Client {
            tunnels,
            open: None,
        };
        let what = target.escape_ascii().to_string();
        assert_eq!(http1.ask(target).await, over_http1, "HTTP/1.1 {what}");
        let head = literal_h2::get(target, &[]);
        let reply = literal_h2::exchange(client.tunnel(to).await, &head, &[]).await;
        assert_eq!(from_http2(reply), over_http2, "HTTP/2 {what}");
    }
    // The log tells what the policy saw and the backend got; what is rewritten, as it came.
    for (target, code) in [
        ("/upper/a%7Cb", 403),
        ("/old/a%7Cb?|", 200),
        ("/p%C3%B1", 200),
    ] {
        waypoint
            .until_logged(&format!("\"GET {target} HTTP/2\" {code} "))
            .await;
    }
    assert!(!waypoint.log().contains("a|b"), "{}", waypoint.log());
    let denied = [
        ("response_code", "403"),
        ("destination_service_name", "web"),
    ];
    waypoint
        .until_metric("istio_requests_total", &denied, 18.0)
        .await;
}
