//! The ports for people and probes: readiness (15021), metrics (15020, 15090) and admin (15000, loopback).
//!
//! They have a thread of their own. Admin has the paths and the forms of Envoy's admin port, as far as `istioctl` and
//! Istio's agent read them. A page is a file here, its `mod` line and a row of [`PAGES`].

mod answer;
mod bootstrap;
mod certs;
mod clusters;
mod config_dump;
mod listeners;
mod logging;
mod page;
mod process;
pub(crate) mod server;
mod state;
mod stats;
mod target;
mod timestamp;

use http::{Method, StatusCode};

use crate::admin::answer::{Answer, ok, text};
pub(crate) use crate::admin::bootstrap::{node, tell_build};
pub(crate) use crate::admin::page::Port;
use crate::admin::page::{Page, Size, help_text, index};
pub(crate) use crate::admin::state::{Admin, LARGE_AT_ONCE, Started};
use crate::admin::target::Target;

/// All pages of the admin port, as its index lists them; other ports have some of them ([`Port::page`]).
static PAGES: &[Page] = &[
    Page::shows("/", "this page", |_, _| index(PAGES)),
    Page::shows("/certs", "certificate and roots", |admin, _| admin.certs()),
    Page::shows(
        "/clusters",
        "clusters and their endpoints (format=json)",
        Admin::clusters,
    )
    .sized(Size::Large),
    Page::shows(
        "/config_dump",
        "configuration in force (include_eds, mask=, resource=, name_regex=)",
        Admin::config_dump,
    )
    .sized(Size::OwnTurn),
    Page::does(
        "/drain_listeners",
        "tell clients to go elsewhere, and go on",
        |admin, _| {
            admin.readiness.drain();
            ok()
        },
    ),
    Page::does("/healthcheck/fail", "not ready from now on", |admin, _| {
        admin.readiness.fail(true);
        ok()
    }),
    Page::does(
        "/healthcheck/ok",
        "ready again, if nothing else is missing",
        |admin, _| {
            admin.readiness.fail(false);
            ok()
        },
    ),
    Page::shows("/help", "this page as text", |_, _| {
        let help = format!("admin commands are:\n{}", help_text(PAGES));
        text(StatusCode::OK, help)
    }),
    Page::shows(
        "/listeners",
        "listeners and their addresses (format=json)",
        Admin::listeners,
    ),
    Page::shows(
        "/logging",
        "log levels (level=, paths=name:level,…, name=level change them)",
        |admin, target| logging::answer(&admin.log_levels, target),
    )
    .changes_where(logging::changes),
    Page::shows("/memory", "memory of the process", |_, _| process::memory()),
    Page::shows(
        "/problems",
        "what of the configuration is not honoured",
        |admin, _| admin.problems(),
    ),
    Page::does("/quitquitquit", "end at once", |admin, _| {
        admin.quit.notify_one();
        ok()
    }),
    Page::shows(
        "/ready",
        "whether this waypoint may get traffic",
        |admin, _| admin.ready(),
    ),
    Page::shows("/runtime", "Envoy's runtime flags: none", |_, _| {
        process::runtime()
    }),
    Page::shows("/server_info", "version, state, node", |admin, _| {
        admin.server_info()
    }),
    Page::shows(
        "/stats",
        "counters (filter=, usedonly, format=json|prometheus)",
        Admin::stats,
    )
    .sized(Size::Large),
    Page::shows(
        "/stats/prometheus",
        "metrics in Prometheus' format",
        |admin, _| answer::metrics(admin.metrics.encode()),
    )
    .sized(Size::Large),
];

/// The page at `path` of a port.
fn on(port: Port, path: &str) -> Option<&'static Page> {
    let path = port.page(path)?;
    PAGES.iter().find(|page| page.path == path)
}

impl Admin {
    async fn answer(&self, port: Port, local: bool, method: &Method, target: &Target) -> Answer {
        tracing::debug!(?port, %method, path = target.path(), "asked");
        let Some(page) = on(port, target.path()) else {
            let says = match port {
                Port::Admin => format!("invalid path. admin commands are:\n{}", help_text(PAGES)),
                _ => "not found\n".to_owned(),
            };
            return text(StatusCode::NOT_FOUND, says);
        };
        if let Some(refusal) = page.refuse(method, local, target) {
            return refusal;
        }
        let turn = match page.size {
            Size::Small => return (page.answer)(self, target),
            // Others don't wait for one whose reader is slow.
            Size::OwnTurn => None,
            Size::Large => self.large.clone().acquire_owned().await.ok(),
        };
        // What takes its time doesn't keep the thread of the ports.
        let (admin, target) = (self.clone(), target.clone());
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            (page.answer)(&admin, &target)
        })
        .await;
        made.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
    }

    fn problems(&self) -> Answer {
        let problems = self.problems.lock();
        let lines: String = problems.iter().flat_map(|p| [p.as_str(), "\n"]).collect();
        text(StatusCode::OK, lines)
    }

    fn ready(&self) -> Answer {
        match self.readiness.check() {
            Ok(()) => text(StatusCode::OK, "LIVE\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_port_has_its_own_paths() {
        let at = |port, path| on(port, path).map(|page| page.path);
        assert_eq!(at(Port::Stats, "/metrics"), Some("/stats/prometheus"));
        assert_eq!(at(Port::Stats, "/config_dump"), None);
        assert_eq!(at(Port::EnvoyStats, "/quitquitquit"), None);
        assert_eq!(at(Port::Readiness, "/stats/prometheus"), None);
        assert_eq!(at(Port::Admin, "/config_dump"), Some("/config_dump"));
        assert_eq!(at(Port::Admin, "/drain"), None);
    }

    #[test]
    fn changes_need_post_from_within_the_pod() {
        let status = |path: &str, method: Method, local, uri: &str| {
            let target = Target::new(&uri.parse().unwrap());
            let page = on(Port::Admin, path).unwrap();
            let refusal = page.refuse(&method, local, &target);
            refusal.map_or(200, |answer| answer.status().as_u16())
        };
        for page in ["/quitquitquit", "/drain_listeners", "/healthcheck/fail"] {
            assert_eq!(status(page, Method::POST, true, "/"), 200);
            assert_eq!(status(page, Method::GET, true, "/"), 405);
            assert_eq!(status(page, Method::POST, false, "/"), 403);
        }
        assert_eq!(status("/stats/prometheus", Method::GET, false, "/"), 200);
        assert_eq!(status("/stats", Method::DELETE, true, "/"), 405);
        assert_eq!(status("/logging", Method::GET, true, "/logging"), 200);
        assert_eq!(
            status("/logging", Method::GET, true, "/logging?level=debug"),
            405
        );
        assert_eq!(
            status("/logging", Method::POST, false, "/logging?level=debug"),
            403
        );
    }

    #[test]
    fn a_path_is_one_page() {
        let paths: BTreeSet<_> = PAGES.iter().map(|page| page.path).collect();
        assert_eq!(paths.len(), PAGES.len());
    }
}
