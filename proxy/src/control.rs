//! The control thread: admin ports, configuration and certificates, apart from the data path.

use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use waypoint_config::xds::ads::AdsClient;

use crate::admin::{Admin, Port};
use crate::certificates::CertificateKeeper;
use crate::configuration::Configurator;
use crate::crl::CrlKeeper;
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
        match self.live.configuration.take() {
            Some(client) => client.run(&mut self.configurator, fastrand::f64).await,
            None => loop {
                tokio::time::sleep(poll).await;
                self.configurator.poll();
            },
        }
    }
}
