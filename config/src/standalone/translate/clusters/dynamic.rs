//! Services whose hosts requests name (`DYNAMIC_DNS`): the dynamic forward proxy, of which a cluster and a filter of its chain
//! have a share each.

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DnsLookupFamily,
};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3 as clusters;
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as http;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3 as sni;

use crate::standalone::kinds::traffic_policy::client_tls::ClientTls;
use crate::standalone::translate::clusters::protocol::Options;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::{any, http_filter, network_filter};

impl Mesh<'_> {
    /// Names are looked up in the families that the waypoint has.
    pub(super) fn lookup_family(&self) -> DnsLookupFamily {
        match (self.families.v4, self.families.v6) {
            (true, true) => DnsLookupFamily::All,
            (false, true) => DnsLookupFamily::V6Only,
            _ => DnsLookupFamily::V4Only,
        }
    }

    fn dns_cache(&self, hostname: &str) -> DnsCacheConfig {
        DnsCacheConfig {
            name: format!("{hostname}_dfp_dns_cache"),
            dns_lookup_family: self.lookup_family().into(),
            ..DnsCacheConfig::default()
        }
    }

    /// Where the cluster has its hosts from. `insecure`: its TLS may take one host's certificate for another's.
    pub(super) fn dynamic_hosts(&self, hostname: &str, insecure: bool) -> ClusterDiscoveryType {
        let cache = clusters::cluster_config::ClusterImplementationSpecifier::DnsCacheConfig(
            self.dns_cache(hostname),
        );
        let config = clusters::ClusterConfig {
            allow_insecure_cluster_options: insecure,
            cluster_implementation_specifier: Some(cache),
            ..clusters::ClusterConfig::default()
        };
        ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
            typed_config: Some(any(&config)),
        })
    }

    pub(in crate::standalone::translate) fn dynamic_http_filter(
        &self,
        hostname: &str,
    ) -> HttpFilter {
        let cache =
            http::filter_config::ImplementationSpecifier::DnsCacheConfig(self.dns_cache(hostname));
        let config = http::FilterConfig {
            implementation_specifier: Some(cache),
            ..http::FilterConfig::default()
        };
        http_filter("envoy.filters.http.dynamic_forward_proxy", any(&config))
    }

    pub(in crate::standalone::translate) fn dynamic_network_filter(
        &self,
        hostname: &str,
        port: u16,
    ) -> listener::Filter {
        let config = sni::FilterConfig {
            dns_cache_config: Some(self.dns_cache(hostname)),
            port_specifier: Some(sni::filter_config::PortSpecifier::PortValue(port.into())),
            ..sni::FilterConfig::default()
        };
        network_filter(
            "envoy.filters.network.sni_dynamic_forward_proxy",
            any(&config),
        )
    }
}

/// Has TLS check every host's own certificate, other names or not; says whether it names and checks hosts.
pub(super) fn names_hosts(tls: &ClientTls, options: &mut Options) -> bool {
    let verifies = !tls.skips_verification();
    if verifies {
        let upstream = options
            .upstream
            .get_or_insert_with(core::UpstreamHttpProtocolOptions::default);
        upstream.auto_san_validation = true;
    }
    verifies && tls.sni.is_empty()
}
