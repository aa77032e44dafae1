//! A tag that configuration adds to spans: what its value is made of. Telemetry and MeshConfig's `defaultConfig.tracing` have
//! them.

use serde::Deserialize;

/// One of these, or none: a tag without a value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CustomTag {
    pub literal: Option<Literal>,
    pub environment: Option<Environment>,
    pub header: Option<Header>,
    pub formatter: Option<Literal>,
}

/// A text, or a format of logs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Literal {
    pub value: String,
}

/// A variable of the waypoint's environment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Environment {
    pub name: String,
    #[serde(default)]
    pub default_value: String,
}

/// A header of the request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    pub name: String,
    #[serde(default)]
    pub default_value: String,
}
