//! `trafficDistribution`: which of its endpoints a service prefers. Besides the field, annotations of objects and of
//! namespaces say it, in any case of letters.

/// The annotation.
pub const ANNOTATION: &str = "networking.istio.io/traffic-distribution";
/// What may be asked for.
pub const WORDS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];

/// How near an endpoint is to be at best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficDistribution {
    SameZone,
    SameNode,
}

impl TrafficDistribution {
    /// `None`: it is none of the words.
    pub fn parse(word: &str) -> Option<TrafficDistribution> {
        let known = WORDS
            .iter()
            .position(|known| known.eq_ignore_ascii_case(word))?;
        Some(match known {
            2 => TrafficDistribution::SameNode,
            _ => TrafficDistribution::SameZone,
        })
    }

    /// What an endpoint and the waypoint have in common, the most important first, as istiod has it.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            TrafficDistribution::SameZone => &[NETWORK, REGION, ZONE],
            TrafficDistribution::SameNode => &[NETWORK, REGION, ZONE, SUB_ZONE, NODE],
        }
    }
}

const NETWORK: &str = "topology.istio.io/network";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUB_ZONE: &str = "topology.istio.io/subzone";
const NODE: &str = "kubernetes.io/hostname";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_known_in_any_case() {
        for (word, meant) in [
            ("PreferClose", Some(TrafficDistribution::SameZone)),
            ("prefersamezone", Some(TrafficDistribution::SameZone)),
            ("PreferSameNode", Some(TrafficDistribution::SameNode)),
            ("Nearest", None),
            ("", None),
        ] {
            assert_eq!(TrafficDistribution::parse(word), meant, "{word:?}");
        }
    }
}
