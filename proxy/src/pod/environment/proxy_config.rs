//! Istio's ProxyConfig as it is in force for this pod: defaults, what the template put into `PROXY_CONFIG`, and
//! the annotations of the Gateway over that.
//!
//! istiod gets all of it with the node, and uses what concerns it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};
use waypoint_config::standalone::input::yaml;

use crate::pod::environment::go_duration;
use crate::pod::environment::variables::{EnvironmentError, Variables, invalid};

const VARIABLE: &str = "PROXY_CONFIG";
/// The Gateway's annotations are the pod's.
const ANNOTATION: &str = "proxy.istio.io/config";
const DISCOVERY_ANNOTATION: &str = "sidecar.istio.io/discoveryAddress";
const STATUS_PORT_ANNOTATION: &str = "status.sidecar.istio.io/port";
const METADATA: &str = "proxyMetadata";

/// Fields that are used here, by istiod, or by istiod's template before the pod was there.
const HONOURED: &[&str] = &[
    "concurrency",
    "controlPlaneAuthPolicy",
    "discoveryAddress",
    "environmentVariables",
    "gatewayTopology",
    "image",
    "proxyAdminPort",
    "proxyHeaders",
    METADATA,
    "serviceCluster",
    "statusPort",
    "terminationDrainDuration",
    "tracing",
];

/// The configuration in force.
#[derive(Clone, Debug)]
pub(crate) struct ProxyConfig {
    fields: Map<String, Value>,
    /// Fields that were given and have no effect.
    pub(crate) ignored: Vec<String>,
}

impl ProxyConfig {
    /// # Errors
    /// The variable or an annotation can't be read.
    pub(crate) fn read(
        variables: &Variables,
        annotations: &BTreeMap<String, String>,
    ) -> Result<ProxyConfig, EnvironmentError> {
        let mut config = ProxyConfig {
            fields: defaults(),
            ignored: Vec::new(),
        };
        if let Some(text) = variables.text(VARIABLE) {
            config.merge(VARIABLE, text)?;
        }
        if let Some(text) = annotations.get(ANNOTATION) {
            config.merge(ANNOTATION, text)?;
        }
        if let Some(address) = annotations.get(DISCOVERY_ANNOTATION) {
            config.set("discoveryAddress", address.as_str().into());
        }
        if let Some(text) = annotations.get(STATUS_PORT_ANNOTATION) {
            let port: u16 = text
                .parse()
                .map_err(|error| invalid(STATUS_PORT_ANNOTATION, text, error))?;
            config.set("statusPort", port.into());
        }
        config.ignored.sort();
        config.ignored.dedup();
        Ok(config)
    }

    /// All fields, as istiod is told.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        let text = self.fields.get(field).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    }

    /// # Errors
    /// The field isn't a port's number.
    pub(crate) fn port(&self, field: &str) -> Result<u16, EnvironmentError> {
        match self.number(field)?.unwrap_or_default() {
            0 => Err(wrong(field, &Value::from(0), "not a port")),
            port => Ok(port),
        }
    }

    /// Threads; `None` and 0 say nothing.
    ///
    /// # Errors
    /// The field is no number.
    pub(crate) fn concurrency(&self) -> Result<Option<u16>, EnvironmentError> {
        self.number("concurrency")
    }

    /// # Errors
    /// The field is no duration.
    pub(crate) fn duration(&self, field: &str) -> Result<Duration, EnvironmentError> {
        let value = self.fields.get(field).unwrap_or(&Value::Null);
        let parsed = value.as_str().and_then(go_duration::parse);
        parsed.ok_or_else(|| wrong(field, value, go_duration::EXPECTED))
    }

    /// `proxyMetadata`: variables that the template sets, too, but for what an annotation adds.
    pub(crate) fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        let metadata = self.fields.get(METADATA).and_then(Value::as_object);
        let pair = |(name, value): (&String, &Value)| Some((name.clone(), text_of(value)?));
        metadata.into_iter().flatten().filter_map(pair)
    }

    fn number(&self, field: &str) -> Result<Option<u16>, EnvironmentError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| u16::try_from(n).ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(field, value, "not a number up to 65535")),
            },
        }
    }

    fn set(&mut self, field: &str, value: Value) {
        self.fields.insert(field.to_owned(), value);
    }

    /// Fields of the text replace those that are there; `proxyMetadata` is merged.
    fn merge(&mut self, origin: &str, text: &str) -> Result<(), EnvironmentError> {
        let fields = match yaml::embedded(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(Value::Null) => return Ok(()),
            Ok(_) => return Err(invalid(origin, text, "not an object")),
            Err(error) => return Err(invalid(origin, text, error)),
        };
        for (field, value) in fields {
            if !HONOURED.contains(&field.as_str()) {
                self.ignored.push(format!("{origin}.{field}"));
            }
            match (self.fields.get_mut(&field), value) {
                (Some(Value::Object(metadata)), Value::Object(more)) if field == METADATA => {
                    metadata.extend(more);
                }
                (_, value) => self.set(&field, value),
            }
        }
        Ok(())
    }
}

fn wrong(field: &str, value: &Value, reason: &str) -> EnvironmentError {
    invalid(&format!("{VARIABLE}.{field}"), &value.to_string(), reason)
}

/// YAML makes numbers and booleans of what was meant as text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

/// Istio's defaults. The template leaves out what is equal to them.
fn defaults() -> Map<String, Value> {
    let defaults = json!({
        "configPath": "./etc/istio/proxy",
        "binaryPath": "/usr/local/bin/envoy",
        "serviceCluster": "istio-proxy",
        "drainDuration": "45s",
        "terminationDrainDuration": "5s",
        "discoveryAddress": "istiod.istio-system.svc:15012",
        "proxyAdminPort": 15000,
        "controlPlaneAuthPolicy": "MUTUAL_TLS",
        "statNameLength": 189,
        "statusPort": 15020,
    });
    match defaults {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(variable: &str, annotations: &[(&str, &str)]) -> Result<ProxyConfig, EnvironmentError> {
        let variables = Variables::new([(VARIABLE.to_owned(), variable.to_owned())].into());
        let annotations = annotations
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        ProxyConfig::read(&variables, &annotations)
    }

    #[test]
    fn later_ones_replace_earlier_ones_and_metadata_is_merged() {
        let config = read(
            "{\"drainDuration\":\"10s\",\"terminationDrainDuration\":\"7s\",\
             \"proxyMetadata\":{\"A\":\"1\",\"B\":\"1\"}}\n",
            &[
                (
                    ANNOTATION,
                    "discoveryAddress: elsewhere:15012\nconcurrency: 3\nproxyMetadata:\n  B: \"2\"\n  EXIT_ON_ZERO_ACTIVE_CONNECTIONS: true\n",
                ),
                (STATUS_PORT_ANNOTATION, "16020"),
            ],
        )
        .unwrap();
        assert_eq!(config.text("discoveryAddress"), Some("elsewhere:15012"));
        assert_eq!(config.text("controlPlaneAuthPolicy"), Some("MUTUAL_TLS"));
        let seven = Duration::from_secs(7);
        assert_eq!(config.duration("terminationDrainDuration").unwrap(), seven);
        assert_eq!(config.concurrency().unwrap(), Some(3));
        assert_eq!(config.port("statusPort").unwrap(), 16020);
        let metadata: Vec<_> = config.metadata().collect();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            metadata,
            [
                pair("A", "1"),
                pair("B", "2"),
                pair("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true")
            ]
        );
        assert_eq!(config.ignored, ["PROXY_CONFIG.drainDuration"]);
        assert_eq!(config.fields()["drainDuration"], "10s");
        assert_eq!(config.fields()["statNameLength"], 189);
    }

    #[test]
    fn the_discovery_annotation_has_the_last_word() {
        let config = read(
            "discoveryAddress: first:1",
            &[
                (ANNOTATION, "discoveryAddress: second:2"),
                (DISCOVERY_ANNOTATION, "third:3"),
            ],
        )
        .unwrap();
        assert_eq!(config.text("discoveryAddress"), Some("third:3"));
    }

    #[test]
    fn nothing_given_leaves_the_defaults() {
        for nothing in ["", "{}\n"] {
            let config = read(nothing, &[]).unwrap();
            assert_eq!(config.fields(), &defaults());
            assert!(config.ignored.is_empty());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (config, part) in [
            (read("[", &[]), VARIABLE),
            (read("just text", &[]), "not an object"),
            (read("", &[(ANNOTATION, "a: [")]), ANNOTATION),
            (
                read("", &[(STATUS_PORT_ANNOTATION, "x")]),
                STATUS_PORT_ANNOTATION,
            ),
        ] {
            let error = config.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let config = read("{terminationDrainDuration: soon, concurrency: -1}", &[]).unwrap();
        assert!(config.duration("terminationDrainDuration").is_err());
        assert!(config.concurrency().is_err());
    }
}
