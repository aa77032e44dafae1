//! `loadBalancer` of a traffic policy: who of a cluster's endpoints gets a request.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;

use crate::standalone::input::duration::{check_whole_millis, optional_duration};
use crate::standalone::kinds::refusal::{Refusal, below, refusal};
use crate::standalone::kinds::traffic_policy::locality::{LocalityLb, ZoneAwareLb};

/// Bound of a Maglev table, exclusive.
const MAGLEV_TABLE: u64 = 5_000_011;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LoadBalancer {
    pub simple: Option<Simple>,
    pub consistent_hash: Option<ConsistentHash>,
    pub locality_lb_setting: Option<LocalityLb>,
    /// A waypoint doesn't know its peers, which this needs.
    pub zone_aware_lb_setting: Option<ZoneAwareLb>,
    /// The window of `warmup` alone; `warmup` comes before it.
    #[serde(deserialize_with = "optional_duration")]
    pub warmup_duration_secs: Option<Duration>,
    pub warmup: Option<Warmup>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Simple {
    Unspecified,
    LeastConn,
    Random,
    Passthrough,
    RoundRobin,
    LeastRequest,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ConsistentHash {
    pub http_header_name: Option<String>,
    pub http_cookie: Option<HttpCookie>,
    pub use_source_ip: Option<bool>,
    pub http_query_parameter_name: Option<String>,
    pub ring_hash: Option<RingHash>,
    pub maglev: Option<Maglev>,
    pub minimum_ring_size: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpCookie {
    pub name: String,
    pub path: String,
    /// Without it no cookie is made; a request without one goes anywhere.
    #[serde(deserialize_with = "optional_duration")]
    pub ttl: Option<Duration>,
    pub attributes: Vec<CookieAttribute>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CookieAttribute {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RingHash {
    pub minimum_ring_size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Maglev {
    pub table_size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Warmup {
    #[serde(deserialize_with = "optional_duration")]
    pub duration: Option<Duration>,
    pub minimum_percent: Option<f64>,
    pub aggression: Option<f64>,
}

impl LoadBalancer {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.simple.is_some() && self.consistent_hash.is_some() {
            let reason = "only one of simple and consistentHash may be given";
            return Err(refusal("simple", reason));
        }
        if let Some(hash) = &self.consistent_hash {
            hash.check().map_err(below("consistentHash"))?;
        }
        if self.locality_lb_setting.is_some() && self.zone_aware_lb_setting.is_some() {
            let reason = "only one of localityLbSetting and zoneAwareLbSetting may be given";
            return Err(refusal("zoneAwareLbSetting", reason));
        }
        if let Some(setting) = &self.locality_lb_setting {
            setting.check().map_err(below("localityLbSetting"))?;
        }
        if let Some(setting) = &self.zone_aware_lb_setting {
            setting.check().map_err(below("zoneAwareLbSetting"))?;
        }
        check_whole_millis("warmupDurationSecs", self.warmup_duration_secs)?;
        match &self.warmup {
            Some(warmup) => warmup.check().map_err(below("warmup")),
            None => Ok(()),
        }
    }
}

impl Warmup {
    fn check(&self) -> Result<(), Refusal> {
        if self.duration.is_none() {
            return Err(refusal("duration", "is required"));
        }
        check_whole_millis("duration", self.duration)?;
        let percent = self.minimum_percent.unwrap_or(0.0);
        if !(0.0..=100.0).contains(&percent) {
            return Err(refusal("minimumPercent", "must be between 0 and 100"));
        }
        if self.aggression.is_some_and(|aggression| aggression <= 0.0) {
            return Err(refusal("aggression", "must be more than 0"));
        }
        Ok(())
    }
}

impl ConsistentHash {
    fn check(&self) -> Result<(), Refusal> {
        let keys = [
            self.http_header_name.is_some(),
            self.http_cookie.is_some(),
            self.use_source_ip.is_some(),
            self.http_query_parameter_name.is_some(),
        ];
        if keys.iter().filter(|given| **given).count() > 1 {
            let reason = "only one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName may be given";
            return Err(refusal("", reason));
        }
        if self.ring_hash.is_some() && self.maglev.is_some() {
            let reason = "only one of ringHash and maglev may be given";
            return Err(refusal("maglev", reason));
        }
        let algorithm = self.ring_hash.is_some() || self.maglev.is_some();
        if self.minimum_ring_size != 0 && algorithm {
            let reason = "may not be given beside ringHash or maglev";
            return Err(refusal("minimumRingSize", reason));
        }
        if let Some(cookie) = &self.http_cookie {
            cookie.check().map_err(below("httpCookie"))?;
        }
        match self.maglev {
            Some(maglev) if maglev.table_size >= MAGLEV_TABLE => {
                let reason = format!("must be less than {MAGLEV_TABLE}");
                Err(refusal("maglev.tableSize", reason))
            }
            Some(maglev) if !is_prime(maglev.table_size) => {
                Err(refusal("maglev.tableSize", "must be a prime number"))
            }
            _ => Ok(()),
        }
    }
}

impl HttpCookie {
    fn check(&self) -> Result<(), Refusal> {
        if self.name.is_empty() {
            return Err(refusal("name", "is required"));
        }
        let mut names = HashSet::new();
        for (index, attribute) in self.attributes.iter().enumerate() {
            let reason = match attribute.name.as_str() {
                "" => "is required".to_owned(),
                name if !names.insert(name) => format!("{name:?} is given twice"),
                _ => continue,
            };
            return Err(refusal(format!("attributes[{index}].name"), reason));
        }
        Ok(())
    }
}

/// As Envoy has it, for which 1 is one, too.
fn is_prime(number: u64) -> bool {
    match number {
        0 => false,
        1..=3 => true,
        even if even % 2 == 0 => false,
        odd => (3..)
            .step_by(2)
            .take_while(|factor| factor * factor <= odd)
            .all(|factor| odd % factor != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes() {
        let found: Vec<u64> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(found, [1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && !is_prime(65_535));
    }
}
