//! Every byte in every place of a request's target, in each mode of `pathNormalization`: the verdict of
//! policies, the route, and what the backend sees.
//!
//! What Envoy makes of them is asked of Envoy (`make test-envoy`), byte by byte, raw and escaped, and of random
//! paths. [`expected`] says what may differ. `proxy/src/downstream/http/path_normalization.rs` pins the same table without it.

use std::fmt::Write as _;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_hbone::certificates::dev_ca::MintedCertificate;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::literal_h2::{self, Reply};
use waypoint_tests::wait::within;
use waypoint_tests::{Mesh, Script, Then, Waypoint, Ztunnel};

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

/// Where a byte stands.
const PLACES: [(&str, &str); 10] = [
    ("/upper/a", "b"),
    ("http://other.example/upper/a", "b"),
    ("/lower/a", "b"),
    ("/raw/a", "b"),
    ("/one/a", "b/end"),
    ("/many/a", "b/q/2/end"),
    ("/many/1/q/a", "b/end"),
    ("/route/a", "b"),
    ("/old/a", "b/c"),
    ("/query?x=", "y"),
];

fn with_each_byte() -> Vec<Vec<u8>> {
    let mut targets = Vec::new();
    for byte in 0..=255u8 {
        let mut forms = vec![vec![byte], format!("%{byte:02X}").into_bytes()];
        forms.push(format!("%{byte:02x}").into_bytes());
        forms.dedup();
        for form in &forms {
            for (before, after) in PLACES {
                targets.push([before.as_bytes(), form, after.as_bytes()].concat());
            }
        }
    }
    targets
}

/// Paths of what normalizing looks at, the same ones every time.
fn random(count: usize) -> Vec<Vec<u8>> {
    let pieces = [
        "/", "/", "/", ".", "..", ";", "%", "%2", "%2e", "%2F", "%5c", "%25", "%4", "%34", "%31",
        "%7C", "%41", "\\", "|", "\"", "{", "a", "b", "1", "e", "[", "?", "//", "/..;", "/.;x",
        "%zz", "<", "`",
    ];
    let mut state = 7u64;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    (0..count)
        .map(|_| {
            let length = 1 + next(7);
            let text: String = (0..length).map(|_| pieces[next(pieces.len())]).collect();
            format!("/{text}").into_bytes()
        })
        .collect()
}

/// What is to come of a request here, if this came of it at Envoy. The rows of `docs/differences.md`.
fn expected(theirs: &Outcome, mode: &str) -> Outcome {
    let Outcome::Sent(sent) = theirs else {
        return theirs.clone();
    };
    let mut words: Vec<String> = sent.split(' ').map(str::to_owned).collect();
    for target in &mut words[1..] {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&target[..], None),
        };
        let mut path = as_a_uri_has_it(path, PATH);
        if mode != "NONE" {
            path = without_dot_segments(&path);
        }
        if mode.contains("MERGE") && path == "//" {
            path = "/".to_owned();
        }
        let query = query.map(|query| format!("?{}", as_a_uri_has_it(query, QUERY)));
        *target = path + &query.unwrap_or_default();
    }
    Outcome::Sent(words.join(" "))
}

/// What Envoy is asked in place of a target, where only so its answer can be ours. With `NONE`, policies see
/// the escapes that [`as_a_uri_has_it`] makes of a path's bytes. A `\` ends the parameters of a dot segment
/// as `/` does; to Envoy it is a part of them.
fn asked_of_envoy(mode: &str, target: &[u8]) -> Vec<u8> {
    let Ok(target) = std::str::from_utf8(target) else {
        return target.to_vec();
    };
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let path = match mode {
        "NONE" => as_a_uri_has_it(path, PATH),
        "DECODE_AND_MERGE_SLASHES" if path.contains(".;") => path
            .replace("%5c", "/")
            .replace("%5C", "/")
            .replace('\\', "/"),
        _ if path.contains(".;") => path.replace('\\', "/"),
        _ => path.to_owned(),
    };
    (path + query).into_bytes()
}

/// What a `http::Uri` can't hold in a path, and in a query.
const PATH: &[char] = &['<', '>', '`'];
const QUERY: &[char] = &['"', '<', '>'];

/// What `http::Uri` can't hold goes on as its escape, where Envoy sends it raw.
fn as_a_uri_has_it(text: &str, unheld: &[char]) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match unheld.contains(&c) {
            true => write!(out, "%{:02X}", c as u32).unwrap(),
            false => out.push(c),
        }
    }
    out
}

/// A dot segment with parameters is one, where Envoy sees only some of them. Envoy removed the plain ones.
fn without_dot_segments(path: &str) -> String {
    if !path.starts_with('/') {
        return path.to_owned();
    }
    let mut out: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (n, segment) in segments.iter().enumerate() {
        let name = segment.split(';').next().unwrap();
        match name {
            "." | ".." => {
                if name == ".." {
                    out.pop();
                }
                if n + 1 == segments.len() {
                    out.push("");
                }
            }
            _ => out.push(segment),
        }
    }
    format!("/{}", out.join("/"))
}

/// HTTP/2 requests that are asked at the same time.
const LANES: usize = 48;

/// Where requests go by tunnels. Each tunnel that isn't ended in order counts against its connection, so
/// there is a new one in time.
struct Tunnels<'a> {
    via: SocketAddr,
    certificate: &'a MintedCertificate,
    to: SocketAddr,
    ztunnel: Option<Ztunnel>,
    opened: usize,
}

impl Tunnels<'_> {
    async fn open(&mut self) -> HboneStream {
        if self.opened.is_multiple_of(50) {
            self.ztunnel = Some(Ztunnel::connect(self.via, self.certificate).await.unwrap());
        }
        self.opened += 1;
        self.ztunnel.as_ref().unwrap().tunnel(self.to).await
    }
}

/// An HTTP/1.1 connection that is opened again when it was closed.
struct Client<'a> {
    tunnels: Tunnels<'a>,
    open: Option<HboneStream>,
}

impl Client<'_> {
    async fn ask(&mut self, target: &[u8]) -> Outcome {
        let mut stream = match self.open.take() {
            Some(stream) => stream,
            None => self.tunnels.open().await,
        };
        let head = [b"GET ", target, b" HTTP/1.1\r\nhost: web\r\n\r\n"].concat();
        let answer = within("an answer", async {
            stream.write_all(&head).await.ok()?;
            read_answer(&mut stream).await
        });
        let Some((head, body)) = answer.await else {
            return Outcome::Refused;
        };
        if !head.contains("connection: close") {
            self.open = Some(stream);
        }
        outcome(head[9..12].parse().unwrap(), &body)
    }
}

/// Head and body; `None`: it ends before.
async fn read_answer(stream: &mut HboneStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|l| l.split("\r\n").next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

fn outcome(status: u16, body: &str) -> Outcome {
    match status {
        200 => Outcome::Sent(body.to_owned()),
        403 if body == "RBAC: access denied" => Outcome::Denied,
        // A line feed in the target ends the line: to Envoy, an older version's.
        400 | 426 => Outcome::Refused,
        status => Outcome::Other(status),
    }
}

fn from_http2(reply: Reply) -> Outcome {
    match reply {
        Reply::Answered { status, body } => outcome(status, &String::from_utf8_lossy(&body)),
        Reply::Ended => Outcome::Refused,
    }
}

/// The waypoint and Envoy side by side.
struct Pair {
    _mesh: Mesh,
    _waypoint: Waypoint,
    _envoy: Envoy,
    to: SocketAddr,
    ours: SocketAddr,
    theirs: SocketAddr,
    certificate: MintedCertificate,
}

async fn pair(mode: &str) -> Pair {
    let (mesh, to) = scene(mode).await;
    let waypoint = mesh.start().await;
    let (envoy, theirs) = Envoy::beside(&mesh, &mesh.resources()).await;
    Pair {
        ours: waypoint.address(),
        certificate: mesh.certificate("default", "curl"),
        _mesh: mesh,
        _waypoint: waypoint,
        _envoy: envoy,
        to,
        theirs,
    }
}

impl Pair {
    fn tunnels(&self, via: SocketAddr) -> Tunnels<'_> {
        Tunnels {
            via,
            certificate: &self.certificate,
            to: self.to,
            ztunnel: None,
            opened: 0,
        }
    }

    /// All outcomes, in order.
    async fn over_http1(&self, via: SocketAddr, targets: &[Vec<u8>]) -> Vec<Outcome> {
        let lines = targets.chunks(targets.len().div_ceil(8));
        let asked = lines.map(|targets| async move {
            let tunnels = self.tunnels(via);
            let mut client = Client {
                tunnels,
                open: None,
            };
            let mut outcomes = Vec::new();
            for target in targets {
                outcomes.push(client.ask(target).await);
            }
            outcomes
        });
        futures_util::future::join_all(asked).await.concat()
    }

    /// A refused request's connection ends after a pause, in which others are asked.
    async fn over_http2(&self, via: SocketAddr, targets: &[Vec<u8>]) -> Vec<Outcome> {
        let lines = targets.chunks(targets.len().div_ceil(LANES));
        let asked = lines.map(|targets| async move {
            let mut tunnels = self.tunnels(via);
            let mut outcomes = Vec::new();
            for target in targets {
                let head = literal_h2::get(target, &[]);
                let reply = literal_h2::exchange(tunnels.open().await, &head, &[]);
                outcomes.push(from_http2(reply.await));
            }
            outcomes
        });
        futures_util::future::join_all(asked).await.concat()
    }
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
