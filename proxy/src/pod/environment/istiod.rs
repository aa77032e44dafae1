//! Where istiod is and how it is reached.

use std::path::{Path, PathBuf};

use waypoint_config::sources::xds::channel::{ControlPlane, KeepAlive};

use crate::pod::environment::proxy_config::ProxyConfig;
use crate::pod::environment::variables::{EnvironmentError, Variables, invalid};

const TOKEN: &str = "var/run/secrets/tokens/istio-token";
const ROOT: &str = "var/run/secrets/istio/root-cert.pem";

/// istiod's two services: configuration and certificates.
pub(crate) struct Istiod {
    pub(crate) discovery: ControlPlane,
    pub(crate) ca: ControlPlane,
}

impl Istiod {
    /// # Errors
    /// A setting can't be understood, or asks for what isn't there.
    pub(crate) fn read(
        variables: &Variables,
        config: &ProxyConfig,
        cluster_id: &str,
        root: &Path,
    ) -> Result<Istiod, EnvironmentError> {
        let default = KeepAlive::default();
        let keepalive = KeepAlive {
            interval: variables.duration("GRPC_KEEPALIVE_INTERVAL", default.interval)?,
            timeout: variables.duration("GRPC_KEEPALIVE_TIMEOUT", default.timeout)?,
        };
        let plane = |address: &str, plain: bool, prefix: &str, root_variable: &str| {
            Ok::<_, EnvironmentError>(ControlPlane {
                address: address.to_owned(),
                server_name: variables.text("ISTIOD_SAN").map(str::to_owned),
                root: match variables.text(root_variable) {
                    _ if plain => None,
                    None => Some(root.join(ROOT)),
                    Some("SYSTEM") => {
                        let reason = "the system's roots are not supported; name a file";
                        return Err(invalid(root_variable, "SYSTEM", reason));
                    }
                    Some(file) => Some(PathBuf::from(file)),
                },
                token: root.join(TOKEN),
                cluster_id: cluster_id.to_owned(),
                headers: variables
                    .with_prefix(prefix)
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                keepalive,
            })
        };
        let discovery = config.text("discoveryAddress").unwrap_or_default();
        let plain = config.text("controlPlaneAuthPolicy") == Some("NONE");
        let ca = variables.text("CA_ADDR").unwrap_or(discovery);
        Ok(Istiod {
            discovery: plane(discovery, plain, "XDS_HEADER_", "XDS_ROOT_CA")?,
            ca: plane(ca, ca.ends_with(":15010"), "CA_HEADER_", "CA_ROOT_CA")?,
        })
    }
}
