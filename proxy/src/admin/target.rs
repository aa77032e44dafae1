//! What a request asks for: path and parameters, as forgiving as Envoy's admin port.

use std::borrow::Cow;

use http::{HeaderMap, Request, Uri, header};

/// A request's path and parameters.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    path: String,
    parameters: Vec<(String, String)>,
    wants: Wants,
}

/// In what form the answer is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) open_metrics: bool,
    pub(crate) gzip: bool,
}

impl Wants {
    fn of(headers: &HeaderMap) -> Wants {
        Wants {
            open_metrics: weight(headers, header::ACCEPT, "application/openmetrics-text")
                > weight(headers, header::ACCEPT, "text/plain"),
            gzip: weight(headers, header::ACCEPT_ENCODING, "gzip") > 0.0,
        }
    }
}

/// The weight that a list of preferences gives to what it names; 0: it doesn't.
fn weight(headers: &HeaderMap, name: header::HeaderName, wanted: &str) -> f32 {
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let weights = texts.flat_map(|text| text.split(',')).filter_map(|one| {
        let mut parts = one.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(wanted) {
            return None;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        Some(weight.map_or(1.0, |q| q.parse().unwrap_or(0.0)))
    });
    weights.fold(0.0, f32::max)
}

impl Target {
    /// What a request asks for.
    pub(crate) fn of<B>(request: &Request<B>) -> Target {
        Target {
            wants: Wants::of(request.headers()),
            ..Target::new(request.uri())
        }
    }

    pub(crate) fn wants(&self) -> Wants {
        self.wants
    }

    pub(crate) fn new(uri: &Uri) -> Target {
        // Tools put a path that begins with a slash behind another slash.
        let path = format!("/{}", uri.path().trim_matches('/'));
        Target {
            path,
            parameters: pairs(uri.query().unwrap_or_default()).collect(),
            wants: Wants::default(),
        }
    }

    /// The fields of a form besides.
    pub(crate) fn add_form(&mut self, form: &[u8]) {
        let form = String::from_utf8_lossy(form).replace('+', " ");
        self.parameters.extend(pairs(&form));
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

/// Names and values of a query or a form.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name).into_owned(), decoded(value).into_owned())
    })
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

    #[test]
    fn forms_are_wanted_by_weight() {
        let wants = |accept: &str, encoding: &str| {
            let request = Request::builder()
                .header("accept", accept)
                .header("accept-encoding", encoding);
            let wants = Target::of(&request.body(()).unwrap()).wants();
            (wants.open_metrics, wants.gzip)
        };
        // Prometheus' own.
        let both = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                    text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(wants(both, "gzip"), (true, true));
        let text_first = "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;q=0.5";
        assert_eq!(wants(text_first, "br;q=1.0, gzip;q=0.8"), (false, true));
        assert_eq!(wants("*/*", "gzip;q=0"), (false, false));
        assert_eq!(
            wants("application/openmetrics-text", "identity"),
            (true, false)
        );
    }
}
