//! Header fields and authorities that two readers take for different things: refused, or the same thing to policy
//! and upstream.
//!
//! Each list was tried on Envoy 1.40 as well, which ends an HTTP/2 connection where we answer 400 or reset the
//! stream; `docs/differences.md` tells where it lets pass what is refused here.

use http::StatusCode;
use waypoint_tests::literal_h2::{self, Field, Reply};

use super::recorded::{Scene, denying};

/// Denied are the host `evil.example` and the role `admin`.
async fn scene() -> Scene {
    denying(
        "[{to: [{operation: {hosts: [evil.example]}}]}, \
         {when: [{key: 'request.headers[x-role]', values: [admin]}]}]",
    )
    .await
}

impl Scene {
    /// The status, or 0 for none, and what the backend got, of a request over HTTP/2. With trailers it has
    /// a body.
    async fn http2(&self, head: &[Field<'_>], trailers: &[Field<'_>]) -> (u16, String) {
        self.recorder.forget();
        let tunnel = self.client.tunnel(self.to).await;
        let status = match literal_h2::exchange(tunnel, head, trailers).await {
            Reply::Answered { status, .. } => status,
            Reply::Ended => 0,
        };
        (status, self.sent())
    }

    async fn http1(&self, text: &str) -> (u16, String) {
        self.recorder.forget();
        let answer = self.client.raw(self.to, text.as_bytes()).await;
        let status = answer.get(9..12).map_or(0, |code| code.parse().unwrap());
        (status, self.sent())
    }

    fn sent(&self) -> String {
        String::from_utf8_lossy(&self.recorder.connections().concat()).into_owned()
    }

    /// Asserts what a request that is passed on has upstream, line by line.
    fn assert_has(&self, sent: &str, lines: &[&str], what: &str) {
        self.recorder.requests().unwrap();
        for line in lines {
            assert!(sent.contains(&format!("{line}\r\n")), "{what}: {sent}");
        }
    }
}

fn show(field: &Field<'_>) -> String {
    format!("{}: {}", field.0.escape_ascii(), field.1.escape_ascii())
}

/// It is answered 400, or its stream is reset, and the backend hears nothing.
fn assert_refused((status, sent): (u16, String), what: &str) {
    assert!(matches!(status, 0 | 400), "{what}: {status}");
    assert_eq!(sent, "", "{what}");
}

fn usual() -> [Field<'static>; 4] {
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/1"),
        (b":authority", b"web"),
    ]
}

#[tokio::test]
async fn what_is_no_field_of_http2_goes_nowhere() {
    let scene = scene().await;
    let values: [&[u8]; 10] = [
        b" admin ", b" admin", b"admin ", b"\tadmin", b" ", b"a\nb", b"a\rb", b"a\0b", b"a\x01b",
        b"a\x7fb",
    ];
    let names: [&[u8]; 14] = [
        b"X-Role", b"x role", b"x-role ", b" x-role", b"x:y", b"", b"x\ny", b"x\0y", b"x(y",
        b"x/y", b"x@y", b"x{y", b"x\"y", b"x\x80y",
    ];
    let connection: [Field<'_>; 13] = [
        (b"connection", b"x-role"),
        (b"connection", b"close"),
        (b"keep-alive", b"1"),
        (b"proxy-connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip, chunked"),
        (b"te", b"gzip, trailers"),
        (b"content-length", b""),
        (b"content-length", b"+0"),
        (b"content-length", b"5"),
        (b":protocol", b"websocket"),
        (b":status", b"200"),
    ];
    let fields = values
        .iter()
        .map(|value| (&b"x-role"[..], *value))
        .chain(names.iter().map(|name| (*name, &b"admin"[..])))
        .chain(connection);
    for field in fields {
        let head = literal_h2::get(b"/1", &[field]);
        assert_refused(scene.http2(&head, &[]).await, &show(&field));
    }
    let lengths: [Field<'_>; 2] = [(b"content-length", b"2"), (b"content-length", b"3")];
    let mut head = literal_h2::get(b"/1", &lengths);
    head[0].1 = b"POST";
    assert_refused(scene.http2(&head, &[(b"x", b"1")]).await, "two lengths");

    let head = literal_h2::get(b"/1", &[(b"x-role", b"admin")]);
    assert_eq!(scene.http2(&head, &[]).await, (403, String::new()));
    // What is refused with an answer is recorded as the client's fault.
    let line = scene.waypoint.until_logged("http1.codec_error").await;
    assert!(line.contains(" 400 "), "{line}");
    assert!(
        scene
            .waypoint
            .metrics()
            .await
            .contains("waypoint_panics_total 0")
    );
}

#[tokio::test]
async fn what_is_one_thing_to_all_passes() {
    let scene = scene().await;
    let fields: [(Field<'_>, &str); 9] = [
        ((b"x-role", b"a\tb"), "x-role: a\tb"),
        ((b"x-role", b""), "x-role: "),
        ((b"x_role", b"admin"), "x_role: admin"),
        ((b"x|role", b"admin"), "x|role: admin"),
        ((b"te", b"trailers"), "te: trailers"),
        ((b"content-length", b"0"), "content-length: 0"),
        ((b"trailer", b"x"), "trailer: x"),
        // The authority is the host, whatever this says.
        ((b"host", b"evil.example"), "host: web"),
        ((b"http2-settings", b"x"), "host: web"),
    ];
    for (field, line) in fields {
        let head = literal_h2::get(b"/1", &[field]);
        let (status, sent) = scene.http2(&head, &[]).await;
        assert_eq!(status, 200, "{}", show(&field));
        scene.assert_has(
            &sent,
            &["GET /1 HTTP/1.1", "host: web", line],
            &show(&field),
        );
        assert!(
            !sent.contains("evil") && !sent.contains("settings"),
            "{sent}"
        );
    }
}

#[tokio::test]
async fn odd_pseudo_headers() {
    let scene = scene().await;
    let [method, scheme, path, authority] = usual();
    let host = |value: &'static [u8]| -> Field<'static> { (b"host", value) };
    let refused: Vec<(&str, Vec<Field<'_>>)> = vec![
        ("no authority", vec![method, scheme, path]),
        (
            "two hosts",
            vec![method, scheme, path, host(b"a"), host(b"b")],
        ),
        (
            "a user",
            vec![method, scheme, path, host(b"a@evil.example")],
        ),
        (
            "two authorities",
            vec![method, scheme, path, authority, authority],
        ),
        ("two paths", vec![method, scheme, path, path, authority]),
        ("no path", vec![method, scheme, authority]),
        ("no method", vec![scheme, path, authority]),
        ("no scheme", vec![method, path, authority]),
        (
            "one too late",
            vec![method, scheme, path, host(b"web"), authority],
        ),
        (
            "a scheme with a host",
            vec![method, (b":scheme", b"http://x"), path, authority],
        ),
        (
            "a method of two",
            vec![(b":method", b"GET,POST"), scheme, path, authority],
        ),
        (
            "a method with a line",
            vec![
                (b":method", b"GET /2 HTTP/1.1\r\n"),
                scheme,
                path,
                authority,
            ],
        ),
        (
            "an empty method",
            vec![(b":method", b""), scheme, path, authority],
        ),
        (
            "CONNECT",
            vec![(b":method", b"CONNECT"), scheme, path, authority],
        ),
        (
            "an empty path",
            vec![method, scheme, (b":path", b""), authority],
        ),
        ("GET *", vec![method, scheme, (b":path", b"*"), authority]),
        (
            "no slash",
            vec![method, scheme, (b":path", b"a"), authority],
        ),
        (
            "a URL",
            vec![
                method,
                scheme,
                (b":path", b"http://evil.example/"),
                authority,
            ],
        ),
        (
            "a line",
            vec![
                method,
                scheme,
                (b":path", b"/ HTTP/1.1\r\nx-role: admin"),
                authority,
            ],
        ),
    ];
    for (what, head) in refused {
        assert_refused(scene.http2(&head, &[]).await, what);
    }
    let denied = [method, scheme, path, host(b"evil.example")];
    assert_eq!(scene.http2(&denied, &[]).await, (403, String::new()));
    let passed = [
        method,
        scheme,
        (b":path", b"//evil.example/x"),
        host(b"web"),
    ];
    let (status, sent) = scene.http2(&passed, &[]).await;
    assert_eq!(status, 200);
    scene.assert_has(
        &sent,
        &["GET //evil.example/x HTTP/1.1", "host: web"],
        "two slashes",
    );
}

#[tokio::test]
async fn an_authority_is_a_host_and_nothing_more() {
    let scene = scene().await;
    let refused = [
        "a@evil.example",
        "user:word@evil.example",
        "@evil.example",
        "web@",
        "",
        "x y",
        "x#y",
        "x\\y",
        "x|y",
        "x\"y",
        "x%41",
        "x:80:80",
        "[::1",
        "\u{f1}",
    ];
    for name in refused {
        let mut head = usual();
        head[3].1 = name.as_bytes();
        assert_refused(scene.http2(&head, &[]).await, &format!(":authority {name}"));
        let text = format!("GET /1 HTTP/1.1\r\nhost: {name}\r\n\r\n");
        assert_refused(scene.http1(&text).await, &text);
        let text = format!("GET http://{name}/1 HTTP/1.1\r\nhost: web\r\n\r\n");
        assert_refused(scene.http1(&text).await, &text);
    }
    for (name, status) in [
        ("evil.example", 403),
        ("EVIL.example", 403),
        ("web:80", 200),
        ("[::1]", 200),
    ] {
        let mut head = usual();
        head[3].1 = name.as_bytes();
        let target = format!("GET http://{name}/1 HTTP/1.1\r\nhost: web\r\n\r\n");
        let header = format!("GET /1 HTTP/1.1\r\nhost: {name}\r\n\r\n");
        for (seen, sent) in [
            scene.http2(&head, &[]).await,
            scene.http1(&target).await,
            scene.http1(&header).await,
        ] {
            assert_eq!(seen, status, "{name}");
            assert_eq!(
                sent.contains(&format!("host: {name}\r\n")),
                status == 200,
                "{sent}"
            );
        }
    }
    // A tunnel's authority is an address, without a user.
    for authority in [
        format!("a@{}", scene.to),
        format!("{}@{}", scene.to, scene.to),
    ] {
        let refused = scene.client.connect_to(&authority, &[]).await;
        let status = refused.map_or(StatusCode::BAD_REQUEST, |(status, _)| status);
        assert!(status.is_client_error(), "{authority}: {status}");
    }
}

#[tokio::test]
async fn what_is_for_one_hop_stays_there() {
    let scene = scene().await;
    // `(headers, the only ones of these that go on)`
    for (headers, on) in [
        ("te: gzip, chunked", ""),
        ("te: chunked", ""),
        ("te: trailers;q=0.1", ""),
        ("te: gzip, chunked\r\nconnection: te, close", ""),
        ("te: trailers", "te: trailers"),
        ("te: gzip\r\nte: trailers, deflate", "te: trailers"),
        ("connection: x-role\r\nx-role: admin", ""),
        ("connection: authorization\r\nauthorization: b", ""),
        ("connection: x-forwarded-port\r\nx-forwarded-port: 1", ""),
        ("keep-alive: 3\r\nproxy-connection: x", ""),
    ] {
        let text = format!("GET /1 HTTP/1.1\r\nhost: web\r\n{headers}\r\n\r\n");
        let (status, sent) = scene.http1(&text).await;
        assert_eq!(status, 200, "{text}");
        let names = headers
            .split("\r\n")
            .map(|line| line.split(':').next().unwrap());
        for name in names {
            let line = sent
                .split("\r\n")
                .find(|line| line.starts_with(&format!("{name}:")));
            assert_eq!(
                line.unwrap_or_default(),
                if on.starts_with(name) { on } else { "" },
                "{text}"
            );
        }
    }
    for name in [
        "host",
        "Host",
        "close, host",
        "x-forwarded-for",
        "X-Forwarded-Host",
        "x-forwarded-proto",
        ":path",
    ] {
        let text = format!("GET /1 HTTP/1.1\r\nhost: web\r\nconnection: {name}\r\n\r\n");
        assert_refused(scene.http1(&text).await, &text);
    }
}

#[tokio::test]
async fn trailers_carry_no_lines() {
    let scene = scene().await.passing_trailers().await;
    let announced: [Field<'_>; 1] = [(b"trailer", b"x-t, content-length, host")];
    let mut head = literal_h2::get(b"/1", &announced);
    head[0].1 = b"POST";
    let refused: [Field<'_>; 9] = [
        (b"x-t", b"a\nb: c"),
        (b"x-t", b"a\rb"),
        (b"x-t", b"a\0b"),
        (b"X-T", b"a"),
        (b"x t", b"a"),
        (b"connection", b"x"),
        (b"transfer-encoding", b"chunked"),
        (b"te", b"gzip"),
        (b"", b"a"),
    ];
    for field in refused {
        let (status, sent) = scene.http2(&head, &[field]).await;
        assert!(matches!(status, 0 | 400), "{}: {status}", show(&field));
        assert!(!sent.contains("\r\n0\r\n"), "{}: {sent}", show(&field));
    }
    // The library drops it, where Envoy ends the connection.
    let (status, sent) = scene
        .http2(&head, &[(b":path", b"/2"), (b"x-t", b"1")])
        .await;
    assert!(status == 200 && !sent.contains("/2"), "{sent}");
    let trailers: [Field<'_>; 3] = [
        (b"x-t", b"1"),
        (b"content-length", b"9"),
        (b"host", b"evil.example"),
    ];
    let (status, sent) = scene.http2(&head, &trailers).await;
    assert_eq!(status, 200);
    assert!(
        sent.ends_with("\r\n2\r\nab\r\n0\r\nx-t: 1\r\n\r\n"),
        "{sent}"
    );

    let post = "POST /1 HTTP/1.1\r\nhost: web\r\ntrailer: x-t, b\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n";
    for trailers in [
        "x-t: a\nb: c\r\n",
        "x-t: a\n\nGET /2 HTTP/1.1\r\nhost: web\r\n",
        "\nx-t: a\r\n",
        "x-t: a\n\r\nb: c\r\n",
        "x-t: a\rb: c\r\n",
        "x-t: a\0b\r\n",
        "x-t: a\r\n b: c\r\n",
        "x t: a\r\n",
        "x-t : a\r\n",
    ] {
        let (status, sent) = scene.http1(&format!("{post}{trailers}\r\n")).await;
        assert_eq!(status, 400, "{trailers:?}: {sent}");
        assert!(
            !sent.contains("\r\n0\r\n") && !sent.contains("/2"),
            "{trailers:?}: {sent}"
        );
    }
    let (status, sent) = scene.http1(&format!("{post}x-t: \ta \r\n\r\n")).await;
    assert_eq!(status, 200);
    assert!(
        sent.ends_with("\r\n2\r\nab\r\n0\r\nx-t: a\r\n\r\n"),
        "{sent}"
    );
}
