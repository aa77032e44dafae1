//! Attributes of what is asked for, as RBAC permissions in istiod's shape.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use rbac::Permission;
use rbac::permission::{Rule as PermissionRule, Set as PermissionSet};

use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::security::rbac_rule::{CannotTell, permission};
use crate::standalone::translate::security::value_matcher::{
    any_value, cidr, header, list_of, metadata, string, string_value,
};

/// Attributes of what is asked for.
pub(crate) enum PermissionName<'a> {
    Host,
    Method,
    Path,
    Port,
    DestinationIp,
    ServerName,
    /// Dynamic metadata of a filter.
    FilterMetadata {
        filter: &'a str,
        key: &'a str,
    },
}

impl PermissionName<'_> {
    pub(crate) fn is_http(&self) -> bool {
        matches!(
            self,
            PermissionName::Host | PermissionName::Method | PermissionName::Path
        )
    }

    pub(crate) fn any_of(&self, values: &[String]) -> Result<Permission, CannotTell> {
        if let PermissionName::FilterMetadata { filter, key } = self {
            return Ok(filter_metadata(filter, key, values));
        }
        let rules: Result<_, _> = values.iter().map(|value| self.one(value)).collect();
        Ok(permission(PermissionRule::OrRules(PermissionSet {
            rules: rules?,
        })))
    }

    fn one(&self, value: &str) -> Result<Permission, CannotTell> {
        Ok(permission(match self {
            PermissionName::Host => PermissionRule::Header(header(":authority", value, true)),
            PermissionName::Method => PermissionRule::Header(header(":method", value, false)),
            PermissionName::Path if value.contains("{*}") || value.contains("{**}") => {
                let path_template = value.replace("{**}", "**").replace("{*}", "*");
                PermissionRule::UriTemplate(core::TypedExtensionConfig {
                    name: "uri-template".to_owned(),
                    typed_config: Some(any(&UriTemplateMatchConfig { path_template })),
                })
            }
            PermissionName::Path => PermissionRule::UrlPath(matcher::PathMatcher {
                rule: Some(matcher::path_matcher::Rule::Path(string(value))),
            }),
            PermissionName::Port => PermissionRule::DestinationPort(
                value.parse::<u16>().map_err(|_| CannotTell)?.into(),
            ),
            PermissionName::DestinationIp => PermissionRule::DestinationIp(cidr(value)?),
            PermissionName::ServerName => PermissionRule::RequestedServerName(string(value)),
            PermissionName::FilterMetadata { .. } => return Err(CannotTell),
        }))
    }
}

#[allow(deprecated)] // istiod sends `metadata`, not `sourced_metadata`
fn filter_metadata(filter: &str, key: &str, values: &[String]) -> Permission {
    let value = |value: &String| match value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
        Some(inner) => list_of(string_value(string(inner))),
        None => string_value(string(value)),
    };
    let value = any_value(values.iter().map(value).collect());
    permission(PermissionRule::Metadata(metadata(filter, &[key], value)))
}
