//! Rewrites and redirects of paths: a matched prefix, the whole path, or RE2 substitutions.

use ::regex::Regex;
use envoy_types::pb::envoy::config::route::v3::{RedirectAction, redirect_action};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use http::{Request, StatusCode, Uri, header};
use waypoint_filters::matcher::regex::{self, SUBSTITUTION};
use waypoint_filters::service::body::Body;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

/// How the path changes on its way up; the query stays.
#[derive(Debug)]
pub enum PathRewrite {
    /// Replaces what the route's prefix matched; all of a path that matched an expression.
    Prefix(Box<str>),
    /// Every match of `pattern` in the path.
    Regex {
        pattern: Regex,
        substitution: Box<str>,
    },
}

impl PathRewrite {
    pub(crate) fn regex(proto: &RegexMatchAndSubstitute) -> Result<PathRewrite, Refusal> {
        let pattern = proto
            .pattern
            .as_ref()
            .ok_or_else(|| Refusal::missing("pattern"))?;
        Ok(PathRewrite::Regex {
            pattern: regex::search(&pattern.regex)?,
            substitution: re2_substitution(&proto.substitution).into(),
        })
    }

    /// The new target; `None`: it would be none.
    pub fn apply(&self, uri: &Uri, matched: Option<&str>) -> Option<Uri> {
        let path = match self {
            PathRewrite::Prefix(replacement) => {
                let matched = matched.unwrap_or(uri.path());
                replace_prefix(uri.path(), matched, replacement)?
            }
            PathRewrite::Regex {
                pattern,
                substitution,
            } => pattern
                .replace_all(uri.path(), &**substitution)
                .into_owned(),
        };
        target(path, uri.query())
    }
}

fn replace_prefix(path: &str, matched: &str, replacement: &str) -> Option<String> {
    Some(format!("{replacement}{}", path.get(matched.len()..)?))
}

fn target(mut path: String, query: Option<&str>) -> Option<Uri> {
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    Uri::try_from(path).ok()
}

/// RE2's `\1` as the regex crate writes it, with its own `$` escaped.
pub(crate) fn re2_substitution(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    out
}

/// An answer that sends the client elsewhere.
#[derive(Debug)]
pub struct Redirect {
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: Option<RedirectPath>,
    strip_query: bool,
    pub status: StatusCode,
}

pub(crate) static REDIRECT: Table = Table {
    name: "envoy.config.route.v3.RedirectAction",
    fields: &[
        honoured(1, "host_redirect"),
        honoured(2, "path_redirect"),
        honoured(3, "response_code"),
        honoured(4, "https_redirect"),
        honoured(5, "prefix_rewrite"),
        honoured(6, "strip_query"),
        honoured(7, "scheme_redirect"),
        honoured(8, "port_redirect"),
        honoured(9, "regex_rewrite").of(&SUBSTITUTION),
    ],
    refused: "10 path_rewrite",
    required: &[],
};

#[derive(Debug)]
enum RedirectPath {
    Full(Box<str>),
    Rewrite(PathRewrite),
}

impl Redirect {
    pub(crate) fn from_proto(proto: &RedirectAction) -> Result<Redirect, Refusal> {
        use redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
        let text = |s: &str| (!s.is_empty()).then(|| Box::from(s));
        let path = match &proto.path_rewrite_specifier {
            None => None,
            Some(PathRewriteSpecifier::PathRedirect(path)) => text(path).map(RedirectPath::Full),
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(RedirectPath::Rewrite(
                PathRewrite::Prefix(prefix.as_str().into()),
            )),
            Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
                Some(RedirectPath::Rewrite(PathRewrite::regex(rewrite)?))
            }
            Some(PathRewriteSpecifier::PathRewrite(_)) => {
                return Err(Refusal::unsupported("path_rewrite"));
            }
        };
        let status = match RedirectResponseCode::try_from(proto.response_code) {
            Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
            Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
            Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
            Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
            Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
            Err(_) => return Err(Refusal::new("response_code", "unknown value")),
        };
        Ok(Redirect {
            scheme: match &proto.scheme_rewrite_specifier {
                None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
                Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
                Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => text(scheme),
            },
            host: text(&proto.host_redirect),
            port: match proto.port_redirect {
                0 => None,
                port => Some(
                    u16::try_from(port).map_err(|_| Refusal::new("port_redirect", "is no port"))?,
                ),
            },
            path,
            strip_query: proto.strip_query,
            status,
        })
    }

    /// `location`, absolute.
    pub fn location(&self, request: &Request<Body>, matched: Option<&str>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or("http");
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        let own = self.host.as_deref();
        let authority = match (own, self.port) {
            (Some(own), None) => own.to_owned(),
            (None, None) => {
                // Envoy drops a port that is the old scheme's default when the scheme changes.
                let default = if self.scheme.is_some() {
                    host.strip_suffix(":80")
                } else {
                    None
                };
                default.unwrap_or(host).to_owned()
            }
            (own, Some(port)) => {
                let name = own.unwrap_or_else(|| without_port(host));
                format!("{name}:{port}")
            }
        };
        let uri = request.uri();
        let query = uri.query().filter(|_| !self.strip_query);
        let path = match &self.path {
            None => uri.path().to_owned(),
            // A full path brings its own query, if it wants one.
            Some(RedirectPath::Full(path)) if path.contains('?') => {
                return format!("{scheme}://{authority}{path}");
            }
            Some(RedirectPath::Full(path)) => path.to_string(),
            Some(RedirectPath::Rewrite(rewrite)) => rewrite
                .apply(uri, matched)
                .map_or_else(|| uri.path().to_owned(), |new| new.path().to_owned()),
        };
        match query {
            Some(query) => format!("{scheme}://{authority}{path}?{query}"),
            None => format!("{scheme}://{authority}{path}"),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;

    use super::*;

    fn rewritten(rewrite: &PathRewrite, uri: &str, matched: &str) -> String {
        rewrite
            .apply(&uri.parse().unwrap(), Some(matched))
            .unwrap()
            .to_string()
    }

    #[test]
    fn prefixes_and_expressions() {
        let prefix = PathRewrite::Prefix("/v2".into());
        assert_eq!(rewritten(&prefix, "/api/a?x=1", "/api"), "/v2/a?x=1");
        // What matched was an expression, and that is the whole path.
        let whole = prefix.apply(&"/api/a?x=1".parse().unwrap(), None).unwrap();
        assert_eq!(whole.to_string(), "/v2?x=1");
        let to_root = PathRewrite::regex(&RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher {
                regex: "^/api(/?)(.*)".into(),
                ..RegexMatcher::default()
            }),
            substitution: "/\\2".into(),
        })
        .unwrap();
        assert_eq!(rewritten(&to_root, "/api/a", "/api"), "/a");
        assert_eq!(rewritten(&to_root, "/api", "/api"), "/");
    }

    #[test]
    fn locations() {
        let redirect = |proto: RedirectAction| {
            let request = Request::builder()
                .uri("/a?q=1")
                .header("host", "reviews:9080")
                .body(Body::empty())
                .unwrap();
            Redirect::from_proto(&proto)
                .unwrap()
                .location(&request, Some("/a"))
        };
        let base = RedirectAction::default;
        assert_eq!(redirect(base()), "http://reviews:9080/a?q=1");
        assert_eq!(
            redirect(RedirectAction {
                host_redirect: "x.io".into(),
                ..base()
            }),
            "http://x.io/a?q=1"
        );
        assert_eq!(
            redirect(RedirectAction {
                port_redirect: 8443,
                ..base()
            }),
            "http://reviews:8443/a?q=1"
        );
        assert_eq!(
            redirect(RedirectAction {
                path_rewrite_specifier: Some(redirect_action::PathRewriteSpecifier::PathRedirect(
                    "/b".into()
                )),
                ..base()
            }),
            "http://reviews:9080/b?q=1"
        );
    }
}
