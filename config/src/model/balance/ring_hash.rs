//! Ring hash (`RING_HASH`): every endpoint has places on a ring of all hashes, and a key belongs to the next place.
//!
//! The ring is Envoy's, place by place, so that a waypoint can stand in for Envoy without moving keys: places are the hashes of
//! `<key of the endpoint>_<n>`, as many as the endpoint weighs. 12 bytes a place.

use envoy_types::pb::envoy::config::cluster::v3::cluster::RingHashLbConfig;
use envoy_types::pb::google::protobuf::UInt64Value;
use waypoint_filters::xds::coverage::well_known::UINT64_VALUE;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::hash_share::Share;
use crate::model::balance::murmur_hash::murmur_hash;
use crate::model::balance::xx_hash::xx_hash;

/// Envoy's.
const DEFAULT_MIN: u64 = 1024;
const MOST: u64 = 8 * 1024 * 1024;

/// How a cluster's ring is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSettings {
    min_size: u64,
    max_size: u64,
    function: HashFunction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HashFunction {
    Xx,
    Murmur2,
}

pub(crate) static RING_HASH_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.RingHashLbConfig",
    fields: &[
        honoured(1, "minimum_ring_size").of(&UINT64_VALUE),
        honoured(3, "hash_function"),
        honoured(4, "maximum_ring_size").of(&UINT64_VALUE),
    ],
    refused: "",
    required: &[],
};

impl RingSettings {
    pub(crate) fn from_proto(proto: Option<&RingHashLbConfig>) -> Result<RingSettings, Refusal> {
        let size = |value: Option<&UInt64Value>, default, field: &str| match value {
            None => Ok(default),
            Some(UInt64Value { value: 1..=MOST }) => Ok(value.map_or(default, |v| v.value)),
            Some(_) => Err(Refusal::new(field, format!("is not in 1..={MOST}"))),
        };
        let min = proto.and_then(|p| p.minimum_ring_size.as_ref());
        let max = proto.and_then(|p| p.maximum_ring_size.as_ref());
        let settings = RingSettings {
            min_size: size(min, DEFAULT_MIN, "ring_hash_lb_config.minimum_ring_size")?,
            max_size: size(max, MOST, "ring_hash_lb_config.maximum_ring_size")?,
            function: match proto.map_or(0, |p| p.hash_function) {
                0 => HashFunction::Xx,
                1 => HashFunction::Murmur2,
                _ => {
                    let field = "ring_hash_lb_config.hash_function";
                    return Err(Refusal::new(field, "unknown value"));
                }
            },
        };
        if settings.min_size > settings.max_size {
            return Err(Refusal::new(
                "ring_hash_lb_config.minimum_ring_size",
                format!("is above maximum_ring_size, {}", settings.max_size),
            ));
        }
        Ok(settings)
    }
}

/// The places, by their hash.
#[derive(Debug)]
pub(crate) struct Ring {
    hashes: Box<[u64]>,
    positions: Box<[u32]>,
}

impl Ring {
    pub(crate) fn new(shares: &[Share], settings: RingSettings) -> Ring {
        let least = shares.iter().map(|s| s.weight).fold(1.0, f64::min);
        // So many that the lightest endpoint has a whole number.
        let whole = (least * settings.min_size as f64).ceil() / least;
        let scale = whole.min(settings.max_size as f64);
        let mut places = Vec::with_capacity(if shares.is_empty() {
            0
        } else {
            scale.ceil() as usize
        });
        let mut made = 0.0;
        let mut due = 0.0;
        let mut key = String::new();
        for share in shares {
            due += scale * share.weight;
            key.clear();
            key.push_str(&share.key);
            key.push('_');
            let prefix = key.len();
            let mut n: u64 = 0;
            while made < due {
                key.truncate(prefix);
                key.push_str(&n.to_string());
                let hash = match settings.function {
                    HashFunction::Xx => xx_hash(key.as_bytes()),
                    HashFunction::Murmur2 => murmur_hash(key.as_bytes()),
                };
                places.push((hash, share.position));
                n += 1;
                made += 1.0;
            }
        }
        places.sort_unstable_by_key(|(hash, _)| *hash);
        Ring {
            hashes: places.iter().map(|(hash, _)| *hash).collect(),
            positions: places.iter().map(|(_, position)| *position).collect(),
        }
    }

    /// The first place from `hash` on; a further choice is so many places on. `None`: there is nobody.
    pub(crate) fn position(&self, hash: u64, further: u32) -> Option<u32> {
        let first = self.hashes.partition_point(|place| *place < hash);
        let first = if first == self.hashes.len() { 0 } else { first };
        let place = (first + further as usize).checked_rem(self.hashes.len())?;
        self.positions.get(place).copied()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::balance::hash_share::tests::{moved_when_one_leaves, spread, weighing};

    fn settings(min_size: u64, max_size: u64) -> RingSettings {
        RingSettings {
            min_size,
            max_size,
            function: HashFunction::Xx,
        }
    }

    fn size(weights: &[u32], min: u64, max: u64) -> usize {
        let ring = Ring::new(&weighing(weights), settings(min, max));
        ring.hashes.len()
    }

    #[test]
    fn the_lightest_has_a_whole_number_of_places_and_the_ring_its_bounds() {
        assert_eq!(size(&[1, 1, 1], 1024, MOST), 1026);
        assert_eq!(size(&[1; 4], 1024, MOST), 1024);
        assert_eq!(size(&[1, 999], 10, MOST), 1000);
        assert_eq!(size(&[1, 999], 10, 100), 100);
        assert_eq!(size(&[1; 7], 1, 3), 3);
        assert_eq!(size(&[], 1024, MOST), 0);
        let none = Ring::new(&[], settings(1024, MOST));
        assert_eq!(none.position(7, 0), None);
    }

    #[test]
    fn a_key_belongs_to_the_next_place_and_further_choices_walk_on() {
        let ring = Ring::new(&weighing(&[1, 1, 1]), settings(12, 12));
        for (place, hash) in ring.hashes.iter().enumerate() {
            let at = |place: usize| Some(ring.positions[place % 12]);
            assert_eq!(ring.position(*hash, 0), at(place));
            assert_eq!(ring.position(hash + 1, 0), at(place + 1));
            assert_eq!(ring.position(*hash, 5), at(place + 5));
        }
        assert_eq!(ring.position(0, 0), Some(ring.positions[0]));
        assert_eq!(ring.position(u64::MAX, 0), Some(ring.positions[0]));
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let ring = Ring::new(&weighing(&[1, 3]), settings(4096, MOST));
        let spread = spread(2, 10_000, |hash| ring.position(hash, 0));
        assert!((2300..2700).contains(&spread[0]), "{spread:?}");
    }

    #[test]
    fn keys_of_those_that_stay_stay() {
        let shares = weighing(&[1; 8]);
        let before = Ring::new(&shares, settings(1024, MOST));
        let mut left = shares.clone();
        left.remove(4);
        left.iter_mut().for_each(|share| share.weight = 1.0 / 7.0);
        let after = Ring::new(&left, settings(1024, MOST));
        let moved = moved_when_one_leaves(
            8,
            |hash| before.position(hash, 0),
            |hash| after.position(hash, 0),
        );
        // Those who stay get some more places.
        assert!(moved < 180, "{moved} of 1000");
    }

    #[test]
    fn sizes_have_bounds() {
        let value = |value| Some(UInt64Value { value });
        let of = |min, max, hash_function| {
            RingSettings::from_proto(Some(&RingHashLbConfig {
                minimum_ring_size: min,
                maximum_ring_size: max,
                hash_function,
            }))
            .map_err(|refusal| refusal.field)
        };
        let nothing = RingSettings::from_proto(None).unwrap();
        assert_eq!(nothing, settings(1024, MOST));
        assert_eq!(of(value(1), value(1), 0).unwrap(), settings(1, 1));
        let field = |name: &str| format!("ring_hash_lb_config.{name}");
        let min = field("minimum_ring_size");
        assert_eq!(of(value(0), None, 0), Err(min.clone()));
        assert_eq!(of(value(MOST + 1), None, 0), Err(min.clone()));
        assert_eq!(of(None, value(1023), 0), Err(min));
        assert!(of(None, None, 2).is_err());
        assert!(of(None, None, 1).is_ok());
    }
}
