//! What a connection manager tells upstreams of the client, and clients of itself: `x-forwarded-*`, `via`, `x-request-id`, `server`.
//!
//! istiod lets a waypoint believe what clients say in `x-forwarded-for`, and add nothing (`use_remote_address: false`).

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager as HttpConnectionManagerProto,
    http_connection_manager::{ServerHeaderTransformation, StripPortMode},
};
use http::HeaderValue;
use waypoint_filters::xds::rejected::Refusal;

/// Headers by which proxies tell of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// Whether the client is who the tunnel comes from, and is told upstream; what it says of others doesn't count.
    pub use_remote_address: bool,
    /// So many addresses at the end of `x-forwarded-for` are proxies that are believed.
    pub trusted_hops: usize,
    /// `x-forwarded-for` stays as it is.
    pub skip_append: bool,
    /// `x-forwarded-port` is added.
    pub port: bool,
    /// This proxy's name in `via`.
    pub via: Option<HeaderValue>,
    pub server: Server,
    pub request_id: RequestIds,
    pub host: HostForm,
}

/// `server` of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// The upstream's, if it says one.
    PassThrough,
    Overwrite(HeaderValue),
    IfAbsent(HeaderValue),
}

/// Which requests get an `x-request-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestIds {
    /// Those without one.
    pub generate: bool,
    /// And, where the client isn't believed, those with one of its own.
    pub replace: bool,
    /// Answers say it.
    pub in_response: bool,
}

/// In which form policy, routes and upstream see the authority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostForm {
    pub strip_port: StripPort,
    /// `host.` is `host`.
    pub strip_trailing_dot: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    #[default]
    No,
    /// The one that the client connected to.
    Matching,
    Any,
}

impl Forwarding {
    pub(crate) fn from_proto(proto: &HttpConnectionManagerProto) -> Result<Forwarding, Refusal> {
        let use_remote_address = proto.use_remote_address.as_ref().is_some_and(|u| u.value);
        let via = match proto.via.as_str() {
            "" => None,
            via => Some(value(via, "via")?),
        };
        Ok(Forwarding {
            use_remote_address,
            trusted_hops: proto.xff_num_trusted_hops as usize,
            skip_append: proto.skip_xff_append,
            port: proto.append_x_forwarded_port,
            via,
            server: Server::from_proto(proto)?,
            request_id: RequestIds {
                generate: proto.generate_request_id.as_ref().is_none_or(|g| g.value),
                replace: use_remote_address && !proto.preserve_external_request_id,
                in_response: proto.always_set_request_id_in_response,
            },
            host: HostForm {
                strip_port: match (&proto.strip_port_mode, proto.strip_matching_host_port) {
                    (Some(StripPortMode::StripAnyHostPort(true)), true) => {
                        return Err(Refusal::new(
                            "strip_any_host_port",
                            "stands beside strip_matching_host_port",
                        ));
                    }
                    (Some(StripPortMode::StripAnyHostPort(true)), false) => StripPort::Any,
                    (_, true) => StripPort::Matching,
                    (_, false) => StripPort::No,
                },
                strip_trailing_dot: proto.strip_trailing_host_dot,
            },
        })
    }

    /// Whether the client's address isn't what `x-forwarded-for` says last.
    pub fn decides_client(&self) -> bool {
        self.use_remote_address || self.trusted_hops > 0
    }
}

impl Server {
    fn from_proto(proto: &HttpConnectionManagerProto) -> Result<Server, Refusal> {
        use ServerHeaderTransformation as Transformation;
        let name = || match proto.server_name.as_str() {
            "" => Ok(HeaderValue::from_static("envoy")),
            name => value(name, "server_name"),
        };
        match Transformation::try_from(proto.server_header_transformation) {
            Ok(Transformation::PassThrough) => Ok(Server::PassThrough),
            Ok(Transformation::Overwrite) => Ok(Server::Overwrite(name()?)),
            Ok(Transformation::AppendIfAbsent) => Ok(Server::IfAbsent(name()?)),
            Err(_) => Err(Refusal::unsupported("server_header_transformation")),
        }
    }
}

fn value(text: &str, field: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(text).map_err(|_| Refusal::new(field, "is no header value"))
}
