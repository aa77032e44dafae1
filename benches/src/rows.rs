//! The rows of the benchmark: what each arranges, and what load it gets.

use crate::load::Mode;
use crate::scene::{Arrangement, More};

pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) mode: Mode,
    pub(crate) clients: usize,
    /// Bytes of a request's body; 0: GET.
    pub(crate) body: usize,
    pub(crate) arrangement: Arrangement,
}

pub(crate) const PLAIN: Arrangement = Arrangement {
    hbone_upstream: false,
    rules: 0,
    access_log: false,
    more: More::Nothing,
};
const HBONE: Arrangement = Arrangement {
    hbone_upstream: true,
    ..PLAIN
};

pub(crate) fn all() -> Vec<Row> {
    let row = |name: &str, mode, clients, arrangement| Row {
        name: name.to_owned(),
        mode,
        clients,
        body: 0,
        arrangement,
    };
    let rules = |rules| Arrangement { rules, ..PLAIN };
    let log = Arrangement {
        access_log: true,
        ..PLAIN
    };
    let tunnel = Mode::Tunnel;
    let mut rows = vec![
        row("HTTP/1.1, 16 tunnels, plain upstream", Mode::H1, 16, PLAIN),
        row("HTTP/1.1, 16 tunnels, HBONE upstream", Mode::H1, 16, HBONE),
        row("HTTP/1.1, 64 tunnels, plain upstream", Mode::H1, 64, PLAIN),
        row("h2c, 64 streams, plain upstream", Mode::H2c, 64, PLAIN),
        row("h2c, 64 streams, HBONE upstream", Mode::H2c, 64, HBONE),
        row("new tunnel a request, plain upstream", tunnel, 16, PLAIN),
        row("HTTP/1.1, 1 policy rule", Mode::H1, 16, rules(1)),
        row("HTTP/1.1, 100 policy rules", Mode::H1, 16, rules(100)),
        row("HTTP/1.1, 1000 policy rules", Mode::H1, 16, rules(1000)),
        row("HTTP/1.1, access log on", Mode::H1, 16, log),
    ];
    rows.extend(posts());
    rows.extend(guarded());
    rows.extend(upstreams());
    rows.extend(told());
    rows
}

/// The rows of what a DestinationRule says of the way upstream, and of gRPC.
fn upstreams() -> Vec<Row> {
    [
        (
            "HTTP/1.1, ring hash by a header, 10 pods",
            Mode::H1,
            16,
            More::Hashed,
        ),
        (
            "HTTP/1.1, outlier detection, 10 pods",
            Mode::H1,
            16,
            More::Outliers,
        ),
        (
            "HTTP/1.1, TLS upstream, kept",
            Mode::H1,
            16,
            More::Tls { kept: true },
        ),
        (
            "HTTP/1.1, TLS upstream, new each time",
            Mode::H1,
            16,
            More::Tls { kept: false },
        ),
        ("gRPC, 64 calls at a time", Mode::Grpc, 64, More::Grpc),
        (
            "gRPC, 64 streams, a message up and one down",
            Mode::GrpcStream,
            64,
            More::Grpc,
        ),
    ]
    .map(|(name, mode, clients, more)| Row {
        name: name.to_owned(),
        mode,
        clients,
        body: 0,
        arrangement: Arrangement { more, ..PLAIN },
    })
    .into()
}

/// The rows of what is told of requests.
fn told() -> Vec<Row> {
    [
        ("no metrics", More::NoMetrics),
        ("ten labels of metrics by expressions", More::Labels),
        ("access log as JSON, to a file", More::JsonLog),
        ("access log over OTLP", More::OtlpLog),
        ("traces of 1 %, over OTLP", More::Traces { percent: 1 }),
        ("traces of 100 %, over OTLP", More::Traces { percent: 100 }),
    ]
    .map(|(name, more)| Row {
        name: format!("HTTP/1.1, {name}"),
        mode: Mode::H1,
        clients: 16,
        body: 0,
        arrangement: Arrangement { more, ..PLAIN },
    })
    .into()
}

/// The rows of requests that meet more than policies and one route.
fn guarded() -> Vec<Row> {
    // More tokens than either proxy remembers.
    const NEW: usize = 4000;
    let token = |algorithm, number| More::Token { algorithm, number };
    [
        ("a token again and again, RS256", token("RS256", 1)),
        ("a token again and again, ES256", token("ES256", 1)),
        ("a new token each time, RS256", token("RS256", NEW)),
        ("a new token each time, ES256", token("ES256", NEW)),
        ("a gRPC service is asked (CUSTOM)", More::Asked),
        ("1000 route rules, the last one's", More::Routes(1000)),
        ("a mirror of each request", More::Mirror),
    ]
    .map(|(name, more)| Row {
        name: format!("HTTP/1.1, {name}"),
        mode: Mode::H1,
        clients: 16,
        body: 0,
        arrangement: Arrangement { more, ..PLAIN },
    })
    .into()
}

/// The rows of requests with bodies.
fn posts() -> Vec<Row> {
    let mut rows = Vec::new();
    for kib in [1, 64] {
        for (clients_are, mode, clients) in [
            ("HTTP/1.1, 16 tunnels", Mode::H1, 16),
            ("h2c, 64 streams", Mode::H2c, 64),
            ("new tunnel a request", Mode::Tunnel, 16),
        ] {
            for (upstream, arrangement) in [("plain", PLAIN), ("HBONE", HBONE)] {
                rows.push(Row {
                    name: format!("POST {kib} KiB, {clients_are}, {upstream} upstream"),
                    mode,
                    clients,
                    body: kib * 1024,
                    arrangement,
                });
            }
        }
    }
    rows
}
