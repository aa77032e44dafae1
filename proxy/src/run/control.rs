//! The control thread: configuration, certificates, keys of tokens and housekeeping, apart from the data path.
//!
//! Nothing goes on without what runs here: a panic of any of it is told to [`Vitals`], which end the process.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, oneshot};
use waypoint_config::resource::{ResourceType, Update};
use waypoint_config::sources::xds::ads::{AdsClient, AdsError, Sink};
use waypoint_config::store::Outcome;
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::security::jwt::provider::providers::Providers;
use waypoint_filters::telemetry::services::TelemetryServices;

use crate::configuration::dns::Dns;
use crate::configuration::issuers::Issuers;
use crate::configuration::{Configurator, health_checks, outliers};
use crate::identity::certificates::CertificateKeeper;
use crate::identity::crl::CrlKeeper;
use crate::identity::workload_ca::WorkloadCa;
use crate::lifecycle::readiness::Readiness;
use crate::process::vitals::{Beating, Vitals};
use crate::upstream::health::HealthChecks;

/// What the control thread works with.
pub(crate) struct Control {
    pub(crate) vitals: Vitals,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Arc<MetricRegistry>,
    pub(crate) live: Live,
    pub(crate) configurator: Configurator,
    pub(crate) jwt_providers: Arc<Providers>,
    pub(crate) telemetry: Arc<TelemetryServices>,
    pub(crate) keeper: CertificateKeeper,
    pub(crate) crl: Option<CrlKeeper>,
    pub(crate) dns: Dns,
    pub(crate) issuers: Issuers,
    pub(crate) checks: HealthChecks,
    /// Told when an endpoint may be an outlier.
    pub(crate) suspects: Arc<Notify>,
    /// How often files are looked at.
    pub(crate) poll: Duration,
}

/// What comes from an istiod.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) configuration: Option<AdsClient>,
    pub(crate) certificates: Option<WorkloadCa>,
}

impl Control {
    /// Works until told to stop.
    pub(crate) fn run(self, stopped: oneshot::Receiver<()>) {
        run(self.vitals.clone(), self.work(), stopped);
    }

    async fn work(mut self) {
        let vitals = self.vitals;
        if let Some(ca) = self.live.certificates.take() {
            essential(&vitals, "the certificate's renewal", ca.run());
        }
        essential(&vitals, "readiness", self.readiness.hesitate());
        let (mut keeper, mut crl, poll) = (self.keeper, self.crl, self.poll);
        let files = async move {
            loop {
                tokio::time::sleep(poll).await;
                let now = SystemTime::now();
                keeper.poll(now);
                if let Some(crl) = &mut crl {
                    crl.poll(now);
                }
            }
        };
        essential(&vitals, "the files of certificates", files);
        let metrics = self.metrics;
        let expiry = async move {
            loop {
                tokio::time::sleep(metrics.limits().sweep()).await;
                metrics.expire(Instant::now());
            }
        };
        essential(&vitals, "metrics", expiry);
        let keys = self.jwt_providers;
        essential(
            &vitals,
            "the keys of tokens",
            async move { keys.run().await },
        );
        let telemetry = self.telemetry;
        essential(&vitals, "spans and access logs for services", async move {
            telemetry.run().await
        });
        let configurator = RefCell::new(self.configurator);
        let source = async {
            match self.live.configuration.take() {
                Some(client) => client.run(&mut Shared(&configurator), fastrand::f64).await,
                None => {
                    let mut wait = poll / 4;
                    loop {
                        tokio::time::sleep(wait).await;
                        let now = Instant::now();
                        configurator.borrow_mut().poll(now);
                        // Of a folder with very many files a look is no trifle.
                        wait = (poll / 4).max(now.elapsed() * 8).min(poll);
                    }
                }
            }
        };
        let outliers = outliers::run(self.suspects, &configurator);
        let names = self.dns.run(&configurator);
        let issuers = self.issuers.run(&configurator);
        let checks = health_checks::run(self.checks, &configurator);
        tokio::join!(source, names, issuers, outliers, checks);
    }
}

/// Runs the control thread's work until told to stop.
fn run(vitals: Vitals, work: impl Future<Output = ()>, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return vitals.lose(format!("no runtime for the control thread: {error}"));
        }
    };
    runtime.block_on(async {
        tokio::spawn(vitals.clone().beat(Beating::Control));
        tokio::select! {
            _ = vitals.guard("the control thread", work) => {}
            _ = stopped => {}
        }
    });
}

/// Starts a part of the control thread's work that must not end.
fn essential(vitals: &Vitals, what: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let vitals = vitals.clone();
    tokio::spawn(async move { vitals.guard(what, work).await });
}

/// The configurator, which the source of configuration and the lookups of names take turns at: both run on
/// this thread, and neither waits for anything while it has it.
struct Shared<'a>(&'a RefCell<Configurator>);

impl Sink for Shared<'_> {
    fn apply(&mut self, update: Update) -> Outcome {
        self.0.borrow_mut().apply(update)
    }

    fn wanted(&self, kind: ResourceType) -> BTreeSet<String> {
        self.0.borrow().wanted(kind)
    }

    fn connected(&mut self, state: Result<(), &AdsError>) {
        self.0.borrow_mut().connected(state);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread;

    use super::*;

    /// What is wrong, once it is told.
    fn trouble(vitals: &Vitals) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let died = async { tokio::time::timeout(Duration::from_secs(30), vitals.died()).await };
        let told = runtime.unwrap().block_on(died).unwrap();
        assert_eq!(vitals.trouble(), Some(told.clone()));
        told
    }

    #[test]
    fn a_panic_of_the_control_thread_is_told() {
        let vitals = Vitals::new();
        let (_stop, stopped) = oneshot::channel();
        let work = {
            let vitals = vitals.clone();
            async move { assert!(vitals.trouble().is_some(), "an update") }
        };
        let control = vitals.clone();
        let thread = thread::spawn(move || run(control, work, stopped));
        assert_eq!(trouble(&vitals), "the control thread: an update");
        thread.join().unwrap();
    }

    #[test]
    fn a_panic_of_any_part_of_its_work_is_told_though_the_others_go_on() {
        let vitals = Vitals::new();
        let (stop, stopped) = oneshot::channel();
        let work = {
            let vitals = vitals.clone();
            async move {
                let fails = vitals.clone();
                let part = async move { assert!(fails.trouble().is_some(), "a file") };
                essential(&vitals, "the files of certificates", part);
                std::future::pending().await
            }
        };
        let control = vitals.clone();
        let thread = thread::spawn(move || run(control, work, stopped));
        assert_eq!(trouble(&vitals), "the files of certificates: a file");
        assert!(!thread.is_finished());
        drop(stop);
        thread.join().unwrap();
    }
}
