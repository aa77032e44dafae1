//! Format strings: `%OPERATORS%` compiled once, evaluated per stream (Envoy's substitution formatter).
//!
//! An operator that isn't known is refused by name while configuration is compiled. What has no value
//! prints as `-`.

pub(crate) mod filter_state_value;
mod json;
mod json_text;
mod operators;
pub mod substitution;
mod syntax;
mod time_format;

pub use crate::stream::format_context::{FormatContext, RequestView};
pub use syntax::Complain;

use crate::decimal;
use crate::format::operators::Operator;
use crate::format::syntax::Part;
use crate::stream::stream_info::Capture;
use crate::xds::rejected::Refusal;

/// A compiled format string.
#[derive(Clone, Debug)]
pub struct Format {
    pieces: Box<[Piece]>,
    /// What is printed where there is no value.
    missing: &'static str,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(Box<str>),
    Value {
        operator: Operator,
        max_length: Option<usize>,
    },
}

impl Format {
    /// # Errors
    /// An operator that isn't known or is written with what it doesn't take, or a stray `%`.
    pub fn parse(text: &str) -> Result<Format, Refusal> {
        Format::parse_with(text, &mut Err)
    }

    /// The same, where `complain` may let a complaint pass: what it is about then has no value, and a stray
    /// `%` is one.
    ///
    /// # Errors
    /// What `complain` says.
    pub fn parse_with(text: &str, complain: Complain<'_>) -> Result<Format, Refusal> {
        let mut pieces: Vec<Piece> = Vec::new();
        for part in syntax::parts(text, complain)? {
            match (part, pieces.last_mut()) {
                (Part::Text(text), Some(Piece::Literal(before))) => {
                    *before = format!("{before}{text}").into();
                }
                (Part::Text(text), _) => pieces.push(Piece::Literal(text.into())),
                (Part::Command(command), _) => pieces.push(Piece::Value {
                    operator: Operator::parse(&command).or_else(|refusal| {
                        complain(refusal)?;
                        Ok(Operator::NEVER)
                    })?,
                    max_length: command.max_length,
                }),
            }
        }
        Ok(Format {
            pieces: pieces.into(),
            missing: "-",
        })
    }

    /// A text that was meant as one, if nothing in it is an operator: its stray `%` are what they are.
    pub fn as_text(text: &str) -> Option<String> {
        match Format::parse(text) {
            Ok(format) => format.literal().map(str::to_owned),
            Err(_) => syntax::without_operators(text),
        }
    }

    /// The same, printing nothing where there is no value, if `omit` (`omit_empty_values`).
    pub fn omitting_empty(self, omit: bool) -> Format {
        Format {
            missing: if omit { "" } else { "-" },
            ..self
        }
    }

    /// Appends the text to `out`.
    pub fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Value {
                    operator,
                    max_length,
                } => {
                    if !operator.write_at_most(*max_length, context, out) {
                        out.extend_from_slice(self.missing.as_bytes());
                    }
                }
            }
        }
    }

    /// Appends a JSON value: that of the operator where the format is one, with its type; the text otherwise. `false`: the
    /// operator has none, and nothing is written.
    fn write_json(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let [
            Piece::Value {
                operator,
                max_length,
            },
        ] = &*self.pieces
        else {
            out.push(b'"');
            self.write(context, out);
            json_text::close(start + 1, out);
            return true;
        };
        if let Some(value) = operator.structured(context) {
            return value.is_some_and(|value| {
                serde_json::to_writer(&mut *out, &cut(value, *max_length)).is_ok()
            });
        }
        out.push(b'"');
        if !operator.write_at_most(*max_length, context, out) {
            out.truncate(start);
            return false;
        }
        let text = out.get(start + 1..).unwrap_or_default();
        let number = std::str::from_utf8(text)
            .ok()
            .filter(|_| operator.is_number());
        match number.and_then(|text| text.parse().ok()) {
            Some(number) => {
                out.truncate(start);
                decimal::signed(out, number);
            }
            None => json_text::close(start + 1, out),
        }
        true
    }

    /// Which parts of heads the format needs.
    pub fn capture(&self) -> Capture {
        let mut capture = Capture::default();
        for piece in &self.pieces {
            if let Piece::Value { operator, .. } = piece {
                operator.capture(&mut capture);
            }
        }
        capture
    }

    /// The text of a format without operators.
    pub fn literal(&self) -> Option<&str> {
        match &*self.pieces {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// A text with no more than so many bytes; other values are whole.
fn cut(value: serde_json::Value, max_length: Option<usize>) -> serde_json::Value {
    match (value, max_length) {
        (serde_json::Value::String(mut text), Some(max)) => {
            let end = (0..=max.min(text.len())).rfind(|at| text.is_char_boundary(*at));
            text.truncate(end.unwrap_or(0));
            text.into()
        }
        (value, _) => value,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use http::HeaderValue;

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::filter_state::{FilterValue, Sharing};
    use crate::stream::stream_info::{Protocol, StreamInfo, StreamState};

    /// Istio's default log line, without START_TIME.
    const ISTIO: &str = "\"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

    fn stream() -> std::sync::Arc<StreamInfo> {
        let start = Instant::now();
        let mut connection = Connection::new(
            ([10, 0, 0, 9], 999).into(),
            ([10, 96, 0, 1], 80).into(),
            start,
        );
        connection.filter_state.set(
            &"io.istio.peer_principal".into(),
            FilterValue::String("spiffe://td/ns/a/sa/b".into()),
            Sharing::None,
        );
        StreamInfo::new(
            connection.into(),
            Protocol::Http11,
            start,
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
        )
    }

    /// As a value of JSON; `-`: there is none.
    fn json(text: &str, stream: &StreamInfo) -> String {
        let state = stream.state();
        let context = FormatContext::recorded(stream, &state, stream.start);
        let mut out = Vec::new();
        match Format::parse(text).unwrap().write_json(&context, &mut out) {
            true => String::from_utf8(out).unwrap(),
            false => {
                assert!(out.is_empty());
                "-".to_owned()
            }
        }
    }

    fn print(text: &str) -> String {
        print_with(text, |_| ())
    }

    fn print_with(text: &str, change: impl FnOnce(&mut StreamState)) -> String {
        let stream = stream();
        {
            let mut state = stream.state();
            state.request.method = Some(http::Method::GET);
            state.request.path = Some(http::uri::PathAndQuery::from_static("/a?b"));
            state.request.authority = Some(HeaderValue::from_static("reviews:9080"));
            state.response.code = Some(200);
            state.response_code_details = Some("via_upstream".into());
            change(&mut state);
        }
        let state = stream.state();
        let context =
            FormatContext::recorded(&stream, &state, stream.start + Duration::from_millis(7));
        let mut out = Vec::new();
        Format::parse(text).unwrap().write(&context, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn istios_default_line() {
        assert_eq!(
            print(ISTIO),
            "\"GET /a?b HTTP/1.1\" 200 - via_upstream - \"-\" 0 0 7 - \"-\" \"-\" \"-\" \"reviews:9080\" \"-\" - - 10.96.0.1:80 10.0.0.9:999 - -\n"
        );
    }

    #[test]
    fn operators_with_arguments() {
        assert_eq!(print("100%% %REQ(:METHOD):2%"), "100% GE");
        assert_eq!(print("%START_TIME%"), "1970-01-01T00:00:01.500Z");
        assert_eq!(
            print("%START_TIME(%Y/%m/%d %H:%M:%S.%3f)%"),
            "1970/01/01 00:00:01.500"
        );
        assert_eq!(
            print("%FILTER_STATE(io.istio.peer_principal:PLAIN)%"),
            "spiffe://td/ns/a/sa/b"
        );
        assert_eq!(
            print("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
            "10.0.0.9"
        );
        assert_eq!(print("%REQ_WITHOUT_QUERY(:PATH)%"), "/a");
    }

    #[test]
    fn parts_of_the_target() {
        let of = |text: &str| {
            print_with(text, |state| {
                state.request.path = Some(http::uri::PathAndQuery::from_static("/new?a=1"));
                state.request.original_path = Some("/old/x?a=1&b=x%20y%&b=2".into());
            })
        };
        assert_eq!(of("%PATH%"), "/old/x?a=1&b=x%20y%&b=2");
        assert_eq!(
            of("%PATH(NQ)%|%PATH(WQ:PATH)%|%PATH:4%"),
            "/old/x|/new?a=1|/old"
        );
        assert_eq!(of("%QUERY_PARAM(b)%|%QUERY_PARAM(c)%"), "x y%|-");
        assert_eq!(of("%QUERY_PARAMS(DECODED)%"), "a=1&b=x%20y%&b=2");
        assert_eq!(
            of("%REQ(:PATH)%|%REQ(:Host)%|%REQ(x-envoy-original-path?:path):4%"),
            "/new?a=1|-|/old"
        );
    }

    #[test]
    fn expressions_as_texts_and_with_their_types() {
        assert_eq!(
            print(
                "%CEL(response.code / 100)%|%CEL(request.path.contains('a')):2%|%CEL(request.id)%"
            ),
            "2|tr|-"
        );
        let stream = stream();
        assert_eq!(json("%TYPED_CEL(1 + 1)%", &stream), "2");
        assert_eq!(json("%TYPED_CEL('häuser'):2%", &stream), "\"h\"");
        assert_eq!(json("%TYPED_CEL(request.id)%", &stream), "-");
        assert_eq!(json("%CEL(1 + 1)%", &stream), "\"2\"");
    }

    #[test]
    fn names_of_a_grpc_status() {
        let of = |text: &str, status| {
            print_with(text, |state| {
                state.grpc = Some(Box::new(crate::stream::stream_info::GrpcInfo {
                    status: Some(status),
                    ..Default::default()
                }));
            })
        };
        let all =
            "%GRPC_STATUS%|%GRPC_STATUS(SNAKE_STRING)%|%GRPC_STATUS(NUMBER)%|%GRPC_STATUS_NUMBER%";
        assert_eq!(of(all, 5), "NotFound|NOT_FOUND|5|5");
        assert_eq!(of(all, 99), "99|99|99|99");
        assert_eq!(print(all), "-|-|-|-");
    }

    #[test]
    fn the_stream_and_its_ends() {
        assert_eq!(
            print(
                "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%|%COMMON_DURATION(own:DS_TX_END)%|%REQUEST_DURATION%"
            ),
            "7000|-|-"
        );
        assert_eq!(
            print(
                "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%|%DOWNSTREAM_REMOTE_PORT%|%UPSTREAM_HOSTS_ATTEMPTED%"
            ),
            "10.0.0.0/16|999|-"
        );
        assert_eq!(
            print(
                "%REQUESTED_SERVER_NAME%|%REQUESTED_SERVER_NAME(SNI_FIRST)%|%ACCESS_LOG_TYPE%|%LOCAL_REPLY_BODY%"
            ),
            "-|reviews:9080|DownstreamEnd|"
        );
        assert_eq!(
            print(
                r#"%COALESCE({"operators":["ROUTE_NAME",{"command":"REQ","param":":METHOD","max_length":2}]})%"#
            ),
            "GE"
        );
        let blanks = |text: &str| {
            print_with(text, |state| {
                state.response_code_details = Some("a b".into())
            })
        };
        assert_eq!(
            blanks("%RESPONSE_CODE_DETAILS%|%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%"),
            "a_b|a b"
        );
        assert_eq!(print("%UNIQUE_ID%").len(), 36);
        assert_ne!(print("%UNIQUE_ID%"), print("%UNIQUE_ID%"));
    }

    #[test]
    fn what_an_operator_does_not_take_is_refused() {
        for refused in [
            "%PROTOCOL(x)%",
            "%PROTOCOL:3%",
            "%REQ%",
            "%REQ(a?b?c)%",
            "%REQ(a b)%",
            "%START_TIME:3%",
            "%START_TIME(%n)%",
            "%PATH(x)%",
            "%QUERY_PARAMS(x)%",
            "%GRPC_STATUS(x)%",
            "%METADATA(x:a)%",
            "%FILTER_STATE(a:FIELD)%",
            "%FILTER_STATE(a:x)%",
            "%COMMON_DURATION(a)%",
            "%COMMON_DURATION(a:b:s)%",
            "%COALESCE(x)%",
            "%UPSTREAM_HOST(x)%",
            "%DOWNSTREAM_LOCAL%",
            "%UPSTREAM_HOST_PORT%",
            "%CEL(1 +)%",
            "%TYPED_CEL(nobody.knows)%",
            "%CLUSTER_METADATA(a:b):3%",
        ] {
            assert!(Format::parse(refused).is_err(), "{refused}");
            let mut told = 0;
            let mut complain = |_| {
                told += 1;
                Ok(())
            };
            assert!(
                Format::parse_with(refused, &mut complain).is_ok(),
                "{refused}"
            );
            assert_eq!(told, 1, "{refused}");
        }
    }

    #[test]
    fn metadata_keeps_its_structure_alone() {
        let stream = stream();
        stream
            .state()
            .metadata
            .set("ns", "k", serde_json::json!({"a": [1, "x"]}));
        let json = |text: &str| json(text, &stream);
        let value = r#"{"a":[1,"x"]}"#;
        assert_eq!(json("%DYNAMIC_METADATA(ns:k)%"), value);
        assert_eq!(json("%METADATA(DYNAMIC:ns:no)%"), "-");
        let text = r#""={\"a\":[1,\"x\"]}""#;
        assert_eq!(json("=%METADATA(DYNAMIC:ns:k)%"), text);
        assert!(json("%CONNECTION_ID%").parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn what_has_no_value_is_a_dash_or_nothing() {
        assert_eq!(print("a%ROUTE_NAME%b"), "a-b");
        let format = Format::parse("a%ROUTE_NAME%b")
            .unwrap()
            .omitting_empty(true);
        let (stream, mut out) = (stream(), Vec::new());
        let state = stream.state();
        let context = FormatContext::recorded(&stream, &state, stream.start);
        format.write(&context, &mut out);
        assert_eq!(out, b"ab");
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(
            Format::parse("%NOPE%").unwrap_err().to_string(),
            "format: unknown operator %NOPE%"
        );
        assert!(Format::parse("%REQ(:METHOD)").is_err());
        assert!(Format::parse("50%").is_err());
    }

    #[test]
    fn captures_what_it_prints() {
        let capture = Format::parse(ISTIO).unwrap().capture();
        assert!(capture.request_line);
        assert_eq!(capture.request_headers.len(), 3);
        assert_eq!(capture.response_headers.len(), 1);
        assert_eq!(
            Format::parse("%DURATION%").unwrap().capture(),
            Capture::default()
        );
    }
}
