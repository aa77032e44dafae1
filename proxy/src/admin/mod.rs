//! The ports for people and probes: readiness (15021), metrics (15020, 15090) and admin (15000, loopback).
//!
//! They have a thread of their own. Admin has the paths and the forms of Envoy's admin port, as far as `istioctl` and
//! Istio's agent read them. A page is a file here, its `mod` line and a row of [`PAGES`].

mod answer;
mod bootstrap;
mod browser;
mod certs;
mod clusters;
mod config_dump;
mod diagnostics;
mod envoy_names;
mod explain;
mod listeners;
mod logging;
mod page;
mod process;
mod profiles;
mod quantiles;
pub(crate) mod server;
mod started;
mod state;
mod stats;
mod target;
mod views;
mod web;

use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use crate::admin::answer::{Answer, ok, text};
pub(crate) use crate::admin::bootstrap::{node, tell_build};
pub(crate) use crate::admin::envoy_names::EnvoyNames;
pub(crate) use crate::admin::page::Port;
use crate::admin::page::{Page, Size, help_text, index};
pub(crate) use crate::admin::started::Started;
pub(crate) use crate::admin::state::{Admin, LARGE_AT_ONCE};
use crate::admin::target::Target;

/// All pages of the admin port, as its index lists them; other ports have some of them ([`Port::page`]).
static PAGES: &[Page] = &[
    Page::shows("/", "this waypoint in a browser", |_, _| page()),
    Page::shows("/allocprofiler", "profile of all allocations: not made here", |_, _| {
        profiles::no_allocations()
    }),
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
    Page::shows("/contention", "waits for locks: not watched", |_, _| {
        diagnostics::contention()
    }),
    Page::shows("/cpuprofiler", "CPU profile into a file: not made here", |_, _| {
        profiles::no_file()
    }),
    Page::shows(
        "/debug/pprof/heap",
        "heap profile, as /heap_dump",
        profiles::heap,
    )
    .within_the_pod()
    .sized(Size::OwnTurn),
    Page::shows(
        "/debug/pprof/profile",
        "CPU profile of the next 30 s (seconds=)",
        profiles::processor,
    )
    .within_the_pod()
    .sized(Size::OwnTurn),
    Page::does(
        "/drain_listeners",
        "tell clients to go elsewhere, and go on",
        |admin, _| {
            admin.readiness.drain();
            ok()
        },
    ),
    Page::shows(
        "/explain",
        "what would become of a request (from=, method=, url=, to=, header=, source=, jwt=, format=json)",
        Admin::explain,
    )
    .takes_form()
    .sized(Size::Large),
    Page::shows(
        "/heap_dump",
        "what was allocated since the heap is recorded, or in the next 10 s (seconds=)",
        profiles::heap,
    )
    .within_the_pod()
    .sized(Size::OwnTurn),
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
    Page::shows(
        "/heapprofiler",
        "whether the heap is recorded (enable=y, n changes it)",
        profiles::heap_recording,
    )
    .changes_where(profiles::changes),
    Page::shows("/help", "this page as text", |_, _| {
        let help = format!("admin commands are:\n{}", help_text(PAGES));
        text(StatusCode::OK, help)
    }),
    Page::shows("/hot_restart_version", "hot restart: there is none", |_, _| {
        diagnostics::hot_restart_version()
    }),
    Page::shows(
        "/init_dump",
        "what keeps this waypoint from getting traffic",
        |admin, _| admin.init_dump(),
    ),
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
    Page::shows("/list", "these pages, to be clicked", |_, _| index(PAGES)),
    Page::shows("/memory", "memory of the process", |_, _| process::memory()),
    Page::shows("/peak_heap_dump", "heap profile of the peak: not made here", |_, _| {
        profiles::no_peak()
    }),
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
    Page::does("/reset_counters", "counters begin at 0 again", |admin, _| {
        admin.reset_counters()
    }),
    Page::shows("/runtime", "Envoy's runtime flags: none", |_, _| {
        process::runtime()
    }),
    Page::shows("/server_info", "version, state, node", |admin, _| {
        admin.server_info()
    }),
    Page::shows(
        "/stats",
        "counters (filter=, usedonly, type=, histogram_buckets=, format=json|prometheus)",
        Admin::stats,
    )
    .sized(Size::Large),
    Page::shows(
        "/stats/prometheus",
        "metrics in Prometheus' format (filter=, usedonly)",
        Admin::prometheus,
    )
    .sized(Size::OwnTurn),
    Page::shows(
        "/stats/recentlookups",
        "lookups of names: not tracked",
        |_, _| diagnostics::recent_lookups(),
    ),
    Page::does("/stats/recentlookups/clear", "lookups of names: not tracked", |_, _| diagnostics::no_lookups()),
    Page::does("/stats/recentlookups/disable", "lookups of names: not tracked", |_, _| diagnostics::no_lookups()),
    Page::does("/stats/recentlookups/enable", "lookups of names: not tracked", |_, _| diagnostics::no_lookups()),
    Page::shows(
        "/view/endpoints",
        "clusters, their endpoints, health and ejections, as JSON",
        Admin::view_endpoints,
    )
    .sized(Size::Large),
    Page::shows(
        "/view/log",
        "a line for each request as it ends, while you read (server-sent events)",
        Admin::view_log,
    ),
    Page::shows(
        "/view/policies",
        "what policies allowed and denied, and the last denials, as JSON",
        Admin::view_policies,
    )
    .sized(Size::Large),
    Page::shows(
        "/view/resources",
        "what came from the control plane, and what was refused of it, as JSON",
        Admin::view_resources,
    )
    .sized(Size::Large),
    Page::shows(
        "/view/routes",
        "routes with their shares, as configured and as met, as JSON",
        Admin::view_routes,
    )
    .sized(Size::Large),
    Page::shows(
        "/view/services",
        "the services that this waypoint serves, as JSON",
        Admin::view_services,
    )
    .sized(Size::Large),
    Page::shows(
        "/view/status",
        "how it is, in short, as JSON",
        Admin::view_status,
    )
    .sized(Size::Large),
    Page::shows(
        "/view/traffic",
        "who calls whom, as JSON",
        Admin::view_traffic,
    )
    .sized(Size::Large),
    Page::shows(
        "/view/workloads",
        "the workloads of the mesh that this waypoint is told of, as JSON",
        Admin::view_workloads,
    )
    .sized(Size::Large),
];

/// The page for a browser.
fn page() -> Answer {
    web::asset("/").unwrap_or_else(ok)
}

/// Of a form, at most.
const MAX_FORM: usize = 64 * 1024;
/// For a form to come whole.
const FORM_TIMEOUT: Duration = Duration::from_secs(5);

/// The page at `path` of a port.
fn on(port: Port, path: &str) -> Option<&'static Page> {
    let path = port.page(path)?;
    PAGES.iter().find(|page| page.path == path)
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.starts_with("application/x-www-form-urlencoded")
}

impl Admin {
    async fn answer(&self, port: Port, local: bool, request: Request<Incoming>) -> Answer {
        let mut answer = self.answer_unguarded(port, local, request).await;
        if port == Port::Admin {
            web::guard(&mut answer);
        }
        answer
    }

    async fn answer_unguarded(
        &self,
        port: Port,
        local: bool,
        request: Request<Incoming>,
    ) -> Answer {
        let mut target = Target::of(&request);
        let (parts, body) = request.into_parts();
        let method = &parts.method;
        tracing::debug!(?port, %method, path = target.path(), "asked");
        if port == Port::Admin {
            if let Some(refusal) = browser::refuse(self.admin_addr, method, &parts.headers) {
                return refusal;
            }
            if let (&(Method::GET | Method::HEAD), Some(asset)) =
                (method, web::asset(target.path()))
            {
                return asset;
            }
        }
        let Some(page) = on(port, target.path()) else {
            let says = match port {
                Port::Admin => format!("invalid path. admin commands are:\n{}", help_text(PAGES)),
                _ => "not found\n".to_owned(),
            };
            return text(StatusCode::NOT_FOUND, says);
        };
        if let Some(refusal) = page.refuse(method, local, &target) {
            return refusal;
        }
        if page.form && method == Method::POST && is_form(&parts.headers) {
            match tokio::time::timeout(FORM_TIMEOUT, Limited::new(body, MAX_FORM).collect()).await {
                Ok(Ok(form)) => target.add_form(&form.to_bytes()),
                _ => {
                    return text(
                        StatusCode::BAD_REQUEST,
                        "the form didn't come, or is too large\n",
                    );
                }
            }
        }
        let turn = match page.size {
            Size::Small => return (page.answer)(self, &target),
            // Others don't wait for one whose reader is slow.
            Size::OwnTurn => None,
            Size::Large => self.large.clone().acquire_owned().await.ok(),
        };
        // What takes its time doesn't keep the thread of the ports.
        let admin = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            (page.answer)(&admin, &target)
        })
        .await;
        made.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
    }

    fn problems(&self) -> Answer {
        let problems = self.all_problems();
        let lines: String = problems.iter().flat_map(|p| [p.as_str(), "\n"]).collect();
        text(StatusCode::OK, lines)
    }

    /// What of the configuration isn't honoured.
    fn all_problems(&self) -> Vec<String> {
        let mut problems = self.problems.lock().clone();
        problems.extend(self.jwt_providers.problems());
        problems.extend(self.telemetry.problems());
        problems
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
        for page in ["/debug/pprof/profile", "/debug/pprof/heap", "/heap_dump"] {
            assert_eq!(status(page, Method::GET, true, "/"), 200);
            assert_eq!(status(page, Method::GET, false, "/"), 403);
        }
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
