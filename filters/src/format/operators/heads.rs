//! What stands in the heads of request and response, and in the response's trailers.
//!
//! Names beginning with `:` are HTTP/2's own fields; one that doesn't exist has no value (`%REQ(:Host)%`).

use http::{HeaderName, HeaderValue};

use super::print::{number, text};
use crate::format::FormatContext;
use crate::stream::stream_info::Capture;
use crate::xds::rejected::Refusal;

/// `%REQ(main?alternative)%` and its like.
#[derive(Clone, Debug)]
pub(in crate::format) struct Head {
    of: Of,
    main: Name,
    alternative: Name,
    without_query: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Request,
    Response,
    Trailers,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Method,
    Path,
    Authority,
    Scheme,
    /// `x-envoy-original-path`, set where the router rewrote the path.
    OriginalPath,
    Status,
    Field(HeaderName),
    /// Nothing has this name.
    Nothing,
}

impl Head {
    /// `None`: the name is none of these.
    pub(super) fn parse(name: &str, parameters: &str) -> Result<Option<Head>, Refusal> {
        let of = match name {
            "REQ" | "REQUEST_HEADER" | "STREAM_INFO_REQ" | "REQ_WITHOUT_QUERY" => Of::Request,
            "RESP" | "RESPONSE_HEADER" => Of::Response,
            "TRAILER" | "RESPONSE_TRAILER" => Of::Trailers,
            _ => return Ok(None),
        };
        let (main, alternative) = parameters.split_once('?').unwrap_or((parameters, ""));
        if alternative.contains('?') {
            let reason = format!("%{name}({parameters})% has more than one alternative");
            return Err(Refusal::new("format", reason));
        }
        Ok(Some(Head {
            of,
            main: Name::parse(main, of)?,
            alternative: Name::parse(alternative, of)?,
            without_query: name == "REQ_WITHOUT_QUERY",
        }))
    }

    pub(super) fn capture(&self, capture: &mut Capture) {
        for name in [&self.main, &self.alternative] {
            let list = match (name, self.of) {
                (Name::Nothing | Name::Status, _) => continue,
                (Name::Field(_), Of::Request) => &mut capture.request_headers,
                (Name::Field(_), Of::Response) => &mut capture.response_headers,
                (Name::Field(_), Of::Trailers) => &mut capture.response_trailers,
                _ => {
                    capture.request_line = true;
                    continue;
                }
            };
            if let Name::Field(name) = name
                && !list.contains(name)
            {
                list.push(name.clone());
            }
        }
    }

    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let found =
            self.main.write(self.of, context, out) || self.alternative.write(self.of, context, out);
        if self.without_query
            && let Some(query) = out[start..].iter().position(|b| *b == b'?')
        {
            out.truncate(start + query);
        }
        found
    }
}

impl Name {
    fn parse(name: &str, of: Of) -> Result<Name, Refusal> {
        let lower = name.to_ascii_lowercase();
        Ok(match (lower.as_str(), of) {
            ("", _) => Name::Nothing,
            (":method", Of::Request) => Name::Method,
            (":path", Of::Request) => Name::Path,
            (":authority" | "host", Of::Request) => Name::Authority,
            (":scheme", Of::Request) => Name::Scheme,
            ("x-envoy-original-path", Of::Request) => Name::OriginalPath,
            (":status", Of::Response) => Name::Status,
            (other, _) => {
                let (pseudo, field) = match other.strip_prefix(':') {
                    Some(field) => (true, field),
                    None => (false, other),
                };
                let field = HeaderName::try_from(field).map_err(|_| {
                    Refusal::new("format", format!("{name:?} is not a header name"))
                })?;
                if pseudo {
                    Name::Nothing
                } else {
                    Name::Field(field)
                }
            }
        })
    }

    fn write(&self, of: Of, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let captured = context.captured();
        let live = context.request;
        match self {
            Name::Method => {
                let method = live.map(|r| r.method).or(captured.method.as_ref());
                text(out, method.map(|m| m.as_str()))
            }
            Name::Path => {
                let live = live.and_then(|r| r.uri.path_and_query());
                text(out, live.or(captured.path.as_ref()).map(|p| p.as_str()))
            }
            Name::OriginalPath => text(out, captured.original_path.as_deref()),
            Name::Authority => text(out, authority(context).map(HeaderValue::as_bytes)),
            Name::Scheme => text(out, Some("http")),
            Name::Status => match context.state.response.code {
                Some(code) => number(out, code.into()),
                None => false,
            },
            Name::Field(name) => {
                let value = match of {
                    Of::Request => context.request_header(name),
                    Of::Response => context.response_header(name),
                    Of::Trailers => context.response_trailer(name),
                };
                text(out, value.map(HeaderValue::as_bytes))
            }
            Name::Nothing => false,
        }
    }
}

fn authority<'a>(context: &'a FormatContext<'_>) -> Option<&'a HeaderValue> {
    let live = context
        .request
        .and_then(|r| r.headers.get(http::header::HOST));
    live.or(context.captured().authority.as_ref())
}

/// Path and query, of the request as it came or as it was rewritten.
#[derive(Clone, Debug)]
pub(in crate::format) struct Target {
    part: TargetPart,
    version: Version,
}

#[derive(Clone, Debug)]
enum TargetPart {
    Whole,
    Path,
    Query,
    /// The value of this parameter, decoded.
    Parameter(Box<str>),
}

#[derive(Clone, Copy, Debug)]
enum Version {
    Original,
    Current,
    OriginalOrCurrent,
}

impl Target {
    /// `None`: the name is none of these.
    pub(super) fn parse(name: &str, parameters: &str) -> Result<Option<Target>, Refusal> {
        let refuse = |option: &str| {
            let reason = format!("%{name}({parameters})%: {option:?} is no option of it");
            Err(Refusal::new("format", reason))
        };
        let mut options = parameters.split(':');
        let mut next = || options.next().unwrap_or_default();
        let mut version = Version::OriginalOrCurrent;
        let part = match name {
            "PATH" => {
                let part = match next() {
                    "" | "WQ" => TargetPart::Whole,
                    "NQ" => TargetPart::Path,
                    other => return refuse(other),
                };
                version = match next() {
                    "" | "ORIG_OR_PATH" => Version::OriginalOrCurrent,
                    "ORIG" => Version::Original,
                    "PATH" => Version::Current,
                    other => return refuse(other),
                };
                part
            }
            "QUERY_PARAMS" => match parameters {
                // Envoy prints the same for both.
                "" | "ORIG" | "DECODED" => TargetPart::Query,
                other => return refuse(other),
            },
            "QUERY_PARAM" => TargetPart::Parameter(parameters.into()),
            _ => return Ok(None),
        };
        Ok(Some(Target { part, version }))
    }

    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let captured = context.captured();
        let original = captured.original_path.as_deref();
        let current = context.request.and_then(|r| r.uri.path_and_query());
        let current = current.or(captured.path.as_ref()).map(|path| path.as_str());
        let target = match self.version {
            Version::Original => original,
            Version::Current => current,
            Version::OriginalOrCurrent => original.or(current),
        };
        let Some(target) = target else { return false };
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        match &self.part {
            TargetPart::Whole => text(out, Some(target)),
            TargetPart::Path => text(out, Some(path)),
            TargetPart::Query => text(out, query),
            TargetPart::Parameter(name) => {
                let pairs = query.into_iter().flat_map(|query| query.split('&'));
                let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let found = pairs.find(|(key, _)| decoded(key) == name.as_bytes());
                text(out, found.map(|(_, value)| decoded(value)))
            }
        }
    }
}

/// Escapes undone; what is none stays.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(value.unwrap_or(*byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    out
}

/// `%REQUESTED_SERVER_NAME(order:host)%`: the TLS handshake's name, or the request's host.
#[derive(Clone, Copy, Debug)]
pub(in crate::format) struct ServerName {
    order: Order,
    original: bool,
    current: bool,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Sni,
    SniThenHost,
    HostThenSni,
}

const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

impl ServerName {
    pub(super) fn parse(parameters: &str) -> Result<ServerName, Refusal> {
        let mut options = parameters.split(':');
        let mut next = || options.next().unwrap_or_default();
        let refuse = |option: &str| {
            let reason =
                format!("%REQUESTED_SERVER_NAME({parameters})%: {option:?} is no option of it");
            Err(Refusal::new("format", reason))
        };
        let order = match next() {
            "" | "SNI_ONLY" => Order::Sni,
            "SNI_FIRST" => Order::SniThenHost,
            "HOST_FIRST" => Order::HostThenSni,
            other => return refuse(other),
        };
        let (original, current) = match next() {
            "" | "ORIG_OR_HOST" => (true, true),
            "HOST" => (false, true),
            "ORIG" => (true, false),
            other => return refuse(other),
        };
        Ok(ServerName {
            order,
            original,
            current,
        })
    }

    pub(super) fn capture(self, capture: &mut Capture) {
        if matches!(self.order, Order::Sni) {
            return;
        }
        capture.request_line |= self.current;
        if self.original && !capture.request_headers.contains(&ORIGINAL_HOST) {
            capture.request_headers.push(ORIGINAL_HOST);
        }
    }

    pub(super) fn write(self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let sni = context.stream.connection.server_name.known();
        let sni = sni.map(str::as_bytes);
        let host = || {
            let original = self
                .original
                .then(|| context.request_header(&ORIGINAL_HOST));
            let current = || self.current.then(|| authority(context)).flatten();
            let host = original.flatten().or_else(current);
            host.map(HeaderValue::as_bytes)
        };
        match self.order {
            Order::Sni => text(out, sni),
            Order::SniThenHost => text(out, sni.or_else(host)),
            Order::HostThenSni => text(out, host().or(sni)),
        }
    }
}
