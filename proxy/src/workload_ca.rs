//! Certificates from istiod's CA: the first one, for as long as that takes, and renewal at half of its life.
//!
//! A CA that can't be reached is no harm until the certificate expires; the log says so louder the nearer
//! that comes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use waypoint_config::xds::ca::{CaError, certify};
use waypoint_config::xds::channel::ControlPlane;
use waypoint_filters::metrics::{CounterFamily, MetricRegistry};
use waypoint_hbone::certificate::WorkloadCertificate;
use waypoint_hbone::identity::Identity;
use waypoint_hbone::tls::Tls;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Keeps the certificate in `tls` valid.
pub(crate) struct WorkloadCa {
    pub(crate) plane: ControlPlane,
    pub(crate) identity: Identity,
    pub(crate) ttl: Duration,
    pub(crate) tls: Tls,
    pub(crate) metrics: Arc<MetricRegistry>,
}

impl WorkloadCa {
    /// Runs for ever.
    pub(crate) async fn run(self) {
        let requests = self.metrics.counters(
            "waypoint_ca_requests_total",
            "Certificates asked for, by result.",
            &["result"],
        );
        loop {
            let certificate = self.certificate(&requests).await;
            tracing::info!(
                identity = %certificate.identity(),
                until = %httpdate::fmt_http_date(certificate.not_after()),
                "certificate issued"
            );
            let pause = until_renewal(&certificate, SystemTime::now(), fastrand::f64());
            self.tls.set_certificate(certificate);
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks until there is one.
    async fn certificate(&self, requests: &CounterFamily) -> WorkloadCertificate {
        let mut pause = FIRST_PAUSE;
        loop {
            match certify(&self.plane, &self.identity, self.ttl).await {
                Ok(certificate) => {
                    requests.with(&["issued".into()]).add(1);
                    return certificate;
                }
                Err(error) => {
                    requests.with(&["failed".into()]).add(1);
                    self.report(&error);
                }
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn report(&self, error: &CaError) {
        let left = self.tls.certificate().map(|certificate| {
            let until = certificate.not_after();
            until.duration_since(SystemTime::now()).unwrap_or_default()
        });
        match left {
            None => tracing::warn!(%error, "no certificate yet"),
            Some(left) if left > self.ttl / 4 => {
                tracing::warn!(%error, seconds_left = left.as_secs(), "certificate not renewed");
            }
            Some(left) => {
                tracing::error!(%error, seconds_left = left.as_secs(), "certificate not renewed and about to expire");
            }
        }
    }
}

/// Half of the certificate's life, less up to a hundredth by chance, as Istio's agent does.
fn until_renewal(certificate: &WorkloadCertificate, now: SystemTime, random: f64) -> Duration {
    let (from, until) = (certificate.not_before(), certificate.not_after());
    let life = until.duration_since(from).unwrap_or_default();
    let left = until.duration_since(now).unwrap_or_default();
    left.saturating_sub(life.mul_f64(0.5 + 0.01 * random))
        .max(FIRST_PAUSE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use waypoint_hbone::dev_ca::DevCa;

    use super::*;

    #[test]
    fn a_certificate_is_renewed_near_half_of_its_life() {
        let identity = Identity::istio("cluster.local", "default", "waypoint").unwrap();
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let minted = DevCa::ephemeral()
            .unwrap()
            .mint_between(&identity, now, now + hour)
            .unwrap();
        let certificate = minted.workload().unwrap();
        for random in [0.0, 0.5, 1.0] {
            let pause = until_renewal(&certificate, now, random).as_secs();
            assert!((1760..=1801).contains(&pause), "{pause}");
        }
        assert_eq!(
            until_renewal(&certificate, now + hour, 0.5),
            FIRST_PAUSE,
            "no busy loop"
        );
    }
}
