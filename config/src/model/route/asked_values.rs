//! Routes with the same path, by the exact values that they ask for: those of a header, mostly, which tell one tenant's from
//! another's.
//!
//! Where many ask for values of one header, each value has a list of its own, and what doesn't ask for one stands beside. A
//! list that is long is divided in the same way by what else its routes ask for. All lists keep the order of the
//! configuration. Nothing is allocated for a request.

use std::collections::HashMap;

use http::Request;
use waypoint_filters::matcher::exact_value::{Seen, Subject};

/// Fewer routes are looked at one by one.
pub(super) const MIN_ROUTES: usize = 16;

/// Headers, and the like, by which one list is divided, and how often what comes of it is divided again.
const MAX_DIVISIONS: usize = 8;
const MAX_DEPTH: usize = 4;

/// What routes ask for, by their places.
pub(super) type Asked = [Vec<(Subject, Box<[u8]>)>];

/// Routes by their places.
#[derive(Debug, Default)]
pub(super) struct RouteList {
    divided: Box<[ByValue]>,
    /// Those that ask for nothing by which they are divided.
    rest: Box<[usize]>,
}

#[derive(Debug)]
struct ByValue {
    subject: Subject,
    /// In the order of the values.
    lists: Box<[(Box<[u8]>, RouteList)]>,
}

impl RouteList {
    pub(super) fn of(places: Vec<usize>, asked: &Asked) -> RouteList {
        RouteList::divide(places, asked, 0)
    }

    fn divide(places: Vec<usize>, asked: &Asked, depth: usize) -> RouteList {
        let (mut divided, mut rest) = (Vec::new(), places);
        while depth < MAX_DEPTH && divided.len() < MAX_DIVISIONS {
            let Some(subject) = most_telling(&rest, asked) else {
                break;
            };
            let (by_value, left) = ByValue::of(subject, rest, asked, depth);
            divided.push(by_value);
            rest = left;
        }
        RouteList {
            divided: divided.into(),
            rest: rest.into(),
        }
    }

    /// Has `look` see those that may match, list by list, each in the order of the configuration.
    pub(super) fn each<B>(&self, request: &Request<B>, look: &mut dyn FnMut(&[usize])) {
        for by_value in &self.divided {
            by_value.subject.each(request, &mut |seen| {
                if let Some(list) = by_value.list(seen)
                    && !by_value.subject.is_again(request, seen)
                {
                    list.each(request, look);
                }
            });
        }
        look(&self.rest);
    }
}

impl ByValue {
    /// Those that ask for a value of `subject`, and the places of those that don't.
    fn of(
        subject: Subject,
        places: Vec<usize>,
        asked: &Asked,
        depth: usize,
    ) -> (ByValue, Vec<usize>) {
        let mut lists: HashMap<&[u8], Vec<usize>> = HashMap::new();
        let mut left = Vec::new();
        for place in places {
            match value_of(&subject, place, asked) {
                Some(value) => lists.entry(value).or_default().push(place),
                None => left.push(place),
            }
        }
        let mut lists: Vec<_> = lists.into_iter().collect();
        lists.sort_unstable_by_key(|(value, _)| *value);
        let lists = lists.into_iter().map(|(value, places)| {
            let list = RouteList::divide(places, asked, depth + 1);
            (value.into(), list)
        });
        let lists = lists.collect();
        (ByValue { subject, lists }, left)
    }

    fn list(&self, seen: Seen<'_>) -> Option<&RouteList> {
        let at = |(value, _): &(Box<[u8]>, _)| seen.order(value).reverse();
        let found = self.lists.binary_search_by(at).ok()?;
        self.lists.get(found).map(|(_, list)| list)
    }
}

/// The first value of `subject` that a route asks for.
fn value_of<'a>(subject: &Subject, place: usize, asked: &'a Asked) -> Option<&'a [u8]> {
    let mut all = asked.get(place)?.iter();
    all.find(|(known, _)| known == subject)
        .map(|(_, value)| &**value)
}

/// By what these routes are told apart best: of those that ask for it, the most needn't be looked at. `None`: it isn't worth it.
fn most_telling(places: &[usize], asked: &Asked) -> Option<Subject> {
    if places.len() < MIN_ROUTES {
        return None;
    }
    let mut subjects: Vec<(&Subject, HashMap<&[u8], usize>)> = Vec::new();
    let mut known: HashMap<&Subject, usize> = HashMap::new();
    for place in places {
        for (subject, _) in asked.get(*place).into_iter().flatten() {
            let at = *known.entry(subject).or_insert_with(|| {
                subjects.push((subject, HashMap::new()));
                subjects.len() - 1
            });
            if let Some((_, values)) = subjects.get_mut(at)
                && let Some(value) = value_of(subject, *place, asked)
            {
                *values.entry(value).or_default() += 1;
            }
        }
    }
    let spared = subjects.into_iter().map(|(subject, values)| {
        let all: usize = values.values().sum();
        (all - values.values().max().copied().unwrap_or(0), subject)
    });
    // The first of those that are as good, whatever the order of a table.
    let best = spared.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    (best.0 >= MIN_ROUTES).then(|| best.1.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn header(name: &'static str, value: impl ToString) -> (Subject, Box<[u8]>) {
        let subject = Subject::Header(HeaderName::from_static(name));
        (subject, value.to_string().into_bytes().into())
    }

    /// The places that are looked at for a request with these headers.
    fn looked_at(asked: &Asked, headers: &[(&str, &str)]) -> Vec<usize> {
        let list = RouteList::of((0..asked.len()).collect(), asked);
        let mut request = Request::new(());
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let mut found = Vec::new();
        list.each(&request, &mut |places| found.extend_from_slice(places));
        found
    }

    #[test]
    fn those_that_ask_for_the_value_and_those_that_ask_for_none() {
        let asked: Vec<_> = (0..1000)
            .map(|n| match n % 500 {
                499 => Vec::new(),
                _ => vec![header("x-tenant", n)],
            })
            .collect();
        let of = |headers: &[_]| looked_at(&asked, headers);
        assert_eq!(of(&[("x-tenant", "17")]), [17, 499, 999]);
        assert_eq!(of(&[]), [499, 999]);
        let several = [("x-tenant", "17"), ("x-tenant", "18"), ("x-tenant", "17")];
        assert_eq!(of(&several), [17, 18, 499, 999]);
    }

    #[test]
    fn a_value_of_many_routes_is_divided_by_what_else_they_ask_for() {
        let asked: Vec<_> = (0..1000)
            .map(|n| vec![header("x-tenant", n % 25), header("x-version", n / 25)])
            .collect();
        let both = [("x-version", "7"), ("x-tenant", "3")];
        assert_eq!(looked_at(&asked, &both), [178]);
        // Half of them by one header, half by another.
        let asked: Vec<_> = (0..1000)
            .map(|n| match n % 2 {
                0 => vec![header("x-a", n)],
                _ => vec![header("x-b", n)],
            })
            .collect();
        assert_eq!(looked_at(&asked, &[("x-a", "4"), ("x-b", "7")]), [4, 7]);
    }

    #[test]
    fn a_division_that_spares_little_is_not_made() {
        let few: Vec<_> = (0..MIN_ROUTES - 1)
            .map(|n| vec![header("x-a", n)])
            .collect();
        assert_eq!(looked_at(&few, &[]).len(), few.len());
        let alike: Vec<_> = (0..1000).map(|_| vec![header("x-a", 1)]).collect();
        assert_eq!(looked_at(&alike, &[]).len(), alike.len());
    }

    /// However many headers there are, a table is built without end of the stack, and a request asked for a bounded number.
    #[test]
    fn divisions_are_bounded() {
        let name = |n: usize| HeaderName::try_from(format!("x-{n}")).unwrap();
        let asked: Vec<_> = (0..100_000)
            .map(|n| {
                let value = n.to_string().into_bytes().into();
                vec![(Subject::Header(name(n / 50)), value)]
            })
            .collect();
        let list = RouteList::of((0..asked.len()).collect(), &asked);
        assert_eq!(list.divided.len(), MAX_DIVISIONS);
        assert_eq!(list.rest.len(), 100_000 - MAX_DIVISIONS * 50);
    }
}
