//! CEL, the expression language of Envoy's attributes: compiled when it is configured, evaluated on a stream.
//!
//! Envoy's dialect, and what is off there by default: texts can be joined, converted and worked on. There are no
//! loops, so an evaluation takes no longer than its expression is; what it makes has a bound (`budget.rs`). An error and a
//! missing value are the same: no value, which no filter takes for true. Names that can't have a value here
//! are refused when the expression is compiled.

mod attribute;
mod budget;
mod certificate;
mod compile;
mod fault;
mod function;
pub(crate) mod grpc_status;
mod lookup;
mod moment;
mod node;
mod syntax;
mod token;
mod value;

use std::fmt;

use crate::cel::budget::Budget;
use crate::cel::node::{Evaluation, Node};
use crate::stream::format_context::FormatContext;
use crate::stream::stream_info::Capture;
use crate::xds::rejected::Refusal;

/// Whether a text is an expression at all, whatever it asks for.
///
/// # Errors
/// What is wrong with it, with the place.
pub fn check_syntax(text: &str) -> Result<(), String> {
    let parsed = syntax::parse(text);
    parsed
        .map(drop)
        .map_err(|fault| format!("{text:?}: {fault}"))
}

/// A compiled expression.
#[derive(Clone)]
pub(crate) struct Expression {
    text: Box<str>,
    root: Node,
    capture: Capture,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

impl Expression {
    /// # Errors
    /// What isn't an expression or asks for what isn't known here, with the place.
    pub(crate) fn parse(text: &str) -> Result<Expression, Refusal> {
        let mut capture = Capture::default();
        let root = syntax::parse(text)
            .and_then(|expr| compile::compile(&expr, &mut capture))
            .map_err(|fault| Refusal::new("expression", format!("{text:?}: {fault}")))?;
        Ok(Expression {
            text: text.into(),
            root,
            capture,
        })
    }

    /// What has to be kept of a stream for it.
    pub(crate) fn capture(&self, capture: &mut Capture) {
        capture.merge(&self.capture);
    }

    pub(crate) fn is_true(&self, context: &FormatContext<'_>) -> bool {
        let mut evaluation = evaluation(context);
        evaluation.of(&self.root).is_ok_and(|value| value.is_true())
    }

    /// Appends the value as Envoy prints it; `false`: there is none.
    pub(crate) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let mut evaluation = evaluation(context);
        let Ok(value) = evaluation.of(&self.root) else {
            return false;
        };
        value.print(out).is_ok()
    }

    /// The value with its type.
    pub(crate) fn json(&self, context: &FormatContext<'_>) -> Option<serde_json::Value> {
        let mut evaluation = evaluation(context);
        evaluation.of(&self.root).ok()?.to_json()
    }
}

fn evaluation<'a>(context: &'a FormatContext<'a>) -> Evaluation<'a> {
    Evaluation {
        context,
        budget: Budget::whole(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant, SystemTime};

    use http::HeaderValue;

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::filter_state::{FilterValue, Sharing};
    use crate::stream::peer::Peer;
    use crate::stream::response_flags::ResponseFlags;
    use crate::stream::stream_info::{Protocol, StreamInfo, StreamState};

    fn stream() -> Arc<StreamInfo> {
        let start = Instant::now();
        let (source, destination) = (([10, 0, 0, 9], 999).into(), ([10, 96, 0, 1], 80).into());
        let mut connection = Connection::new(source, destination, start);
        let principal = FilterValue::String("spiffe://td/ns/a/sa/b".into());
        connection
            .filter_state
            .set(&"io.istio.peer_principal".into(), principal, Sharing::None);
        let peer = FilterValue::Peer(Arc::new(Peer {
            namespace: "a".into(),
            app: "curl".into(),
            ..Peer::default()
        }));
        connection
            .filter_state
            .set(&"downstream_peer".into(), peer, Sharing::None);
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(86_401_500);
        let stream = StreamInfo::new(connection.into(), Protocol::Http11, start, time);
        fill(&mut stream.state());
        stream
    }

    fn fill(state: &mut StreamState) {
        state.request.method = Some(http::Method::GET);
        state.request.path = Some(http::uri::PathAndQuery::from_static("/a/b?c=d"));
        state.request.authority = Some(HeaderValue::from_static("reviews:9080"));
        for (name, value) in [("x-a", "1"), ("x-a", "2"), ("user-agent", "curl/8")] {
            let header = (name.parse().unwrap(), HeaderValue::from_static(value));
            state.request.headers.push(header);
        }
        let header = ("x-app".parse().unwrap(), HeaderValue::from_static("v1"));
        state.response.headers.push(header);
        state.response.code = Some(404);
        state.flags.insert(ResponseFlags::NO_ROUTE);
        state.cluster = Some("c".into());
        let services = serde_json::json!([{"host": "reviews", "weight": 2}]);
        state.cluster_metadata.set("istio", "services", services);
        state
            .metadata
            .set("ns", "key", serde_json::json!({"n": 1.5, "t": true}));
    }

    /// `-`: no value.
    fn printed(text: &str) -> String {
        let stream = stream();
        let state = stream.state();
        let context =
            FormatContext::recorded(&stream, &state, stream.start + Duration::from_millis(1_500));
        let mut out = Vec::new();
        let expression = Expression::parse(text).unwrap();
        match expression.write(&context, &mut out) {
            true => String::from_utf8(out).unwrap(),
            false => "-".to_owned(),
        }
    }

    #[track_caller]
    fn all(cases: &[(&str, &str)]) {
        for (text, value) in cases {
            assert_eq!(printed(text), *value, "{text}");
        }
    }

    #[test]
    fn attributes() {
        all(&[
            ("request.path", "/a/b?c=d"),
            ("request.url_path", "/a/b"),
            ("request.query", "c=d"),
            ("request['host']", "reviews:9080"),
            ("request.method + ' ' + request.scheme", "GET http"),
            ("request.useragent", "curl/8"),
            ("request.headers['X-A']", "1,2"),
            ("request.headers.missing", "-"),
            ("request.headers[':path']", "/a/b?c=d"),
            ("'x-a' in request.headers", "true"),
            ("has(request.headers.missing)", "false"),
            ("has(request.referer)", "false"),
            ("request.time", "1970-01-02T00:00:01.5+00:00"),
            ("request.duration", "1.5s"),
            ("request.protocol", "HTTP/1.1"),
            ("request.size", "0"),
            ("response.code", "404"),
            ("response.flags", "256"),
            ("response.grpc_status", "12"),
            ("response.headers['x-app']", "v1"),
            ("response.headers[':status']", "404"),
            ("source.address", "10.0.0.9:999"),
            ("destination.port", "80"),
            ("connection.mtls", "false"),
            ("connection.requested_server_name", ""),
            ("connection.uri_san_peer_certificate", "-"),
            ("upstream.address", "-"),
            ("xds.cluster_name", "c"),
            (
                "xds.cluster_metadata.filter_metadata['istio']['services'][0]['host']",
                "reviews",
            ),
            (
                "xds.cluster_metadata.filter_metadata.istio.services[0].weight",
                "2",
            ),
            ("metadata.filter_metadata.ns.key.n", "1.5"),
            ("metadata.filter_metadata['ns']['key']", "CelMap value"),
            ("metadata.filter_metadata.other.key", "-"),
            (
                "filter_state['io.istio.peer_principal']",
                "spiffe://td/ns/a/sa/b",
            ),
            ("filter_state.downstream_peer.namespace", "a"),
            ("filter_state.downstream_peer.labels", "-"),
            ("has(filter_state.upstream_peer)", "false"),
            (
                "'k' in filter_state ? filter_state['k'] : r'1.2.3.4:80'",
                "1.2.3.4:80",
            ),
        ]);
    }

    #[test]
    fn operators_and_what_has_no_value() {
        all(&[
            (
                "response.code >= 400 || request.headers['x-log'] == 'yes'",
                "true",
            ),
            (
                "response.code >= 500 || request.headers['x-log'] == 'yes'",
                "-",
            ),
            ("request.headers['x-log'] == 'yes' || true", "true"),
            ("request.headers['x-log'] == 'yes' && false", "false"),
            ("1 + 2 * 3 - 10 / 3 % 2", "6"),
            ("9223372036854775807 + 1", "-"),
            ("1 / 0", "-"),
            ("-(-9223372036854775808)", "-"),
            ("1 == 1.0 && 1u == 1 && 'a' != 1", "true"),
            ("1 + 1.0", "-"),
            ("'a' < 'b' && false < true && b'a' == b'\\x61'", "true"),
            ("[1, 2] + [3] == [1, 2, 3.0]", "true"),
            ("{'a': 1}.a + {'b': 2}['b']", "3"),
            ("3 in [1, 2] || 'x' in {'x': 1}", "true"),
            ("[1][1]", "-"),
            ("null", "NULL"),
            ("true ? 1 : 2", "1"),
            ("1 ? 1 : 2", "-"),
            ("!true", "false"),
            ("!1", "-"),
            ("[1]", "CelList value"),
            ("1.0 / 3.0", "0.333333"),
            (
                "request.time - timestamp('1970-01-02T00:00:00Z') == duration('1.5s')",
                "true",
            ),
        ]);
    }

    #[test]
    fn functions() {
        all(&[
            (
                "request.path.startsWith('/a') && request.path.endsWith('d')",
                "true",
            ),
            ("request.path.contains('zz')", "false"),
            ("request.path.matches('^/a/[b-c]')", "true"),
            ("size('äb') + size([1]) + 'c'.size()", "4"),
            (
                "'AbC'.lowerAscii() + 'x'.upperAscii() + ' t '.trim()",
                "abcXt",
            ),
            (
                "'a-b-c'.replace('-', '+') + 'aaa'.replace('a', 'b', 2)",
                "a+b+cbba",
            ),
            ("'a,b,c'.split(',')[1] + 'a,b,c'.split(',', 2)[1]", "bb,c"),
            (
                "'ab'.split('') == ['a', 'b'] && ''.split('') == ['']",
                "true",
            ),
            ("['a', 'b'].join('-') + ['c'].join()", "a-bc"),
            (
                "'häuser'.substring(1, 3) + 'ab'.charAt(1) + 'ab'.charAt(2)",
                "äub",
            ),
            (
                "'aba'.indexOf('a', 1) + 'aba'.lastIndexOf('a') + 'a'.indexOf('z')",
                "3",
            ),
            ("'ab'.substring(3)", "-"),
            ("int('42') + int(2.9) + int(request.time)", "86445"),
            ("int('x')", "-"),
            ("double('1.5') + double(1)", "2.5"),
            (
                "string(404) + string(true) + string(b'a') + string(1.5)",
                "404truea1.5",
            ),
            (
                "string(request.duration) + string(request.time)",
                "1.500s1970-01-02T00:00:01.500Z",
            ),
            (
                "request.time.getDayOfWeek() * 10 + request.time.getHours()",
                "50",
            ),
            ("bool('true') && uint(1) == 1u && dyn(1) == 1", "true"),
            (
                "string(filter_state['io.istio.peer_principal']) == 'spiffe://td/ns/a/sa/b'",
                "true",
            ),
        ]);
    }

    #[test]
    fn what_nobody_knows_is_refused_by_name() {
        for (text, told) in [
            ("request.paht", "request.paht"),
            ("request", "request"),
            ("request.headers", "request.headers"),
            ("request.headers[request.method]", "request.headers"),
            ("foo == 1", "foo"),
            ("xds.node.id", "xds.node"),
            ("[1].all(x, x > 0)", "all"),
            ("'a'.matches(request.path)", "pattern"),
            ("'a'.matches('(')", "regex"),
            ("nope(1)", "nope"),
            ("lowerAscii('a')", "a.f()"),
            ("has(request.headers['a'])", "has()"),
            ("request.headers['a b']", "a b"),
            ("1 +", "at 3"),
        ] {
            let refusal = Expression::parse(text).unwrap_err().to_string();
            assert!(refusal.contains(told), "{text}: {refusal}");
        }
    }

    #[test]
    fn what_is_made_is_bounded() {
        let long = format!("'{}'", "a".repeat(2_000));
        let blown = format!("{long}.replace('', {long})");
        assert_eq!(printed(&blown), "-");
        let doubled = format!("{long}.replace('a', 'bbbbbbbbbbbbbbbb').replace('b', 'cccccccc')");
        assert_eq!(printed(&doubled), "-");
    }

    #[test]
    fn what_is_asked_of_a_stream_is_captured() {
        let of = |text: &str| {
            let mut capture = Capture::default();
            Expression::parse(text).unwrap().capture(&mut capture);
            capture
        };
        assert_eq!(
            of("response.code > 1 && source.port == 1"),
            Capture::default()
        );
        let capture = of("has(request.headers.x) || request.path == response.trailers['y']");
        assert!(capture.request_line);
        assert_eq!(capture.request_headers, ["x"]);
        assert_eq!(capture.response_trailers, ["y"]);
        assert!(of("connection.uri_san_peer_certificate").tls);
    }

    /// Neither text put together at random nor what is left of an expression panics.
    #[test]
    fn nonsense_never_panics() {
        const PARTS: &[&str] = &[
            "request",
            ".",
            "headers",
            "['x']",
            "(",
            ")",
            "+",
            "-",
            "&&",
            "||",
            "!",
            "?",
            ":",
            "1",
            "2u",
            "1.5",
            "'ä'",
            "b'\\xff'",
            "[",
            "]",
            "{",
            "}",
            ",",
            "in",
            "size",
            "has(",
            "response.code",
            "filter_state",
            "metadata",
            ".split('')",
            ".replace('', 'x')",
            ".substring(1)",
            "==",
            "<",
            "null",
            "true",
            "timestamp('1970-01-01T00:00:00Z')",
            "duration('1h')",
            " ",
            "\\",
            "\"",
            "%",
            "9223372036854775807",
            "request.time",
            ".charAt(0)",
            ".indexOf('', 1)",
            "\u{0}",
            "//",
            "\n",
        ];
        let stream = stream();
        let state = stream.state();
        let context = FormatContext::recorded(&stream, &state, stream.start);
        let mut random = fastrand::Rng::with_seed(7);
        let mut compiled = 0;
        for _ in 0..60_000 {
            let length = random.usize(1..10);
            let text: String = (0..length)
                .map(|_| PARTS[random.usize(..PARTS.len())])
                .collect();
            if let Ok(expression) = Expression::parse(&text) {
                compiled += 1;
                let mut out = Vec::new();
                expression.write(&context, &mut out);
                let _ = (expression.json(&context), expression.is_true(&context));
            }
        }
        assert!(compiled > 200, "{compiled}");
    }

    /// Tells how long evaluations take: `cargo test --release … -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    fn nanoseconds_for_an_evaluation() {
        let stream = stream();
        let state = stream.state();
        let context = FormatContext::recorded(&stream, &state, stream.start);
        for text in [
            "response.code >= 400 || request.headers['x-log'] == 'yes'",
            "request.url_path.startsWith('/a') && connection.mtls",
            "xds.cluster_metadata.filter_metadata['istio']['services'][0]['host']",
            "request.path.matches('^/a/[b-c]')",
        ] {
            let expression = Expression::parse(text).unwrap();
            let begin = Instant::now();
            let rounds = 200_000;
            for _ in 0..rounds {
                std::hint::black_box(expression.is_true(std::hint::black_box(&context)));
            }
            println!("{} ns: {text}", begin.elapsed().as_nanos() / rounds);
        }
    }
}
