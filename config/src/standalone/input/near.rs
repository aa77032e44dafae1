//! What a misspelt name may have meant.

/// The known name that differs from this one by case or by two letters at most, and is not too short for that.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let near = known.into_iter().filter_map(|known| {
        let distance = distance(&lower, &known.to_lowercase());
        (distance * 3 <= known.chars().count() && distance <= 2).then_some((distance, known))
    });
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The question that follows a reason.
pub(crate) fn meant<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |known| format!("; is {known:?} meant?"))
}

/// Letters that must be added, removed or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, of_a) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((of_b, pair), above) in b.iter().zip(row.windows(2)).zip(row.iter().skip(1)) {
            let changed = pair.first().copied().unwrap_or_default() + usize::from(of_a != *of_b);
            let left = next.last().copied().unwrap_or_default();
            next.push(changed.min(left + 1).min(above + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_near() {
        let known = ["Service", "ServiceEntry", "HTTPRoute", "web"];
        for (name, expected) in [
            ("service", Some("Service")),
            ("Services", Some("Service")),
            ("HttpRoute", Some("HTTPRoute")),
            ("HTTPRuote", Some("HTTPRoute")),
            ("wep", Some("web")),
            ("db", None),
            ("Deployment", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
        assert_eq!(meant("wep", known), "; is \"web\" meant?");
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
