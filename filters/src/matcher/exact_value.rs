//! What a match asks for by an exact value: a header, the method, the host, a query parameter. By it one match is found among
//! many that differ in nothing else.
//!
//! A request may have several values of one header: each is one that it is found by, and so are all of them, joined by `,`,
//! which are compared without being put together.

use std::cmp::Ordering;

use http::{HeaderName, HeaderValue, Request, header};

/// What has the value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Header(HeaderName),
    Method,
    Host,
    Query(Box<str>),
}

/// A value that a request has.
#[derive(Clone, Copy)]
pub enum Seen<'a> {
    /// The place among the header's values; 0 where there is one at most.
    One(usize, &'a [u8]),
    Joined(&'a http::HeaderMap, &'a HeaderName),
}

impl Subject {
    /// Has `look` see each value by which a match may be found.
    pub fn each<'a, B>(&'a self, request: &'a Request<B>, look: &mut dyn FnMut(Seen<'a>)) {
        let name = match self {
            Subject::Header(name) => name,
            Subject::Host => &header::HOST,
            Subject::Method => return look(Seen::One(0, request.method().as_str().as_bytes())),
            Subject::Query(name) => {
                if let Some(value) = query_value(request.uri().query(), name) {
                    look(Seen::One(0, value.as_bytes()));
                }
                return;
            }
        };
        let values = request.headers().get_all(name).iter().enumerate();
        let mut last = 0;
        for (at, value) in values {
            look(Seen::One(at, value.as_bytes()));
            last = at;
        }
        if last > 0 {
            look(Seen::Joined(request.headers(), name));
        }
    }

    /// Whether a value was seen before this one.
    pub fn is_again<B>(&self, request: &Request<B>, seen: Seen<'_>) -> bool {
        let (Subject::Header(name), Seen::One(at, value)) = (self, seen) else {
            return false;
        };
        let mut before = request.headers().get_all(name).iter().take(at);
        before.any(|before| before.as_bytes() == value)
    }
}

impl Seen<'_> {
    /// Its order beside a value that is asked for.
    pub fn order(self, asked: &[u8]) -> Ordering {
        let (headers, name) = match self {
            Seen::One(_, value) => return value.cmp(asked),
            Seen::Joined(headers, name) => (headers, name),
        };
        let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let joined = values.enumerate().flat_map(|(at, value)| {
            let comma = (at > 0).then_some(&b',');
            comma.into_iter().chain(value)
        });
        joined.cmp(asked)
    }
}

/// The first value of a query parameter, as it stands.
pub fn query_value<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query.unwrap_or_default().split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn seen(subject: &Subject, request: &Request<()>, asked: &str) -> Vec<(Ordering, bool)> {
        let mut seen = Vec::new();
        subject.each(request, &mut |one| {
            seen.push((one.order(asked.as_bytes()), subject.is_again(request, one)));
        });
        seen
    }

    #[test]
    fn several_values_are_each_and_all_of_them_joined() {
        use Ordering::{Equal, Greater, Less};
        let request = Request::builder()
            .uri("/?v=1&v=2")
            .header("host", "web")
            .header("x-a", "1")
            .header("x-a", "2")
            .header("x-a", "1")
            .body(())
            .unwrap();
        let header = |name: &'static str| Subject::Header(HeaderName::from_static(name));
        let of = |subject: &Subject, asked: &str| seen(subject, &request, asked);
        let joined = (Equal, false);
        assert_eq!(
            of(&header("x-a"), "1,2,1"),
            [(Less, false), (Greater, false), (Less, true), joined]
        );
        assert_eq!(of(&header("x-a"), "1,2").last().unwrap().0, Greater);
        assert_eq!(of(&header("x-a"), "1,2,10").last().unwrap().0, Less);
        assert_eq!(of(&header("x-none"), "1"), []);
        assert_eq!(of(&Subject::Host, "web"), [(Equal, false)]);
        assert_eq!(of(&Subject::Method, "GET"), [(Equal, false)]);
        assert_eq!(of(&Subject::Query("v".into()), "1"), [(Equal, false)]);
        assert_eq!(of(&Subject::Query("w".into()), ""), []);
    }
}
