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

flags! {
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
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 6, "URX", "UpstreamRetryLimitExceeded";
    UPSTREAM_PROTOCOL_ERROR = 7, "UPE", "UpstreamProtocolError";
    LOCAL_RESET = 8, "LR", "LocalReset";
    NO_ROUTE = 9, "NR", "NoRouteFound";
    NO_CLUSTER = 10, "NC", "NoClusterFound";
    DOWNSTREAM_CONNECTION_TERMINATION = 11, "DC", "DownstreamConnectionTermination";
    DOWNSTREAM_PROTOCOL_ERROR = 12, "DPE", "DownstreamProtocolError";
    DOWNSTREAM_REMOTE_RESET = 13, "DR", "DownstreamRemoteReset";
    RATE_LIMITED = 14, "RL", "RateLimited";
    UNAUTHORIZED_EXTERNAL_SERVICE = 15, "UAEX", "UnauthorizedExternalService";
    FAULT_INJECTED = 16, "FI", "FaultInjected";
    DELAY_INJECTED = 17, "DI", "DelayInjected";
    STREAM_IDLE_TIMEOUT = 18, "SI", "StreamIdleTimeout";
    DURATION_TIMEOUT = 19, "DT", "DurationTimeout";
    INVALID_REQUEST_HEADERS = 20, "IH", "InvalidEnvoyRequestHeaders";
    /// A local reply of the overload manager.
    OVERLOAD_MANAGER = 21, "OM", "OverloadManagerTerminated";
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

    /// `%RESPONSE_FLAGS_LONG%`.
    pub fn long_names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .iter()
            .filter(move |(flag, ..)| self.contains(*flag))
            .map(|(.., long)| *long)
    }

    /// A single short name, or the joined ones; `-` where there is none.
    pub fn to_short(self) -> std::borrow::Cow<'static, str> {
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
        assert_eq!(flags.to_string(), "UF,URX");
        assert_eq!(
            ResponseFlags::from_short_name("NR"),
            Some(ResponseFlags::NO_ROUTE)
        );
        assert_eq!(ResponseFlags::from_short_name("nr"), None);
    }
}
