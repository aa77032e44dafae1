//! What a Service says of clients outside the mesh: kube-proxy and load balancers before the cluster honour it, and
//! their clients pass a waypoint by.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::refusal::Refusal;
use crate::standalone::kinds::refusal::refusal;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Outside {
    r#type: String,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<String>,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: String,
    load_balancer_source_ranges: Vec<String>,
    external_traffic_policy: String,
    allocate_load_balancer_node_ports: Option<bool>,
    load_balancer_class: Option<String>,
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default)]
    node_port: u16,
}

impl Outside {
    pub(crate) fn read(manifest: &Manifest) -> Result<Outside, LoadError> {
        let outside: Outside = manifest.part("spec")?;
        let checked = outside.check();
        checked.map_err(|(field, reason)| manifest.refused(format!("spec.{field}"), reason))?;
        Ok(outside)
    }

    /// The fields that ask for something.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let given = [
            ("externalIPs", !self.external_ips.is_empty()),
            ("loadBalancerIP", !self.load_balancer_ip.is_empty()),
            (
                "loadBalancerSourceRanges",
                !self.load_balancer_source_ranges.is_empty(),
            ),
            (
                "externalTrafficPolicy",
                self.external_traffic_policy == "Local",
            ),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        given.map(|(field, _)| field).collect()
    }

    /// The API server's rules.
    fn check(&self) -> Result<(), Refusal> {
        for (index, ip) in self.external_ips.iter().enumerate() {
            let special = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
            if ip.parse().map_or(true, special) {
                let reason = format!("{ip:?} is no address that a service may have outside");
                return Err(refusal(format!("externalIPs[{index}]"), reason));
            }
        }
        let own = matches!(self.r#type.as_str(), "" | "ClusterIP");
        let node_port = self.ports.iter().position(|port| port.node_port != 0);
        if let Some(index) = node_port.filter(|_| own) {
            let reason = "may not be given for type ClusterIP";
            return Err(refusal(format!("ports[{index}].nodePort"), reason));
        }
        let balanced = self.r#type == "LoadBalancer";
        for (field, given) in [
            (
                "allocateLoadBalancerNodePorts",
                self.allocate_load_balancer_node_ports.is_some(),
            ),
            ("loadBalancerClass", self.load_balancer_class.is_some()),
        ] {
            if given && !balanced {
                return Err(refusal(field, "may be given for type LoadBalancer only"));
            }
        }
        if !balanced && !self.load_balancer_source_ranges.is_empty() {
            let reason = "may be given for type LoadBalancer only";
            return Err(refusal("loadBalancerSourceRanges", reason));
        }
        for (index, range) in self.load_balancer_source_ranges.iter().enumerate() {
            if range.trim().parse::<IpNet>().is_err() {
                let field = format!("loadBalancerSourceRanges[{index}]");
                return Err(refusal(field, format!("{range:?} is no CIDR range")));
            }
        }
        let reached = balanced
            || self.r#type == "NodePort"
            || (self.r#type != "ExternalName" && !self.external_ips.is_empty());
        match self.external_traffic_policy.as_str() {
            "" => Ok(()),
            "Cluster" | "Local" if reached => Ok(()),
            "Cluster" | "Local" => Err(refusal(
                "externalTrafficPolicy",
                "may be given only where the service is reached from outside",
            )),
            other => Err(refusal(
                "externalTrafficPolicy",
                format!("{other:?} is none of Cluster, Local"),
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;
    use crate::standalone::kinds::core::service::Service;

    #[test]
    fn refuses_what_the_api_server_refuses() {
        for (spec, field) in [
            (
                "{ports: [{port: 1}], externalIPs: [192.0.2.1, 127.0.0.1]}",
                "spec.externalIPs[1]",
            ),
            (
                "{ports: [{port: 1, nodePort: 30000}]}",
                "spec.ports[0].nodePort",
            ),
            (
                "{type: NodePort, ports: [{port: 1, nodePort: 30000}], loadBalancerClass: a/b}",
                "spec.loadBalancerClass",
            ),
            (
                "{ports: [{port: 1}], allocateLoadBalancerNodePorts: true}",
                "spec.allocateLoadBalancerNodePorts",
            ),
            (
                "{ports: [{port: 1}], loadBalancerSourceRanges: [192.0.2.0/24]}",
                "spec.loadBalancerSourceRanges",
            ),
            (
                "{type: LoadBalancer, ports: [{port: 1}], loadBalancerSourceRanges: [192.0.2.1]}",
                "spec.loadBalancerSourceRanges[0]",
            ),
            (
                "{ports: [{port: 1}], externalTrafficPolicy: Local}",
                "spec.externalTrafficPolicy",
            ),
            (
                "{type: NodePort, ports: [{port: 1}], externalTrafficPolicy: local}",
                "spec.externalTrafficPolicy",
            ),
        ] {
            let text =
                format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {spec}}}");
            let error = Service::read(&Manifest::of(&text)).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{spec}");
        }
    }
}
