//! Hosts that nobody configured: streams name them, and they are looked up when the first one does.
//!
//! A cluster of the dynamic forward proxy has a table of them (`table.rs`), which lives with its slot. Every host has a task that
//! looks it up, again whenever its answer has run out, until nobody went there for a while (`keep.rs`): streams wait for the first
//! answer only. What a client can make grow is bounded: hosts, streams that wait, lookups at a time; and a name, whoever
//! says where it is, leads to nothing that is near the process (`allowed.rs`).

pub(crate) mod allowed;
pub(crate) mod host;
pub(crate) mod keep;
pub(crate) mod table;
pub(crate) mod wanted;

use std::sync::Arc;

use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_filters::metrics::MetricRegistry;

use crate::upstream::dynamic::host::DynamicHost;
use crate::upstream::dynamic::keep::{Lookups, Peers, keep};
use crate::upstream::dynamic::table::{Full, HostTable};
use crate::upstream::dynamic::wanted::Wanted;
use crate::upstream::outside::Outside;

/// Finds hosts, for all clusters.
pub(crate) struct DynamicHosts(Arc<Lookups>);

/// Why a stream can't go to the host that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotFound {
    /// It names none, or none that there can be.
    NoName,
    /// The cluster isn't for this host.
    NotAdmitted,
    /// It was looked up; how that ended.
    Nowhere(Arc<str>),
    /// The cluster has as many hosts as it may have.
    TooManyHosts,
    /// As many streams wait as may.
    TooManyWait,
}

impl NotFound {
    /// How the lookup ended, in one word.
    pub(crate) fn reason(&self) -> &str {
        match self {
            NotFound::NoName => "cares_failure:Misformatted_domain_name",
            NotFound::NotAdmitted => "host_not_admitted",
            NotFound::Nowhere(reason) => reason,
            NotFound::TooManyHosts => "dns_cache_overflow",
            NotFound::TooManyWait => "dynamic_forward_proxy_pending_request_overflow",
        }
    }
}

impl DynamicHosts {
    pub(crate) fn new(outside: &Outside, peers: Peers, metrics: &MetricRegistry) -> DynamicHosts {
        DynamicHosts(Arc::new(Lookups::new(outside, peers, metrics)))
    }

    /// The host that a stream names, with a port or without, once it is known where it is. `None`: the cluster has endpoints of its
    /// own.
    pub(crate) async fn find(
        &self,
        slot: &Arc<ClusterSlot>,
        cluster: &Cluster,
        named: Option<&str>,
        port: Option<u16>,
    ) -> Result<Option<Arc<DynamicHost>>, NotFound> {
        let Some((cache, default_port)) = cluster.dynamic() else {
            return Ok(None);
        };
        let named = named.unwrap_or_default();
        let wanted = Wanted::parse(named, port.unwrap_or(default_port)).ok_or(NotFound::NoName)?;
        if !cluster.is_for(wanted.host) {
            tracing::warn!(cluster = %cluster.name, host = named, "a host that the cluster isn't for");
            return Err(NotFound::NotAdmitted);
        }
        let table = HostTable::of(slot);
        let key = wanted.key();
        let host = match table.get(&key) {
            Some(host) => host,
            None => {
                let added = table.add(key, &wanted, cache.max_hosts);
                let (host, is_new) = added.map_err(|Full| NotFound::TooManyHosts)?;
                if is_new {
                    let (lookups, slot) = (self.0.clone(), Arc::downgrade(slot));
                    tokio::spawn(keep(lookups, slot, host.clone()));
                }
                host
            }
        };
        host.touch();
        if !host.is_found() {
            let _waiting = table.wait(cache.max_pending).ok_or(NotFound::TooManyWait)?;
            host.looked_up().await;
        }
        match host.nowhere() {
            None => Ok(Some(host)),
            Some(reason) => Err(NotFound::Nowhere(reason)),
        }
    }
}
