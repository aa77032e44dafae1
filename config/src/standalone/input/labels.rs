//! The rules of label names and values, which the API server applies to every object and selector.

/// A label's name, `appProtocol` and the like: `[prefix/]name`, the prefix a DNS subdomain.
pub(crate) fn check_qualified_name(name: &str) -> Result<(), String> {
    let (prefix, own) = match name.split_once('/') {
        Some((prefix, own)) => (Some(prefix), own),
        None => (None, name),
    };
    let prefixed = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix
                .split('.')
                .all(|part| is_word(part, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), b"-"))
    });
    if prefixed && own.len() <= 63 && is_word(own, |c| c.is_ascii_alphanumeric(), b"-_.") {
        return Ok(());
    }
    Err(format!("{name:?} is not of the form [prefix/]name"))
}

/// One label.
pub(crate) fn check_label(name: &str, value: &str) -> Result<(), String> {
    check_qualified_name(name)?;
    let fits = value.len() <= 63 && is_word(value, |c| c.is_ascii_alphanumeric(), b"-_.");
    if value.is_empty() || fits {
        return Ok(());
    }
    Err(format!(
        "{value:?} is no value of a label: up to 63 letters, digits, -, _ and . inside"
    ))
}

/// Begins and ends with one of `outer`, and has these or one of `inner` between.
fn is_word(text: &str, outer: impl Fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(|c| outer(*c)))
        && bytes.iter().all(|c| outer(*c) || inner.contains(c))
}

/// A DNS label: the name of a service's port, of a namespace.
pub(crate) fn is_dns_label(name: &str) -> bool {
    name.len() <= 63
        && name
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !name.is_empty()
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (name, value) in [
            ("app", ""),
            ("istio.io/use-waypoint", "way.point_1"),
            ("A_b", "1"),
        ] {
            assert_eq!(check_label(name, value), Ok(()), "{name}: {value}");
        }
        let long = "x".repeat(64);
        for (name, value) in [
            ("", "a"),
            ("a/b/c", "a"),
            ("/a", "a"),
            ("A.io/a", "a"),
            ("-a", "a"),
            ("a", "a b"),
            ("a", "-a"),
            ("a", long.as_str()),
        ] {
            assert!(check_label(name, value).is_err(), "{name}: {value}");
        }
    }
}
