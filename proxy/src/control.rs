//! The control thread: admin ports, configuration and certificates, apart from the data path.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use waypoint_config::resource::{ResourceType, Update};
use waypoint_config::store::Outcome;
use waypoint_config::xds::ads::{AdsClient, AdsError, Sink};

use crate::admin::{Admin, Port};
use crate::certificates::CertificateKeeper;
use crate::configuration::Configurator;
use crate::crl::CrlKeeper;
use crate::dns::Dns;
use crate::workload_ca::WorkloadCa;

/// How often unused metric series are looked for.
const EXPIRE: Duration = Duration::from_secs(60);

/// What the control thread works with.
pub(crate) struct Control {
    pub(crate) admin: Admin,
    pub(crate) ports: Vec<(std::net::TcpListener, Port)>,
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
                tracing::error!(%error, "no runtime for the control thread");
                return;
            }
        };
        runtime.block_on(async {
            tokio::select! {
                () = self.work() => {}
                _ = stopped => {}
            }
        });
    }

    async fn work(mut self) {
        for (listener, port) in std::mem::take(&mut self.ports) {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    tokio::spawn(self.admin.clone().serve(listener, port));
                }
                Err(error) => tracing::error!(?port, %error, "port can't be served"),
            }
        }
        if let Some(ca) = self.live.certificates.take() {
            tokio::spawn(ca.run());
        }
        tokio::spawn(self.admin.readiness.clone().hesitate());
        let (mut keeper, mut crl, poll) = (self.keeper, self.crl, self.poll);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(poll).await;
                let now = SystemTime::now();
                keeper.poll(now);
                if let Some(crl) = &mut crl {
                    crl.poll(now);
                }
            }
        });
        let metrics = self.admin.metrics.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EXPIRE).await;
                metrics.expire(Instant::now());
            }
        });
        let configurator = RefCell::new(self.configurator);
        let source = async {
            match self.live.configuration.take() {
                Some(client) => client.run(&mut Shared(&configurator), fastrand::f64).await,
                None => loop {
                    tokio::time::sleep(poll).await;
                    configurator.borrow_mut().poll();
                },
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
