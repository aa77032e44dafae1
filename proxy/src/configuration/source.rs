//! Where configuration comes from, and why there may be none.

use std::path::PathBuf;

use envoy_types::pb::envoy::config::core::v3::Node;
use waypoint_config::sources::xds::channel::ControlPlane;
use waypoint_config::standalone::LoadError;

/// Where configuration comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigSource {
    /// Files and folders of Kubernetes manifests, and which Gateway this process is (`NS/NAME`;
    /// `None`: the only one of class `istio-waypoint`).
    Manifests {
        paths: Vec<PathBuf>,
        gateway: Option<String>,
    },
    /// Recorded delta discovery responses; read once.
    XdsFile(PathBuf),
    /// A live istiod, and what it is told of us.
    Istiod {
        plane: ControlPlane,
        node: Box<Node>,
    },
}

impl std::fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ConfigSource::Manifests { paths, .. } => {
                let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
                write!(f, "manifests in {}", paths.join(", "))
            }
            ConfigSource::XdsFile(path) => write!(f, "recorded responses in {}", path.display()),
            ConfigSource::Istiod { plane, .. } => write!(f, "istiod at {}", plane.address),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--gateway {0:?}: expected NAMESPACE/NAME")]
    Gateway(String),
    #[error(transparent)]
    Manifests(#[from] LoadError),
    #[error("{}: {reason}", path.display())]
    XdsFile { path: PathBuf, reason: String },
    #[error("the configuration has no {missing}: {rejected}")]
    Incomplete {
        missing: &'static str,
        rejected: String,
    },
}
