//! Rules of `tcp` and `tls`: where connections go that are passed on as they are.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;

use crate::standalone::input::labels::check_label;
use crate::standalone::kinds::istio::host_name::{is_host, is_within};
use crate::standalone::kinds::istio::virtual_service::destination::{
    StreamDestination, check_weights,
};
use crate::standalone::kinds::istio::virtual_service::gateways::{check_gateways, check_port};
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// A rule of `tcp` or of `tls`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamRule {
    /// Empty: all connections; a rule of `tls` has one at least.
    pub r#match: Vec<StreamMatch>,
    pub route: Vec<StreamDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StreamMatch {
    /// Of `tls`.
    pub sni_hosts: Option<Vec<String>>,
    pub destination_subnets: Vec<String>,
    /// Of `tcp`.
    pub source_subnet: String,
    /// Of the service; 0: any.
    pub port: u32,
    pub source_labels: BTreeMap<String, String>,
    pub source_namespace: String,
    pub gateways: Vec<String>,
}

impl StreamRule {
    /// `hosts`, as they are written, where the rule is one of `tls`.
    pub(super) fn check(&self, hosts: Option<&[String]>) -> Result<(), Refusal> {
        if hosts.is_some() && self.r#match.is_empty() {
            return Err(refusal("match", "is required"));
        }
        for (index, found) in self.r#match.iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("match[{index}].{field}"), reason);
            found.check(hosts).map_err(at)?;
        }
        if self.route.is_empty() {
            return Err(refusal("route", "is required"));
        }
        for (index, to) in self.route.iter().enumerate() {
            let field = format!("route[{index}].destination");
            let at = |(below, reason): Refusal| (format!("{field}.{below}"), reason);
            to.destination.check().map_err(at)?;
        }
        let weights: Vec<i32> = self.route.iter().map(|to| to.weight).collect();
        check_weights(&weights)
    }
}

impl StreamMatch {
    fn check(&self, hosts: Option<&[String]>) -> Result<(), Refusal> {
        match (hosts, &self.sni_hosts) {
            (Some(hosts), Some(names)) if !names.is_empty() => check_names(hosts, names)?,
            (Some(_), _) => return Err(refusal("sniHosts", "is required")),
            (None, Some(_)) => return Err(refusal("sniHosts", "unknown field")),
            (None, None) => {}
        }
        if hosts.is_some() && !self.source_subnet.is_empty() {
            return Err(refusal("sourceSubnet", "unknown field"));
        }
        for (index, subnet) in self.destination_subnets.iter().enumerate() {
            if subnet.parse::<IpNet>().is_err() && subnet.parse::<std::net::IpAddr>().is_err() {
                let reason = format!("{subnet:?} is no network");
                return Err(refusal(format!("destinationSubnets[{index}]"), reason));
            }
        }
        if self.port != 0 {
            check_port("port", self.port)?;
        }
        for (name, value) in &self.source_labels {
            let field = format!("sourceLabels.{name}");
            check_label(name, value).map_err(|reason| (field, reason))?;
        }
        check_gateways(&self.gateways)
    }
}

/// Names of servers are names of the hosts.
fn check_names(hosts: &[String], names: &[String]) -> Result<(), Refusal> {
    for (index, name) in names.iter().enumerate() {
        let field = format!("sniHosts[{index}]");
        if name.parse::<std::net::IpAddr>().is_ok() {
            continue;
        }
        // Names that Istio's own gateways give to servers of other networks.
        if !is_host(name) && !name.starts_with("outbound_") {
            return Err(refusal(field, format!("{name:?} is no name of a server")));
        }
        if !hosts.iter().any(|host| is_within(name, host)) {
            let reason = format!("{name:?} is no name of the hosts");
            return Err(refusal(field, reason));
        }
    }
    Ok(())
}
