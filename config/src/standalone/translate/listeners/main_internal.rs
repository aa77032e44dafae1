//! `main_internal`: one or two filter chains for each port of an owned service, the two chains for pod
//! addresses, and the matcher that chooses by destination address, port and, where the protocol isn't
//! declared, the first bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use envoy_types::pb::google::protobuf::Any;

use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::state::mesh_service::{MeshService, Resolution};
use crate::standalone::translate::clusters::inbound_vip;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::context::access_log::Logged;
use crate::standalone::translate::listeners::filter_chain_matcher::{
    self as matcher, AddressRange,
};
use crate::standalone::translate::listeners::{internal, original_dst_filter};
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::uint32;

/// Bytes that are read at first while looking for a TLS hello.
const TLS_HELLO: u32 = 512;

impl Mesh<'_> {
    pub(crate) fn main_internal(&self) -> listener::Listener {
        let mut chains = Vec::new();
        let mut ranges = Vec::new();
        let served = self
            .waypoint
            .services
            .iter()
            .filter(|s| s.resolution() != Resolution::None);
        for service in served {
            let mut ports = Vec::new();
            for port in service
                .ports
                .iter()
                .filter(|port| port.protocol != Protocol::Udp)
            {
                let tcp = inbound_vip(port.number, "tcp", &service.hostname);
                let http = inbound_vip(port.number, "http", &service.hostname);
                let on_match = match port.protocol {
                    Protocol::Unknown => matcher::sniffed(&tcp, &http),
                    protocol if protocol.is_http() => matcher::to_chain(&http),
                    _ => matcher::to_chain(&tcp),
                };
                if !port.protocol.is_http() {
                    chains.push(self.service_tcp_chain(service, port, &tcp));
                }
                if port.protocol.is_http() || port.protocol == Protocol::Unknown {
                    chains.push(self.service_http_chain(service, port, &http));
                }
                self.effects.mark(port);
                ports.push((port.number.to_string(), on_match));
            }
            let addresses = self.addresses(service);
            if !ports.is_empty() && !addresses.is_empty() {
                ranges.push((addresses, matcher::by_port(ports)));
            }
        }
        chains.push(self.direct_tcp_chain());
        chains.push(self.direct_http_chain());
        let workloads: Vec<AddressRange> = self
            .waypoint
            .workload_addresses()
            .map(AddressRange::of)
            .collect();
        if !workloads.is_empty() {
            ranges.push((workloads, matcher::sniffed("direct-tcp", "direct-http")));
        }
        let mut listener_filters = vec![original_dst_filter(), self.http_inspector()];
        listener_filters.extend(self.tls_inspector());
        listener::Listener {
            name: "main_internal".to_owned(),
            filter_chains: chains,
            filter_chain_matcher: Some(matcher::by_address(ranges)),
            listener_filters,
            traffic_direction: TrafficDirection::Inbound.into(),
            access_log: self.access_logs(None, Logged::NoRoute),
            listener_specifier: Some(internal()),
            ..listener::Listener::default()
        }
    }

    /// A service's addresses in the families that this waypoint has.
    fn addresses(&self, service: &MeshService<'_>) -> Vec<AddressRange> {
        let own = service
            .addresses
            .iter()
            .filter(|address| match address.addr() {
                IpAddr::V4(_) => self.families.v4,
                IpAddr::V6(_) => self.families.v6,
            });
        let ranges: BTreeMap<String, AddressRange> = own
            .map(|net| (net.addr().to_string(), AddressRange::of_net(*net)))
            .collect();
        ranges.into_values().collect()
    }

    /// Looks for HTTP where a port's protocol isn't the same, and declared, for all services; everywhere
    /// when there are pods, which may listen on any port.
    fn http_inspector(&self) -> listener::ListenerFilter {
        let mut declared: BTreeMap<u16, BTreeSet<Option<bool>>> = BTreeMap::new();
        for port in self
            .ports()
            .filter(|(_, protocol)| *protocol != Protocol::Udp)
        {
            let http = (port.1 != Protocol::Unknown).then(|| port.1.is_http());
            declared.entry(port.0).or_default().insert(http);
        }
        let plain = declared
            .into_iter()
            .filter(|(_, kinds)| kinds.len() == 1 && !kinds.contains(&None));
        let plain = plain
            .map(|(port, _)| port)
            .filter(|_| !self.waypoint.takes_workloads());
        inspector(
            "http_inspector",
            any(&HttpInspector::default()),
            plain.collect(),
        )
    }

    /// Looks for a server name, once any port carries TLS, on the ports that may.
    fn tls_inspector(&self) -> Option<listener::ListenerFilter> {
        let tls: BTreeSet<u16> = self
            .ports()
            .filter(|(_, protocol)| protocol.is_tls())
            .map(|(port, _)| port)
            .collect();
        if tls.is_empty() {
            return None;
        }
        let others: BTreeSet<u16> = self.ports().map(|(port, _)| port).collect();
        let config = TlsInspector {
            initial_read_buffer_size: uint32(TLS_HELLO),
            ..TlsInspector::default()
        };
        Some(inspector("tls_inspector", any(&config), &others - &tls))
    }

    fn ports(&self) -> impl Iterator<Item = (u16, Protocol)> {
        let served = self
            .waypoint
            .services
            .iter()
            .filter(|s| s.resolution() != Resolution::None);
        served
            .flat_map(|service| &service.ports)
            .map(|port| (port.number, port.protocol))
    }
}

fn inspector(name: &str, config: Any, disabled_on: BTreeSet<u16>) -> listener::ListenerFilter {
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let predicate = |rule| listener::ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let mut rules: Vec<_> = disabled_on
        .into_iter()
        .map(|port| Int32Range {
            start: port.into(),
            end: i32::from(port) + 1,
        })
        .map(|range| predicate(Rule::DestinationPortRange(range)))
        .collect();
    let filter_disabled = match rules.len() {
        0 | 1 => rules.pop(),
        _ => Some(predicate(Rule::OrMatch(MatchSet { rules }))),
    };
    listener::ListenerFilter {
        name: format!("envoy.filters.listener.{name}"),
        filter_disabled,
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
    }
}
