//! Asks name servers: those of the system, or those that were set.
//!
//! Search domains and the hosts file count as they do for any other program. Nothing is kept between two
//! lookups: when an answer is asked for again, is the cluster's to say.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use waypoint_config::model::cluster::dns::LookupFamily;

pub(crate) struct NameServers(Result<TokioResolver, String>);

/// The addresses of a name, and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// In the order given; IPv6 before IPv4, or the other way, as the family says.
    pub(crate) addresses: Vec<IpAddr>,
    /// Zero: there are none.
    pub(crate) ttl: Duration,
    /// Whether anybody knows the name at all.
    pub(crate) is_known: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("no answer in time")]
    Timeout,
    #[error("the name server fails: {0}")]
    Server(String),
    /// The name can't be asked for, nobody can be asked, …
    #[error("{0}")]
    Other(String),
}

impl Found {
    fn nothing(is_known: bool) -> Found {
        Found {
            addresses: Vec::new(),
            ttl: Duration::ZERO,
            is_known,
        }
    }
}

impl NameServers {
    pub(crate) fn new(servers: &[SocketAddr]) -> NameServers {
        let made = resolver(servers).map_err(|error| format!("no name servers: {error}"));
        NameServers(made)
    }

    /// Within `limit`, with all search domains and tries.
    ///
    /// # Errors
    /// Nobody answered, or nobody knows.
    pub(crate) async fn look_up(
        &self,
        host: &str,
        family: LookupFamily,
        limit: Duration,
    ) -> Result<Found, LookupError> {
        let looking = async {
            let v4 = || self.family(host, RecordType::A);
            let v6 = || self.family(host, RecordType::AAAA);
            match family {
                LookupFamily::V4 => v4().await,
                LookupFamily::V6 => v6().await,
                LookupFamily::V6ThenV4 => match v6().await {
                    Ok(found) if !found.addresses.is_empty() => Ok(found),
                    first => both(first, v4().await),
                },
                LookupFamily::V4ThenV6 => match v4().await {
                    Ok(found) if !found.addresses.is_empty() => Ok(found),
                    first => both(first, v6().await),
                },
                LookupFamily::Both => {
                    let (v6, v4) = tokio::join!(v6(), v4());
                    both(v6, v4)
                }
            }
        };
        let found = tokio::time::timeout(limit, looking).await;
        found.map_err(|_| LookupError::Timeout)?
    }

    async fn family(&self, host: &str, records: RecordType) -> Result<Found, LookupError> {
        let resolver = self.0.as_ref().map_err(|e| LookupError::Other(e.clone()))?;
        resolver.clear_lookup_cache(host, records);
        match resolver.lookup(host, records).await {
            Ok(lookup) => {
                let addresses = lookup.answers().iter().filter_map(|r| address(&r.data));
                let ttl = lookup
                    .valid_until()
                    .saturating_duration_since(Instant::now());
                Ok(Found {
                    addresses: addresses.collect(),
                    ttl,
                    is_known: true,
                })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NXDomain => Ok(Found::nothing(false)),
                ResponseCode::NoError => Ok(Found::nothing(true)),
                code => Err(LookupError::Server(code.to_string())),
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => {
                Err(LookupError::Server(code.to_string()))
            }
            Err(NetError::Timeout) => Err(LookupError::Timeout),
            Err(error) => Err(LookupError::Other(error.to_string())),
        }
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let (config, mut options) = match (read_system_conf(), servers) {
        (Err(error), []) => return Err(error),
        (Ok(system), []) => system,
        (system, servers) => {
            let (search, options) = match system {
                Ok((config, options)) => (config.search().to_vec(), options),
                Err(_) => (Vec::new(), ResolverOpts::default()),
            };
            let servers = servers.iter().map(name_server).collect();
            (ResolverConfig::from_parts(None, search, servers), options)
        }
    };
    options.use_hosts_file = ResolveHosts::Always;
    let provider = TokioRuntimeProvider::default();
    let builder = TokioResolver::builder_with_config(config, provider);
    builder.with_options(options).build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(at_port);
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// What two families have together. A server that fails for one of them isn't believed to have nothing of
/// it, but doesn't take the other one's addresses away.
fn both(
    first: Result<Found, LookupError>,
    second: Result<Found, LookupError>,
) -> Result<Found, LookupError> {
    match (first, second) {
        (Ok(mut found), Ok(more)) => {
            found.ttl = match (found.addresses.is_empty(), more.addresses.is_empty()) {
                (true, _) => more.ttl,
                (_, true) => found.ttl,
                _ => found.ttl.min(more.ttl),
            };
            found.is_known |= more.is_known;
            found.addresses.extend(more.addresses);
            Ok(found)
        }
        (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.addresses.is_empty() => Ok(found),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_fails_takes_nothing_from_the_other_and_empties_nothing() {
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let at = |addresses: Vec<IpAddr>, ttl| Found {
            addresses,
            ttl: Duration::from_secs(ttl),
            is_known: true,
        };
        let found = |n: u8, ttl| Ok(at(vec![ip(n)], ttl));
        let none = || Ok(at(Vec::new(), 0));
        let failed = || Err(LookupError::Server("SERVFAIL".to_owned()));
        assert_eq!(
            both(found(1, 9), found(2, 5)).unwrap(),
            at(vec![ip(1), ip(2)], 5)
        );
        assert_eq!(both(found(1, 9), none()), found(1, 9));
        assert_eq!(both(none(), found(2, 5)), found(2, 5));
        assert_eq!(both(failed(), found(2, 5)), found(2, 5));
        assert_eq!(both(found(1, 9), failed()), found(1, 9));
        assert_eq!(both(none(), none()), none());
        assert_eq!(both(none(), failed()), failed());
        assert_eq!(both(failed(), none()), failed());
    }
}
