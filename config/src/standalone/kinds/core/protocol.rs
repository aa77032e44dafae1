//! The application protocol of a port.
//!
//! It comes from `appProtocol`, else from the port's name up to the first hyphen, else some well-known ports are TCP;
//! everything else is unknown and sniffed.

use crate::standalone::kinds::core::port::Transport;

/// SMTP, DNS, MySQL and MongoDB: servers there speak first, or at least not HTTP.
const TCP_PORTS: &[u16] = &[25, 53, 3306, 27017];

/// Application protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Http2,
    HttpProxy,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    /// Plain TCP and what is treated so here: Mongo, Redis, MySQL, HBONE.
    Tcp,
    /// UDP and SCTP: a waypoint carries neither.
    Udp,
    /// Not told: HTTP and TCP chains, and a look at the first bytes.
    Unknown,
}

impl Protocol {
    /// A protocol's name as Istio spells it in `appProtocol`, port names and ServiceEntry ports.
    pub fn parse(name: &str) -> Protocol {
        match name.to_ascii_lowercase().as_str() {
            "http" => Protocol::Http,
            "http2" => Protocol::Http2,
            "http_proxy" => Protocol::HttpProxy,
            "grpc" => Protocol::Grpc,
            "grpc-web" => Protocol::GrpcWeb,
            "https" => Protocol::Https,
            "tls" => Protocol::Tls,
            "tcp" | "mongo" | "redis" | "mysql" | "hbone" | "doublehbone" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => Protocol::Unknown,
        }
    }

    /// Of a Service's port with this number, `name` and `appProtocol`.
    pub(super) fn of_port<'a>(
        transport: Transport,
        number: u16,
        mut name: &'a str,
        app_protocol: Option<&'a str>,
    ) -> Protocol {
        if transport != Transport::Tcp {
            return Protocol::Udp;
        }
        if let Some(app_protocol) = app_protocol {
            match app_protocol {
                "kubernetes.io/h2c" => return Protocol::Http2,
                "kubernetes.io/ws" => return Protocol::Http,
                "kubernetes.io/wss" => return Protocol::Https,
                other => name = other,
            }
        }
        if name
            .get(..8)
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case("grpc-web"))
        {
            return Protocol::GrpcWeb;
        }
        match Protocol::parse(name.split('-').next().unwrap_or(name)) {
            Protocol::Unknown if TCP_PORTS.contains(&number) => Protocol::Tcp,
            protocol => protocol,
        }
    }

    pub fn is_http(self) -> bool {
        matches!(
            self,
            Protocol::Http
                | Protocol::Http2
                | Protocol::HttpProxy
                | Protocol::Grpc
                | Protocol::GrpcWeb
        )
    }

    pub fn is_http2(self) -> bool {
        matches!(self, Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb)
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Protocol::Https | Protocol::Tls)
    }
}
