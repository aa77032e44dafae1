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
mod state;
mod stats;
mod target;
mod timestamp;

use http::{Method, StatusCode};

use crate::admin::answer::{Answer, ok, text};
pub(crate) use crate::admin::bootstrap::{node, tell_build};
pub(crate) use crate::admin::page::Port;
use crate::admin::page::{Page, help_text, index};
pub(crate) use crate::admin::state::{Admin, LARGE_AT_ONCE, Started};
use crate::admin::target::Target;

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
