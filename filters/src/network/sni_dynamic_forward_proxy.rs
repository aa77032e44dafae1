//! `envoy.filters.network.sni_dynamic_forward_proxy`: a TLS connection goes to the server that its client asks for by name.
//!
//! Which servers those may be is the cluster's to say. The filter says at which port, and that the name has to be read.

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::{
    FilterConfig, filter_config::PortSpecifier,
};

use crate::http::dynamic_forward_proxy::cache::{DNS_CACHE_CONFIG, DYNAMIC_PORT};
use crate::http::filter::{Config, Registration};
use crate::network::filter::{BuiltNetworkFilter, Decision, NameUse, NetworkFilter, Verdict};
use crate::stream::filter_state::{FilterValue, Sharing};
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::{Table, decode_any, harmless, honoured, required};
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration<BuiltNetworkFilter> = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |config, _| build(&decode_any(config)?),
    },
    per_route: None,
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
    fields: &[
        harmless(
            1,
            "dns_cache_config",
            "hosts are looked up as the cluster says that the stream goes to",
        )
        .of(&DNS_CACHE_CONFIG),
        honoured(2, "port_value"),
    ],
    refused: "3 save_upstream_address",
    required: &[required("dns_cache_config", &[1])],
};

/// Where no port is said.
const HTTPS: u16 = 443;

#[derive(Debug)]
struct SniDynamicForwardProxy {
    key: Arc<str>,
    port: Arc<str>,
}

fn build(proto: &FilterConfig) -> Result<BuiltNetworkFilter, Refusal> {
    let port = match proto.port_specifier {
        None => HTTPS,
        Some(PortSpecifier::PortValue(port)) => match u16::try_from(port) {
            Ok(port) if port > 0 => port,
            _ => return Err(Refusal::new("port_value", format!("{port} is no port"))),
        },
    };
    Ok(BuiltNetworkFilter {
        filter: Some(Box::new(SniDynamicForwardProxy {
            key: DYNAMIC_PORT.into(),
            port: port.to_string().into(),
        })),
        server_name: NameUse::Decides,
        ..BuiltNetworkFilter::default()
    })
}

impl NetworkFilter for SniDynamicForwardProxy {
    fn on_connection(&self, stream: &Arc<StreamInfo>) -> Decision {
        let port = FilterValue::String(self.port.clone());
        let mut state = stream.state();
        state.filter_state.set(&self.key, port, Sharing::None);
        Verdict::Continue.into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_one() {
        let with = |port| {
            build(&FilterConfig {
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..FilterConfig::default()
            })
        };
        assert!(with(8443).is_ok());
        for port in [0, 65536] {
            assert!(with(port).err().unwrap().to_string().contains("port_value"));
        }
    }
}
