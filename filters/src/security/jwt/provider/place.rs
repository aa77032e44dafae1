//! Where in a request tokens are looked for, and how one is taken away from there.
//!
//! Envoy's order: headers by name and prefix, then parameters, then cookies, each by name. A token in a cookie stays there.
//! Several values of `authorization`, which may have one (RFC 9110, section 11.6.2), are taken as one with commas, which is no
//! token.

use std::borrow::Cow;

use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{JwtHeader, JwtProvider};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Uri, header};

use crate::matcher::header::joined;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static JWT_HEADER: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwtHeader",
    fields: &[honoured(1, "name"), honoured(2, "value_prefix")],
    refused: "",
    required: &[required("name", &[1])],
};

const BEARER: &str = "Bearer ";
const ACCESS_TOKEN: &str = "access_token";

/// A place for tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Header { name: Name, prefix: Box<str> },
    Parameter(Box<str>),
    Cookie(Box<str>),
}

/// A header's name, in the order of its letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub HeaderName);

impl Ord for Name {
    fn cmp(&self, other: &Name) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Place {
    /// The places of a provider, or the usual ones where it names none.
    pub fn of(proto: &JwtProvider) -> Result<Vec<Place>, Refusal> {
        let headers = proto.from_headers.iter().enumerate().map(|(i, header)| {
            in_header(header).map_err(|e| e.within(format!("from_headers[{i}]")))
        });
        let mut places: Vec<Place> = headers.collect::<Result<_, _>>()?;
        let parameters = proto.from_params.iter();
        places.extend(parameters.map(|name| Place::Parameter(name.as_str().into())));
        let cookies = proto.from_cookies.iter();
        places.extend(cookies.map(|name| Place::Cookie(name.as_str().into())));
        if places.is_empty() {
            places = vec![
                Place::Header {
                    name: Name(header::AUTHORIZATION),
                    prefix: BEARER.into(),
                },
                Place::Parameter(ACCESS_TOKEN.into()),
            ];
        }
        places.sort();
        places.dedup();
        Ok(places)
    }

    /// The tokens that are here: of a header each of its values, of others the first.
    pub fn tokens<'a>(&self, headers: &'a HeaderMap, uri: &'a Uri) -> Vec<Cow<'a, str>> {
        match self {
            Place::Header { name, prefix } if name.0 == header::AUTHORIZATION => {
                let value = joined(headers, &name.0).map(text);
                value
                    .and_then(|value| behind(value, prefix))
                    .into_iter()
                    .collect()
            }
            Place::Header { name, prefix } => headers
                .get_all(&name.0)
                .iter()
                .filter_map(|value| behind(text(Cow::Borrowed(value.as_bytes())), prefix))
                .collect(),
            Place::Parameter(name) => parameters(uri)
                .find(|(found, _)| *found == **name)
                .map(|(_, value)| value)
                .into_iter()
                .collect(),
            Place::Cookie(name) => cookie(headers, name)
                .map(Cow::Borrowed)
                .into_iter()
                .collect(),
        }
    }

    /// Takes what is here away from a request.
    pub fn clear(&self, headers: &mut HeaderMap, uri: &mut Uri) {
        match self {
            Place::Header { name, .. } => {
                headers.remove(&name.0);
            }
            Place::Parameter(name) => {
                if let Some(without) = without_parameter(uri, name) {
                    *uri = without;
                }
            }
            Place::Cookie(_) => {}
        }
    }

    /// Whether what is taken away from `other` is gone from here.
    pub fn overlaps(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Header { name, .. }, Place::Header { name: cleared, .. }) => name == cleared,
            (Place::Parameter(name), Place::Parameter(cleared)) => name == cleared,
            _ => false,
        }
    }
}

fn text(value: Cow<'_, [u8]>) -> Cow<'_, str> {
    match value {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

fn in_header(proto: &JwtHeader) -> Result<Place, Refusal> {
    let name = HeaderName::try_from(proto.name.as_str())
        .map_err(|_| Refusal::new("name", format!("{:?} is not a header name", proto.name)))?;
    Ok(Place::Header {
        name: Name(name),
        prefix: proto.value_prefix.as_str().into(),
    })
}

/// What follows the prefix, from where a token may begin; Envoy finds the prefix anywhere in the value.
fn behind<'a>(value: Cow<'a, str>, prefix: &str) -> Option<Cow<'a, str>> {
    if prefix.is_empty() {
        return Some(value);
    }
    let from = value.find(prefix)? + prefix.len();
    let begins = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let Some(start) = value.get(from..).and_then(|rest| rest.find(begins)) else {
        return Some(value);
    };
    Some(match value {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(from + start..).unwrap_or_default()),
        Cow::Owned(text) => Cow::Owned(text.get(from + start..).unwrap_or_default().to_owned()),
    })
}

/// The query's parameters, unescaped.
fn parameters(uri: &Uri) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    uri.query().unwrap_or_default().split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescaped(name), unescaped(value))
    })
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let (bytes, mut out) = (text.as_bytes(), Vec::with_capacity(text.len()));
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        out.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The target without a parameter; everything else stays as it is. `None`: there is no such parameter.
fn without_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let query = uri.query()?;
    let is_other = |pair: &&str| unescaped(pair.split('=').next().unwrap_or_default()) != name;
    let kept: Vec<&str> = query.split('&').filter(is_other).collect();
    if kept.len() == query.split('&').count() {
        return None;
    }
    let target = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

/// The first cookie of this name.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(header::COOKIE).iter();
    let texts = values.filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    let mut pairs = texts.flat_map(|text| text.split(';'));
    let value = pairs.find_map(|pair| {
        let (found, value) = pair.trim().split_once('=')?;
        (found == name).then_some(value)
    })?;
    let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    Some(quoted.unwrap_or(value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn places(proto: &JwtProvider) -> Vec<Place> {
        Place::of(proto).unwrap()
    }

    fn found(places: &[Place], headers: &[(&str, &str)], uri: &str) -> Vec<String> {
        let (headers, uri) = request(headers, uri);
        let of = |place: &Place| place.tokens(&headers, &uri);
        let all = places.iter().flat_map(of);
        all.map(Cow::into_owned).collect()
    }

    fn request(headers: &[(&str, &str)], uri: &str) -> (HeaderMap, Uri) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        (map, uri.parse().unwrap())
    }

    #[test]
    fn the_usual_places() {
        let usual = places(&JwtProvider::default());
        let of = |headers: &[(&str, &str)], uri: &str| found(&usual, headers, uri);
        assert_eq!(of(&[("authorization", "Bearer a.b.c")], "/"), ["a.b.c"]);
        assert_eq!(of(&[("authorization", "x Bearer  a.b.c")], "/"), ["a.b.c"]);
        assert!(of(&[("authorization", "bearer a.b.c")], "/").is_empty());
        assert!(of(&[("authorization", "Basic a.b.c")], "/").is_empty());
        assert!(of(&[("x-token", "Bearer a.b.c")], "/").is_empty());
        assert_eq!(
            of(&[], "/?x=1&access_token=a.b%2Ec&access_token=d"),
            ["a.b.c"]
        );
        let two = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert_eq!(of(&two, "/?access_token=c"), ["a,Bearer b", "c"]);
        assert_eq!(of(&[("authorization", "Bearer !")], "/"), ["Bearer !"]);
    }

    #[test]
    fn places_that_are_named_stand_for_the_usual_ones() {
        let named = places(&JwtProvider {
            from_headers: vec![
                JwtHeader {
                    name: "X-Token".into(),
                    value_prefix: "Token ".into(),
                },
                JwtHeader {
                    name: "x-plain".into(),
                    value_prefix: String::new(),
                },
            ],
            from_params: vec!["t".into()],
            from_cookies: vec!["session".into()],
            ..JwtProvider::default()
        });
        let of = |headers: &[(&str, &str)], uri: &str| found(&named, headers, uri);
        assert!(of(&[("authorization", "Bearer a")], "/?access_token=b").is_empty());
        assert_eq!(
            of(
                &[
                    ("cookie", "a=b; session=\"s\"; session=z"),
                    ("cookie", "session=y"),
                    ("x-token", "Token t"),
                    ("x-plain", "p"),
                ],
                "/?t=q",
            ),
            ["p", "t", "q", "s"]
        );
        let bad = JwtProvider {
            from_headers: vec![JwtHeader {
                name: ":path".into(),
                value_prefix: String::new(),
            }],
            ..JwtProvider::default()
        };
        let refusal = Place::of(&bad).err().unwrap();
        assert_eq!(refusal.field, "from_headers[0].name");
    }

    #[test]
    fn a_token_is_taken_away_and_nothing_else() {
        let parameter = Place::Parameter("t".into());
        for (before, after) in [
            ("/p?t=1", "/p"),
            ("/p?a=%20&t=1&b&t=2&&c=", "/p?a=%20&b&&c="),
            ("/p?%74=1&tt=2", "/p?tt=2"),
            ("/p?a=1", "/p?a=1"),
            ("/p", "/p"),
            ("http://web/p?t=1&a=2", "http://web/p?a=2"),
        ] {
            let (mut headers, mut uri) = request(&[], before);
            parameter.clear(&mut headers, &mut uri);
            assert_eq!(uri.to_string(), after);
        }
        let [header, _] = &*places(&JwtProvider::default()) else {
            panic!("two usual places");
        };
        let sent = [
            ("authorization", "Bearer a"),
            ("authorization", "Basic b"),
            ("x", "y"),
        ];
        let (mut headers, mut uri) = request(&sent, "/");
        header.clear(&mut headers, &mut uri);
        assert_eq!(headers.len(), 1);
        assert!(header.overlaps(header) && !header.overlaps(&parameter));
    }
}
