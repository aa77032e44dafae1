//! `URLRewrite.path` and `RequestRedirect.path`: what the Gateway API says of them, in Envoy's terms.
//!
//! A prefix is a list of path elements: a slash at its end, in the match as in the replacement, says
//! nothing, and what follows the prefix follows the replacement. Envoy replaces characters instead, so that
//! the root, as prefix or as replacement, needs its slash put or taken here (istiod leaves both to chance:
//! `/` to `/foo` makes `/foox` of `/x`). A path that the author wrote without its first slash gets it.

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use route::redirect_action::PathRewriteSpecifier;

use crate::standalone::kinds::gateway_api::http_route_filter::NewPath;
use crate::standalone::translate::proto::regex::{quote, regex_matcher as regex};

/// How Envoy gets to the new path.
enum Change {
    /// The path is right as it is.
    Stays,
    /// These characters for those of the matched prefix.
    Prefix(String),
    /// The prefix goes, and one slash stays.
    Strip(matcher::RegexMatchAndSubstitute),
    Full(String),
}

/// What becomes of a path that matched `prefix`.
fn change(new: NewPath<'_>, prefix: &str) -> Change {
    match new {
        NewPath::Full(path) => Change::Full(from_root(path)),
        NewPath::Prefix(replacement) => {
            let replacement = from_root(replacement);
            let replacement = without_end(&replacement);
            match (without_end(prefix), replacement) {
                ("", "") => Change::Stays,
                // The root's slash is matched, and belongs to what follows.
                ("", replacement) => Change::Prefix(format!("{replacement}/")),
                (prefix, "") => Change::Strip(substitute(
                    format!("^{}(/?)(.*)", quote(prefix)),
                    "/\\2".to_owned(),
                )),
                (_, replacement) => Change::Prefix(replacement.to_owned()),
            }
        }
    }
}

fn from_root(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

fn without_end(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

fn substitute(pattern: String, substitution: String) -> matcher::RegexMatchAndSubstitute {
    matcher::RegexMatchAndSubstitute {
        pattern: Some(regex(pattern)),
        substitution,
    }
}

/// The path on its way to the backend.
pub(super) fn rewrite(new: NewPath<'_>, prefix: &str, action: &mut route::RouteAction) {
    match change(new, prefix) {
        // Written out as istiod does; it leaves the path as it is.
        Change::Stays => {
            action.regex_rewrite = Some(substitute("^(/?)(.*)".to_owned(), "/\\2".to_owned()));
        }
        Change::Prefix(prefix) => action.prefix_rewrite = prefix,
        Change::Strip(strip) => action.regex_rewrite = Some(strip),
        // A backslash would begin a reference to a group.
        Change::Full(path) => {
            let literal = path.replace('\\', "\\\\");
            action.regex_rewrite = Some(substitute("/.*".to_owned(), literal));
        }
    }
}

/// The path in a redirect's `location`. `None`: no path is asked for.
pub(super) fn redirect(new: Option<NewPath<'_>>, prefix: &str) -> PathRewriteSpecifier {
    match new.map(|new| change(new, prefix)) {
        // Empty: the request's own.
        None | Some(Change::Stays) => PathRewriteSpecifier::PathRedirect(String::new()),
        Some(Change::Prefix(prefix)) => PathRewriteSpecifier::PrefixRewrite(prefix),
        Some(Change::Strip(strip)) => PathRewriteSpecifier::RegexRewrite(strip),
        Some(Change::Full(path)) => PathRewriteSpecifier::PathRedirect(path),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;
    use waypoint_filters::service::body::Body;

    use super::*;
    use crate::model::route::path_rewrite::{PathRewrite, Redirect};

    /// Prefix of the match, replacement, path of the request, and the Gateway API's answer.
    const TABLE: &[(&str, &str, &str, &str)] = &[
        // The table in the API's own text.
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "", "/foo/bar", "/bar"),
        ("/foo", "", "/foo/", "/"),
        ("/foo", "", "/foo", "/"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "/", "/foo", "/"),
        // The rest of all combinations.
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo/bar/", "/bar/"),
        ("/foo", "", "/foo/bar/", "/bar/"),
        ("/foo", "/xyz", "/foo/bar/", "/xyz/bar/"),
        ("/foo", "/xyz/", "/foo", "/xyz"),
        ("/foo", "/xyz/", "/foo/", "/xyz/"),
        ("/foo/", "/xyz", "/foo", "/xyz"),
        ("/foo/", "/xyz/", "/foo/", "/xyz/"),
        ("/foo/", "/", "/foo/bar", "/bar"),
        ("/foo/", "", "/foo", "/"),
        ("/", "/foo", "/", "/foo/"),
        ("/", "/foo", "/x", "/foo/x"),
        ("/", "/foo", "/x/", "/foo/x/"),
        ("/", "/foo/", "/", "/foo/"),
        ("/", "/foo/", "/x/y", "/foo/x/y"),
        ("/", "/", "/", "/"),
        ("/", "/", "/x", "/x"),
        ("/", "/", "/x/", "/x/"),
        ("/", "", "/", "/"),
        ("/", "", "/x/y", "/x/y"),
        ("/a.b", "/", "/a.b/c", "/c"),
        ("/a/b", "/c", "/a/b/d", "/c/d"),
        ("/a", "/b/c", "/a/d", "/b/c/d"),
        ("/foo", "xyz", "/foo/bar", "/xyz/bar"),
    ];

    fn rewritten(new: NewPath<'_>, prefix: &str, target: &str) -> String {
        let mut action = route::RouteAction::default();
        rewrite(new, prefix, &mut action);
        let compiled = match &action.regex_rewrite {
            Some(rewrite) => PathRewrite::regex(rewrite).unwrap(),
            None => PathRewrite::Prefix(action.prefix_rewrite.as_str().into()),
        };
        let matched = match without_end(prefix) {
            "" => "/",
            prefix => prefix,
        };
        let uri = target.parse().unwrap();
        compiled.apply(&uri, Some(matched)).unwrap().to_string()
    }

    fn location(new: NewPath<'_>, prefix: &str, target: &str) -> String {
        let action = route::RedirectAction {
            path_rewrite_specifier: Some(redirect(Some(new), prefix)),
            ..route::RedirectAction::default()
        };
        let request = Request::builder().uri(target).header("host", "h");
        let request = request.body(Body::empty()).unwrap();
        let matched = match without_end(prefix) {
            "" => "/",
            prefix => prefix,
        };
        let redirect = Redirect::from_proto(&action).unwrap();
        redirect.location(&request, Some(matched))
    }

    #[test]
    fn prefixes_of_all_shapes() {
        for query in ["", "?q=/foo"] {
            for (prefix, replacement, path, expected) in TABLE {
                let (new, target) = (NewPath::Prefix(replacement), format!("{path}{query}"));
                let case = format!("{prefix} to {replacement:?}: {target}");
                assert_eq!(
                    rewritten(new, prefix, &target),
                    format!("{expected}{query}"),
                    "{case}"
                );
                assert_eq!(
                    location(new, prefix, &target),
                    format!("http://h{expected}{query}"),
                    "{case}"
                );
            }
        }
    }

    #[test]
    fn whole_paths() {
        for (path, expected) in [("/all", "/all"), ("all", "/all"), ("", "/"), ("/a/", "/a/")] {
            let new = NewPath::Full(path);
            assert_eq!(rewritten(new, "/", "/x/y?q=1"), format!("{expected}?q=1"));
            assert_eq!(
                location(new, "/", "/x/y?q=1"),
                format!("http://h{expected}?q=1")
            );
        }
        let mut action = route::RouteAction::default();
        rewrite(NewPath::Full("/a\\1b"), "/", &mut action);
        assert_eq!(action.regex_rewrite.unwrap().substitution, "/a\\\\1b");
    }
}
