//! The mesh's workloads by address, for telemetry.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prost::Message;
use waypoint_filters::peer::Peer;
use waypoint_filters::proto::Workload;
use waypoint_filters::rejected::Refusal;

/// Addresses kept at most.
const MAX_ADDRESSES: usize = 1_000_000;

/// The index that the data path reads; clones share it.
#[derive(Clone, Default)]
pub struct WorkloadIndex(Arc<ArcSwap<HashMap<IpAddr, Arc<Peer>>>>);

impl WorkloadIndex {
    pub fn lookup(&self, address: IpAddr) -> Option<Arc<Peer>> {
        self.0.load().get(&address.to_canonical()).cloned()
    }

    pub(crate) fn store(&self, index: HashMap<IpAddr, Arc<Peer>>) {
        self.0.store(Arc::new(index));
    }
}

/// Adds a workload's addresses to an index.
pub(crate) fn add(body: &[u8], index: &mut HashMap<IpAddr, Arc<Peer>>) -> Result<(), Refusal> {
    let workload = Workload::decode(body).map_err(|error| Refusal::new("", error.to_string()))?;
    if index.len() + workload.addresses.len() > MAX_ADDRESSES {
        return Err(Refusal::new(
            "addresses",
            format!("more than {MAX_ADDRESSES} in all"),
        ));
    }
    let peer = Arc::new(peer(&workload));
    for bytes in &workload.addresses {
        let address = match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from).ok(),
            16 => <[u8; 16]>::try_from(bytes.as_slice())
                .map(IpAddr::from)
                .ok(),
            _ => None,
        };
        let address = address.ok_or_else(|| Refusal::new("addresses", "is no IP address"))?;
        index.insert(address, peer.clone());
    }
    Ok(())
}

fn peer(workload: &Workload) -> Peer {
    let domain = match workload.trust_domain.as_str() {
        "" => "cluster.local",
        domain => domain,
    };
    let account = match workload.service_account.as_str() {
        "" => "default",
        account => account,
    };
    let namespace = &workload.namespace;
    Peer {
        name: workload.name.as_str().into(),
        workload: workload.workload_name.as_str().into(),
        namespace: namespace.as_str().into(),
        canonical_name: workload.canonical_name.as_str().into(),
        canonical_revision: workload.canonical_revision.as_str().into(),
        app: workload.canonical_name.as_str().into(),
        version: workload.canonical_revision.as_str().into(),
        cluster: workload.cluster_id.as_str().into(),
        workload_type: match workload.workload_type {
            1 => "cronjob",
            2 => "pod",
            3 => "job",
            _ => "deployment",
        }
        .into(),
        principal: format!("spiffe://{domain}/ns/{namespace}/sa/{account}").into(),
    }
}
