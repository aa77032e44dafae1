//! The shapes of attacks with frames and requests that cost the sender little: what is sent first, and what again and
//! again.

use std::net::SocketAddr;
use std::time::Duration;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, PRIORITY,
    SETTINGS, UNKNOWN, block, frame, initial_window, reset, window_update,
};

/// Where the frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the HBONE connection.
    Hbone,
    /// HTTP/2 inside a tunnel.
    Tunnel,
    /// HTTP/1.1 inside a tunnel.
    Http1,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The budget for frames is spent; the reason as the metric has it.
    Flooded(&'static str),
    /// The budget for streams is spent, sooner or later.
    Wasteful,
    /// Another bound ends the connection, or may do so first.
    Ended,
    /// It may go on: it does real work, in turns with others.
    Shared,
}

/// One attack.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub place: Place,
    pub fate: Fate,
    /// After each portion.
    pub pause: Duration,
    /// Held open, where it needs some.
    pub streams: u32,
    begin: fn(&Shape, SocketAddr) -> Vec<u8>,
    portion: fn(&Shape, SocketAddr, usize) -> Vec<u8>,
}

/// Nearly as many as may be at a time on an HBONE connection.
const HBONE_STREAMS: u32 = 90;
/// A part of what may be in a tunnel; more take their time in a debug build.
const TUNNEL_STREAMS: u32 = 100;

/// All of them.
#[must_use]
pub fn shapes() -> Vec<Shape> {
    let mut all = Vec::new();
    for place in [Place::Hbone, Place::Tunnel] {
        all.extend(frame_shapes(place));
    }
    let shared = |name, place, portion| Shape::new(name, place, Fate::Shared, portion);
    let streams = |name, place, portion| Shape::new(name, place, Fate::Wasteful, portion);
    // As fast as it goes without more at a time than may be, as long as they are answered at once.
    let pause = Duration::from_millis(2);
    all.extend([
        shared("DATA, one byte each", Place::Hbone, |_, _, _| {
            frame(DATA, 0, 1, b"x").repeat(100)
        })
        .after(|shape, to| {
            let head = b"GET /p/1 HTTP/1.1\r\nhost: web\r\ncontent-length: 999999999\r\n\r\n";
            [shape.open(to, 1), frame(DATA, 0, 1, head)].concat()
        }),
        streams("tunnels opened and ended", Place::Hbone, churn).pausing(pause),
        streams("requests opened and ended", Place::Tunnel, churn).pausing(pause),
        shared("pipelined requests, denied", Place::Http1, denied),
    ]);
    all
}

fn frame_shapes(place: Place) -> Vec<Shape> {
    let shape = |name, reason, portion| Shape::new(name, place, Fate::Flooded(reason), portion);
    vec![
        shape("WINDOW_UPDATE", "window_update", |_, _, _| {
            window_update(0).repeat(100)
        }),
        shape("SETTINGS, empty", "settings", |_, _, _| {
            frame(SETTINGS, 0, 0, &[]).repeat(100)
        }),
        // Each step up lets a byte of each answer go.
        shape("SETTINGS, window toggled", "settings", |_, _, _| {
            [initial_window(1), initial_window(0)].concat().repeat(50)
        })
        .after(held),
        shape("GOAWAY", "goaway", |_, _, _| {
            let payload = [0x7fff_ffff_u32.to_be_bytes(), [0; 4]].concat();
            frame(GOAWAY, 0, 0, &payload).repeat(100)
        })
        .after(held),
        shape("PING", "ping", |_, _, _| {
            frame(PING, 0, 0, &[0; 8]).repeat(100)
        }),
        shape("PRIORITY", "priority", |_, _, n| {
            let stream = (2 * n + 1) as u32;
            frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16]).repeat(100)
        }),
        shape("RST_STREAM, closed stream", "rst_stream", |_, _, _| {
            reset(1).repeat(100)
        })
        .after(|shape, to| [shape.open(to, 1), reset(1)].concat()),
        shape("unknown frames", "unknown", |_, _, _| {
            frame(UNKNOWN, 0, 0, &[0; 8]).repeat(100)
        }),
        Shape::new("DATA, empty", place, Fate::Ended, |_, _, _| {
            frame(DATA, 0, 1, &[]).repeat(100)
        })
        .after(|shape, to| shape.open(to, 1)),
        Shape::new("CONTINUATION, empty", place, Fate::Ended, |_, _, _| {
            frame(CONTINUATION, 0, 1, &[]).repeat(100)
        })
        .after(|shape, to| frame(HEADERS, 0, 1, &shape.head(to))),
        // Those that come before they are accepted are counted by h2.
        Shape::new(
            "streams reset once accepted",
            place,
            Fate::Ended,
            |shape, to, n| {
                let round = (n / 2) as u32 * HBONE_STREAMS;
                let streams = (round..round + HBONE_STREAMS).map(|n| 2 * n + 1);
                match n % 2 {
                    0 => streams.flat_map(|stream| shape.open(to, stream)).collect(),
                    _ => streams.flat_map(reset).collect(),
                }
            },
        )
        .pausing(Duration::from_millis(30)),
        shape("windows of one byte", "window_update", |_, _, _| {
            window_update(1).repeat(100)
        })
        .after(|shape, to| {
            let mut bytes = initial_window(1);
            bytes.extend(shape.open(to, 1));
            if shape.place == Place::Hbone {
                let request = b"GET /p/1 HTTP/1.1\r\nhost: web\r\nx-answer-bytes: 9000\r\n\r\n";
                bytes.extend(frame(DATA, 0, 1, request));
            }
            bytes
        }),
    ]
}

/// Streams that are held open: each waits for window, or is a tunnel.
fn held(shape: &Shape, to: SocketAddr) -> Vec<u8> {
    let streams = (0..shape.streams).map(|n| 2 * n + 1);
    let opened = streams.flat_map(|stream| match shape.place {
        Place::Hbone => shape.open(to, stream),
        _ => frame(HEADERS, END_HEADERS | END_STREAM, stream, &shape.head(to)),
    });
    initial_window(0).into_iter().chain(opened).collect()
}

/// Streams that are whole, cost as much as any, and carry nothing, or more than their sender lets through.
fn churn(shape: &Shape, to: SocketAddr, n: usize) -> Vec<u8> {
    let first = 10 * n as u32;
    let streams = (first..first + 10).map(|n| 2 * n + 1);
    streams
        .flat_map(|stream| {
            let flags = END_HEADERS | END_STREAM;
            frame(HEADERS, flags, stream, &shape.head(to))
        })
        .collect()
}

fn denied(_: &Shape, _: SocketAddr, _: usize) -> Vec<u8> {
    b"GET /denied HTTP/1.1\r\nhost: web\r\n\r\n".repeat(50)
}

impl Shape {
    fn new(
        name: &'static str,
        place: Place,
        fate: Fate,
        portion: fn(&Shape, SocketAddr, usize) -> Vec<u8>,
    ) -> Shape {
        Shape {
            name,
            place,
            fate,
            pause: Duration::ZERO,
            streams: match place {
                Place::Hbone => HBONE_STREAMS,
                _ => TUNNEL_STREAMS,
            },
            begin: |_, _| Vec::new(),
            portion,
        }
    }

    fn after(self, begin: fn(&Shape, SocketAddr) -> Vec<u8>) -> Shape {
        Shape { begin, ..self }
    }

    fn pausing(self, pause: Duration) -> Shape {
        Shape { pause, ..self }
    }

    /// What goes first.
    #[must_use]
    pub fn beginning(&self, to: SocketAddr) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.place != Place::Http1 {
            bytes.extend_from_slice(PREFACE);
            bytes.extend(frame(SETTINGS, 0, 0, &[]));
        }
        bytes.extend((self.begin)(self, to));
        bytes
    }

    /// The `n`-th portion of what goes again and again.
    #[must_use]
    pub fn portion(&self, to: SocketAddr, n: usize) -> Vec<u8> {
        (self.portion)(self, to, n)
    }

    /// A tunnel, or a request whose body doesn't end.
    fn open(&self, to: SocketAddr, stream: u32) -> Vec<u8> {
        frame(HEADERS, END_HEADERS, stream, &self.head(to))
    }

    fn head(&self, to: SocketAddr) -> Vec<u8> {
        match self.place {
            Place::Hbone => block(&[(":method", "CONNECT"), (":authority", &to.to_string())]),
            _ => block(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "web"),
                (":path", "/p/1"),
                ("x-answer-bytes", "9000"),
            ]),
        }
    }
}
