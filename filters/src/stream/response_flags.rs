//! Response flags: why a stream ended as it did, in Envoy's two-letter names.

use std::fmt;

/// A set of flags; `%RESPONSE_FLAGS%` prints them joined by commas, or `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: ResponseFlags = ResponseFlags(1 << $bit);)*
            const NAMES: &'static [(ResponseFlags, &'static str, &'static str)] =
                &[$((ResponseFlags::$name, $short, $long)),*];
        }
    };
}

// Envoy prints flags in the order in which they were set: that there is no further attempt comes before why.
flags! {
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 6, "URX", "UpstreamRetryLimitExceeded";
    /// No healthy upstream endpoint.
    NO_HEALTHY_UPSTREAM = 0, "UH", "NoHealthyUpstream";
    /// The upstream connection could not be made.
    UPSTREAM_CONNECTION_FAILURE = 1, "UF", "UpstreamConnectionFailure";
    /// The upstream closed the connection before it answered.
    UPSTREAM_CONNECTION_TERMINATION = 2, "UC", "UpstreamConnectionTermination";
    /// The upstream reset the stream.
    UPSTREAM_REMOTE_RESET = 3, "UR", "UpstreamRemoteReset";
    UPSTREAM_REQUEST_TIMEOUT = 4, "UT", "UpstreamRequestTimeout";
    UPSTREAM_OVERFLOW = 5, "UO", "UpstreamOverflow";
    UPSTREAM_PROTOCOL_ERROR = 7, "UPE", "UpstreamProtocolError";
    LOCAL_RESET = 8, "LR", "LocalReset";
    NO_ROUTE = 9, "NR", "NoRouteFound";
    NO_CLUSTER = 10, "NC", "NoClusterFound";
    DOWNSTREAM_CONNECTION_TERMINATION = 11, "DC", "DownstreamConnectionTermination";
    DOWNSTREAM_PROTOCOL_ERROR = 12, "DPE", "DownstreamProtocolError";
    DOWNSTREAM_REMOTE_RESET = 13, "DR", "DownstreamRemoteReset";
    RATE_LIMITED = 14, "RL", "RateLimited";
    UNAUTHORIZED_EXTERNAL_SERVICE = 15, "UAEX", "UnauthorizedExternalService";
    DELAY_INJECTED = 17, "DI", "DelayInjected";
    FAULT_INJECTED = 16, "FI", "FaultInjected";
    STREAM_IDLE_TIMEOUT = 18, "SI", "StreamIdleTimeout";
    DURATION_TIMEOUT = 19, "DT", "DurationTimeout";
    INVALID_REQUEST_HEADERS = 20, "IH", "InvalidEnvoyRequestHeaders";
    /// A local reply of the overload manager.
    OVERLOAD_MANAGER = 21, "OM", "OverloadManagerTerminated";
    /// A host that a request named can't be looked up.
    DNS_RESOLUTION_FAILED = 23, "DF", "DnsResolutionFailed";
    /// Configuration for this chain was refused and it is closed; ours, not Envoy's.
    CONFIGURATION_REFUSED = 22, "CR", "ConfigurationRefused";
}

impl ResponseFlags {
    pub fn insert(&mut self, other: ResponseFlags) {
        self.0 |= other.0;
    }

    pub fn contains(self, other: ResponseFlags) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn intersects(self, other: ResponseFlags) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flag with this short name, as `response_flag_filter` names it.
    pub fn from_short_name(name: &str) -> Option<ResponseFlags> {
        Self::NAMES
            .iter()
            .find(|(_, short, _)| *short == name)
            .map(|(flag, ..)| *flag)
    }

    /// As expressions see them in Envoy: its own bits, which its API has fixed.
    pub fn envoys_bits(self) -> u64 {
        const BITS: [(ResponseFlags, u32); 23] = [
            (ResponseFlags::NO_HEALTHY_UPSTREAM, 1),
            (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, 2),
            (ResponseFlags::LOCAL_RESET, 3),
            (ResponseFlags::UPSTREAM_REMOTE_RESET, 4),
            (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, 5),
            (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, 6),
            (ResponseFlags::UPSTREAM_OVERFLOW, 7),
            (ResponseFlags::NO_ROUTE, 8),
            (ResponseFlags::DELAY_INJECTED, 9),
            (ResponseFlags::FAULT_INJECTED, 10),
            (ResponseFlags::RATE_LIMITED, 11),
            (ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE, 12),
            (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, 14),
            (ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED, 15),
            (ResponseFlags::STREAM_IDLE_TIMEOUT, 16),
            (ResponseFlags::INVALID_REQUEST_HEADERS, 17),
            (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, 18),
            (ResponseFlags::DURATION_TIMEOUT, 22),
            (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, 23),
            (ResponseFlags::NO_CLUSTER, 24),
            (ResponseFlags::OVERLOAD_MANAGER, 25),
            (ResponseFlags::DNS_RESOLUTION_FAILED, 26),
            (ResponseFlags::DOWNSTREAM_REMOTE_RESET, 28),
        ];
        let set = BITS.iter().filter(|(flag, _)| self.contains(*flag));
        set.fold(0, |all, (_, bit)| all | (1 << bit))
    }

    /// `%RESPONSE_FLAGS_LONG%`.
    pub fn long_names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .iter()
            .filter(move |(flag, ..)| self.contains(*flag))
            .map(|(.., long)| *long)
    }

    /// A single short name, or the joined ones; `-` where there is none.
    pub fn to_short(self) -> std::borrow::Cow<'static, str> {
        if self.is_empty() {
            return "-".into();
        }
        let mut names = Self::NAMES
            .iter()
            .filter(|(flag, ..)| self.contains(*flag))
            .map(|(_, short, _)| *short);
        match (names.next(), names.next()) {
            (None, _) => "-".into(),
            (Some(one), None) => one.into(),
            (Some(one), Some(two)) => {
                let mut joined = format!("{one},{two}");
                for name in names {
                    joined.push(',');
                    joined.push_str(name);
                }
                joined.into()
            }
        }
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_short_names_joined_by_commas() {
        let mut flags = ResponseFlags::default();
        assert_eq!(flags.to_string(), "-");
        flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.to_string(), "UF");
        flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        assert_eq!(flags.to_string(), "URX,UF");
        assert_eq!(
            ResponseFlags::from_short_name("NR"),
            Some(ResponseFlags::NO_ROUTE)
        );
        assert_eq!(ResponseFlags::from_short_name("nr"), None);
    }
}
