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
use waypoint_config::model::cluster::dns::{Answer, LookupFamily, Question};

/// How long a lookup may take, with all search domains and tries.
const LOOKUP: Duration = Duration::from_secs(15);

pub(crate) struct NameServers(Result<TokioResolver, String>);

/// Addresses of one family, and how long they hold.
type Found = (Vec<IpAddr>, Duration);

impl NameServers {
    pub(crate) fn new(servers: &[SocketAddr]) -> NameServers {
        let made = resolver(servers).map_err(|error| format!("no name servers: {error}"));
        NameServers(made)
    }

    /// # Errors
    /// Nobody answered, or nobody knows.
    pub(crate) async fn look_up(&self, question: &Question) -> Result<Answer, String> {
        let host = &*question.host;
        let looking = async {
            let v4 = || self.family(host, RecordType::A);
            let v6 = || self.family(host, RecordType::AAAA);
            match question.how.family {
                LookupFamily::V4 => v4().await,
                LookupFamily::V6 => v6().await,
                LookupFamily::V6ThenV4 => match v6().await {
                    Ok((found, ttl)) if !found.is_empty() => Ok((found, ttl)),
                    first => both(first, v4().await),
                },
                LookupFamily::V4ThenV6 => match v4().await {
                    Ok((found, ttl)) if !found.is_empty() => Ok((found, ttl)),
                    first => both(first, v6().await),
                },
                LookupFamily::Both => {
                    let (v6, v4) = tokio::join!(v6(), v4());
                    both(v6, v4)
                }
            }
        };
        let found = tokio::time::timeout(LOOKUP, looking).await;
        let (addresses, ttl) = found.map_err(|_| "no answer in time".to_owned())??;
        Ok(Answer::Addresses { addresses, ttl })
    }

    async fn family(&self, host: &str, records: RecordType) -> Result<Found, String> {
        let resolver = self.0.as_ref().map_err(Clone::clone)?;
        resolver.clear_lookup_cache(host, records);
        match resolver.lookup(host, records).await {
            Ok(lookup) => {
                let addresses = lookup.answers().iter().filter_map(|r| address(&r.data));
                let ttl = lookup
                    .valid_until()
                    .saturating_duration_since(Instant::now());
                Ok((addresses.collect(), ttl))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if matches!(
                    none.response_code,
                    ResponseCode::NXDomain | ResponseCode::NoError
                ) =>
            {
                Ok((Vec::new(), Duration::ZERO))
            }
            Err(error) => Err(error.to_string()),
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
fn both(first: Result<Found, String>, second: Result<Found, String>) -> Result<Found, String> {
    match (first, second) {
        (Ok((mut found, ttl)), Ok((more, other))) => {
            let ttl = match (found.is_empty(), more.is_empty()) {
                (true, _) => other,
                (_, true) => ttl,
                _ => ttl.min(other),
            };
            found.extend(more);
            Ok((found, ttl))
        }
        (Ok((found, ttl)), Err(_)) | (Err(_), Ok((found, ttl))) if !found.is_empty() => {
            Ok((found, ttl))
        }
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
        let found = |n: u8, ttl| Ok((vec![ip(n)], Duration::from_secs(ttl)));
        let none = || Ok((Vec::new(), Duration::ZERO));
        let failed = || Err("SERVFAIL".to_owned());
        assert_eq!(
            both(found(1, 9), found(2, 5)).unwrap(),
            (vec![ip(1), ip(2)], Duration::from_secs(5))
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
