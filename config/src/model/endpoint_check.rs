//! `HealthCheckConfig`: what an endpoint says of how it is checked, where its cluster has checks.

use envoy_types::pb::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

/// What differs for this endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointCheck {
    /// Another port than its own.
    pub port: Option<u16>,
    /// What it is called in checks.
    pub hostname: Option<Box<str>>,
    /// It isn't checked.
    pub disabled: bool,
}

pub(crate) static HEALTH_CHECK_CONFIG: Table = Table {
    name: "envoy.config.endpoint.v3.Endpoint.HealthCheckConfig",
    fields: &[
        honoured(1, "port_value"),
        honoured(2, "hostname"),
        honoured(4, "disable_active_health_check"),
    ],
    refused: "3 address",
    required: &[],
};

impl EndpointCheck {
    pub(crate) fn from_proto(
        proto: &HealthCheckConfig,
    ) -> Result<Option<Box<EndpointCheck>>, Refusal> {
        let port = u16::try_from(proto.port_value);
        let check = EndpointCheck {
            port: Some(port.map_err(|_| Refusal::new("port_value", "is no port"))?)
                .filter(|port| *port != 0),
            hostname: Some(proto.hostname.as_str())
                .filter(|name| !name.is_empty())
                .map(Into::into),
            disabled: proto.disable_active_health_check,
        };
        Ok((check != EndpointCheck::default()).then(|| Box::new(check)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_says_nothing_has_nothing() {
        let of = |proto| EndpointCheck::from_proto(&proto);
        assert_eq!(of(HealthCheckConfig::default()).unwrap(), None);
        let check = of(HealthCheckConfig {
            port_value: 8081,
            ..HealthCheckConfig::default()
        });
        assert_eq!(check.unwrap().unwrap().port, Some(8081));
        let refusal = of(HealthCheckConfig {
            port_value: 65536,
            ..HealthCheckConfig::default()
        });
        assert_eq!(refusal.unwrap_err().field.to_string(), "port_value");
    }
}
