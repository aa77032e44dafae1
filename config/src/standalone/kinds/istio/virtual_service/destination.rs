//! Where requests and connections go: a host, a subset of it, a port; and what headers become on the way.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::standalone::kinds::istio::host_name::{is_host, is_label, resolved};
use crate::standalone::kinds::istio::virtual_service::gateways::check_port;
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// A whole name, once it is read.
    pub host: String,
    #[serde(default)]
    pub subset: String,
    port: Option<PortSelector>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortSelector {
    #[serde(default)]
    number: u32,
}

impl Destination {
    pub fn port(&self) -> Option<u16> {
        let number = self.port?.number;
        u16::try_from(number).ok()
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.host == "*" || !is_host(&self.host) {
            return Err(refusal("host", format!("{:?} is no host", self.host)));
        }
        if !self.subset.is_empty() && !is_label(&self.subset) {
            let reason = format!("{:?} is no name of a subset", self.subset);
            return Err(refusal("subset", reason));
        }
        match self.port {
            Some(port) => check_port("port.number", port.number),
            None => Ok(()),
        }
    }

    pub(super) fn resolve(&mut self, namespace: &str) {
        self.host = resolved(&self.host, namespace);
    }
}

/// A destination of requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpDestination {
    pub destination: Destination,
    #[serde(default)]
    pub weight: i32,
    #[serde(default)]
    pub headers: Headers,
}

/// A destination of connections.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamDestination {
    pub destination: Destination,
    #[serde(default)]
    pub weight: i32,
}

impl HttpDestination {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let at = |name: &'static str| {
            move |(field, reason): Refusal| (format!("{name}.{field}"), reason)
        };
        self.headers.check().map_err(at("headers"))?;
        self.destination.check().map_err(at("destination"))
    }
}

/// What holds for the weights of a list.
pub(super) fn check_weights(weights: &[i32]) -> Result<(), Refusal> {
    if let Some(index) = weights.iter().position(|weight| *weight < 0) {
        return Err(refusal(format!("route[{index}].weight"), "is below 0"));
    }
    if weights.len() > 1 && weights.iter().all(|weight| *weight == 0) {
        return Err(refusal(
            "route",
            "of several destinations one needs a weight",
        ));
    }
    Ok(())
}

/// What headers become.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Headers {
    pub request: HeaderOperations,
    pub response: HeaderOperations,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderOperations {
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}

impl Headers {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        for (field, operations, host_too) in [
            ("request", &self.request, true),
            ("response", &self.response, false),
        ] {
            operations
                .check(host_too)
                .map_err(|(below, reason)| (format!("{field}.{below}"), reason))?;
        }
        Ok(())
    }

    /// The authority that requests get instead of theirs: what is set before what is added.
    pub(crate) fn authority(&self) -> Option<&str> {
        let operations = [&self.request.set, &self.request.add];
        let mut found = operations.into_iter().flatten();
        found
            .find(|(name, value)| is_authority(name) && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

impl HeaderOperations {
    fn check(&self, host_too: bool) -> Result<(), Refusal> {
        for (list, headers) in [("set", &self.set), ("add", &self.add)] {
            for (name, value) in headers {
                let field = format!("{list}.{name}");
                check_name(&field, name, host_too)?;
                let odd = |c: char| c != '\t' && c.is_ascii_control();
                if value.contains(odd) {
                    return Err(refusal(field, format!("{value:?} is no value of a header")));
                }
            }
        }
        for (index, name) in self.remove.iter().enumerate() {
            check_name(&format!("remove[{index}]"), name, false)?;
        }
        Ok(())
    }
}

fn check_name(field: &str, name: &str, host_too: bool) -> Result<(), Refusal> {
    match name {
        "" => Err(refusal(field, "a header has a name")),
        name if host_too && is_authority(name) => Ok(()),
        name if is_internal(name) => Err(refusal(field, format!("{name:?} can't be changed here"))),
        _ => Ok(()),
    }
}

/// Whether this is the request's authority by another name.
pub(super) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// What isn't changed as a header.
pub(crate) fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}
