//! The gRPC connection to the control plane: TLS by its own root, the service account's token on every call.
//!
//! Token and root are read again for each connection and call: kubelet rotates the one, a changed trust
//! bundle the other.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use waypoint_hbone::tls::control_plane::{ControlPlaneTls, ControlPlaneTlsError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 windows: a full push of a large mesh shall not crawl.
const WINDOW: u32 = 4 << 20;

/// Where the control plane is and how we show who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// `host:port`.
    pub address: String,
    /// What its certificate must be for, if not the address's host.
    pub server_name: Option<String>,
    /// PEM file with the roots that its certificate is checked against; `None`: plaintext.
    pub root: Option<PathBuf>,
    /// The service account's token; without the file no token is sent.
    pub token: PathBuf,
    /// `ClusterID` of the gRPC metadata.
    pub cluster_id: String,
    /// Further metadata (`XDS_HEADER_*`, `CA_HEADER_*`).
    pub headers: Vec<(String, String)>,
    pub keepalive: KeepAlive,
}

/// How a connection that says nothing is told from one that is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Time between PINGs.
    pub interval: Duration,
    /// For the answer.
    pub timeout: Duration,
}

/// As Istio's agent.
impl Default for KeepAlive {
    fn default() -> KeepAlive {
        KeepAlive {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why there is no connection. All may pass with time.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("{}: {source}", path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("TLS to {address}: {source}")]
    Tls {
        address: String,
        source: ControlPlaneTlsError,
    },
    #[error("the address {0}")]
    Address(String),
    #[error("connecting to {address}: {}", cause(source))]
    Connect {
        address: String,
        source: tonic::transport::Error,
    },
}

/// What an error comes down to: tonic's own words are "transport error".
fn cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

impl ControlPlane {
    fn host(&self) -> &str {
        self.address
            .rsplit_once(':')
            .map_or(self.address.as_str(), |(host, _)| host)
    }

    /// What the server's certificate must be for.
    pub fn name(&self) -> &str {
        match (&self.server_name, self.host()) {
            (Some(name), _) => name,
            // As Istio's agent, for port-forwards.
            (None, "localhost") => "istiod.istio-system.svc",
            (None, host) => host,
        }
    }

    /// Connects.
    pub async fn connect(&self) -> Result<Channel, ChannelError> {
        let uri = format!("http://{}", self.address);
        let endpoint = Endpoint::try_from(uri)
            .map_err(|error| ChannelError::Address(format!("{}: {error}", self.address)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(self.keepalive.interval)
            .keep_alive_timeout(self.keepalive.timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let connect = |source| ChannelError::Connect {
            address: self.address.clone(),
            source,
        };
        let Some(root) = &self.root else {
            return endpoint.connect().await.map_err(connect);
        };
        let roots = read(root).await?;
        let tls =
            ControlPlaneTls::new(&roots, self.name()).map_err(|source| ChannelError::Tls {
                address: self.address.clone(),
                source,
            })?;
        let address = self.address.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (tls, address) = (tls.clone(), address.clone());
            async move { tls.connect(&address).await.map(TokioIo::new) }
        });
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(connect)
    }

    /// The metadata of a call.
    pub async fn metadata(&self) -> MetadataMap {
        let mut map = MetadataMap::new();
        let mut insert = |name: &str, value: &str| {
            if let (Ok(name), Ok(value)) = (
                tonic::metadata::MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes()),
                MetadataValue::try_from(value),
            ) {
                map.insert(name, value);
            }
        };
        insert("clusterid", &self.cluster_id);
        for (name, value) in &self.headers {
            insert(name, value);
        }
        if let Ok(token) = tokio::fs::read_to_string(&self.token).await {
            insert("authorization", &format!("Bearer {}", token.trim()));
        }
        map
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, ChannelError> {
    tokio::fs::read(path)
        .await
        .map_err(|source| ChannelError::Root {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn control_plane(address: &str) -> ControlPlane {
        ControlPlane {
            address: address.into(),
            server_name: None,
            root: None,
            token: "/does/not/exist".into(),
            cluster_id: "Kubernetes".into(),
            headers: vec![("X-Team".into(), "blue".into())],
            keepalive: KeepAlive::default(),
        }
    }

    #[test]
    fn the_servers_name_is_the_addresss_host_unless_told() {
        assert_eq!(
            control_plane("istiod.istio-system.svc:15012").name(),
            "istiod.istio-system.svc"
        );
        assert_eq!(
            control_plane("localhost:15012").name(),
            "istiod.istio-system.svc"
        );
        let mut told = control_plane("10.0.0.1:15012");
        told.server_name = Some("istiod-canary.istio-system.svc".into());
        assert_eq!(told.name(), "istiod-canary.istio-system.svc");
    }

    #[tokio::test]
    async fn calls_say_cluster_headers_and_the_token_of_now() {
        let mut plane = control_plane("x:1");
        let metadata = plane.metadata().await;
        assert_eq!(metadata.get("clusterid").unwrap(), "Kubernetes");
        assert_eq!(metadata.get("x-team").unwrap(), "blue");
        assert!(metadata.get("authorization").is_none());
        plane.token = std::env::temp_dir().join(format!("waypoint-token-{}", std::process::id()));
        for token in ["one", "two"] {
            std::fs::write(&plane.token, format!("{token}\n")).unwrap();
            let wanted = format!("Bearer {token}");
            assert_eq!(
                plane.metadata().await.get("authorization").unwrap(),
                wanted.as_str()
            );
        }
        std::fs::remove_file(&plane.token).unwrap();
    }
}
