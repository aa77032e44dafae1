//! `/view/…`: what the page shows, and what commands ask a running waypoint for.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use serde_json::{Value, json};
use waypoint_config::model::listener::snapshot::Snapshot;

use crate::admin::Admin;
use crate::admin::answer::{self, Answer, text};
use crate::admin::bootstrap::version;
use crate::admin::target::Target;
use crate::view;
use crate::view::time::rfc3339;

/// How often a viewer of the log hears that somebody is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Lines go to a viewer in pieces of this size.
const PIECE: usize = 32 * 1024;

impl Admin {
    pub(super) fn view_status(&self, _: &Target) -> Answer {
        let ready = self.readiness.check();
        let certificate = self.tls.certificate();
        let now = SystemTime::now();
        let snapshot = self.snapshot.load();
        let chains = snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.main.chains.len());
        let problems = self.all_problems().len();
        let resources = view::resources::resources(&self.received, &self.source, &[]);
        answer::json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "build": version(),
            "node": self.node.id,
            "state": self.envoy.state().0,
            "ready": ready.is_ok(),
            "reason": ready.err().map(|reason| reason.to_string()),
            "uptimeSeconds": self.started.instant.elapsed().as_secs(),
            "source": self.source,
            "hbone": self.hbone_addr.to_string(),
            "threads": self.concurrency,
            "identity": certificate.as_ref().map(|own| own.identity().as_str().to_owned()),
            "certificateExpires": certificate.as_ref().map(|own| rfc3339(own.not_after())),
            "certificateSeconds": certificate.as_ref().map(|own| {
                own.not_after().duration_since(now).unwrap_or_default().as_secs()
            }),
            "clusters": self.received.clusters().len(),
            "chains": chains,
            "refused": resources["refused"],
            "problems": problems,
        }))
    }

    pub(super) fn view_traffic(&self, _: &Target) -> Answer {
        let uptime = self.started.instant.elapsed();
        answer::json(&view::traffic::traffic(&self.metrics, uptime))
    }

    pub(super) fn view_routes(&self, _: &Target) -> Answer {
        self.of_snapshot(view::routes::routes)
    }

    pub(super) fn view_policies(&self, _: &Target) -> Answer {
        self.of_snapshot(|snapshot| view::policies::policies(snapshot, self.witness.denials()))
    }

    pub(super) fn view_endpoints(&self, _: &Target) -> Answer {
        let clusters = self.received.clusters();
        answer::json(&view::endpoints::endpoints(&clusters, Instant::now()))
    }

    pub(super) fn view_resources(&self, _: &Target) -> Answer {
        let problems = self.all_problems();
        let told = view::resources::resources(&self.received, &self.source, &problems);
        answer::json(&told)
    }

    pub(super) fn view_services(&self, _: &Target) -> Answer {
        let own = self.tls.certificate().map(|own| own.identity().clone());
        self.of_snapshot(|snapshot| {
            view::directory::services(snapshot, &self.received, own.as_ref())
        })
    }

    pub(super) fn view_workloads(&self, _: &Target) -> Answer {
        answer::json(&view::directory::workloads(&self.workloads))
    }

    fn of_snapshot(&self, view: impl FnOnce(&Snapshot) -> Value) -> Answer {
        match self.snapshot.load() {
            Some(snapshot) => answer::json(&view(&snapshot)),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "no configuration yet\n"),
        }
    }

    /// A line for each stream as it ends, for as long as somebody reads them: server-sent events.
    pub(super) fn view_log(&self, _: &Target) -> Answer {
        let Some(mut viewer) = self.witness.watch() else {
            let reason = "as many watch already as may\n";
            return text(StatusCode::SERVICE_UNAVAILABLE, reason);
        };
        let (answer, sender) = answer::event_stream();
        tokio::spawn(async move {
            let mut events = ": here\n\n".to_owned();
            loop {
                if sender.send(std::mem::take(&mut events)).await.is_err() {
                    return;
                }
                tokio::select! {
                    line = viewer.next() => match line {
                        None => return,
                        Some(Ok(line)) => event(&mut events, &line),
                        Some(Err(missed)) => {
                            event(&mut events, &json!({"missed": missed}).to_string());
                        }
                    },
                    () = tokio::time::sleep(HEARTBEAT) => events.push_str(": here\n\n"),
                    () = sender.closed() => return,
                }
                while events.len() < PIECE
                    && let Some(line) = viewer.ready()
                {
                    event(&mut events, &line);
                }
            }
        });
        answer
    }
}

fn event(events: &mut String, line: &str) {
    // Writing to memory doesn't fail.
    let _ = write!(events, "data: {line}\n\n");
}
