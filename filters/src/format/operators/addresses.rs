//! Addresses and ports of both ends. `WITHOUT_PORT` takes a prefix length and then prints the network.

use std::net::{IpAddr, SocketAddr};

use crate::decimal;
use crate::format::FormatContext;
use crate::stream::stream_info::UpstreamInfo;

#[derive(Clone, Debug)]
pub(in crate::format) struct Address {
    end: End,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum End {
    DownstreamLocal,
    /// Whom the connection manager takes for the client.
    DownstreamRemote,
    DownstreamDirectRemote,
    UpstreamLocal,
    /// Of a connection.
    UpstreamRemote,
    /// Whether it was reached or not.
    UpstreamHost,
    /// Every endpoint that was tried, in order.
    Attempted,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    WithPort,
    WithoutPort(Option<u8>),
    Port,
}

impl Address {
    /// `None`: the name is no address's.
    pub(super) fn parse(name: &str, parameters: &str) -> Option<Address> {
        let (name, form) = if let Some(name) = name.strip_suffix("_WITHOUT_PORT") {
            // What is no number counts for nothing, as in Envoy.
            let length = parameters.parse::<u32>().ok();
            let length = length.map(|length| u8::try_from(length).unwrap_or(u8::MAX));
            (name, Form::WithoutPort(length))
        } else if let Some(name) = name.strip_suffix("_PORT") {
            (name, Form::Port)
        } else {
            (name, Form::WithPort)
        };
        let of_address = match form {
            Form::Port => Some(name),
            _ => name.strip_suffix("_ADDRESS"),
        };
        let end = match (of_address, name, form) {
            (Some("DOWNSTREAM_LOCAL" | "DOWNSTREAM_DIRECT_LOCAL"), ..) => End::DownstreamLocal,
            (Some("DOWNSTREAM_REMOTE"), ..) => End::DownstreamRemote,
            (Some("DOWNSTREAM_DIRECT_REMOTE"), ..) => End::DownstreamDirectRemote,
            (Some("UPSTREAM_LOCAL"), ..) => End::UpstreamLocal,
            (Some("UPSTREAM_REMOTE"), ..) => End::UpstreamRemote,
            (_, "UPSTREAM_HOST", Form::WithPort) | (None, "UPSTREAM_HOST_NAME", _) => {
                End::UpstreamHost
            }
            (None, "UPSTREAM_HOSTS_ATTEMPTED" | "UPSTREAM_HOST_NAMES_ATTEMPTED", _) => {
                End::Attempted
            }
            _ => return None,
        };
        Some(Address { end, form })
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self.form, Form::Port)
    }

    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let connection = &context.stream.connection;
        let upstream = context.state.upstream.as_deref();
        let address = match self.end {
            End::DownstreamLocal => Some(connection.destination),
            End::DownstreamRemote => match context.state.client {
                // A header says no port.
                Some(client) if client != connection.source.ip().to_canonical() => {
                    Some(SocketAddr::new(client, 0))
                }
                _ => Some(connection.source),
            },
            End::DownstreamDirectRemote => Some(connection.source),
            End::UpstreamLocal => upstream.and_then(|upstream| upstream.local),
            End::UpstreamRemote => context
                .state
                .connected_upstream()
                .map(|upstream| upstream.host),
            End::UpstreamHost => upstream.map(|upstream| upstream.host),
            End::Attempted => return self.write_attempted(context, upstream, out),
        };
        address.is_some_and(|address| self.form.write(address, out))
    }

    fn write_attempted(
        &self,
        context: &FormatContext<'_>,
        last: Option<&UpstreamInfo>,
        out: &mut Vec<u8>,
    ) -> bool {
        let earlier = context.state.earlier_upstreams.iter();
        let all = earlier.map(|upstream| upstream.host);
        let mut first = true;
        for host in all.chain(last.map(|upstream| upstream.host)) {
            if !first {
                out.push(b',');
            }
            first = false;
            self.form.write(host, out);
        }
        !first
    }
}

impl Form {
    fn write(self, address: SocketAddr, out: &mut Vec<u8>) -> bool {
        match self {
            Form::WithPort => decimal::socket(out, address),
            Form::WithoutPort(None) => decimal::ip(out, address.ip()),
            Form::WithoutPort(Some(length)) => {
                let (network, length) = network(address.ip(), length);
                decimal::ip(out, network);
                out.push(b'/');
                decimal::number(out, length.into());
            }
            Form::Port => decimal::number(out, address.port().into()),
        }
        true
    }
}

/// The address's network. A length beyond the address's own is that.
fn network(ip: IpAddr, length: u8) -> (IpAddr, u8) {
    match ip {
        IpAddr::V4(v4) => {
            let length = length.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (IpAddr::V4((v4.to_bits() & mask).into()), length)
        }
        IpAddr::V6(v6) => {
            let length = length.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (IpAddr::V6((v6.to_bits() & mask).into()), length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let of = |ip: [u8; 4], length| {
            let (network, length) = network(ip.into(), length);
            format!("{network}/{length}")
        };
        assert_eq!(of([127, 9, 8, 7], 16), "127.9.0.0/16");
        assert_eq!(of([127, 9, 8, 7], 0), "0.0.0.0/0");
        assert_eq!(of([127, 9, 8, 7], 33), "127.9.8.7/32");
        let (v6, length) = network(IpAddr::from([0xffff_u16; 8]), 129);
        assert_eq!((v6, length), (IpAddr::from([0xffff_u16; 8]), 128));
    }
}
