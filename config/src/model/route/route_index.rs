//! Finds the routes that a path may have among many, without looking at all of them.
//!
//! A tree of the bytes of paths: exact ones, prefixes, and the fixed beginnings of expressions. A request's path is followed
//! through it once; the routes at the places that it passes are those that may match. Which of them counts is told by their
//! order alone, as without an index: the first that matches. Nothing is allocated for a request.

use waypoint_filters::matcher::route_match::PathKey;

/// Fewer routes are looked at one by one.
pub(crate) const MIN_ROUTES: usize = 16;

/// Routes by their paths. A route is known by its place.
#[derive(Debug)]
pub(crate) struct RouteIndex {
    /// The first is the root.
    nodes: Box<[Node]>,
}

/// A place in the tree: what paths begin with that come to it.
#[derive(Debug, Default)]
struct Node {
    /// The bytes that lead here from the node above.
    label: Box<[u8]>,
    /// By the first byte of their labels, in order.
    below: Vec<(u8, usize)>,
    /// Whose path ends here.
    exact: Vec<usize>,
    /// Whose prefix ends here, where a segment does.
    segments: Vec<usize>,
    /// Whose prefix ends here.
    prefix: Vec<usize>,
}

impl RouteIndex {
    /// `None`: there are too few for it to be worth anything.
    pub(crate) fn of<'a>(paths: impl ExactSizeIterator<Item = PathKey<'a>>) -> Option<RouteIndex> {
        if paths.len() < MIN_ROUTES {
            return None;
        }
        let mut nodes = vec![Node::default()];
        for (place, path) in paths.enumerate() {
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
        Some(RouteIndex {
            nodes: nodes.into(),
        })
    }

    /// The first place of those that the path may have for which `matches` holds.
    pub(crate) fn first(&self, path: &str, matches: impl Fn(usize) -> bool) -> Option<usize> {
        let mut first: Option<usize> = None;
        let mut look = |places: &[usize]| {
            let before = places
                .iter()
                .take_while(|place| first.is_none_or(|f| **place < f));
            first = before.copied().find(|place| matches(*place)).or(first);
        };
        let mut rest = path.as_bytes();
        let mut at = self.nodes.first();
        while let Some(node) = at {
            look(&node.prefix);
            match rest.first() {
                None => {
                    look(&node.exact);
                    look(&node.segments);
                }
                Some(b'/') => look(&node.segments),
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

impl Node {
    /// The node below that a path with this rest may go to.
    fn next(&self, rest: &[u8]) -> Option<usize> {
        let byte = rest.first()?;
        let found = self.below.binary_search_by_key(byte, |(first, _)| *first);
        self.below.get(found.ok()?).map(|(_, node)| *node)
    }
}

/// The node of a text, made if there is none.
fn node_of(nodes: &mut Vec<Node>, mut text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(first) = text.first() {
        let Some(next) = nodes.get(at).and_then(|node| node.next(text)) else {
            let leaf = Node {
                label: text.into(),
                ..Node::default()
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

fn add_below(nodes: &mut Vec<Node>, above: usize, first: u8, node: Node) -> usize {
    let place = nodes.len();
    nodes.push(node);
    if let Some(above) = nodes.get_mut(above) {
        let at = above.below.partition_point(|(byte, _)| *byte < first);
        above.below.insert(at, (first, place));
    }
    place
}

/// Puts what is at a node below it, so that the node is for the first `same` bytes of its label.
fn split(nodes: &mut Vec<Node>, place: usize, same: usize) {
    let Some(node) = nodes.get_mut(place) else {
        return;
    };
    let whole = std::mem::take(node);
    let (label, rest) = whole.label.split_at(same);
    node.label = label.into();
    let first = rest.first().copied().unwrap_or_default();
    let lower = Node {
        label: rest.into(),
        ..whole
    };
    add_below(nodes, place, first, lower);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn matches(key: PathKey<'_>, path: &str) -> bool {
        match key {
            PathKey::Exact(exact) => path == exact,
            PathKey::Prefix(prefix) => path.starts_with(prefix),
            PathKey::Segments(prefix) => path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    fn drawn(rng: &mut fastrand::Rng) -> String {
        let parts = ["/", "/a", "/ab", "/b", "b", "/abc/d", ""];
        (0..rng.usize(..4))
            .map(|_| parts[rng.usize(..parts.len())])
            .collect()
    }

    #[test]
    fn the_first_that_matches_is_found_as_without_an_index() {
        let seed = u64::from(fastrand::u32(..));
        eprintln!("WAYPOINT_SEED={seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..300 {
            let texts: Vec<(u8, String)> = (0..MIN_ROUTES + rng.usize(..20))
                .map(|_| (rng.u8(..3), drawn(&mut rng)))
                .collect();
            let keys: Vec<PathKey<'_>> = texts
                .iter()
                .map(|(kind, text)| match kind {
                    0 => PathKey::Exact(text),
                    1 => PathKey::Segments(text),
                    _ => PathKey::Prefix(text),
                })
                .collect();
            let index = RouteIndex::of(keys.iter().copied()).unwrap();
            for _ in 0..50 {
                let path = drawn(&mut rng);
                // Some fail for another reason than their path.
                let unmet = rng.usize(..4);
                let by = |place: usize| place % 4 != unmet && matches(keys[place], &path);
                let first = (0..keys.len()).find(|place| by(*place));
                assert_eq!(index.first(&path, by), first, "{path:?} in {keys:?}");
            }
        }
    }

    #[test]
    fn few_of_many_are_looked_at() {
        let texts: Vec<String> = (0..10_000).map(|n| format!("/service/{n}/x")).collect();
        let keys = texts.iter().map(|text| PathKey::Segments(text));
        let index = RouteIndex::of(keys).unwrap();
        let looked = std::cell::Cell::new(0);
        let found = index.first("/service/9999/x/y", |_| {
            looked.set(looked.get() + 1);
            true
        });
        assert_eq!((found, looked.get()), (Some(9999), 1));
        assert!(RouteIndex::of(texts.iter().take(3).map(|text| PathKey::Exact(text))).is_none());
    }
}
