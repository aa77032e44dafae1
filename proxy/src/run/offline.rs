//! Configuration as it would be in force, without ports, threads for data, or anything sent: for those who only ask.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use parking_lot::Mutex;
use waypoint_config::standalone::Pace;
use waypoint_config::store::SnapshotHandle;
use waypoint_config::store::received::Received;
use waypoint_hbone::identity::Identity;

use crate::configuration::source::ConfigSource;
use crate::configuration::{Configurator, Loaded};
use crate::identity::certificates::{CertificateSource, CertificateSourceError};
use crate::process::vitals::Vitals;
use crate::run::{Core, RunOptions, StartError};

/// What a process with this configuration would serve by.
pub(crate) struct Offline {
    pub(crate) snapshot: SnapshotHandle,
    pub(crate) received: Received,
    /// What of it isn't honoured.
    pub(crate) problems: Arc<Mutex<Vec<String>>>,
    /// Who the waypoint would be.
    pub(crate) identity: Identity,
    /// Keeps what the snapshot refers to.
    _configurator: Configurator,
}

impl Offline {
    /// Reads a source once. Blocks on the disk.
    ///
    /// # Errors
    /// A process would not start with it.
    pub(crate) fn read(source: ConfigSource) -> Result<Offline, StartError> {
        let nobody = CertificateSource::DevCa(std::path::PathBuf::new());
        let options = RunOptions::new(source, nobody);
        let loaded = Loaded::read(&options.source, Pace::of(options.poll))?;
        let identity = loaded.identity().map_err(CertificateSourceError::from)?;
        let core = Core::new(&options, &Vitals::new(), &Node::default())?;
        let (snapshot, received) = (core.store.handle(), core.store.received());
        let configurator = Configurator::new(core.store, loaded, core.tls, core.metrics);
        configurator.complete()?;
        Ok(Offline {
            snapshot,
            received,
            problems: configurator.problems(),
            identity,
            _configurator: configurator,
        })
    }
}
