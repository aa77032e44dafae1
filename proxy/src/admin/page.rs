//! The paths of the plain ports: what each leads to, and who may ask for it.

use http::{HeaderValue, Method, StatusCode, header};

use crate::admin::answer::{Answer, html, text};
use crate::admin::logging;
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
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Index,
    Help,
    Ready,
    ServerInfo,
    ConfigDump,
    Clusters,
    Listeners,
    Certs,
    Memory,
    Runtime,
    Problems,
    Stats,
    Metrics,
    Logging,
    // What follows changes something.
    DrainListeners,
    HealthcheckFail,
    HealthcheckOk,
    QuitQuitQuit,
}

/// Paths of the admin port, with what the index says of them.
const PAGES: &[(&str, Page, &str)] = &[
    ("/", Page::Index, "this page"),
    ("/certs", Page::Certs, "certificate and roots"),
    (
        "/clusters",
        Page::Clusters,
        "clusters and their endpoints (format=json)",
    ),
    (
        "/config_dump",
        Page::ConfigDump,
        "configuration in force (include_eds, mask=, resource=, name_regex=)",
    ),
    (
        "/drain_listeners",
        Page::DrainListeners,
        "tell clients to go elsewhere, and go on",
    ),
    (
        "/healthcheck/fail",
        Page::HealthcheckFail,
        "not ready from now on",
    ),
    (
        "/healthcheck/ok",
        Page::HealthcheckOk,
        "ready again, if nothing else is missing",
    ),
    ("/help", Page::Help, "this page as text"),
    (
        "/listeners",
        Page::Listeners,
        "listeners and their addresses (format=json)",
    ),
    (
        "/logging",
        Page::Logging,
        "log levels (level=, paths=name:level,…, name=level change them)",
    ),
    ("/memory", Page::Memory, "memory of the process"),
    (
        "/problems",
        Page::Problems,
        "what of the configuration is not honoured",
    ),
    ("/quitquitquit", Page::QuitQuitQuit, "end at once"),
    (
        "/ready",
        Page::Ready,
        "whether this waypoint may get traffic",
    ),
    ("/runtime", Page::Runtime, "Envoy's runtime flags: none"),
    ("/server_info", Page::ServerInfo, "version, state, node"),
    (
        "/stats",
        Page::Stats,
        "counters (filter=, usedonly, format=json|prometheus)",
    ),
    (
        "/stats/prometheus",
        Page::Metrics,
        "metrics in Prometheus' format",
    ),
];

impl Page {
    pub(super) fn on(port: Port, path: &str) -> Option<Page> {
        let page = match (port, path) {
            (Port::Admin, path) => return PAGES.iter().find(|(p, ..)| *p == path).map(|p| p.1),
            (Port::Readiness | Port::Stats, "/healthz/ready") => Page::Ready,
            (Port::Stats | Port::EnvoyStats, "/stats/prometheus") => Page::Metrics,
            (Port::Stats, "/metrics") => Page::Metrics,
            (Port::Stats, "/quitquitquit") => Page::QuitQuitQuit,
            (Port::Stats, "/drain") => Page::DrainListeners,
            _ => return None,
        };
        Some(page)
    }

    /// Why this request isn't answered: changes need POST, and come from within the pod.
    pub(super) fn refuse(self, method: &Method, local: bool, target: &Target) -> Option<Answer> {
        let changes = self.changes() || (self == Page::Logging && logging::changes(target));
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
        (changes && !local).then(|| text(StatusCode::FORBIDDEN, "only from loopback\n"))
    }

    /// Whether it grows with the mesh.
    pub(super) fn may_be_large(self) -> bool {
        matches!(
            self,
            Page::ConfigDump | Page::Clusters | Page::Stats | Page::Metrics
        )
    }

    /// Whether it is there to change something.
    fn changes(self) -> bool {
        matches!(
            self,
            Page::DrainListeners | Page::HealthcheckFail | Page::HealthcheckOk | Page::QuitQuitQuit
        )
    }
}

/// For a browser, as `istioctl dashboard` opens it.
pub(super) fn index() -> Answer {
    let rows: String = PAGES
        .iter()
        .map(|(path, page, says)| match page.changes() {
            true => format!("<tr><td>POST {path}</td><td>{says}</td></tr>\n"),
            false => format!("<tr><td><a href=\"{path}\">{path}</a></td><td>{says}</td></tr>\n"),
        })
        .collect();
    html(format!(
        "<!DOCTYPE html>\n<title>waypoint</title>\n<h1>waypoint {}</h1>\n<table>\n{rows}</table>\n",
        env!("CARGO_PKG_VERSION")
    ))
}

pub(super) fn help_text() -> String {
    let line = |(path, page, says): &(&str, Page, &str)| {
        let post = if page.changes() { " (POST)" } else { "" };
        format!("  {path}: {says}{post}\n")
    };
    PAGES.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_its_own_paths() {
        assert_eq!(Page::on(Port::Stats, "/metrics"), Some(Page::Metrics));
        assert_eq!(Page::on(Port::Stats, "/config_dump"), None);
        assert_eq!(Page::on(Port::EnvoyStats, "/quitquitquit"), None);
        assert_eq!(Page::on(Port::Readiness, "/stats/prometheus"), None);
        assert_eq!(
            Page::on(Port::Admin, "/config_dump"),
            Some(Page::ConfigDump)
        );
        assert_eq!(Page::on(Port::Admin, "/drain"), None);
    }

    #[test]
    fn changes_need_post_from_within_the_pod() {
        let status = |page: Page, method: Method, local, uri: &str| {
            let target = Target::new(&uri.parse().unwrap_or_default());
            let refusal = page.refuse(&method, local, &target);
            refusal.map_or(200, |answer| answer.status().as_u16())
        };
        for page in [
            Page::QuitQuitQuit,
            Page::DrainListeners,
            Page::HealthcheckFail,
        ] {
            assert_eq!(status(page, Method::POST, true, "/"), 200);
            assert_eq!(status(page, Method::GET, true, "/"), 405);
            assert_eq!(status(page, Method::POST, false, "/"), 403);
        }
        assert_eq!(status(Page::Metrics, Method::GET, false, "/"), 200);
        assert_eq!(status(Page::Stats, Method::DELETE, true, "/"), 405);
        assert_eq!(status(Page::Logging, Method::GET, true, "/logging"), 200);
        assert_eq!(
            status(Page::Logging, Method::GET, true, "/logging?level=debug"),
            405
        );
        assert_eq!(
            status(Page::Logging, Method::POST, false, "/logging?level=debug"),
            403
        );
    }
}
