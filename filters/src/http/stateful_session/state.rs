//! Where a session is kept: in a cookie, or in a header that the client sends back. Forms are Envoy's.
//!
//! A cookie holds the endpoint's name and, where it has a lifetime, its end, which counts whatever the client does with
//! the cookie. What can't be read is no session.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::http::v3::Cookie as CookieProto;
use envoy_types::pb::google::protobuf::Any;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prost::Message as _;

use crate::service::cookie::{after_value, check, cookie};
use crate::stream::session::{SessionHost, Wanted};
use crate::xds::coverage::well_known::DURATION;
use crate::xds::coverage::{Table, decode_any, honoured, required};
use crate::xds::duration;
use crate::xds::rejected::Refusal;

pub(super) static COOKIE_STATE: Table = Table {
    name: "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
    fields: &[honoured(1, "cookie").of(&COOKIE)],
    refused: "",
    required: &[required("cookie", &[1])],
};

static COOKIE: Table = Table {
    name: "envoy.type.http.v3.Cookie",
    fields: &[
        honoured(1, "name"),
        honoured(2, "ttl").of(&DURATION),
        honoured(3, "path"),
        honoured(4, "attributes").list().of(&COOKIE_ATTRIBUTE),
    ],
    refused: "",
    required: &[required("name", &[1])],
};

static COOKIE_ATTRIBUTE: Table = Table {
    name: "envoy.type.http.v3.CookieAttribute",
    fields: &[honoured(1, "name"), honoured(2, "value")],
    refused: "",
    required: &[required("name", &[1])],
};

pub(super) static HEADER_STATE: Table = Table {
    name: "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
    fields: &[honoured(1, "name")],
    refused: "",
    required: &[required("name", &[1])],
};

/// Where a session is kept.
#[derive(Debug)]
pub(super) enum State {
    Cookie(Cookie),
    Header(HeaderName),
}

#[derive(Debug)]
pub(super) struct Cookie {
    name: Box<str>,
    /// Requests of other paths have no session.
    path: Box<str>,
    lifetime: Option<Duration>,
    /// What follows the value.
    after: Box<str>,
}

/// What a cookie's value holds.
#[derive(Clone, PartialEq, prost::Message)]
struct Content {
    #[prost(string, tag = "1")]
    address: String,
    /// Seconds since 1970; 0: it has no end.
    #[prost(uint64, tag = "2")]
    expires: u64,
}

impl State {
    pub(super) fn from_proto(any: &Any) -> Result<State, Refusal> {
        if COOKIE_STATE.has_type_url(&any.type_url) {
            let proto: CookieBasedSessionState = decode_any(any)?;
            let cookie = proto.cookie.ok_or_else(|| Refusal::missing("cookie"))?;
            return Cookie::from_proto(&cookie)
                .map(State::Cookie)
                .map_err(|e| e.within("cookie"));
        }
        if HEADER_STATE.has_type_url(&any.type_url) {
            let proto: HeaderBasedSessionState = decode_any(any)?;
            let name = HeaderName::try_from(proto.name.as_str());
            return name.map(State::Header).map_err(|_| {
                Refusal::new("name", format!("{:?} is not a header name", proto.name))
            });
        }
        Err(Refusal::unsupported(any.type_url.as_str()))
    }

    /// Whether requests of this path have sessions.
    pub(super) fn is_for(&self, path: &str) -> bool {
        match self {
            State::Header(_) => true,
            State::Cookie(cookie) => is_below(path, &cookie.path),
        }
    }

    /// Where the request was led to before.
    pub(super) fn wanted(&self, request: &HeaderMap, now: SystemTime) -> Wanted {
        let content = match self {
            State::Header(name) => request.get(name).and_then(|value| {
                let bytes = STANDARD.decode(value.as_bytes()).ok()?;
                String::from_utf8(bytes).ok()
            }),
            State::Cookie(cookie) => cookie.content(request, now),
        };
        match content.filter(|content| !content.is_empty()) {
            None => Wanted::Nothing,
            Some(content) => content.parse().map_or(Wanted::Nobody, Wanted::Host),
        }
    }

    /// Tells the client where it was led to.
    pub(super) fn tell(&self, host: SessionHost, answer: &mut HeaderMap, now: SystemTime) {
        match self {
            State::Header(name) => {
                let value = STANDARD.encode(host.to_string());
                if let Ok(value) = HeaderValue::try_from(value) {
                    answer.insert(name.clone(), value);
                }
            }
            State::Cookie(cookie) => {
                if let Ok(value) = HeaderValue::try_from(cookie.set(host, now)) {
                    answer.append(header::SET_COOKIE, value);
                }
            }
        }
    }
}

impl Cookie {
    fn from_proto(proto: &CookieProto) -> Result<Cookie, Refusal> {
        let lifetime = duration::optional(&proto.ttl, "ttl")?;
        let lifetime = lifetime.filter(|lifetime| lifetime.as_secs() > 0);
        let attributes = proto.attributes.iter();
        let attributes = attributes.map(|a| (a.name.as_str(), a.value.as_str()));
        let after = after_value(lifetime, &proto.path, attributes)?;
        let name = check("name", &proto.name)?;
        if name.is_empty() || name.contains(['=', '"', ' ', ',']) {
            return Err(Refusal::new("name", format!("{name:?} is no cookie name")));
        }
        Ok(Cookie {
            name: name.into(),
            path: proto.path.as_str().into(),
            lifetime,
            after: after.into(),
        })
    }

    fn content(&self, request: &HeaderMap, now: SystemTime) -> Option<String> {
        let bytes = STANDARD.decode(cookie(request, &self.name)?).ok()?;
        let Ok(content) = Content::decode(&*bytes) else {
            // Envoy's form of before.
            return String::from_utf8(bytes).ok();
        };
        let is_over = content.expires != 0 && seconds(now) > content.expires;
        (!is_over).then_some(content.address)
    }

    fn set(&self, host: SessionHost, now: SystemTime) -> String {
        let ends = self.lifetime.and_then(|lifetime| now.checked_add(lifetime));
        let content = Content {
            address: host.to_string(),
            expires: ends.map_or(0, seconds),
        };
        let value = STANDARD.encode(content.encode_to_vec());
        format!("{}=\"{value}{}", self.name, self.after)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Whether a cookie of `of` is for a request's path, as RFC 6265 §5.1.4 has it.
fn is_below(path: &str, of: &str) -> bool {
    match path.strip_prefix(of) {
        None => false,
        Some(rest) => {
            of.is_empty() || of.ends_with('/') || rest.is_empty() || rest.starts_with('/')
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::r#type::http::v3::CookieAttribute;
    use envoy_types::pb::google::protobuf::Duration as DurationProto;

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn cookie_state(ttl: Option<i64>, path: &str) -> State {
        let proto = CookieProto {
            name: "at".into(),
            ttl: ttl.map(|seconds| DurationProto { seconds, nanos: 0 }),
            path: path.into(),
            attributes: vec![CookieAttribute {
                name: "SameSite".into(),
                value: "Strict".into(),
            }],
        };
        State::Cookie(Cookie::from_proto(&proto).unwrap())
    }

    fn host(text: &str) -> SessionHost {
        text.parse().unwrap()
    }

    fn sent(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            HeaderName::from_static(name),
            HeaderValue::try_from(value).unwrap(),
        )])
    }

    #[test]
    fn what_a_client_gets_leads_it_back() {
        for state in [
            cookie_state(None, "/"),
            cookie_state(Some(60), ""),
            State::Header(HeaderName::from_static("x-at")),
        ] {
            for text in ["10.0.0.1:80", "envoy://connect_originate/[fd00::1]:8080"] {
                let mut answer = HeaderMap::new();
                state.tell(host(text), &mut answer, NOW);
                let back = match &state {
                    State::Header(name) => answer.get(name).unwrap().to_str().unwrap().to_owned(),
                    State::Cookie(_) => {
                        let set = answer.get(header::SET_COOKIE).unwrap().to_str().unwrap();
                        set.split(';').next().unwrap().to_owned()
                    }
                };
                let name = match &state {
                    State::Header(_) => "x-at",
                    State::Cookie(_) => "cookie",
                };
                let wanted = state.wanted(&sent(name, &back), NOW);
                assert_eq!(wanted, Wanted::Host(host(text)), "{back}");
            }
        }
    }

    #[test]
    fn a_cookie_has_its_attributes_and_an_end_of_its_own() {
        let state = cookie_state(Some(60), "/shop");
        let mut answer = HeaderMap::new();
        state.tell(host("10.0.0.1:80"), &mut answer, NOW);
        let set = answer.get(header::SET_COOKIE).unwrap().to_str().unwrap();
        let after = set.split_once("\"; ").unwrap().1;
        assert_eq!(after, "Max-Age=60; Path=/shop; SameSite=Strict; HttpOnly");
        let back = sent("cookie", set.split(';').next().unwrap());
        let at = |seconds| state.wanted(&back, NOW + Duration::from_secs(seconds));
        assert!(matches!(at(60), Wanted::Host(_)));
        assert_eq!(at(61), Wanted::Nothing);
    }

    #[test]
    fn what_cannot_be_read_is_no_session_or_nobodys() {
        let state = cookie_state(None, "/");
        // Envoy's form of before.
        let old = format!("at=\"{}\"", STANDARD.encode("192.0.2.1:80"));
        let wanted = |cookies: &str| state.wanted(&sent("cookie", cookies), NOW);
        assert_eq!(wanted(&old), Wanted::Host(host("192.0.2.1:80")));
        assert_eq!(wanted("at=?"), Wanted::Nothing);
        assert_eq!(wanted("other=1"), Wanted::Nothing);
        let content = Content {
            address: "somewhere".into(),
            expires: 0,
        };
        let nobody = STANDARD.encode(content.encode_to_vec());
        assert_eq!(wanted(&format!("a=b; at={nobody}")), Wanted::Nobody);
    }

    #[test]
    fn a_cookies_path_says_for_which_requests_it_is() {
        for (of, path, is_for) in [
            ("", "/x", true),
            ("/", "/x", true),
            ("/foo", "/foo", true),
            ("/foo", "/foo/bar", true),
            ("/foo", "/foobar", false),
            ("/foo/", "/foo/bar", true),
            ("/foo/", "/foo", false),
        ] {
            assert_eq!(cookie_state(None, of).is_for(path), is_for, "{of} {path}");
        }
    }

    #[test]
    fn what_is_no_cookie_is_refused() {
        for (name, path) in [("a=b", "/"), ("a;b", "/"), ("", "/"), ("a", "/; Secure")] {
            let proto = CookieProto {
                name: name.into(),
                path: path.into(),
                ..CookieProto::default()
            };
            assert!(Cookie::from_proto(&proto).is_err(), "{name} {path}");
        }
    }
}
