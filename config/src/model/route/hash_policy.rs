//! What of a request is hashed where its cluster balances by hashes (`hash_policy`), and the cookie that is issued for that.
//!
//! Keys are Envoy's, so that a request finds the same endpoint through either. Looked at is the request as it came, before the
//! route changes it.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;

use ::regex::bytes::Regex;
use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy as HashPolicyProto;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    Cookie as CookieProto, Header as HeaderProto, PolicySpecifier,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use waypoint_filters::matcher::exact_value::query_value;
use waypoint_filters::matcher::regex::{self, SUBSTITUTION};
use waypoint_filters::service::cookie::{after_value, check, cookie};
use waypoint_filters::xds::coverage::well_known::DURATION;
use waypoint_filters::xds::coverage::{Table, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::xx_hash::{xx_hash, xx_hash_seeded};
use crate::model::duration;
use crate::model::route::path_rewrite::re2_substitution;

/// A route's policies, in their order.
#[derive(Debug)]
pub struct HashPolicy(Box<[Policy]>);

#[derive(Debug)]
struct Policy {
    key: Key,
    /// Where it, or one before it, has found something, those after it don't count.
    terminal: bool,
}

#[derive(Debug)]
enum Key {
    Header {
        name: Name,
        rewrite: Option<Rewrite>,
    },
    Cookie(Cookie),
    /// The tunnel's client, never a header of anybody's.
    SourceIp,
    QueryParameter(Box<str>),
}

#[derive(Debug)]
enum Name {
    Header(HeaderName),
    Path,
    Method,
}

#[derive(Debug)]
struct Rewrite {
    pattern: Regex,
    substitution: Box<[u8]>,
}

#[derive(Debug)]
struct Cookie {
    name: Box<str>,
    /// What follows the value of one that is issued; `None`: none is.
    issued: Option<Box<str>>,
}

/// A route's hash of a request.
#[derive(Debug, Default)]
pub struct HashKey {
    /// `None`: the request has nothing of what is hashed.
    pub hash: Option<u64>,
    /// Cookies that the client gets with the answer.
    pub cookies: Vec<HeaderValue>,
}

pub(crate) static HASH_POLICY: Table = Table {
    name: "envoy.config.route.v3.RouteAction.HashPolicy",
    fields: &[
        honoured(1, "header").of(&HEADER),
        honoured(2, "cookie").of(&COOKIE),
        honoured(3, "connection_properties").of(&CONNECTION_PROPERTIES),
        honoured(4, "terminal"),
        honoured(5, "query_parameter").of(&QUERY_PARAMETER),
    ],
    refused: "6 filter_state",
    required: &[required("policy_specifier", &[1, 2, 3, 5])],
};

static HEADER: Table = Table {
    name: "envoy.config.route.v3.RouteAction.HashPolicy.Header",
    fields: &[
        honoured(1, "header_name"),
        honoured(2, "regex_rewrite").of(&SUBSTITUTION),
    ],
    refused: "",
    required: &[required("header_name", &[1])],
};

static COOKIE: Table = Table {
    name: "envoy.config.route.v3.RouteAction.HashPolicy.Cookie",
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
    name: "envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute",
    fields: &[honoured(1, "name"), honoured(2, "value")],
    refused: "",
    required: &[required("name", &[1])],
};

static CONNECTION_PROPERTIES: Table = Table {
    name: "envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties",
    fields: &[honoured(1, "source_ip")],
    refused: "",
    required: &[],
};

static QUERY_PARAMETER: Table = Table {
    name: "envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter",
    fields: &[honoured(1, "name")],
    refused: "",
    required: &[required("name", &[1])],
};

impl HashPolicy {
    /// `None`: nothing is hashed.
    pub(crate) fn from_proto(proto: &[HashPolicyProto]) -> Result<Option<HashPolicy>, Refusal> {
        let mut policies = Vec::new();
        for (i, proto) in proto.iter().enumerate() {
            let key = Key::from_proto(proto).map_err(|e| e.within(format!("hash_policy[{i}]")))?;
            policies.extend(key.map(|key| Policy {
                key,
                terminal: proto.terminal,
            }));
        }
        Ok((!policies.is_empty()).then(|| HashPolicy(policies.into())))
    }

    /// The key of a request of this client. `issue` gives a cookie its value.
    pub fn key<B>(
        &self,
        request: &Request<B>,
        source: IpAddr,
        issue: impl Fn() -> String,
    ) -> HashKey {
        let mut found = HashKey::default();
        for Policy { key, terminal } in &self.0 {
            let new = match key {
                Key::Header { name, rewrite } => name.hash(request, rewrite.as_ref()),
                Key::Cookie(cookie) => cookie.hash(request.headers(), &issue, &mut found.cookies),
                Key::SourceIp => Some(of_address(source)),
                Key::QueryParameter(name) => {
                    let value = query_value(request.uri().query(), name);
                    value.map(|value| xx_hash(value.as_bytes()))
                }
            };
            if let Some(new) = new {
                found.hash = Some(found.hash.unwrap_or_default().rotate_left(1) ^ new);
            }
            if *terminal && found.hash.is_some() {
                break;
            }
        }
        found
    }
}

/// The hash of an address, as it is written.
pub fn of_address(ip: IpAddr) -> u64 {
    let mut text = [0; 64];
    let mut rest = &mut text[..];
    // The longest IPv6 address has room.
    let _ = write!(rest, "{ip}");
    let length = 64 - rest.len();
    xx_hash(text.get(..length).unwrap_or_default())
}

impl Key {
    /// `None`: it says nothing.
    fn from_proto(proto: &HashPolicyProto) -> Result<Option<Key>, Refusal> {
        Ok(Some(match &proto.policy_specifier {
            None => return Err(Refusal::missing("policy_specifier")),
            Some(PolicySpecifier::Header(header)) => {
                Key::header(header).map_err(|e| e.within("header"))?
            }
            Some(PolicySpecifier::Cookie(cookie)) => {
                Key::Cookie(Cookie::from_proto(cookie).map_err(|e| e.within("cookie"))?)
            }
            Some(PolicySpecifier::ConnectionProperties(properties)) => {
                return Ok(properties.source_ip.then_some(Key::SourceIp));
            }
            Some(PolicySpecifier::QueryParameter(parameter)) => {
                Key::QueryParameter(parameter.name.as_str().into())
            }
            Some(PolicySpecifier::FilterState(_)) => {
                return Err(Refusal::unsupported("filter_state"));
            }
        }))
    }

    fn header(proto: &HeaderProto) -> Result<Key, Refusal> {
        let rewrite = proto.regex_rewrite.as_ref().map(|rewrite| {
            let pattern = rewrite.pattern.as_ref();
            let pattern = pattern.ok_or_else(|| Refusal::missing("pattern"))?;
            Ok(Rewrite {
                pattern: regex::search_bytes(&pattern.regex)?,
                substitution: re2_substitution(&rewrite.substitution).into_bytes().into(),
            })
        });
        Ok(Key::Header {
            name: Name::parse(&proto.header_name)?,
            rewrite: rewrite
                .transpose()
                .map_err(|e: Refusal| e.within("regex_rewrite"))?,
        })
    }
}

impl Name {
    fn parse(name: &str) -> Result<Name, Refusal> {
        Ok(match name {
            ":path" => Name::Path,
            ":method" => Name::Method,
            ":authority" => Name::Header(header::HOST),
            name => Name::Header(HeaderName::try_from(name).map_err(|_| {
                Refusal::new("header_name", format!("{name:?} is not a header name"))
            })?),
        })
    }

    fn hash<B>(&self, request: &Request<B>, rewrite: Option<&Rewrite>) -> Option<u64> {
        let one = |value: &[u8]| Some(xx_hash(&rewritten(rewrite, value)));
        match self {
            Name::Path => one(request.uri().path_and_query()?.as_str().as_bytes()),
            Name::Method => one(request.method().as_str().as_bytes()),
            Name::Header(name) => {
                let mut values = request.headers().get_all(name).iter();
                let first = values.next()?;
                let Some(second) = values.next() else {
                    return one(first.as_bytes());
                };
                let all = [first, second].into_iter().chain(values);
                let mut all: Vec<_> = all.map(|v| rewritten(rewrite, v.as_bytes())).collect();
                // In whatever order they come.
                all.sort();
                Some(
                    all.iter()
                        .fold(0, |seed, value| xx_hash_seeded(value, seed)),
                )
            }
        }
    }
}

fn rewritten<'a>(rewrite: Option<&Rewrite>, value: &'a [u8]) -> Cow<'a, [u8]> {
    match rewrite {
        None => Cow::Borrowed(value),
        Some(rewrite) => rewrite.pattern.replace_all(value, &*rewrite.substitution),
    }
}

impl Cookie {
    fn from_proto(proto: &CookieProto) -> Result<Cookie, Refusal> {
        let ttl = duration::optional(&proto.ttl, "ttl")?;
        let attributes = proto.attributes.iter();
        let attributes = attributes.map(|a| (a.name.as_str(), a.value.as_str()));
        let after = after_value(ttl, &proto.path, attributes)?;
        let name = check("name", &proto.name)?;
        if name.contains(['=', '"', ' ']) {
            return Err(Refusal::new("name", format!("{name:?} is no cookie name")));
        }
        Ok(Cookie {
            name: name.into(),
            issued: ttl.map(|_| after.into()),
        })
    }

    fn hash(
        &self,
        headers: &HeaderMap,
        issue: impl Fn() -> String,
        cookies: &mut Vec<HeaderValue>,
    ) -> Option<u64> {
        if let Some(value) = cookie(headers, &self.name).filter(|value| !value.is_empty()) {
            return Some(xx_hash(value));
        }
        let after = self.issued.as_deref()?;
        let value = issue();
        let set = format!("{}=\"{value}{after}", self.name);
        cookies.push(HeaderValue::try_from(set).ok()?);
        Some(xx_hash(value.as_bytes()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
        ConnectionProperties, CookieAttribute, QueryParameter,
    };
    use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
    use envoy_types::pb::google::protobuf::Duration;

    use super::*;

    const CLIENT: &str = "10.1.2.3";

    fn header(name: &str) -> PolicySpecifier {
        PolicySpecifier::Header(HeaderProto {
            header_name: name.into(),
            regex_rewrite: None,
        })
    }

    fn cookie_of(name: &str, ttl: Option<i64>) -> PolicySpecifier {
        PolicySpecifier::Cookie(CookieProto {
            name: name.into(),
            ttl: ttl.map(|seconds| Duration { seconds, nanos: 0 }),
            path: "/app".into(),
            attributes: vec![
                CookieAttribute {
                    name: "SameSite".into(),
                    value: "Strict".into(),
                },
                CookieAttribute {
                    name: "Secure".into(),
                    value: String::new(),
                },
            ],
        })
    }

    fn query(name: &str) -> PolicySpecifier {
        PolicySpecifier::QueryParameter(QueryParameter { name: name.into() })
    }

    fn source() -> PolicySpecifier {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
    }

    fn policy(specifiers: &[(PolicySpecifier, bool)]) -> HashPolicy {
        let protos: Vec<_> = specifiers
            .iter()
            .map(|(specifier, terminal)| HashPolicyProto {
                terminal: *terminal,
                policy_specifier: Some(specifier.clone()),
            })
            .collect();
        HashPolicy::from_proto(&protos).unwrap().unwrap()
    }

    fn key(specifiers: &[(PolicySpecifier, bool)], request: &Request<()>) -> HashKey {
        let client = CLIENT.parse().unwrap();
        policy(specifiers).key(request, client, || "issued".to_owned())
    }

    fn hash(specifier: PolicySpecifier, request: &Request<()>) -> Option<u64> {
        key(&[(specifier, false)], request).hash
    }

    fn request(target: &str, headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn of(text: &str) -> Option<u64> {
        Some(xx_hash(text.as_bytes()))
    }

    #[test]
    fn headers_of_one_value_of_several_and_rewritten() {
        let asked = request("/p?q", &[("x-user", "ann"), ("host", "web")]);
        assert_eq!(hash(header("X-User"), &asked), of("ann"));
        assert_eq!(hash(header("x-none"), &asked), None);
        assert_eq!(hash(header(":authority"), &asked), of("web"));
        assert_eq!(hash(header(":path"), &asked), of("/p?q"));
        assert_eq!(hash(header(":method"), &asked), of("GET"));
        let two = request("/", &[("x-user", "b"), ("x-user", "a")]);
        let turned = request("/", &[("x-user", "a"), ("x-user", "b")]);
        let both = Some(xx_hash_seeded(b"b", xx_hash(b"a")));
        assert_eq!(hash(header("x-user"), &two), both);
        assert_eq!(hash(header("x-user"), &turned), both);
        let rewritten = PolicySpecifier::Header(HeaderProto {
            header_name: "x-user".into(),
            regex_rewrite: Some(RegexMatchAndSubstitute {
                pattern: Some(RegexMatcher {
                    regex: "(n+)".into(),
                    ..RegexMatcher::default()
                }),
                substitution: r"<\1>".into(),
            }),
        });
        assert_eq!(hash(rewritten, &asked), of("a<nn>"));
    }

    #[test]
    fn cookies_are_found_and_issued() {
        for (sent, value) in [
            ("id=7", "7"),
            ("a=1; id=\"7\" ; id=8", "\"7\" "),
            ("a=1;  id=\"7\"; id=8", "7"),
            ("xid=9; id; id=8", "8"),
        ] {
            let asked = request("/", &[("cookie", sent)]);
            let key = key(&[(cookie_of("id", Some(60)), false)], &asked);
            assert_eq!(key.hash, of(value), "{sent}");
            assert_eq!(key.cookies, [""; 0]);
        }
        for sent in ["a=1", "id=", "id"] {
            let asked = request("/", &[("cookie", sent)]);
            let issued = key(&[(cookie_of("id", Some(60)), false)], &asked);
            assert_eq!(issued.hash, of("issued"));
            let set = "id=\"issued\"; Max-Age=60; Path=/app; SameSite=Strict; Secure; HttpOnly";
            assert_eq!(issued.cookies, [set]);
            assert_eq!(hash(cookie_of("id", None), &asked), None);
        }
        let session = key(&[(cookie_of("id", Some(0)), false)], &request("/", &[]));
        let set = "id=\"issued\"; Path=/app; SameSite=Strict; Secure; HttpOnly";
        assert_eq!(session.cookies, [set]);
    }

    #[test]
    fn the_source_and_query_parameters() {
        let asked = request("/p?a=1&b=x%20y&a=2&c", &[]);
        assert_eq!(hash(source(), &asked), of(CLIENT));
        assert_eq!(hash(query("a"), &asked), of("1"));
        assert_eq!(hash(query("b"), &asked), of("x%20y"));
        assert_eq!(hash(query("c"), &asked), of(""));
        assert_eq!(hash(query("d"), &asked), None);
        let long = "1111:2222:3333:4444:5555:6666:7777:8888";
        assert_eq!(Some(of_address(long.parse().unwrap())), of(long));
    }

    #[test]
    fn several_are_combined_up_to_a_terminal_one_that_has_something() {
        let asked = request("/?a=1", &[("x-user", "ann")]);
        let (ann, one) = (xx_hash(b"ann"), xx_hash(b"1"));
        let user = |terminal| (header("x-user"), terminal);
        let a = (query("a"), false);
        let both = key(&[user(false), a.clone()], &asked);
        assert_eq!(both.hash, Some(ann.rotate_left(1) ^ one));
        assert_eq!(key(&[user(true), a.clone()], &asked).hash, Some(ann));
        let missing = (header("x-none"), true);
        assert_eq!(key(&[missing, a], &asked).hash, Some(one));
        let twice = key(&[user(false), user(false)], &asked);
        assert_ne!(twice.hash, Some(0));
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        let refused = |specifier: PolicySpecifier| {
            let proto = HashPolicyProto {
                terminal: false,
                policy_specifier: Some(specifier),
            };
            let refusal = HashPolicy::from_proto(&[proto]).unwrap_err();
            refusal.field.to_string()
        };
        assert_eq!(refused(header("a b")), "hash_policy[0].header.header_name");
        assert_eq!(
            refused(header(":scheme")),
            "hash_policy[0].header.header_name"
        );
        assert_eq!(
            refused(cookie_of("a=b", None)),
            "hash_policy[0].cookie.name"
        );
        let PolicySpecifier::Cookie(mut split) = cookie_of("id", Some(1)) else {
            unreachable!()
        };
        split.path = "/; Domain=example.com".into();
        assert_eq!(
            refused(PolicySpecifier::Cookie(split)),
            "hash_policy[0].cookie.path"
        );
        let nothing = PolicySpecifier::ConnectionProperties(ConnectionProperties::default());
        let proto = HashPolicyProto {
            terminal: true,
            policy_specifier: Some(nothing),
        };
        assert!(HashPolicy::from_proto(&[proto]).unwrap().is_none());
    }
}
