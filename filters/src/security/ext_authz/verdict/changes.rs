//! What a service changes of a request that it lets pass, and of the answer to it.
//!
//! Its headers take effect kind by kind, as in Envoy, whatever order it names them in: of a request, what is set, then what
//! is added; of an answer, the other way round. `host` and pseudo headers can be set, but not removed. What frames a message, or is between two hops only, is never changed: a body is as long as it is.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValueOption, header_value_option::HeaderAppendAction,
};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};

/// A change that can't be made: a name or a value that no message can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid(pub(crate) String);

/// All changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) request: Vec<Change>,
    pub(crate) remove: Vec<HeaderName>,
    pub(crate) response: Vec<Change>,
    pub(crate) set_query: Vec<(String, String)>,
    pub(crate) remove_query: Vec<String>,
}

/// A change of one header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    target: Target,
    how: How,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Header(HeaderName, HeaderValue),
    Method(Method),
    Path(PathAndQuery),
    /// What frames a message.
    Nothing,
}

/// What becomes of a value that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It is replaced.
    Set,
    /// It is followed by this one, as another value.
    Add,
    /// It is followed by this one, behind a comma (a cookie: a semicolon); where there is none, nothing is done.
    Append,
    AddIfAbsent,
    /// It is replaced; where there is none, nothing is done.
    OverwriteIfExists,
}

impl How {
    /// What an option says of an answer's header; the older field wins where it is set.
    pub(crate) fn of(option: &HeaderValueOption) -> How {
        let action = HeaderAppendAction::try_from(option.append_action);
        match (option.append, action) {
            (Some(older), _) if older.value => How::Add,
            (Some(_), _) => How::Set,
            (None, Ok(HeaderAppendAction::AddIfAbsent)) => How::AddIfAbsent,
            (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => How::Set,
            (None, Ok(HeaderAppendAction::OverwriteIfExists)) => How::OverwriteIfExists,
            (None, _) => How::Add,
        }
    }
}

impl Change {
    pub(crate) fn new(name: &str, value: &[u8], how: How) -> Result<Change, Invalid> {
        let invalid = || Invalid(format!("header {name:?}"));
        let text = || std::str::from_utf8(value).map_err(|_| invalid());
        let target = match name.to_ascii_lowercase().as_str() {
            ":path" => Target::Path(PathAndQuery::try_from(value).map_err(|_| invalid())?),
            ":method" => Target::Method(Method::try_from(text()?).map_err(|_| invalid())?),
            ":authority" | "host" => {
                Authority::try_from(value).map_err(|_| invalid())?;
                let value = HeaderValue::from_bytes(value).map_err(|_| invalid())?;
                Target::Header(header::HOST, value)
            }
            lower => {
                let name = HeaderName::try_from(lower).map_err(|_| invalid())?;
                let value = HeaderValue::from_bytes(value).map_err(|_| invalid())?;
                match is_framing(&name) {
                    true => Target::Nothing,
                    false => Target::Header(name, value),
                }
            }
        };
        Ok(Change { target, how })
    }

    /// Of an answer's head, which has no pseudo header but its status.
    pub(crate) fn of_response(name: &str, value: &[u8], how: How) -> Result<Change, Invalid> {
        let name = HeaderName::try_from(name).map_err(|_| Invalid(format!("header {name:?}")))?;
        Change::new(name.as_str(), value, how)
    }

    fn apply(&self, headers: &mut HeaderMap) {
        let Target::Header(name, value) = &self.target else {
            return;
        };
        match self.how {
            How::Set => {
                headers.insert(name, value.clone());
            }
            // One host is enough.
            How::Add if *name == header::HOST => {}
            How::Add => {
                headers.append(name, value.clone());
            }
            How::Append => {
                let comma: &[u8] = match *name {
                    header::COOKIE => b"; ",
                    _ => b",",
                };
                let joined = headers.get(name).map(|before| {
                    let joined = [before.as_bytes(), comma, value.as_bytes()].concat();
                    HeaderValue::from_bytes(&joined)
                });
                if let Some(Ok(joined)) = joined {
                    replace_first(headers, name, joined);
                }
            }
            How::AddIfAbsent => {
                headers.entry(name).or_insert(value.clone());
            }
            How::OverwriteIfExists => {
                if headers.contains_key(name) {
                    headers.insert(name, value.clone());
                }
            }
        }
    }
}

/// The first of the values, where there are several; the others stay.
fn replace_first(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    if let Some(first) = headers.get_mut(name) {
        *first = value;
    }
}

impl Changes {
    /// Whether the request may have another route now.
    pub(crate) fn of_request(&self) -> bool {
        !(self.request.is_empty()
            && self.remove.is_empty()
            && self.set_query.is_empty()
            && self.remove_query.is_empty())
    }

    /// Puts them into the order in which they take effect.
    #[must_use]
    pub(crate) fn ordered(mut self) -> Changes {
        self.request.sort_by_key(|change| match change.how {
            How::Set => 0,
            How::Add => 1,
            _ => 2,
        });
        self.response.sort_by_key(|change| match change.how {
            How::Add => 0,
            How::Set => 1,
            How::AddIfAbsent => 2,
            _ => 3,
        });
        self
    }

    /// A header to be removed; those that can't be, and what is no name, are left out.
    pub(crate) fn remove(&mut self, name: &str) {
        let Ok(name) = HeaderName::try_from(name) else {
            return;
        };
        if name != header::HOST && !is_framing(&name) {
            self.remove.push(name);
        }
    }

    pub(crate) fn apply_to_request<B>(&self, request: &mut Request<B>) -> Result<(), Invalid> {
        for change in &self.request {
            match &change.target {
                Target::Path(path) => *request.uri_mut() = Uri::from(path.clone()),
                Target::Method(method) => *request.method_mut() = method.clone(),
                _ => change.apply(request.headers_mut()),
            }
        }
        for name in &self.remove {
            request.headers_mut().remove(name);
        }
        if self.set_query.is_empty() && self.remove_query.is_empty() {
            return Ok(());
        }
        let target = self.with_query(request.uri());
        let target = Uri::try_from(target).map_err(|error| Invalid(format!("query: {error}")))?;
        *request.uri_mut() = target;
        Ok(())
    }

    pub(crate) fn apply_to_response(&self, headers: &mut HeaderMap) {
        for change in &self.response {
            change.apply(headers);
        }
    }

    /// The target with its parameters as they are to be: in the order of their names, as Envoy has them then.
    fn with_query(&self, uri: &Uri) -> String {
        let mut parameters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let query = uri.query().unwrap_or("");
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            parameters.entry(name).or_default().push(value);
        }
        for (name, value) in &self.set_query {
            parameters.insert(name, vec![value]);
        }
        for name in &self.remove_query {
            parameters.remove(name.as_str());
        }
        let mut target = uri.path().to_owned();
        let mut before = '?';
        for (name, values) in parameters {
            for value in values {
                target.extend([&before.to_string(), name, "=", value]);
                before = '&';
            }
        }
        target
    }
}

/// What says how a message is framed, or is between two hops only.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::google::protobuf::BoolValue;

    use super::*;

    fn request() -> Request<()> {
        let request = Request::builder()
            .uri("/a?z=1&b=2&z=3&flag")
            .header("host", "web")
            .header("x-a", "1")
            .header("content-length", "3");
        request.body(()).unwrap()
    }

    fn changed(changes: &[(&str, &str, How)]) -> Request<()> {
        let changes = Changes {
            request: changes
                .iter()
                .map(|(name, value, how)| Change::new(name, value.as_bytes(), *how).unwrap())
                .collect(),
            ..Changes::default()
        };
        let mut request = request();
        changes.apply_to_request(&mut request).unwrap();
        request
    }

    fn values(request: &Request<()>, name: &str) -> Vec<String> {
        let values = request.headers().get_all(name).iter();
        values.map(|v| v.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_value_that_is_there_is_treated_as_is_said() {
        for (how, there, absent) in [
            (How::Set, vec!["2"], vec!["2"]),
            (How::Add, vec!["1", "2"], vec!["2"]),
            (How::Append, vec!["1,2"], vec![]),
            (How::AddIfAbsent, vec!["1"], vec!["2"]),
            (How::OverwriteIfExists, vec!["2"], vec![]),
        ] {
            let request = changed(&[("X-A", "2", how), ("x-b", "2", how)]);
            assert_eq!(values(&request, "x-a"), there, "{how:?}");
            assert_eq!(values(&request, "x-b"), absent, "{how:?}");
        }
    }

    #[test]
    fn pseudo_headers_are_set_and_framing_is_left_alone() {
        let request = changed(&[
            (":path", "/other?x", How::Set),
            (":method", "PUT", How::Set),
            (":authority", "elsewhere", How::Set),
            ("content-length", "0", How::Set),
            ("Transfer-Encoding", "chunked", How::Set),
        ]);
        assert_eq!(request.uri(), "/other?x");
        assert_eq!(request.method(), "PUT");
        assert_eq!(values(&request, "host"), ["elsewhere"]);
        assert_eq!(values(&request, "content-length"), ["3"]);
        assert!(values(&request, "transfer-encoding").is_empty());
    }

    #[test]
    fn what_no_message_can_have_is_invalid() {
        for (name, value) in [
            ("a b", "x"),
            ("", "x"),
            ("x", "a\nb"),
            (":path", "a b"),
            (":method", ""),
            (":scheme", "https"),
            ("host", "a b"),
        ] {
            assert!(Change::new(name, value.as_bytes(), How::Set).is_err());
        }
        assert!(Change::of_response(":status", b"200", How::Set).is_err());
    }

    #[test]
    fn what_makes_a_request_is_not_removed() {
        let mut changes = Changes::default();
        for name in ["x-a", ":path", "Host", "content-length", "a b", ""] {
            changes.remove(name);
        }
        assert_eq!(changes.remove, ["x-a"]);
        let mut request = request();
        changes.apply_to_request(&mut request).unwrap();
        assert_eq!(request.headers().len(), 2);
    }

    #[test]
    fn parameters_are_replaced_and_removed() {
        let mut changes = Changes {
            set_query: vec![("z".into(), "9".into()), ("new".into(), "".into())],
            remove_query: vec!["b".into(), "none".into()],
            ..Changes::default()
        };
        let mut changed = request();
        changes.apply_to_request(&mut changed).unwrap();
        assert_eq!(changed.uri(), "/a?flag=&new=&z=9");
        changes.set_query = vec![("a".into(), "b c".into())];
        assert!(changes.apply_to_request(&mut request()).is_err());
        changes.set_query.clear();
        changes.remove_query = ["z", "b", "flag"].map(String::from).into();
        let mut changed = request();
        changes.apply_to_request(&mut changed).unwrap();
        assert_eq!(changed.uri(), "/a");
    }

    #[test]
    fn the_older_field_wins_where_it_is_set() {
        let option = |append: Option<bool>, action: HeaderAppendAction| HeaderValueOption {
            append: append.map(|value| BoolValue { value }),
            append_action: action.into(),
            ..HeaderValueOption::default()
        };
        use HeaderAppendAction as A;
        assert_eq!(How::of(&option(Some(true), A::AddIfAbsent)), How::Add);
        assert_eq!(How::of(&option(Some(false), A::AddIfAbsent)), How::Set);
        assert_eq!(How::of(&option(None, A::AddIfAbsent)), How::AddIfAbsent);
        assert_eq!(How::of(&option(None, A::AppendIfExistsOrAdd)), How::Add);
    }
}
