//! The client's side: a connection's requests, each sent by whoever waits for its answer, and the task that drives the connection.
//!
//! A request's body is sent while its answer is awaited, by the same task. What is left of it when the head of the answer has come
//! (streams, early answers) goes on in a task of its own: neither direction may wait for the other.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Connection, ResponseFuture, SendRequest};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http2::KeepAlive;
use crate::io::reset::io_error;
use crate::io::wire::{Gathered, Wire};
use crate::messages::fields::{length, say_length, strip_connection_fields};
use crate::messages::received::ReceivedBody;
use crate::messages::sending::Sending;
use crate::tunnel::stream::TunnelStream;

/// What an extended CONNECT asks for (RFC 8441 §4); in its request's extensions.
pub use h2::ext::Protocol;

/// What a connection allows its peer.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Unread bytes of one answer.
    pub stream_window: u32,
    /// Unread bytes of all answers.
    pub connection_window: u32,
    /// Unsent bytes of one request.
    pub max_send_buffer: usize,
    /// The largest head of an answer.
    pub max_header_list: u32,
    /// How often the peer is asked for a sign of life, and how long it may take.
    pub keepalive: Option<(Duration, Duration)>,
}

/// Sends requests on a connection; clones share it. It closes when the last clone and the last stream are gone.
#[derive(Clone)]
pub struct Requests {
    send: SendRequest<Bytes>,
}

/// Hears of what the peer says before its answer (1xx).
pub trait Listener {
    fn heard(&self, status: StatusCode, headers: &HeaderMap);
}

/// Why there is no answer.
#[derive(Debug)]
pub struct Failed<B> {
    /// A reset or a GOAWAY has the HTTP/2 error as its source ([`crate::io::reset::reset_of`]).
    pub error: io::Error,
    /// The request, if none of it was sent.
    pub unsent: Option<Request<B>>,
}

/// What comes of an extended CONNECT.
pub enum Connected {
    Tunnel(TunnelStream),
    Refused(ReceivedBody),
}

/// Drives a connection; ready when it has ended. What it writes in a turn leaves together.
pub struct Driver<T> {
    connection: Connection<Wire<T>, Bytes>,
    gathered: Gathered<T>,
    keepalive: Option<KeepAlive>,
}

/// Greets the peer. The driver has to be spawned.
///
/// # Errors
/// If the greeting can't be sent.
pub async fn handshake<T>(io: T, options: ClientOptions) -> io::Result<(Requests, Driver<T>)>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (wire, gathered) = Wire::gathering(io);
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_send_buffer_size(options.max_send_buffer)
        .max_header_list_size(options.max_header_list)
        .initial_max_send_streams(100)
        .enable_push(false);
    let (send, mut connection) = builder.handshake(wire).await.map_err(io_error)?;
    let keepalive = options
        .keepalive
        .map(|(interval, timeout)| KeepAlive::every(interval, timeout, connection.ping_pong()));
    let driver = Driver {
        connection,
        gathered,
        keepalive,
    };
    Ok((Requests { send }, driver))
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Some(keepalive) = &mut this.keepalive
            && keepalive
                .poll_dead(cx, || this.gathered.take_received())
                .is_ready()
        {
            return Poll::Ready(());
        }
        let connection = &mut this.connection;
        this.gathered
            .poll_turn(cx, |cx| Pin::new(&mut *connection).poll(cx).map(drop))
    }
}

impl Requests {
    /// Whether no request can be sent any more: the connection has ended, or the peer has said that it will (GOAWAY).
    pub fn is_closed(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.send.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// How many streams the peer allows at a time, one at least; 100 until it has said so.
    pub fn max_streams(&self) -> u32 {
        let most = self.send.current_max_send_streams();
        u32::try_from(most).unwrap_or(u32::MAX).max(1)
    }

    /// Sends a request and waits for the head of its answer. Dropping this resets the stream with CANCEL.
    ///
    /// # Errors
    /// With the request, if nothing of it was sent. All others are the stream's or the connection's end.
    pub async fn send<B>(
        &mut self,
        request: Request<B>,
        listener: Option<&(impl Listener + Sync)>,
    ) -> Result<Response<ReceivedBody>, Failed<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if let Err(error) = poll_fn(|cx| self.send.poll_ready(cx)).await {
            return Err(Failed::unsent(error, request));
        }
        let (head, body) = framed(request);
        let end = body.is_end_stream();
        let (answer, stream) = self.send.send_request(head, end).map_err(Failed::new)?;
        let mut waiting = Waiting {
            send: &mut self.send,
            opened: false,
            answer,
            body: (!end).then(|| Sending::new(stream, body, false)),
        };
        let answered = poll_fn(|cx| waiting.poll(cx, listener)).await;
        let answer = answered.map_err(Failed::new)?;
        if let Some(body) = waiting.body {
            tokio::spawn(body.alone());
        }
        Ok(received(answer))
    }

    /// Asks for a tunnel on a stream (RFC 8441): a CONNECT that names a [`Protocol`].
    ///
    /// # Errors
    /// As [`Requests::send`], but that the request is lost.
    pub async fn connect<B>(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Connected>, io::Error> {
        poll_fn(|cx| self.send.poll_ready(cx))
            .await
            .map_err(io_error)?;
        let mut head = request.map(drop);
        strip_connection_fields(head.headers_mut(), true);
        let (answer, stream) = self.send.send_request(head, false).map_err(io_error)?;
        let answer = answer.await.map_err(io_error)?;
        if answer.status() != StatusCode::OK {
            return Ok(received(answer).map(Connected::Refused));
        }
        Ok(answer.map(|incoming| Connected::Tunnel(TunnelStream::of_many(stream, incoming))))
    }
}

impl<B> Failed<B> {
    fn new(error: h2::Error) -> Failed<B> {
        Failed {
            error: io_error(error),
            unsent: None,
        }
    }

    fn unsent(error: h2::Error, request: Request<B>) -> Failed<B> {
        Failed {
            unsent: Some(request),
            ..Failed::new(error)
        }
    }
}

/// The head as HTTP/2 has it, and the body.
fn framed<B: Body>(request: Request<B>) -> (Request<()>, B) {
    let (head, body) = request.into_parts();
    let mut head = Request::from_parts(head, ());
    strip_connection_fields(head.headers_mut(), true);
    if let Some(length) = body.size_hint().exact()
        && (length != 0 || says_that_it_has_no_body(head.method()))
    {
        say_length(head.headers_mut(), length);
    }
    (head, body)
}

/// A request whose method may have a body says so if there is none (RFC 9110 §8.6).
fn says_that_it_has_no_body(method: &Method) -> bool {
    ![Method::GET, Method::HEAD, Method::DELETE, Method::CONNECT].contains(method)
}

fn received(answer: Response<RecvStream>) -> Response<ReceivedBody> {
    let length = length(answer.headers());
    answer.map(|incoming| ReceivedBody::new(incoming, length))
}

/// A request that waits for its answer.
struct Waiting<'a, B> {
    send: &'a mut SendRequest<Bytes>,
    /// The peer allows the stream. Its body isn't touched before.
    opened: bool,
    answer: ResponseFuture,
    body: Option<Sending<B>>,
}

impl<B> Waiting<'_, B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        listener: Option<&impl Listener>,
    ) -> Poll<Result<Response<RecvStream>, h2::Error>> {
        if !self.opened {
            // A failure is told by the answer, too.
            self.opened = self.send.poll_ready(cx).is_ready();
        }
        if self.opened
            && let Some(body) = &mut self.body
            && Pin::new(body).poll(cx).is_ready()
        {
            self.body = None;
        }
        if let Some(listener) = listener {
            while let Poll::Ready(Some(Ok(said))) = self.answer.poll_informational(cx) {
                listener.heard(said.status(), said.headers());
            }
        }
        Pin::new(&mut self.answer).poll(cx)
    }
}
