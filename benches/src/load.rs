//! The load: a client's ztunnel with many tunnels, HTTP/1.1, h2c or gRPC in them, as fast as it goes or at a rate.
//!
//! At a fixed rate every request has its time, and latency counts from then, not from when it was sent:
//! a proxy that stalls is charged for what had to wait (no coordinated omission).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use waypoint_hbone::certificates::certificate::WorkloadCertificate;
use waypoint_hbone::pool::{PoolOptions, TunnelPool};
use waypoint_hbone::tls::{Tls, TrustDomains};
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::grpc::{Stream, StreamSender};
use crate::{Failure, grpc};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// HTTP/1.1, one connection a tunnel.
    H1,
    /// HTTP/2, sixteen requests at a time in a tunnel.
    H2c,
    /// A new tunnel for every request.
    Tunnel,
    /// Calls of gRPC, as many at a time in a tunnel as with HTTP/2.
    Grpc,
    /// Messages of gRPC on streams that stay open; a request is one of them and its answer.
    GrpcStream,
}

impl Mode {
    /// As the command line has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Mode::H1 => "h1",
            Mode::H2c => "h2c",
            Mode::Tunnel => "tunnel",
            Mode::Grpc => "grpc",
            Mode::GrpcStream => "grpc-stream",
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    #[arg(long)]
    pub(crate) via: SocketAddr,
    #[arg(long)]
    pub(crate) to: SocketAddr,
    #[arg(long)]
    pub(crate) certs: PathBuf,
    /// Tokens that requests bring along in turn, one a line; none: none.
    #[arg(long)]
    pub(crate) tokens: Option<PathBuf>,
    #[arg(long, value_enum)]
    pub(crate) mode: Mode,
    /// Requests at a time.
    #[arg(long, default_value = "16")]
    pub(crate) clients: usize,
    #[arg(long, default_value = "3")]
    pub(crate) seconds: f64,
    /// Requests a second; 0: as fast as it goes.
    #[arg(long, default_value = "0")]
    pub(crate) rate: f64,
    /// Bytes of a request's body; 0: GET.
    #[arg(long, default_value = "0")]
    pub(crate) body: usize,
    /// Requests say in turn whose of so many users they are (`x-user`); 0: nothing.
    #[arg(long, default_value = "0")]
    pub(crate) users: usize,
    /// Only opens so many tunnels, sends one request in each, prints, and holds them.
    #[arg(long, default_value = "0")]
    pub(crate) hold: usize,
}

/// What a load run saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// The longest body of a request.
const MAX_BODY: usize = 64 * 1024;

/// Streams of one h2c tunnel.
const H2C_STREAMS: usize = 16;

struct Client {
    args: LoadArgs,
    pool: TunnelPool,
    errors: AtomicU64,
    tokens: Vec<HeaderValue>,
    next_token: AtomicUsize,
    next_user: AtomicUsize,
}

enum Connection {
    None,
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
    /// With the tunnel's, from which others are opened.
    Stream(Stream, StreamSender),
}

/// Runs the load and prints its outcome as JSON.
pub(crate) async fn run(args: LoadArgs) -> Result<(), Failure> {
    let certificate = WorkloadCertificate::load(&args.certs)?;
    let tls = Tls::new(Some(certificate), TrustDomains::default());
    let client = Arc::new(Client {
        pool: TunnelPool::new(tls, PoolOptions::default()),
        tokens: tokens(args.tokens.as_deref())?,
        next_token: AtomicUsize::new(0),
        next_user: AtomicUsize::new(0),
        args,
        errors: AtomicU64::new(0),
    });
    if client.args.hold > 0 {
        return hold(&client).await;
    }
    let clients = client.args.clients.max(1);
    let mut connections = Vec::new();
    for n in 0..clients {
        connections.push(match (client.args.mode, connections.last()) {
            (Mode::Tunnel, _) => Connection::None,
            (Mode::H1, _) => client.h1().await?,
            (Mode::H2c, Some(Connection::H2(sender))) if n % H2C_STREAMS != 0 => {
                Connection::H2(sender.clone())
            }
            (Mode::H2c, _) => Connection::H2(client.h2().await?),
            (Mode::Grpc, Some(Connection::Grpc(sender))) if n % H2C_STREAMS != 0 => {
                Connection::Grpc(sender.clone())
            }
            (Mode::Grpc, _) => Connection::Grpc(client.h2().await?),
            (Mode::GrpcStream, Some(Connection::Stream(_, sender))) if n % H2C_STREAMS != 0 => {
                let mut sender = sender.clone();
                Connection::Stream(Stream::open(&mut sender).await?, sender)
            }
            (Mode::GrpcStream, _) => {
                let mut sender = client.h2().await?;
                Connection::Stream(Stream::open(&mut sender).await?, sender)
            }
        });
    }
    let (start, length) = (Instant::now(), Duration::from_secs_f64(client.args.seconds));
    let tasks: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(n, connection)| {
            tokio::spawn(client.clone().work(n, connection, start, start + length))
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await?);
    }
    latencies.sort_unstable();
    let at = |q: f64| {
        latencies
            .get((latencies.len() as f64 * q) as usize)
            .copied()
            .unwrap_or(0)
    };
    let outcome = Outcome {
        requests: latencies.len() as u64,
        errors: client.errors.load(Ordering::Relaxed),
        p50_us: at(0.5).into(),
        p99_us: at(0.99).into(),
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn tokens(file: Option<&Path>) -> Result<Vec<HeaderValue>, Failure> {
    let text = file.map(std::fs::read_to_string).transpose()?;
    let text = text.unwrap_or_default();
    let tokens = text.lines().filter(|line| !line.is_empty());
    let value = |token: &str| Ok(HeaderValue::from_str(&format!("Bearer {token}"))?);
    tokens.map(value).collect()
}

async fn hold(client: &Arc<Client>) -> Result<(), Failure> {
    let mut held = Vec::new();
    for _ in 0..client.args.hold {
        let mut connection = client.h1().await?;
        client.send(&mut connection).await?;
        held.push(connection);
    }
    println!(
        "{}",
        serde_json::to_string(&Outcome {
            requests: held.len() as u64,
            ..Outcome::default()
        })?
    );
    std::future::pending::<()>().await;
    Ok(())
}

impl Client {
    async fn tunnel(&self) -> Result<TunnelStream, Failure> {
        Ok(self
            .pool
            .connect(self.args.via, &self.args.to.to_string(), HeaderMap::new())
            .await?)
    }

    async fn h1(&self) -> Result<Connection, Failure> {
        let (sender, driver) = http1::handshake(TokioIo::new(self.tunnel().await?)).await?;
        tokio::spawn(async move {
            // As a ztunnel whose client has closed: our direction ends, then theirs.
            if let Ok(parts) = driver.without_shutdown().await {
                let mut tunnel = parts.io.into_inner();
                let _ = tunnel.finish();
                while let Some(Ok(bytes)) = tunnel.data().await {
                    tunnel.release(bytes.len());
                }
            }
        });
        Ok(Connection::H1(sender))
    }

    async fn h2<B>(&self) -> Result<http2::SendRequest<B>, Failure>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let io = TokioIo::new(self.tunnel().await?);
        let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(driver);
        Ok(sender)
    }

    fn request(&self, target: &str) -> http::request::Builder {
        let method = if self.args.body == 0 {
            Method::GET
        } else {
            Method::POST
        };
        let mut request = Request::builder().method(method).uri(target);
        if self.args.users > 0 {
            let user = self.next_user.fetch_add(1, Ordering::Relaxed) % self.args.users;
            request = request.header("x-user", format!("user-{user}"));
        }
        match self.tokens.as_slice() {
            [] => request,
            tokens => {
                let turn = self.next_token.fetch_add(1, Ordering::Relaxed) % tokens.len();
                request.header(AUTHORIZATION, &tokens[turn])
            }
        }
    }

    fn body(&self) -> Full<Bytes> {
        static BYTES: [u8; MAX_BODY] = [b'u'; MAX_BODY];
        let length = self.args.body.min(MAX_BODY);
        Full::new(Bytes::from_static(&BYTES[..length]))
    }

    async fn send(&self, connection: &mut Connection) -> Result<(), Failure> {
        let response = match connection {
            Connection::None => {
                let mut connection = self.h1().await?;
                return Box::pin(self.send(&mut connection)).await;
            }
            Connection::H1(sender) => {
                sender.ready().await?;
                let request = self.request("/p/1").header("host", "web");
                let request = request.body(self.body())?;
                sender.send_request(request).await?
            }
            Connection::H2(sender) => {
                sender.ready().await?;
                let request = self.request("http://web/p/1").version(Version::HTTP_2);
                let request = request.body(self.body())?;
                sender.send_request(request).await?
            }
            Connection::Grpc(sender) => {
                sender.ready().await?;
                return grpc::call(sender).await;
            }
            Connection::Stream(stream, _) => return stream.exchange().await,
        };
        let status = response.status();
        let length = response.into_body().collect().await?.to_bytes().len();
        if status != StatusCode::OK || length != 1024 {
            return Err(format!("{status}, {length} bytes").into());
        }
        Ok(())
    }

    /// One client's requests; latencies in µs.
    async fn work(
        self: Arc<Client>,
        n: usize,
        mut connection: Connection,
        start: Instant,
        end: Instant,
    ) -> Vec<u32> {
        let mut latencies = Vec::with_capacity(64 * 1024);
        let pause = (self.args.rate > 0.0)
            .then(|| Duration::from_secs_f64(self.args.clients as f64 / self.args.rate));
        // Spread over the interval, so that clients don't beat together.
        let mut due = start
            + pause
                .unwrap_or_default()
                .mul_f64(n as f64 / self.args.clients as f64);
        while Instant::now() < end {
            match pause {
                Some(pause) => {
                    let mut intended = due;
                    if due > Instant::now() {
                        tokio::time::sleep_until(due.into()).await;
                        // The timer's own lateness, up to a millisecond, is nobody's.
                        intended = Instant::now();
                    }
                    due += pause;
                    self.count(&mut connection, intended, &mut latencies).await;
                }
                None => {
                    self.count(&mut connection, Instant::now(), &mut latencies)
                        .await
                }
            }
        }
        latencies
    }

    async fn count(&self, connection: &mut Connection, since: Instant, latencies: &mut Vec<u32>) {
        match self.send(connection).await {
            Ok(()) => {
                latencies.push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX))
            }
            Err(error) => {
                if self.errors.fetch_add(1, Ordering::Relaxed) == 0 {
                    eprintln!("load: {error}");
                }
                // A dead connection fails at once, for ever: that must not look like speed.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
