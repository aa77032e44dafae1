//! What all parts of a Telemetry have: whose view is meant, and to which providers it goes.

use serde::Deserialize;

/// Whose view of traffic is meant. A waypoint has a server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    #[default]
    ClientAndServer,
    Client,
    Server,
}

impl Mode {
    pub fn is_of_servers(self) -> bool {
        self != Mode::Client
    }
}

/// An extension provider of MeshConfig, by its name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderRef {
    pub name: String,
}

/// `match`, where a mode is all that it may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModeMatch {
    pub mode: Mode,
}
