//! The server's side: a connection, whose requests are each served by a task of its own, which sends the answer, too.
//!
//! The service makes an [`Answering`] of each request, which may say something before its answer (1xx). hyper's server has no
//! way for that.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, header};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::http2::KeepAlive;
use crate::io::reset::io_error;
use crate::io::wire::Gathered;
use crate::messages::date;
use crate::messages::fields::{length, say_length, strip_connection_fields};
use crate::messages::received::ReceivedBody;
use crate::messages::sending::Sending;
use crate::tunnel::stream::TunnelStream;

/// What a connection allows its peer.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// Unread bytes of one request.
    pub stream_window: u32,
    /// Unread bytes of all requests.
    pub connection_window: u32,
    /// Unsent bytes of one answer.
    pub max_send_buffer: usize,
    /// Requests at a time.
    pub max_streams: u32,
    /// The largest head of a request.
    pub max_header_list: u32,
    /// Whether a stream may become a tunnel (RFC 8441).
    pub tunnels: bool,
    /// How often the peer is asked for a sign of life, and how long it may take.
    pub keepalive: Option<(Duration, Duration)>,
}

/// An answer that is being made.
pub trait Answering {
    type Body;

    fn poll_answer(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Said<Self::Body>>;
}

/// What a client is told.
pub enum Said<B> {
    /// Before the answer (1xx); there is more to come.
    Before(Response<()>),
    Answer(Response<B>),
}

/// What comes with a request.
pub enum Incoming {
    Body(ReceivedBody),
    /// Of a CONNECT: what its stream becomes when the answer is a success.
    Tunnel(oneshot::Receiver<TunnelStream>),
}

/// Serves a connection; ready when it has ended. What it writes in a turn leaves together.
pub struct Serving<I, T, S> {
    state: State<I>,
    gathered: Gathered<T>,
    keepalive: Option<KeepAlive>,
    options: ServerOptions,
    service: S,
    goodbye: bool,
}

enum State<I> {
    Greeting(Handshake<I, Bytes>),
    Open(Connection<I, Bytes>),
}

impl<I, T, S> Serving<I, T, S>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    /// `gathered`: of the wire in `io`.
    pub fn new(io: I, gathered: Gathered<T>, options: ServerOptions, service: S) -> Self {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_send_buffer_size(options.max_send_buffer)
            .max_concurrent_streams(options.max_streams)
            .max_header_list_size(options.max_header_list);
        if options.tunnels {
            builder.enable_connect_protocol();
        }
        Serving {
            state: State::Greeting(builder.handshake(io)),
            gathered,
            keepalive: None,
            options,
            service,
            goodbye: false,
        }
    }

    /// Tells the peer that this connection takes no more requests; those that it has begun are served.
    pub fn say_goodbye(&mut self) {
        self.goodbye = true;
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }
}

impl<I, T, S, A, B> Future for Serving<I, T, S>
where
    I: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
    S: FnMut(Request<Incoming>) -> A + Unpin,
    A: Answering<Body = B> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let gathered = this.gathered.clone();
        gathered.poll_turn(cx, |cx| this.poll_serve(cx))
    }
}

impl<I, T, S, A, B> Serving<I, T, S>
where
    I: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
    S: FnMut(Request<Incoming>) -> A,
    A: Answering<Body = B> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Greeting(handshake) = &mut self.state {
            let mut connection = ready!(Pin::new(handshake).poll(cx)).map_err(io_error)?;
            self.keepalive = self.options.keepalive.map(|(interval, timeout)| {
                KeepAlive::every(interval, timeout, connection.ping_pong())
            });
            if self.goodbye {
                connection.graceful_shutdown();
            }
            self.state = State::Open(connection);
        }
        let State::Open(connection) = &mut self.state else {
            return Poll::Pending;
        };
        if let Some(keepalive) = &mut self.keepalive
            && keepalive
                .poll_dead(cx, || self.gathered.take_received())
                .is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        loop {
            match ready!(connection.poll_accept(cx)) {
                Some(Ok((request, reply))) => begin(&mut self.service, request, reply),
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

fn begin<S, A, B>(service: &mut S, request: Request<RecvStream>, mut reply: SendResponse<Bytes>)
where
    S: FnMut(Request<Incoming>) -> A,
    A: Answering<Body = B> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let length = length(request.headers());
    let (head, incoming) = request.into_parts();
    let (incoming, tunnel) = if head.method == Method::CONNECT {
        if length.is_some_and(|length| length != 0) {
            // What follows are a tunnel's bytes, and no body.
            return reply.send_reset(Reason::PROTOCOL_ERROR);
        }
        let (promise, promised) = oneshot::channel();
        (Incoming::Tunnel(promised), Some((incoming, promise)))
    } else {
        (Incoming::Body(ReceivedBody::new(incoming, length)), None)
    };
    let answering = Box::pin(service(Request::from_parts(head, incoming)));
    tokio::spawn(Stream {
        reply,
        tunnel,
        doing: Doing::Answering(answering),
    });
}

/// A request's stream.
struct Stream<A, B> {
    reply: SendResponse<Bytes>,
    tunnel: Option<(RecvStream, oneshot::Sender<TunnelStream>)>,
    doing: Doing<A, B>,
}

/// The answer is in a box: it is large, and moved when its task is made.
enum Doing<A, B> {
    Answering(Pin<Box<A>>),
    Sending(Sending<B>),
}

impl<A, B> Future for Stream<A, B>
where
    A: Answering<Body = B>,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let answering = match &mut this.doing {
                Doing::Sending(sending) => return Pin::new(sending).poll(cx),
                Doing::Answering(answering) => answering.as_mut(),
            };
            match answering.poll_answer(cx) {
                // It fails only for a stream that is gone.
                Poll::Ready(Said::Before(head)) => drop(this.reply.send_informational(head)),
                Poll::Ready(Said::Answer(response)) => match this.answer(response) {
                    Some(sending) => this.doing = Doing::Sending(sending),
                    None => return Poll::Ready(()),
                },
                // The client may have given up.
                Poll::Pending => return this.reply.poll_reset(cx).map(drop),
            }
        }
    }
}

impl<A, B> Stream<A, B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    /// Sends the head of the answer. `None`: there is no more to send, or nobody to send it to.
    fn answer(&mut self, response: Response<B>) -> Option<Sending<B>> {
        let (head, body) = response.into_parts();
        let mut head = Response::from_parts(head, ());
        strip_connection_fields(head.headers_mut(), false);
        if let header::Entry::Vacant(missing) = head.headers_mut().entry(header::DATE) {
            missing.insert(date::now());
        }
        if let Some((incoming, promise)) = self.tunnel.take()
            && head.status().is_success()
        {
            head.headers_mut().remove(header::CONTENT_LENGTH);
            let outgoing = self.send(head, false)?;
            let _ = promise.send(TunnelStream::of_many(outgoing, incoming));
            return None;
        }
        let end = body.is_end_stream();
        if !end && let Some(length) = body.size_hint().exact() {
            say_length(head.headers_mut(), length);
        }
        let stream = self.send(head, end)?;
        (!end).then(|| Sending::new(stream, body, true))
    }

    fn send(&mut self, head: Response<()>, end: bool) -> Option<h2::SendStream<Bytes>> {
        let sent = self.reply.send_response(head, end);
        sent.inspect_err(|_| self.reply.send_reset(Reason::INTERNAL_ERROR))
            .ok()
    }
}
