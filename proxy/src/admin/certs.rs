//! `/certs`: certificate and roots as `envoy.admin.v3.Certificates`.

use std::time::SystemTime;

use serde_json::{Value, json};
use waypoint_hbone::certificates::x509::CertificateDetails;

use crate::admin::Admin;
use crate::admin::answer::{self, Answer};
use crate::view::time::rfc3339;

const DAY: u64 = 24 * 3600;

impl Admin {
    pub(super) fn certs(&self) -> Answer {
        let now = SystemTime::now();
        let list = |certificates: Vec<CertificateDetails>| -> Vec<Value> {
            certificates.iter().map(|c| details(c, now)).collect()
        };
        let certificates: Vec<Value> = self
            .tls
            .certificate()
            .map(|certificate| {
                json!({
                    "ca_cert": list(certificate.roots()),
                    "cert_chain": list(certificate.chain()),
                })
            })
            .into_iter()
            .collect();
        answer::json(&json!({"certificates": certificates}))
    }
}

fn details(certificate: &CertificateDetails, now: SystemTime) -> Value {
    let left = certificate
        .not_after
        .duration_since(now)
        .unwrap_or_default();
    let names: Vec<Value> = certificate
        .uris
        .iter()
        .map(|uri| json!({"uri": uri}))
        .collect();
    json!({
        // Both come over the wire or from a file that may be gone.
        "path": "<inline>",
        "serial_number": certificate.serial,
        "subject_alt_names": names,
        "days_until_expiration": (left.as_secs() / DAY).to_string(),
        "valid_from": rfc3339(certificate.not_before),
        "expiration_time": rfc3339(certificate.not_after),
    })
}
