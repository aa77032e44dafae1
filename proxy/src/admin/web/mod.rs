//! The page for a browser: its files, as they are, and what a browser may do with them.
//!
//! `index.html`, one style sheet, and a module for each view; what they show they ask of the pages `/view/…`. There is
//! nothing to build: whoever changes a file here builds the program.

use http::{HeaderValue, header};

use crate::admin::answer::{self, Answer};

/// A file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    body: &'static str,
}

const HTML: &str = "text/html; charset=UTF-8";
const CSS: &str = "text/css; charset=UTF-8";
const SCRIPT: &str = "text/javascript; charset=UTF-8";

macro_rules! asset {
    ($path:literal, $kind:expr, $file:literal) => {
        Asset {
            path: $path,
            kind: $kind,
            body: include_str!($file),
        }
    };
}

static ASSETS: &[Asset] = &[
    asset!("/", HTML, "index.html"),
    asset!("/page/style.css", CSS, "style.css"),
    asset!("/page/main.js", SCRIPT, "main.js"),
    asset!("/page/elements.js", SCRIPT, "elements.js"),
    asset!("/page/rates.js", SCRIPT, "rates.js"),
    asset!("/page/map.js", SCRIPT, "map.js"),
    asset!("/page/drawing.js", SCRIPT, "drawing.js"),
    asset!("/page/routes.js", SCRIPT, "routes.js"),
    asset!("/page/policies.js", SCRIPT, "policies.js"),
    asset!("/page/endpoints.js", SCRIPT, "endpoints.js"),
    asset!("/page/certificates.js", SCRIPT, "certificates.js"),
    asset!("/page/resources.js", SCRIPT, "resources.js"),
    asset!("/page/search.js", SCRIPT, "search.js"),
    asset!("/page/log.js", SCRIPT, "log.js"),
    asset!("/page/explain.js", SCRIPT, "explain.js"),
];

/// Nothing from elsewhere, no script but those files, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file at a path; `None`: there is none.
pub(super) fn asset(path: &str) -> Option<Answer> {
    let asset = ASSETS.iter().find(|asset| asset.path == path)?;
    Some(answer::fixed(asset.kind, asset.body))
}

/// Tells a browser what it may do with an answer.
pub(super) fn guard(answer: &mut Answer) {
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
        (CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

const CROSS_ORIGIN_RESOURCE_POLICY: header::HeaderName =
    header::HeaderName::from_static("cross-origin-resource-policy");
const CROSS_ORIGIN_OPENER_POLICY: header::HeaderName =
    header::HeaderName::from_static("cross-origin-opener-policy");

#[cfg(test)]
mod tests {
    use super::*;

    /// What a script or the document refers to, by the words that stand before it.
    fn referred<'a>(body: &'a str, before: &str) -> impl Iterator<Item = &'a str> {
        let parts: Vec<&str> = body.split(before).skip(1).collect();
        parts.into_iter().filter_map(|part| part.split('"').next())
    }

    #[test]
    fn everything_that_the_page_loads_is_one_of_its_files() {
        for file in ASSETS {
            for path in referred(file.body, "from \"./") {
                let path = format!("/page/{path}");
                assert!(asset(&path).is_some(), "{} wants {path}", file.path);
            }
            for before in ["src=\"", "rel=\"stylesheet\" href=\""] {
                for path in referred(file.body, before) {
                    assert!(asset(path).is_some(), "{} wants {path}", file.path);
                }
            }
        }
    }

    #[test]
    fn nothing_stands_in_the_page_that_its_policy_forbids() {
        for file in ASSETS {
            for forbidden in [
                "http://",
                "https://",
                "innerHTML",
                " onclick=",
                "eval(",
                " style=\"",
            ] {
                let found = file
                    .body
                    .replace("http://www.w3.org/", "")
                    .contains(forbidden);
                assert!(!found, "{} has {forbidden}", file.path);
            }
        }
        let inline = referred(ASSETS.first().map_or("", |index| index.body), "<script>").count();
        assert_eq!(inline, 0);
    }
}
