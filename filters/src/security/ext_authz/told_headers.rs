//! Which of a request's headers a service is told, and how: with its pseudo headers, values of one name joined.
//!
//! Unless they are wanted as they are (`encode_raw_headers`), bytes that aren't UTF-8 become `!`.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue, Request, Version, header};

use crate::matcher::header::joined;
use crate::security::ext_authz::header_names::HeaderNames;
use crate::service::SaidScheme;

/// Says whether a service gets all of a body; a client can't say it.
pub(crate) const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// What is told.
#[derive(Debug, Default)]
pub(crate) struct ToldHeaders {
    /// `None`: all.
    pub(crate) allowed: Option<HeaderNames>,
    pub(crate) disallowed: Option<HeaderNames>,
    /// Values as they are, and each by itself.
    pub(crate) raw: bool,
}

impl ToldHeaders {
    /// Tells names with their values: one each, unless they are raw.
    pub(crate) fn each<B>(&self, request: &Request<B>, tell: &mut dyn FnMut(&str, &[u8])) {
        let path = path(request);
        for (name, value) in [
            (":authority", host(request.headers()).as_bytes()),
            (":method", request.method().as_str().as_bytes()),
            (":path", path.as_bytes()),
            (":scheme", scheme(request).as_bytes()),
        ] {
            if self.tells(name) {
                match self.raw {
                    true => tell(name, value),
                    false => tell(name, as_text(value).as_bytes()),
                }
            }
        }
        let headers = request.headers();
        for name in headers.keys() {
            if *name == header::HOST || name.as_str() == PARTIAL_BODY || !self.tells(name.as_str())
            {
                continue;
            }
            if self.raw {
                for value in headers.get_all(name) {
                    tell(name.as_str(), value.as_bytes());
                }
            } else if let Some(value) = joined(headers, name) {
                tell(name.as_str(), as_text(&value).as_bytes());
            }
        }
    }

    fn tells(&self, name: &str) -> bool {
        let (allowed, disallowed) = (self.allowed.as_ref(), self.disallowed.as_ref());
        allowed.is_none_or(|names| names.has(name))
            && !disallowed.is_some_and(|names| names.has(name))
    }
}

/// The target, query included.
pub(crate) fn path<B>(request: &Request<B>) -> &str {
    let target = request.uri().path_and_query();
    target.map_or("", http::uri::PathAndQuery::as_str)
}

pub(crate) fn host(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST);
    host.and_then(|host| host.to_str().ok()).unwrap_or("")
}

/// The scheme that the client named. HTTP/1 names none where its target is a path, and somebody before may have ended TLS.
pub(crate) fn scheme<B>(request: &Request<B>) -> &str {
    let said = request.extensions().get::<SaidScheme>();
    let forwarded = request.headers().get("x-forwarded-proto");
    match (said, forwarded.map(HeaderValue::as_bytes)) {
        (Some(said), _) => said.0.as_str(),
        (None, Some(forwarded)) if request.version() != Version::HTTP_2 => {
            match forwarded.eq_ignore_ascii_case(b"https") {
                true => "https",
                false => "http",
            }
        }
        _ => "http",
    }
}

/// Bytes as text, with `!` for each that has no place in one.
pub(crate) fn as_text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for _ in chunk.invalid() {
            let _ = text.write_char('!');
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::security::ext_authz::header_names::tests::names;

    fn request() -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = "/a?b=c".parse().unwrap();
        let headers = request.headers_mut();
        headers.insert("host", HeaderValue::from_static("web:80"));
        headers.append("x-user", HeaderValue::from_static("a"));
        headers.append("x-user", HeaderValue::from_static("b"));
        headers.append("x-bytes", HeaderValue::from_bytes(b"\xffx\xc3").unwrap());
        headers.append(PARTIAL_BODY, HeaderValue::from_static("true"));
        request
    }

    fn told(headers: &ToldHeaders) -> Vec<(String, String)> {
        let mut told = Vec::new();
        headers.each(&request(), &mut |name, value| {
            told.push((name.to_owned(), as_text(value).into_owned()));
        });
        told.sort();
        told
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        owned.collect()
    }

    #[test]
    fn all_is_told_but_what_is_ours_to_say() {
        let all = [
            (":authority", "web:80"),
            (":method", "GET"),
            (":path", "/a?b=c"),
            (":scheme", "http"),
            ("x-bytes", "!x!"),
            ("x-user", "a,b"),
        ];
        assert_eq!(told(&ToldHeaders::default()), pairs(&all));
    }

    #[test]
    fn a_scheme_is_the_clients_word() {
        let mut request = request();
        assert_eq!(scheme(&request), "http");
        let https = HeaderValue::from_static("https");
        request.headers_mut().insert("x-forwarded-proto", https);
        assert_eq!(scheme(&request), "https");
        *request.version_mut() = Version::HTTP_2;
        assert_eq!(scheme(&request), "http");
        let said = SaidScheme("https".parse().unwrap());
        request.extensions_mut().insert(said);
        assert_eq!(scheme(&request), "https");
    }

    #[test]
    fn lists_say_what_is_told() {
        let list = |patterns: &[&str]| {
            let list = names(patterns);
            HeaderNames::optional(Some(&list), "").unwrap()
        };
        let some = ToldHeaders {
            allowed: list(&["x-*", ":path"]),
            disallowed: list(&["x-bytes"]),
            raw: true,
        };
        let expected = [(":path", "/a?b=c"), ("x-user", "a"), ("x-user", "b")];
        assert_eq!(told(&some), pairs(&expected));
    }

    #[test]
    fn values_as_they_are_keep_their_bytes() {
        let raw = ToldHeaders {
            raw: true,
            ..ToldHeaders::default()
        };
        let mut told = Vec::new();
        raw.each(&request(), &mut |name, value| {
            told.push((name.to_owned(), value.to_vec()));
        });
        assert!(told.contains(&("x-bytes".into(), b"\xffx\xc3".to_vec())));
    }
}
