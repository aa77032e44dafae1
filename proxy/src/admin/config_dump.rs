//! `/config_dump`: what is asked for, and what the process adds of its own.

use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use http::StatusCode;
use tokio::runtime::Handle;
use waypoint_config::dump::field_mask::Mask;
use waypoint_config::dump::{Dump, HeldSecret, NamePattern, Process, Query};
use waypoint_hbone::certificates::certificate::WorkloadCertificate;

use crate::admin::Admin;
use crate::admin::answer::{Answer, json_stream, text};
use crate::admin::bootstrap::bootstrap;
use crate::admin::target::Target;

/// The names that Istio's agent gives them.
const CERTIFICATE: &str = "default";
const ROOTS: &str = "ROOTCA";

impl Admin {
    /// Waits until no other dump is being made, so not on the control thread.
    pub(super) fn config_dump(&self, target: &Target) -> Answer {
        let query = match query(target) {
            Ok(query) => query,
            Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
        };
        let turn = self.dumps.clone().acquire_owned();
        let Ok(turn) = Handle::current().block_on(turn) else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "ending\n");
        };
        match Dump::new(&self.received, &self.process(), query) {
            Ok(dump) => json_stream(move |mut out| {
                let _turn = turn;
                dump.write(&mut out)
            }),
            Err(error) => text(StatusCode::NOT_FOUND, format!("{error}\n")),
        }
    }

    fn process(&self) -> Process {
        Process {
            bootstrap: bootstrap(&self.node, self.admin_addr),
            started: self.started.at,
            secrets: secrets(self.tls.certificate().as_deref(), self.started.at),
        }
    }
}

fn query(target: &Target) -> Result<Query, String> {
    let names = match target.get("name_regex") {
        None | Some("") => None,
        Some(pattern) => Some(
            NamePattern::new(pattern)
                .map_err(|error| format!("name_regex {pattern}: {error}\n"))?,
        ),
    };
    Ok(Query {
        endpoints: target.is_on("include_eds"),
        mask: Mask::parse(target.get("mask").unwrap_or_default()),
        resource: target
            .get("resource")
            .filter(|resource| !resource.is_empty())
            .map(str::to_owned),
        names,
    })
}

/// Certificate and roots in the form in which Envoy has them from Istio's agent. The key is left out here
/// already.
fn secrets(certificate: Option<&WorkloadCertificate>, started: SystemTime) -> Vec<HeldSecret> {
    let source = |text: &str| {
        Some(DataSource {
            specifier: Some(Specifier::InlineBytes(text.into())),
            ..DataSource::default()
        })
    };
    let chain = certificate.map(|certificate| {
        secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: source(certificate.chain_pem()),
            private_key: source("[redacted]"),
            ..TlsCertificate::default()
        })
    });
    let roots = certificate.map(|certificate| {
        secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: source(certificate.roots_pem()),
            ..CertificateValidationContext::default()
        })
    });
    let held = |name: &str, kind| HeldSecret {
        secret: Secret {
            name: name.to_owned(),
            r#type: kind,
        },
        version: certificate.map(|certificate| certificate.serial().to_owned()),
        updated: certificate.map_or(started, WorkloadCertificate::not_before),
    };
    vec![held(CERTIFICATE, chain), held(ROOTS, roots)]
}
