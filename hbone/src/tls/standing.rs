//! Whether the peer of an open connection would still be accepted.
//!
//! A connection lives for hours, and trust may change meanwhile. Nothing is kept of the peer but what TLS keeps anyway, and
//! nobody wakes all connections: each looks at one number whenever its task runs, at the latest when it
//! is time for a PING. The chain is judged as of the handshake: what has only expired since is no reason.
//!
//! A peer that is revoked is cut off at once. One whose root or trust domain is gone is told to leave at a random time within
//! the first half of the grace, and cut off at one in its last quarter, so that not all reconnect together.

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::{Instant, Sleep};

use crate::certificates::trust::PeerRole;
use crate::tls::tls_failure::TlsFailure;
use crate::tls::{Tls, TlsConfigs};

/// A connection's peer, as long as it is connected.
pub(crate) struct Standing {
    tls: Tls,
    /// The trust that it was last judged by.
    seen: u64,
    role: PeerRole,
    since: UnixTime,
    lost: Option<Box<Lost>>,
}

struct Lost {
    reason: TlsFailure,
    told: bool,
    end: Instant,
    timer: Pin<Box<Sleep>>,
}

/// What is to be done with the connection.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing now.
    Stay,
    /// No more streams. To be asked again at once.
    Leave,
    /// It ends now.
    End(TlsFailure),
}

impl Standing {
    /// A peer that was accepted under `configs` just now.
    pub(crate) fn new(tls: &Tls, configs: &TlsConfigs, role: PeerRole) -> Standing {
        Standing {
            tls: tls.clone(),
            seen: configs.trust_version,
            role,
            since: UnixTime::now(),
            lost: None,
        }
    }

    /// To be called whenever the connection's task runs.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        chain: impl FnOnce() -> Option<Vec<CertificateDer<'static>>>,
    ) -> Step {
        let version = self.tls.trust_version();
        if version != self.seen {
            self.seen = version;
            self.judge(&chain().unwrap_or_default());
        }
        let Some(lost) = &mut self.lost else {
            return Step::Stay;
        };
        // A timer takes a moment even when its time has come, in which a frame might pass.
        let over = lost.end <= Instant::now();
        if !over && lost.timer.as_mut().poll(cx).is_pending() {
            return Step::Stay;
        }
        if !over && !lost.told {
            lost.told = true;
            lost.timer.as_mut().reset(lost.end);
            return Step::Leave;
        }
        match self.lost.take() {
            Some(lost) => Step::End(lost.reason),
            None => Step::Stay,
        }
    }

    fn judge(&mut self, chain: &[CertificateDer<'_>]) {
        let reason = match self.tls.configs().judge(chain, self.role, self.since) {
            Ok(()) => {
                self.lost = None;
                return;
            }
            Err(reason) => reason,
        };
        let grace = match reason {
            TlsFailure::Revoked => Duration::ZERO,
            _ if self.lost.is_some() => return,
            _ => self.tls.trust_grace(),
        };
        let now = Instant::now();
        self.lost = Some(Box::new(Lost {
            reason,
            told: false,
            end: now + grace.mul_f64(1.0 - random() / 4.0),
            timer: Box::pin(tokio::time::sleep(grace.mul_f64(random() / 2.0))),
        }));
    }
}

/// Between 0 and 1; the hasher's keys are what is random in it.
fn random() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_costs_a_connection_little() {
        assert!(size_of::<Standing>() <= 48, "{}", size_of::<Standing>());
    }

    #[test]
    fn the_time_to_leave_is_random() {
        let (one, two) = (random(), random());
        assert!((0.0..=1.0).contains(&one) && (one - two).abs() > f64::EPSILON);
    }
}
