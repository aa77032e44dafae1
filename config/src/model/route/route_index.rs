//! Finds the routes that a request may have among many, without looking at all of them.
//!
//! A tree of the bytes of paths: exact ones, prefixes, and the fixed beginnings of expressions. A request's path is followed
//! through it once; the routes at the places that it passes are those that may match, and where many have one place, those of
//! the values that the request has (`asked_values.rs`). Which of them counts is told by their order alone, as without an index:
//! the first that matches. Nothing is allocated for a request.

use http::Request;
use waypoint_filters::matcher::route_match::{PathKey, RouteMatch};

use crate::model::route::asked_values::{Asked, MIN_ROUTES, RouteList};

/// Routes by their paths. A route is known by its place.
#[derive(Debug)]
pub(crate) struct RouteIndex {
    /// The first is the root.
    nodes: Box<[Node<RouteList>]>,
}

/// A place in the tree: what paths begin with that come to it. While the tree is made, routes are in plain lists.
#[derive(Debug, Default)]
struct Node<L> {
    /// The bytes that lead here from the node above.
    label: Box<[u8]>,
    /// By the first byte of their labels, in order.
    below: Vec<(u8, usize)>,
    /// Whose path ends here.
    exact: L,
    /// Whose prefix ends here, where a segment does.
    segments: L,
    /// Whose prefix ends here.
    prefix: L,
}

type Draft = Node<Vec<usize>>;

impl RouteIndex {
    /// `None`: there are too few for it to be worth anything.
    pub(crate) fn of<'a>(
        routes: impl ExactSizeIterator<Item = &'a RouteMatch>,
    ) -> Option<RouteIndex> {
        if routes.len() < MIN_ROUTES {
            return None;
        }
        let mut nodes = vec![Draft::default()];
        let mut asked = Vec::with_capacity(routes.len());
        for (place, route) in routes.enumerate() {
            let values = route.exact_values();
            let values = values.map(|(subject, value)| (subject, value.as_bytes().into()));
            asked.push(values.collect());
            let path = route.path_key();
            let text = match path {
                PathKey::Exact(text) | PathKey::Segments(text) | PathKey::Prefix(text) => text,
            };
            let node = node_of(&mut nodes, text.as_bytes());
            if let Some(node) = nodes.get_mut(node) {
                match path {
                    PathKey::Exact(_) => node.exact.push(place),
                    PathKey::Segments(_) => node.segments.push(place),
                    PathKey::Prefix(_) => node.prefix.push(place),
                }
            }
        }
        let nodes = nodes.into_iter().map(|node| node.divided(&asked));
        Some(RouteIndex {
            nodes: nodes.collect(),
        })
    }

    /// The first place of those that the request may have for which `matches` holds.
    pub(crate) fn first<B>(
        &self,
        request: &Request<B>,
        matches: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut first: Option<usize> = None;
        let mut look = |places: &[usize]| {
            let before = places
                .iter()
                .take_while(|place| first.is_none_or(|f| **place < f));
            first = before.copied().find(|place| matches(*place)).or(first);
        };
        let mut look_in = |list: &RouteList| list.each(request, &mut look);
        let mut rest = request.uri().path().as_bytes();
        let mut at = self.nodes.first();
        while let Some(node) = at {
            look_in(&node.prefix);
            match rest.first() {
                None => {
                    look_in(&node.exact);
                    look_in(&node.segments);
                }
                Some(b'/') => look_in(&node.segments),
                Some(_) => {}
            }
            at = node.next(rest).and_then(|next| self.nodes.get(next));
            if let Some(below) = at {
                match rest.strip_prefix(&*below.label) {
                    Some(left) => rest = left,
                    None => break,
                }
            }
        }
        first
    }
}

impl Draft {
    fn divided(self, asked: &Asked) -> Node<RouteList> {
        Node {
            label: self.label,
            below: self.below,
            exact: RouteList::of(self.exact, asked),
            segments: RouteList::of(self.segments, asked),
            prefix: RouteList::of(self.prefix, asked),
        }
    }
}

impl<L> Node<L> {
    /// The node below that a path with this rest may go to.
    fn next(&self, rest: &[u8]) -> Option<usize> {
        let byte = rest.first()?;
        let found = self.below.binary_search_by_key(byte, |(first, _)| *first);
        self.below.get(found.ok()?).map(|(_, node)| *node)
    }
}

/// The node of a text, made if there is none.
fn node_of(nodes: &mut Vec<Draft>, mut text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(first) = text.first() {
        let Some(next) = nodes.get(at).and_then(|node| node.next(text)) else {
            let leaf = Draft {
                label: text.into(),
                ..Draft::default()
            };
            return add_below(nodes, at, *first, leaf);
        };
        let label = nodes.get(next).map(|node| &*node.label).unwrap_or_default();
        let same = label.iter().zip(text).take_while(|(a, b)| a == b).count();
        if same < label.len() {
            split(nodes, next, same);
        }
        at = next;
        text = text.get(same..).unwrap_or_default();
    }
    at
}

fn add_below(nodes: &mut Vec<Draft>, above: usize, first: u8, node: Draft) -> usize {
    let place = nodes.len();
    nodes.push(node);
    if let Some(above) = nodes.get_mut(above) {
        let at = above.below.partition_point(|(byte, _)| *byte < first);
        above.below.insert(at, (first, place));
    }
    place
}

/// Puts what is at a node below it, so that the node is for the first `same` bytes of its label.
fn split(nodes: &mut Vec<Draft>, place: usize, same: usize) {
    let Some(node) = nodes.get_mut(place) else {
        return;
    };
    let whole = std::mem::take(node);
    let (label, rest) = whole.label.split_at(same);
    node.label = label.into();
    let first = rest.first().copied().unwrap_or_default();
    let lower = Draft {
        label: rest.into(),
        ..whole
    };
    add_below(nodes, place, first, lower);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::{Instant, SystemTime};

    use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
    use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
    use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
    use envoy_types::pb::envoy::config::route::v3::{
        HeaderMatcher, QueryParameterMatcher, RouteMatch as RouteMatchProto,
    };
    use envoy_types::pb::envoy::r#type::matcher::v3::{
        RegexMatcher, StringMatcher, string_matcher::MatchPattern,
    };
    use waypoint_filters::stream::connection::Connection;
    use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};

    use super::*;

    fn stream() -> Arc<StreamInfo> {
        let address = ([127, 0, 0, 1], 80).into();
        let now = Instant::now();
        let connection = Arc::new(Connection::new(address, address, now));
        StreamInfo::new(connection, Protocol::Http11, now, SystemTime::now())
    }

    fn route(path: PathSpecifier) -> RouteMatchProto {
        RouteMatchProto {
            path_specifier: Some(path),
            ..RouteMatchProto::default()
        }
    }

    fn built(proto: &RouteMatchProto) -> RouteMatch {
        RouteMatch::from_proto(proto).unwrap()
    }

    fn request(path: &str) -> Request<()> {
        Request::builder().uri(path).body(()).unwrap()
    }

    /// Something of what tables and requests are drawn from.
    struct Dice(fastrand::Rng);

    impl Dice {
        fn one<T: Copy>(&mut self, of: &[T]) -> T {
            of[self.0.usize(..of.len())]
        }

        fn path(&mut self) -> String {
            const PARTS: [&str; 6] = ["/", "/a", "/ab", "/b", "b", "/abc/d"];
            let parts = (0..self.0.usize(..4)).map(|_| self.0.usize(..PARTS.len()));
            let rest: String = parts.map(|part| PARTS[part]).collect();
            format!("/{}", rest.trim_start_matches('/'))
        }

        fn value(&mut self) -> String {
            match self.0.u8(..8) {
                0 => String::new(),
                // What two values are when they are joined.
                1 => "1,2".to_owned(),
                2 => self.one(&["1", "2"]).to_owned(),
                _ => self.0.u16(..400).to_string(),
            }
        }

        /// A header of a match: mostly for an exact value, as `most` has it.
        fn header(&mut self, name: &str, most: u8) -> HeaderMatcher {
            let value = match name {
                ":method" => self.one(&["GET", "GET", "POST"]).to_owned(),
                _ => self.value(),
            };
            let text = |pattern, ignore_case| {
                HeaderMatchSpecifier::StringMatch(StringMatcher {
                    ignore_case,
                    match_pattern: Some(pattern),
                })
            };
            let specifier = match self.0.u8(..most.max(8)) {
                0 => HeaderMatchSpecifier::PresentMatch(self.0.bool()),
                1 => HeaderMatchSpecifier::PrefixMatch(value),
                2 => text(MatchPattern::Exact(value), true),
                3 => HeaderMatchSpecifier::SafeRegexMatch(RegexMatcher {
                    regex: self.one(&["1.*", "17", ".+"]).to_owned(),
                    ..RegexMatcher::default()
                }),
                4 => HeaderMatchSpecifier::ExactMatch(value),
                _ => text(MatchPattern::Exact(value), false),
            };
            HeaderMatcher {
                name: name.to_owned(),
                invert_match: self.0.u8(..most) == 0,
                treat_missing_header_as_empty: self.0.u8(..most) == 0,
                header_match_specifier: Some(specifier),
            }
        }

        fn route(&mut self, most: u8) -> RouteMatchProto {
            let path = if self.0.u8(..most) > 0 {
                "/".to_owned()
            } else {
                self.path()
            };
            let path = match self.0.u8(..3) {
                0 => PathSpecifier::Path(path),
                1 if path != "/" => PathSpecifier::PathSeparatedPrefix(path),
                _ => PathSpecifier::Prefix(path),
            };
            const NAMES: [&str; 5] = ["x-tenant", "x-tenant", "X-Tenant", "x-user", "host"];
            let names = match self.0.u8(..most) {
                0 => self.one(&[0, 1]),
                _ => self.one(&[1, 1, 1, 2, 3]),
            };
            let mut names: Vec<_> = (0..names).map(|_| self.one(&NAMES)).collect();
            if self.0.u8(..4) == 0 && !names.is_empty() {
                names.push(":method");
            }
            let query = self.one(&[0, 0, 0, 0, 1]);
            RouteMatchProto {
                headers: names.iter().map(|name| self.header(name, most)).collect(),
                query_parameters: (0..query)
                    .map(|_| QueryParameterMatcher {
                        name: "v".to_owned(),
                        query_parameter_match_specifier: Some(
                            QueryParameterMatchSpecifier::StringMatch(StringMatcher {
                                ignore_case: false,
                                match_pattern: Some(MatchPattern::Exact(self.value())),
                            }),
                        ),
                    })
                    .collect(),
                ..route(path)
            }
        }

        fn request(&mut self) -> Request<()> {
            let path = if self.0.bool() {
                "/".to_owned()
            } else {
                self.path()
            };
            let query = if self.0.bool() {
                String::new()
            } else {
                format!("?v={}", self.value())
            };
            let mut request = request(&format!("{path}{query}"));
            *request.method_mut() = self.one(&["GET", "POST"]).parse().unwrap();
            for name in ["x-tenant", "x-user", "host"] {
                for _ in 0..self.one(&[0, 1, 1, 1, 2, 3]) {
                    let value = self.value().parse().unwrap();
                    request.headers_mut().append(name, value);
                }
            }
            request
        }
    }

    #[test]
    fn the_first_that_matches_is_found_as_without_an_index() {
        let seed = std::env::var("WAYPOINT_SEED").ok();
        let seed = seed.map_or_else(|| fastrand::u32(..).into(), |seed| seed.parse().unwrap());
        eprintln!("WAYPOINT_SEED={seed}");
        let mut dice = Dice(fastrand::Rng::with_seed(seed));
        let stream = stream();
        let (mut found, mut looked, mut all) = (0, 0, 0);
        for _ in 0..300 {
            // With little else than exact values at the root, or with everything.
            let most = dice.one(&[8, 60, 250]);
            let most_routes = dice.one(&[20, 300]);
            let count = MIN_ROUTES + dice.0.usize(..most_routes);
            let protos: Vec<_> = (0..count).map(|_| dice.route(most)).collect();
            let routes: Vec<_> = protos.iter().map(built).collect();
            let index = RouteIndex::of(routes.iter()).unwrap();
            for _ in 0..50 {
                let request = dice.request();
                let times = std::cell::Cell::new(0);
                let by = |place: usize| {
                    times.set(times.get() + 1);
                    routes[place].matches(&request, &stream)
                };
                let first = (0..count).find(|place| routes[*place].matches(&request, &stream));
                assert_eq!(
                    index.first(&request, by),
                    first,
                    "{request:?} in {protos:#?}"
                );
                found += usize::from(first.is_some());
                looked += times.get();
                all += first.map_or(count, |first| first + 1);
            }
        }
        assert!(
            (1_000..14_900).contains(&found),
            "{found} of 15000 found one"
        );
        assert!(
            looked < all / 2,
            "{looked} were looked at, {all} without an index"
        );
    }

    /// How many are looked at for a request, and what is found.
    fn looked_at(routes: &[RouteMatch], request: &Request<()>) -> (Option<usize>, usize) {
        let index = RouteIndex::of(routes.iter()).unwrap();
        let (stream, looked) = (stream(), std::cell::Cell::new(0));
        let found = index.first(request, |place| {
            looked.set(looked.get() + 1);
            routes[place].matches(request, &stream)
        });
        (found, looked.get())
    }

    #[test]
    fn few_of_many_are_looked_at() {
        let paths = (0..10_000).map(|n| format!("/service/{n}/x"));
        let routes: Vec<_> = paths
            .map(|path| built(&route(PathSpecifier::PathSeparatedPrefix(path))))
            .collect();
        let looked = looked_at(&routes, &request("/service/9999/x/y"));
        assert_eq!(looked, (Some(9999), 1));
        assert!(RouteIndex::of(routes.iter().take(3)).is_none());
    }

    #[test]
    fn few_of_many_with_one_path_are_looked_at() {
        let exact = |value: String| HeaderMatcher {
            name: "x-tenant".to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::ExactMatch(value)),
            ..HeaderMatcher::default()
        };
        let mut protos: Vec<_> = (0..10_000)
            .map(|n| RouteMatchProto {
                headers: vec![exact(n.to_string())],
                ..route(PathSpecifier::Prefix("/".to_owned()))
            })
            .collect();
        // For everybody, between others and behind them.
        protos.insert(5_000, route(PathSpecifier::Prefix("/only".to_owned())));
        protos.push(route(PathSpecifier::Prefix("/".to_owned())));
        let routes: Vec<_> = protos.iter().map(built).collect();
        let of = |tenant: &str, path: &str| {
            let mut request = request(path);
            let value = tenant.parse().unwrap();
            request.headers_mut().insert("x-tenant", value);
            looked_at(&routes, &request)
        };
        assert_eq!(of("17", "/"), (Some(17), 1));
        assert_eq!(of("9999", "/"), (Some(10_000), 1));
        assert_eq!(of("9999", "/only").0, Some(5_000));
        assert_eq!(of("nobody", "/"), (Some(10_001), 1));
        assert_eq!(looked_at(&routes, &request("/")), (Some(10_001), 1));
    }
}
