//! What is asked: a request that somebody might send, and as whom.
//!
//! Nothing of it was on a wire. Who asks says which identity the client's certificate would prove.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::connection::ServerName;
use waypoint_hbone::identity::Identity;

/// The source address where none is given: one of those that nobody has (RFC 5737).
const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
/// The port of a URL that names none.
const DEFAULT_PORT: u16 = 80;
/// Headers that a question may have.
const MAX_HEADERS: usize = 1000;

/// A request that is asked about.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) from: Identity,
    pub(crate) source: IpAddr,
    /// Host and port that the client connects to.
    pub(crate) to: (String, u16),
    /// The server name that a TLS hello in the tunnel would ask for.
    pub(crate) server_name: ServerName,
    pub(crate) method: Method,
    pub(crate) target: PathAndQuery,
    pub(crate) headers: HeaderMap,
}

/// The words of a question, as a person or a file gives them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    /// `spiffe://…`, or `NAMESPACE/SERVICE-ACCOUNT` of the mesh's trust domain.
    pub(crate) from: String,
    pub(crate) source: Option<String>,
    pub(crate) jwt: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) sni: Option<String>,
    pub(crate) method: String,
    pub(crate) url: String,
    /// `name: value`.
    pub(crate) headers: Vec<String>,
}

impl Words {
    /// As parameters of a URL.
    pub(crate) fn to_query(&self) -> String {
        let optional = [
            ("source", &self.source),
            ("jwt", &self.jwt),
            ("to", &self.to),
            ("sni", &self.sni),
        ];
        let optional = optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let headers = self.headers.iter().map(|line| ("header", line.as_str()));
        let required = [
            ("from", self.from.as_str()),
            ("method", self.method.as_str()),
            ("url", self.url.as_str()),
        ];
        let all = required.into_iter().chain(optional).chain(headers);
        let all: Vec<String> = all
            .map(|(name, value)| format!("{name}={}", escaped(value.trim())))
            .collect();
        all.join("&")
    }

    /// From parameters of a URL.
    pub(crate) fn from_parameters<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Words {
        let mut words = Words {
            method: "GET".into(),
            ..Words::default()
        };
        for (name, value) in parameters {
            let value = value.to_owned();
            match name {
                "from" => words.from = value,
                "source" => words.source = Some(value),
                "jwt" => words.jwt = Some(value),
                "to" => words.to = Some(value),
                "sni" => words.sni = Some(value),
                "method" => words.method = value,
                "url" => words.url = value,
                "header" => words.headers.push(value),
                _ => {}
            }
        }
        words
    }
}

/// With escapes for everything that has a meaning in a URL.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Why a question can't be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuestionError {
    #[error("from {0:?}: {1}")]
    From(String, String),
    #[error("source address {0:?} is no IP address")]
    Source(String),
    #[error("to {0:?}: expected HOST:PORT")]
    To(String),
    #[error("method {0:?} is none")]
    Method(String),
    #[error("URL {0:?}: {1}")]
    Url(String, &'static str),
    #[error("header {0:?}: expected NAME: VALUE")]
    Header(String),
    #[error("the token can't stand in a header")]
    Token,
    #[error("more than {MAX_HEADERS} headers")]
    Headers,
}

impl Question {
    /// `trust_domain` is that of identities in Istio's short form.
    pub(crate) fn new(words: &Words, trust_domain: &str) -> Result<Question, QuestionError> {
        let url = || words.url.clone();
        let uri: Uri = words
            .url
            .parse()
            .map_err(|_| QuestionError::Url(url(), "a client could not send it as it stands"))?;
        let to = match (&words.to, uri.host()) {
            (Some(to), _) => host_and_port(to).ok_or_else(|| QuestionError::To(to.clone()))?,
            (None, Some(host)) => {
                let host = host.trim_matches(['[', ']']);
                (host.to_owned(), uri.port_u16().unwrap_or(DEFAULT_PORT))
            }
            (None, None) => return Err(QuestionError::Url(url(), "has no host; say where to")),
        };
        if words.headers.len() > MAX_HEADERS {
            return Err(QuestionError::Headers);
        }
        let authority = match uri.authority() {
            Some(authority) => authority.as_str().to_owned(),
            None => format!("{}:{}", to.0, to.1),
        };
        let target = uri.path_and_query().cloned();
        Ok(Question {
            from: identity(&words.from, trust_domain)?,
            source: source(words.source.as_deref())?,
            server_name: match &words.sni {
                Some(name) => ServerName::Name(name.to_ascii_lowercase().into()),
                None => ServerName::Absent,
            },
            headers: headers(words, &authority)?,
            method: Method::from_bytes(words.method.as_bytes())
                .map_err(|_| QuestionError::Method(words.method.clone()))?,
            target: target.unwrap_or_else(|| PathAndQuery::from_static("/")),
            to,
        })
    }

    /// The request as the client would send it.
    pub(crate) fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.target.clone());
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn identity(from: &str, trust_domain: &str) -> Result<Identity, QuestionError> {
    let failed = |error: String| QuestionError::From(from.to_owned(), error);
    let identity = match from.split_once('/') {
        Some((namespace, account)) if !from.contains("://") => {
            Identity::istio(trust_domain, namespace, account)
        }
        _ => from.parse(),
    };
    identity.map_err(|error| failed(error.to_string()))
}

fn source(source: Option<&str>) -> Result<IpAddr, QuestionError> {
    let Some(source) = source else {
        return Ok(NOBODY);
    };
    let address = source.parse();
    address.map_err(|_| QuestionError::Source(source.to_owned()))
}

fn headers(words: &Words, authority: &str) -> Result<HeaderMap, QuestionError> {
    let mut headers = HeaderMap::new();
    let host = HeaderValue::from_str(authority);
    headers.insert(
        HOST,
        host.map_err(|_| QuestionError::To(authority.to_owned()))?,
    );
    if let Some(token) = &words.jwt {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
        headers.insert(AUTHORIZATION, value.map_err(|_| QuestionError::Token)?);
    }
    for line in &words.headers {
        let wrong = || QuestionError::Header(line.clone());
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        match name == HOST {
            true => headers.insert(name, value).is_some(),
            false => headers.append(name, value),
        };
    }
    Ok(headers)
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    Some((host.to_owned(), port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(url: &str) -> Words {
        Words {
            from: "default/curl".into(),
            method: "GET".into(),
            url: url.into(),
            ..Words::default()
        }
    }

    #[test]
    fn a_url_says_where_to_unless_something_else_does() {
        let question = Question::new(&words("http://reviews:9080/a?b"), "cluster.local").unwrap();
        assert_eq!(question.to, ("reviews".to_owned(), 9080));
        assert_eq!(question.headers[HOST], "reviews:9080");
        assert_eq!(question.target, "/a?b");
        assert_eq!(
            question.from.as_str(),
            "spiffe://cluster.local/ns/default/sa/curl"
        );
        let to = Words {
            to: Some("[fd00::1]:80".into()),
            headers: vec![
                "Host: shop.example".into(),
                "x-a: 1".into(),
                "x-a: 2".into(),
            ],
            jwt: Some("a.b.c\n".into()),
            ..words("/x")
        };
        let question = Question::new(&to, "cluster.local").unwrap();
        assert_eq!(question.to, ("fd00::1".to_owned(), 80));
        assert_eq!(question.headers[HOST], "shop.example");
        assert_eq!(question.headers[AUTHORIZATION], "Bearer a.b.c");
        assert_eq!(question.headers.get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn what_can_not_be_asked_is_named() {
        let error = |words: &Words| Question::new(words, "td").unwrap_err().to_string();
        assert!(error(&words("/x")).contains("where to"));
        let mut wrong = words("http://a/");
        wrong.from = "somebody".into();
        assert!(error(&wrong).contains("somebody"));
        wrong = words("http://a/");
        wrong.headers = vec!["x".into()];
        assert!(error(&wrong).contains("NAME: VALUE"));
        wrong.headers = Vec::new();
        wrong.source = Some("here".into());
        assert!(error(&wrong).contains("no IP address"));
    }
}
