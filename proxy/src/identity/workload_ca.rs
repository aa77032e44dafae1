//! Certificates from istiod's CA: the first one, for as long as that takes, and renewal at half of its life.
//!
//! A CA that can't be reached is no harm until the certificate expires; the log says so louder the nearer
//! that comes.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use waypoint_config::sources::xds::ca::{CaError, certify};
use waypoint_config::sources::xds::channel::ControlPlane;
use waypoint_filters::metrics::{CounterFamily, MetricRegistry};
use waypoint_hbone::certificates::certificate::WorkloadCertificate;
use waypoint_hbone::identity::Identity;
use waypoint_hbone::tls::Tls;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Just before a certificate expires, and after.
const URGENT_PAUSES: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(5);

/// When a certificate is renewed, in fractions of its life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RenewalPoint {
    /// What is left of it.
    pub ratio: f64,
    /// By how much that differs at most, by chance: not all pods shall ask at once.
    pub jitter: f64,
}

/// As Istio's agent.
impl Default for RenewalPoint {
    fn default() -> RenewalPoint {
        RenewalPoint {
            ratio: 0.5,
            jitter: 0.01,
        }
    }
}

/// Keeps the certificate in `tls` valid.
pub(crate) struct WorkloadCa {
    pub(crate) plane: ControlPlane,
    pub(crate) identity: Identity,
    pub(crate) ttl: Duration,
    pub(crate) renewal: RenewalPoint,
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
        for result in ["issued", "failed"] {
            requests.with(&[result.into()]);
        }
        loop {
            let certificate = self.certificate(&requests).await;
            tracing::info!(
                identity = %certificate.identity(),
                until = %httpdate::fmt_http_date(certificate.not_after()),
                "certificate issued"
            );
            let asked = self.identity.trust_domain();
            if certificate.identity().trust_domain() != asked {
                tracing::warn!(identity = %certificate.identity(), asked, "the CA has another trust domain; its certificate is used");
            }
            let pause = until_renewal(
                &certificate,
                self.renewal,
                SystemTime::now(),
                fastrand::f64(),
            );
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
            tokio::time::sleep(self.in_time(pause).mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// No pause is longer than a quarter of what is left, nor long when nothing is.
    fn in_time(&self, pause: Duration) -> Duration {
        let Some(certificate) = self.tls.certificate() else {
            return pause;
        };
        match certificate.not_after().duration_since(SystemTime::now()) {
            Ok(left) => pause.min((left / 4).max(URGENT_PAUSES.start)),
            Err(_) => pause.min(URGENT_PAUSES.end),
        }
    }

    fn report(&self, error: &CaError) {
        let certificate = self.tls.certificate();
        let now = SystemTime::now();
        match certificate.map(|certificate| Urgency::of(&certificate, now)) {
            None => tracing::warn!(%error, "no certificate yet"),
            Some(Urgency::Calm(left)) => {
                tracing::warn!(%error, seconds_left = left.as_secs(), "certificate not renewed");
            }
            Some(Urgency::Pressing(left)) => {
                tracing::error!(%error, seconds_left = left.as_secs(), "certificate not renewed and about to expire");
            }
            Some(Urgency::TooLate) => {
                tracing::error!(%error, "certificate not renewed and expired: peers refuse new connections");
            }
        }
    }
}

/// How bad it is that a certificate isn't renewed.
#[derive(Debug, PartialEq, Eq)]
enum Urgency {
    Calm(Duration),
    /// Less than a quarter of its life is left.
    Pressing(Duration),
    TooLate,
}

impl Urgency {
    fn of(certificate: &WorkloadCertificate, now: SystemTime) -> Urgency {
        let (from, until) = (certificate.not_before(), certificate.not_after());
        let life = until.duration_since(from).unwrap_or_default();
        match until.duration_since(now) {
            Ok(left) if left > life / 4 => Urgency::Calm(left),
            Ok(left) if !left.is_zero() => Urgency::Pressing(left),
            _ => Urgency::TooLate,
        }
    }
}

fn until_renewal(
    certificate: &WorkloadCertificate,
    point: RenewalPoint,
    now: SystemTime,
    random: f64,
) -> Duration {
    let (from, until) = (certificate.not_before(), certificate.not_after());
    let life = until.duration_since(from).unwrap_or_default();
    let left = until.duration_since(now).unwrap_or_default();
    left.saturating_sub(life.mul_f64(point.ratio + point.jitter * random))
        .max(FIRST_PAUSE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use waypoint_hbone::certificates::dev_ca::DevCa;

    use super::*;

    fn valid_between(from: SystemTime, until: SystemTime) -> WorkloadCertificate {
        let identity = Identity::istio("cluster.local", "default", "waypoint").unwrap();
        let minted = DevCa::ephemeral()
            .unwrap()
            .mint_between(&identity, from, until)
            .unwrap();
        minted.workload().unwrap()
    }

    #[test]
    fn an_outage_grows_urgent_with_the_certificates_own_life() {
        let hour = Duration::from_secs(3600);
        // Certificates count in whole seconds.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let certificate = valid_between(now, now + hour);
        let of = |after| Urgency::of(&certificate, now + after);
        assert_eq!(of(hour / 2), Urgency::Calm(hour / 2));
        assert_eq!(of(hour * 4 / 5), Urgency::Pressing(hour / 5));
        assert_eq!(of(hour), Urgency::TooLate);
        assert_eq!(of(hour * 2), Urgency::TooLate);
    }

    #[test]
    fn a_certificate_is_renewed_near_half_of_its_life() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let certificate = valid_between(now, now + hour);
        for random in [0.0, 0.5, 1.0] {
            let pause = until_renewal(&certificate, RenewalPoint::default(), now, random).as_secs();
            assert!((1760..=1801).contains(&pause), "{pause}");
        }
        assert_eq!(
            until_renewal(&certificate, RenewalPoint::default(), now + hour, 0.5),
            FIRST_PAUSE,
            "no busy loop"
        );
    }
}
