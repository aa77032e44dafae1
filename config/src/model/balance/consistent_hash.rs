//! Consistent hashing: what its two policies have in common. A key leads to the same endpoint for as long as that is there, and
//! few keys move when another one comes or goes.
//!
//! A table is made when endpoints change, on the control thread, and for a priority as a whole: of its healthy endpoints, or of all
//! where it panics. A request only looks its hash up.

use std::sync::Arc;

use crate::model::balance::hash_share::shares;
use crate::model::balance::maglev::Maglev;
use crate::model::balance::policy::{Balancing, LbPolicy};
use crate::model::balance::ring_hash::Ring;
use crate::model::endpoint::{Endpoint, Locality};

/// Where hashes lead to, as positions among the endpoints of a priority.
#[derive(Debug)]
pub(crate) enum HashTable {
    Ring(Ring),
    Maglev(Maglev),
}

impl HashTable {
    /// `None`: the policy has no table.
    pub(crate) fn new(
        localities: &[Locality],
        panics: bool,
        balancing: &Balancing,
    ) -> Option<HashTable> {
        let shares = || shares(localities, panics, balancing.by_locality);
        match balancing.policy {
            LbPolicy::RingHash(settings) => Some(HashTable::Ring(Ring::new(&shares(), settings))),
            LbPolicy::Maglev { table_size } => {
                Some(HashTable::Maglev(Maglev::new(shares(), table_size)))
            }
            _ => None,
        }
    }

    /// For the first choice, or for a further one where that isn't wanted.
    pub(crate) fn choose<'a>(
        &self,
        endpoints: &'a [Arc<Endpoint>],
        hash: u64,
        further: u32,
    ) -> Option<&'a Arc<Endpoint>> {
        let position = match self {
            HashTable::Ring(ring) => ring.position(hash, further),
            HashTable::Maglev(maglev) => maglev.position(hash, further),
        };
        endpoints.get(position? as usize)
    }
}
