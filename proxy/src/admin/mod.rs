//! The ports for people and probes: readiness (15021), metrics (15020, 15090) and admin (15000, loopback).
//!
//! They have a thread of their own. Admin has the paths and the forms of Envoy's admin port, as far as `istioctl` and
//! Istio's agent read them.

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
mod stats;
mod target;
mod timestamp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::Node;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use waypoint_config::received::Received;
use waypoint_filters::metrics::MetricRegistry;
use waypoint_hbone::tls::Tls;

use crate::admin::answer::{Answer, ok, text};
pub(crate) use crate::admin::bootstrap::{node, tell_build};
pub(crate) use crate::admin::page::Port;
use crate::admin::page::{Page, help_text, index};
use crate::admin::target::Target;
use crate::log_levels::LogLevels;
use crate::readiness::Readiness;

/// Pages that grow with the mesh and are made at the same time.
pub(crate) const LARGE_AT_ONCE: usize = 4;

/// What the ports answer from.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Arc<MetricRegistry>,
    pub(crate) tls: Tls,
    pub(crate) received: Received,
    /// What of the configuration isn't honoured.
    pub(crate) problems: Arc<Mutex<Vec<String>>>,
    /// As whom istiod knows this process; or would.
    pub(crate) node: Arc<Node>,
    pub(crate) hbone_addr: SocketAddr,
    pub(crate) admin_addr: SocketAddr,
    /// Threads for data.
    pub(crate) concurrency: usize,
    pub(crate) log_levels: LogLevels,
    pub(crate) started: Started,
    /// Told by `/quitquitquit`.
    pub(crate) quit: Arc<Notify>,
    /// Dumps are made one at a time: each takes some memory.
    pub(crate) dumps: Arc<Semaphore>,
    /// Other large pages, [`LARGE_AT_ONCE`] at a time.
    pub(crate) large: Arc<Semaphore>,
}

/// When the process began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    pub(crate) at: SystemTime,
    pub(crate) instant: Instant,
}

impl Started {
    pub(crate) fn now() -> Started {
        Started {
            at: SystemTime::now(),
            instant: Instant::now(),
        }
    }
}

impl Admin {
    async fn answer(&self, port: Port, local: bool, method: &Method, target: &Target) -> Answer {
        tracing::debug!(?port, %method, path = target.path(), "asked");
        let Some(page) = Page::on(port, target.path()) else {
            let says = match port {
                Port::Admin => format!("invalid path. admin commands are:\n{}", help_text()),
                _ => "not found\n".to_owned(),
            };
            return text(StatusCode::NOT_FOUND, says);
        };
        if let Some(refusal) = page.refuse(method, local, target) {
            return refusal;
        }
        if !page.may_be_large() {
            return self.page(page, target);
        }
        // A dump waits for its turn by itself, and others don't wait for one whose reader is slow.
        let turn = match page {
            Page::ConfigDump => None,
            _ => self.large.clone().acquire_owned().await.ok(),
        };
        // What takes its time doesn't keep the thread of the ports.
        let (admin, target) = (self.clone(), target.clone());
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            admin.page(page, &target)
        })
        .await;
        made.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
    }

    fn page(&self, page: Page, target: &Target) -> Answer {
        match page {
            Page::Index => index(),
            Page::Help => text(
                StatusCode::OK,
                format!("admin commands are:\n{}", help_text()),
            ),
            Page::Ready => self.ready(),
            Page::ServerInfo => self.server_info(),
            Page::ConfigDump => self.config_dump(target),
            Page::Clusters => self.clusters(target),
            Page::Listeners => self.listeners(target),
            Page::Certs => self.certs(),
            Page::Memory => process::memory(),
            Page::Runtime => process::runtime(),
            Page::Problems => {
                let problems = self.problems.lock();
                let lines: String = problems.iter().flat_map(|p| [p.as_str(), "\n"]).collect();
                text(StatusCode::OK, lines)
            }
            Page::Stats => self.stats(target),
            Page::Metrics => answer::metrics(self.metrics.encode()),
            Page::Logging => logging::answer(&self.log_levels, target),
            Page::DrainListeners => {
                self.readiness.drain();
                ok()
            }
            Page::HealthcheckFail => {
                self.readiness.fail(true);
                ok()
            }
            Page::HealthcheckOk => {
                self.readiness.fail(false);
                ok()
            }
            Page::QuitQuitQuit => {
                self.quit.notify_one();
                ok()
            }
        }
    }

    fn ready(&self) -> Answer {
        match self.readiness.check() {
            Ok(()) => text(StatusCode::OK, "LIVE\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    }
}
