//! What a request asks for: path and parameters, as forgiving as Envoy's admin port.

use std::borrow::Cow;

use http::Uri;

/// A request's path and parameters.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    path: String,
    parameters: Vec<(String, String)>,
}

impl Target {
    pub(crate) fn new(uri: &Uri) -> Target {
        // Tools put a path that begins with a slash behind another slash.
        let path = format!("/{}", uri.path().trim_matches('/'));
        let pairs = uri.query().unwrap_or_default().split('&');
        let parameters = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name).into_owned(), decoded(value).into_owned())
        });
        Target {
            path,
            parameters: parameters.collect(),
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let parameters = self.parameters.iter();
        parameters.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The parameter's value; empty where it has none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// Whether the parameter is there, and doesn't say no.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value != "false" && value != "0")
    }
}

/// Without percent-encoding. A plus is a plus: regular expressions have them.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                let value = hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0);
                bytes.push(u8::try_from(value).unwrap_or_default());
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Target {
        Target::new(&uri.parse().unwrap())
    }

    #[test]
    fn paths_may_have_slashes_too_many() {
        for uri in [
            "/stats/prometheus",
            "//stats/prometheus",
            "/stats/prometheus/",
        ] {
            assert_eq!(target(uri).path(), "/stats/prometheus");
        }
        assert_eq!(target("/").path(), "/");
        assert_eq!(target("http://localhost:15000/").path(), "/");
    }

    #[test]
    fn parameters_are_decoded_and_may_have_no_value() {
        let target = target("/stats?usedonly&filter=%5Ea+%7C(b%29$&x=%zz%4&include_eds=false");
        assert_eq!(target.get("filter"), Some("^a+|(b)$"));
        assert_eq!(target.get("x"), Some("%zz%4"));
        assert!(target.is_on("usedonly") && !target.is_on("include_eds"));
        assert!(!target.is_on("mask"));
    }
}
