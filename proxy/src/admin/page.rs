//! What a page is: a path, who may ask for it, and what it takes to make it.

use http::{HeaderValue, Method, StatusCode, header};

use crate::admin::answer::{Answer, html, text};
use crate::admin::state::Admin;
use crate::admin::target::Target;

/// Which port asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Admin,
    Readiness,
    /// Where Istio's agent has its own and Envoy's metrics.
    Stats,
    /// Where Envoy has its metrics.
    EnvoyStats,
}

impl Port {
    /// For metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Port::Admin => "admin",
            Port::Readiness => "readiness",
            Port::Stats => "stats",
            Port::EnvoyStats => "envoy_stats",
        }
    }

    /// What a path of this port is on the admin port, which has all pages.
    pub(super) fn page(self, path: &str) -> Option<&str> {
        Some(match (self, path) {
            (Port::Admin, path) => path,
            (Port::Readiness | Port::Stats, "/healthz/ready") => "/ready",
            (Port::Stats | Port::EnvoyStats, "/stats/prometheus") => path,
            (Port::Stats, "/metrics") => "/stats/prometheus",
            (Port::Stats, "/quitquitquit") => path,
            (Port::Stats, "/drain") => "/drain_listeners",
            _ => return None,
        })
    }
}

/// A page's row in the registry: where it is, what the index says of it, and what answers.
pub(super) struct Page {
    pub(super) path: &'static str,
    says: &'static str,
    pub(super) answer: fn(&Admin, &Target) -> Answer,
    pub(super) size: Size,
    changes: Changes,
    /// Whether only who is in the pod may ask.
    within: bool,
    /// Whether parameters may come as a form: what is no business of URLs.
    pub(super) form: bool,
}

/// What it takes to make a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// It is made where it is asked for.
    Small,
    /// It grows with the mesh: not on the thread of the ports, and [`LARGE_AT_ONCE`](crate::admin::LARGE_AT_ONCE) at a time.
    Large,
    /// The same, but it waits for its turn by itself.
    OwnTurn,
}

/// Whether asking changes something.
#[derive(Clone, Copy)]
enum Changes {
    Never,
    Always,
    /// With some parameters.
    Where(fn(&Target) -> bool),
}

impl Page {
    /// A page that shows something.
    pub(super) const fn shows(
        path: &'static str,
        says: &'static str,
        answer: fn(&Admin, &Target) -> Answer,
    ) -> Page {
        Page {
            path,
            says,
            answer,
            size: Size::Small,
            changes: Changes::Never,
            within: false,
            form: false,
        }
    }

    /// A page that is there to change something.
    pub(super) const fn does(
        path: &'static str,
        says: &'static str,
        answer: fn(&Admin, &Target) -> Answer,
    ) -> Page {
        let mut page = Page::shows(path, says, answer);
        page.changes = Changes::Always;
        page
    }

    pub(super) const fn sized(mut self, size: Size) -> Page {
        self.size = size;
        self
    }

    pub(super) const fn within_the_pod(mut self) -> Page {
        self.within = true;
        self
    }

    pub(super) const fn takes_form(mut self) -> Page {
        self.form = true;
        self
    }

    pub(super) const fn changes_where(mut self, changes: fn(&Target) -> bool) -> Page {
        self.changes = Changes::Where(changes);
        self
    }

    /// Why this request isn't answered: changes need POST, and come from within the pod.
    pub(super) fn refuse(&self, method: &Method, local: bool, target: &Target) -> Option<Answer> {
        let changes = match self.changes {
            Changes::Never => false,
            Changes::Always => true,
            Changes::Where(changes) => changes(target),
        };
        let allowed = match *method {
            Method::POST => true,
            Method::GET | Method::HEAD => !changes,
            _ => false,
        };
        if !allowed {
            let needed = if changes { "POST" } else { "GET, HEAD, POST" };
            let reason = format!("{method} is not allowed here; {needed} is\n");
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, reason);
            let allow = HeaderValue::from_static(needed);
            answer.headers_mut().insert(header::ALLOW, allow);
            return Some(answer);
        }
        ((changes || self.within) && !local)
            .then(|| text(StatusCode::FORBIDDEN, "only from loopback\n"))
    }

    fn needs_post(&self) -> bool {
        matches!(self.changes, Changes::Always)
    }
}

/// For a browser, as `istioctl dashboard` opens it.
pub(super) fn index(pages: &[Page]) -> Answer {
    let rows: String = pages
        .iter()
        .map(|page| match (page.path, page.says, page.needs_post()) {
            (path, says, true) => format!("<tr><td>POST {path}</td><td>{says}</td></tr>\n"),
            (path, says, false) => {
                format!("<tr><td><a href=\"{path}\">{path}</a></td><td>{says}</td></tr>\n")
            }
        })
        .collect();
    html(format!(
        "<!DOCTYPE html>\n<title>waypoint</title>\n<h1>waypoint {}</h1>\n<table>\n{rows}</table>\n",
        env!("CARGO_PKG_VERSION")
    ))
}

pub(super) fn help_text(pages: &[Page]) -> String {
    let line = |page: &Page| {
        let post = if page.needs_post() { " (POST)" } else { "" };
        format!("  {}: {}{post}\n", page.path, page.says)
    };
    pages.iter().map(line).collect()
}
