//! Endpoints outside Kubernetes: WorkloadEntry, and the same inside a ServiceEntry.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::{LoadError, Problem, Severity};
use crate::standalone::input::schema::{self, Row, Rule, is_hostname};
use crate::standalone::kinds::istio::workload_address::WorkloadAddress;
use crate::standalone::kinds::known_fields::{KnownFields, Report};
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// Label that says how an endpoint takes connections of sidecars.
const TLS_MODE: &str = "security.istio.io/tlsMode";

#[derive(Clone, Debug, PartialEq)]
pub struct EntryEndpoint {
    /// Its place in a ServiceEntry.
    pub index: usize,
    pub address: WorkloadAddress,
    pub service_account: String,
    /// Port numbers by the entry's port names.
    pub ports: BTreeMap<String, u16>,
    pub labels: BTreeMap<String, String>,
    pub weight: u32,
    /// `region/zone/subzone`.
    pub locality: String,
}

impl EntryEndpoint {
    /// How it takes connections of sidecars, if it does.
    pub fn tls_mode(&self) -> Option<&str> {
        let named = self.labels.get(TLS_MODE).map(String::as_str);
        let by_account = (!self.service_account.is_empty()).then_some("istio");
        named.or(by_account).filter(|mode| *mode != "disabled")
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireEndpoint {
    pub(super) address: String,
    pub(super) ports: BTreeMap<String, u16>,
    labels: BTreeMap<String, String>,
    weight: Option<u32>,
    locality: String,
    pub(super) network: String,
    service_account: String,
}

/// Why an endpoint is none here.
pub(super) enum Unusable {
    /// The API server would refuse it, too.
    Refused(String),
    /// Its field and the reason.
    NotHonoured(&'static str, String),
}

impl WireEndpoint {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.address.is_empty() && self.network.is_empty() {
            return Err(refusal("address", "is required where no network is given"));
        }
        let Some(path) = self.address.strip_prefix("unix://") else {
            return Ok(());
        };
        if !path.starts_with(['/', '@']) || path.ends_with('/') {
            let reason = "must be an absolute path of a socket, or begin with @";
            return Err(refusal("address", reason));
        }
        match self.ports.is_empty() {
            true => Ok(()),
            false => Err(refusal("ports", "may not be given for a Unix socket")),
        }
    }

    pub(super) fn read(self, index: usize, looks_up: bool) -> Result<EntryEndpoint, Unusable> {
        let address = self.address.as_str();
        if address.is_empty() && !self.network.is_empty() {
            let reason = "an endpoint without an address is reached by its network's gateway, which is not honoured: it is left out";
            return Err(Unusable::NotHonoured("network", reason.to_owned()));
        }
        if address.starts_with("unix://") {
            let reason = format!("{address} is not honoured: the endpoint is left out");
            return Err(Unusable::NotHonoured("address", reason));
        }
        let named = address;
        let address = WorkloadAddress::of(named);
        if address.ip().is_none() && !looks_up {
            return Err(Unusable::Refused(format!("{named:?} is no IP address")));
        }
        if address.ip().is_none() && !is_hostname(named) {
            return Err(Unusable::Refused(format!(
                "{named:?} is neither an IP address nor a host"
            )));
        }
        Ok(EntryEndpoint {
            index,
            address,
            service_account: self.service_account,
            ports: self.ports,
            labels: self.labels,
            weight: self.weight.filter(|weight| *weight > 0).unwrap_or(1),
            locality: self.locality,
        })
    }
}

const SCHEMA: &[Row] = &[
    ("address", Rule::Length(0, 256)),
    ("labels", Rule::Fields(256)),
    ("ports", Rule::Fields(128)),
    ("ports{}", Rule::Between(1, 65535)),
    ("locality", Rule::Length(0, 2048)),
    ("network", Rule::Length(0, 2048)),
    ("serviceAccount", Rule::Length(0, 253)),
    ("weight", Rule::Between(0, u32::MAX as i64)),
];

/// What the API knows of it.
pub(crate) const FIELDS: &[KnownFields] = &[
    ("", Report::Always, &["spec", "status"]),
    (
        "spec",
        Report::Always,
        &[
            "address",
            "labels",
            "locality",
            "network",
            "ports",
            "serviceAccount",
            "weight",
        ],
    ),
];

/// `Ok(Err(problem))` is one that is sound but not honoured. Labels of its metadata stand above those of its spec.
pub fn read(manifest: &Manifest) -> Result<Result<Object<EntryEndpoint>, Problem>, LoadError> {
    let spec: WireEndpoint = manifest.part("spec")?;
    schema::check(manifest, "spec", SCHEMA)?;
    let at = |(field, reason): Refusal| manifest.refused(format!("spec.{field}"), reason);
    spec.check().map_err(at)?;
    if !spec.network.is_empty() {
        let reason = "is not honoured: networks have gateways, which nothing is known of here";
        return Ok(Err(manifest.problem(
            Severity::Ignored,
            "spec.network",
            reason,
        )));
    }
    match spec.read(0, true) {
        Ok(mut endpoint) => {
            let labels = manifest.meta.labels.clone();
            endpoint.labels.extend(labels);
            Ok(Ok(manifest.object(endpoint)))
        }
        Err(Unusable::NotHonoured(field, reason)) => {
            let field = format!("spec.{field}");
            Ok(Err(manifest.problem(Severity::Ignored, field, reason)))
        }
        Err(Unusable::Refused(reason)) => Err(manifest.refused("spec.address", reason)),
    }
}
