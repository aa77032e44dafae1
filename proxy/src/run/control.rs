//! The control thread: configuration, certificates and housekeeping, apart from the data path.
//!
//! Nothing goes on without what runs here: a panic of any of it is told to [`Vitals`], which end the process.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use waypoint_config::resource::{ResourceType, Update};
use waypoint_config::sources::xds::ads::{AdsClient, AdsError, Sink};
use waypoint_config::store::Outcome;
use waypoint_filters::metrics::MetricRegistry;

use crate::configuration::Configurator;
use crate::configuration::dns::Dns;
use crate::identity::certificates::CertificateKeeper;
use crate::identity::crl::CrlKeeper;
use crate::identity::workload_ca::WorkloadCa;
use crate::lifecycle::readiness::Readiness;
use crate::process::vitals::{Beating, Vitals};

/// How often unused metric series are looked for.
const EXPIRE: Duration = Duration::from_secs(60);

/// What the control thread works with.
pub(crate) struct Control {
    pub(crate) vitals: Vitals,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Arc<MetricRegistry>,
    pub(crate) live: Live,
    pub(crate) configurator: Configurator,
    pub(crate) keeper: CertificateKeeper,
    pub(crate) crl: Option<CrlKeeper>,
    pub(crate) dns: Dns,
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
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                let what = format!("no runtime for the control thread: {error}");
                return self.vitals.lose(what);
            }
        };
        let vitals = self.vitals.clone();
        runtime.block_on(async {
            tokio::select! {
                _ = vitals.guard("the control thread", self.work()) => {}
                _ = stopped => {}
            }
        });
    }

    async fn work(mut self) {
        let vitals = self.vitals;
        tokio::spawn(vitals.clone().beat(Beating::Control));
        let essential = |what: &'static str, work: BoxFuture<'static, ()>| {
            let vitals = vitals.clone();
            tokio::spawn(async move { vitals.guard(what, work).await });
        };
        if let Some(ca) = self.live.certificates.take() {
            essential("the certificate's renewal", Box::pin(ca.run()));
        }
        essential("readiness", Box::pin(self.readiness.hesitate()));
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
        essential("the files of certificates", Box::pin(files));
        let metrics = self.metrics;
        let expiry = async move {
            loop {
                tokio::time::sleep(EXPIRE).await;
                metrics.expire(Instant::now());
            }
        };
        essential("metrics", Box::pin(expiry));
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
        tokio::join!(source, self.dns.run(&configurator));
    }
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
