//! Requests and answers between the client's and the server's side of `messages`, and beside plain h2.
#![allow(clippy::unwrap_used)]

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use waypoint_hbone::io::reset::{Reset, reset_of};
use waypoint_hbone::io::wire::Wire;
use waypoint_hbone::messages::client::{
    self, ClientOptions, Connected, Listener, Protocol, Requests,
};
use waypoint_hbone::messages::server::{Answering, Incoming, Said, ServerOptions, Serving};

/// A body that comes piece by piece; `Err` breaks it off.
#[derive(Debug)]
struct Pieces {
    pieces: mpsc::UnboundedReceiver<Result<Frame<Bytes>, io::Error>>,
    length: Option<u64>,
}

type Piece = mpsc::UnboundedSender<Result<Frame<Bytes>, io::Error>>;

fn pieces() -> (Piece, Pieces) {
    let (send, pieces) = mpsc::unbounded_channel();
    let length = None;
    (send, Pieces { pieces, length })
}

fn whole(bytes: impl Into<Bytes>) -> Pieces {
    let bytes = bytes.into();
    let (send, mut pieces) = pieces();
    pieces.length = Some(bytes.len() as u64);
    if !bytes.is_empty() {
        send.send(Ok(Frame::data(bytes))).unwrap();
    }
    pieces
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.pieces.poll_recv(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.length.is_some() && self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// What the server does with requests.
struct Served<F> {
    before: Vec<StatusCode>,
    answer: F,
}

impl<F: Future<Output = Response<Pieces>> + Unpin> Answering for Served<F> {
    type Body = Pieces;

    fn poll_answer(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Said<Pieces>> {
        if let Some(status) = self.before.pop() {
            let head = Response::builder().status(status).header("link", "</a>");
            return Poll::Ready(Said::Before(head.body(()).unwrap()));
        }
        Pin::new(&mut self.answer).poll(cx).map(Said::Answer)
    }
}

const WINDOW: u32 = 64 * 1024;

fn client_options() -> ClientOptions {
    ClientOptions {
        stream_window: WINDOW,
        connection_window: WINDOW,
        max_send_buffer: 16 * 1024,
        max_header_list: 16 * 1024,
        keepalive: None,
    }
}

/// Serves what comes on `io` by `serve`.
fn serve<F, A>(io: DuplexStream, mut serve: F)
where
    F: FnMut(Request<Incoming>) -> (Vec<StatusCode>, A) + Send + Unpin + 'static,
    A: Future<Output = Response<Pieces>> + Send + 'static,
{
    let options = ServerOptions {
        stream_window: 32 * 1024,
        connection_window: 256 * 1024,
        max_send_buffer: 16 * 1024,
        max_streams: 1000,
        max_header_list: 16 * 1024,
        tunnels: true,
        keepalive: None,
    };
    let (wire, gathered) = Wire::gathering(io);
    tokio::spawn(Serving::new(wire, gathered, options, move |request| {
        let (before, answer) = serve(request);
        let answer = Box::pin(answer);
        Served { before, answer }
    }));
}

async fn connected<F, A>(to: F) -> Requests
where
    F: FnMut(Request<Incoming>) -> (Vec<StatusCode>, A) + Send + Unpin + 'static,
    A: Future<Output = Response<Pieces>> + Send + 'static,
{
    let (near, far) = duplex(10_000);
    serve(far, to);
    greeted(near).await
}

async fn greeted(io: DuplexStream) -> Requests {
    let (requests, driver) = client::handshake(io, client_options()).await.unwrap();
    tokio::spawn(driver);
    requests
}

#[derive(Default)]
struct Heard(Mutex<Vec<u16>>);

impl Listener for Heard {
    fn heard(&self, status: StatusCode, headers: &HeaderMap) {
        assert_eq!(headers["link"], "</a>");
        self.0.lock().unwrap().push(status.as_u16());
    }
}

fn post<B>(body: B) -> Request<B> {
    Request::post("http://web/x").body(body).unwrap()
}

async fn read(mut body: impl Body<Data = Bytes, Error = io::Error> + Unpin) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(data) => all.extend_from_slice(&data),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap();
                all.extend_from_slice(trailers["x-last"].as_bytes());
            }
        }
    }
    Ok(all)
}

fn body_of(request: Request<Incoming>) -> impl Body<Data = Bytes, Error = io::Error> + Unpin {
    match request.into_body() {
        Incoming::Body(body) => body,
        Incoming::Tunnel(_) => panic!("no CONNECT"),
    }
}

/// Answers with what it got, when it has all of it.
fn echo(
    request: Request<Incoming>,
) -> (
    Vec<StatusCode>,
    impl Future<Output = Response<Pieces>> + Send,
) {
    let length = request.headers().get("content-length").cloned();
    let answer = async move {
        let got = read(body_of(request)).await.unwrap();
        let mut response = Response::new(whole(got));
        if let Some(length) = length {
            response.headers_mut().insert("x-length", length);
        }
        response
    };
    (Vec::new(), answer)
}

#[tokio::test]
async fn bodies_far_larger_than_windows_pass_whole_beside_each_other() {
    let requests = connected(echo).await;
    let exchanges = (0..8).map(|n| {
        let mut requests = requests.clone();
        tokio::spawn(async move {
            let sent = vec![n as u8; 300_000 + n];
            let answer = requests
                .send(post(whole(sent.clone())), None::<&Heard>)
                .await;
            let answer = answer.unwrap();
            assert_eq!(answer.headers()["x-length"], *sent.len().to_string());
            assert_eq!(answer.headers()["content-length"], *sent.len().to_string());
            assert!(answer.headers()["date"].to_str().unwrap().ends_with("GMT"));
            assert_eq!(read(answer.into_body()).await.unwrap(), sent);
        })
    });
    for exchange in exchanges.collect::<Vec<_>>() {
        exchange.await.unwrap();
    }
}

#[tokio::test]
async fn trailers_pass_and_a_request_without_a_body_has_none() {
    let mut requests = connected(echo).await;
    let (send, body) = pieces();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-last", "end".parse().unwrap());
    send.send(Ok(Frame::data("so far ".into()))).unwrap();
    send.send(Ok(Frame::trailers(trailers))).unwrap();
    let answer = requests.send(post(body), None::<&Heard>).await.unwrap();
    assert!(!answer.headers().contains_key("x-length"));
    assert_eq!(read(answer.into_body()).await.unwrap(), b"so far end");
    let answer = requests
        .send(post(whole("")), None::<&Heard>)
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-length"], "0", "a POST says so");
    let mut get = post(whole(""));
    *get.method_mut() = Method::GET;
    let answer = requests.send(get, None::<&Heard>).await.unwrap();
    assert!(!answer.headers().contains_key("x-length"));
}

#[tokio::test]
async fn what_is_said_before_the_answer_is_heard() {
    let early = |request| {
        (
            vec![StatusCode::EARLY_HINTS, StatusCode::CONTINUE],
            echo(request).1,
        )
    };
    let mut requests = connected(early).await;
    let heard = Heard::default();
    let answer = requests.send(post(whole("x")), Some(&heard)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(*heard.0.lock().unwrap(), [100, 103]);
    // Nobody has to listen.
    let answer = requests
        .send(post(whole("x")), None::<&Heard>)
        .await
        .unwrap();
    assert_eq!(read(answer.into_body()).await.unwrap(), b"x");
}

#[tokio::test]
async fn both_directions_go_on_after_the_head_of_the_answer() {
    let mut requests = connected(|request: Request<Incoming>| {
        let answer = async move {
            let (send, body) = pieces();
            tokio::spawn(async move {
                let mut incoming = body_of(request);
                while let Some(Ok(frame)) =
                    poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await
                {
                    let _ = send.send(Ok(frame));
                }
            });
            Response::new(body)
        };
        (Vec::new(), answer)
    })
    .await;
    let (send, body) = pieces();
    let answer = requests.send(post(body), None::<&Heard>).await.unwrap();
    let mut answer = answer.into_body();
    for n in 0..20_000_u32 {
        let sent = Bytes::from(n.to_be_bytes().repeat(8));
        send.send(Ok(Frame::data(sent.clone()))).unwrap();
        let frame = poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), sent);
    }
    drop(send);
    assert_eq!(read(answer).await.unwrap(), b"");
}

/// What each has received, and nobody gives back, would be more than the connection's window.
#[tokio::test]
async fn streams_that_wait_keep_nothing_of_the_connections_window() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut requests = connected(move |request: Request<Incoming>| {
        let told = told.clone();
        let answer = async move {
            let mut incoming = body_of(request);
            let first = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await;
            told.send(first.unwrap().unwrap().into_data().unwrap().len())
                .unwrap();
            // Reads on, and nothing comes.
            let _ = read(incoming).await;
            Response::new(whole(""))
        };
        (Vec::new(), answer)
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..900 {
        let (send, body) = pieces();
        send.send(Ok(Frame::data(Bytes::from_static(&[0; 700]))))
            .unwrap();
        let mut requests = requests.clone();
        open.push((
            send,
            tokio::spawn(async move { requests.send(post(body), None::<&Heard>).await.is_ok() }),
        ));
        let soon = std::time::Duration::from_secs(5);
        let came = tokio::time::timeout(soon, heard.recv()).await;
        assert_eq!(came.expect("the window is there"), Some(700));
    }
    assert!(!requests.is_closed());
    drop(open);
}

#[tokio::test]
async fn a_body_that_breaks_off_resets_its_stream_and_no_other() {
    let failed = Arc::new(Mutex::new(Vec::new()));
    let told = failed.clone();
    let mut requests = connected(move |request: Request<Incoming>| {
        let told = told.clone();
        let answer = async move {
            let got = read(body_of(request)).await;
            told.lock().unwrap().push(got.is_err());
            Response::new(whole("fine"))
        };
        (Vec::new(), answer)
    })
    .await;
    let (send, body) = pieces();
    send.send(Ok(Frame::data("half".into()))).unwrap();
    send.send(Err(io::Error::other("gone"))).unwrap();
    let error = requests.send(post(body), None::<&Heard>).await.unwrap_err();
    assert!(error.unsent.is_none());
    assert_eq!(reset_of(&error.error), Some(Reset::Other));
    let answer = requests
        .send(post(whole("all")), None::<&Heard>)
        .await
        .unwrap();
    assert_eq!(read(answer.into_body()).await.unwrap(), b"fine");
    assert_eq!(*failed.lock().unwrap(), [true, false]);
}

#[tokio::test]
async fn a_request_that_is_given_up_is_reset() {
    let (near, far) = duplex(10_000);
    let server = async {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (_request, mut reply) = connection.accept().await.unwrap().unwrap();
        let reset = poll_fn(|cx| reply.poll_reset(cx));
        tokio::select! {
            reset = reset => reset.unwrap(),
            _ = connection.accept() => panic!("no further request"),
        }
    };
    let server = tokio::spawn(server);
    let mut requests = greeted(near).await;
    let (_send, body) = pieces();
    let waiting = requests.send(post(body), None::<&Heard>);
    let soon = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, waiting).await.is_err());
    assert_eq!(server.await.unwrap(), h2::Reason::CANCEL);
}

#[tokio::test]
async fn after_goaway_nothing_is_sent_and_what_was_not_looked_at_may_be_sent_again() {
    let (near, far) = duplex(10_000);
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (_request, mut reply) = connection.accept().await.unwrap().unwrap();
        let answer = Response::new(());
        reply.send_response(answer, true).unwrap();
        tokio::select! {
            _ = connection.accept() => panic!("no further request"),
            _ = gone => {}
        }
        connection.abrupt_shutdown(h2::Reason::NO_ERROR);
        while connection.accept().await.is_some() {}
    });
    let mut requests = greeted(near).await;
    let answer = requests
        .send(post(whole("")), None::<&Heard>)
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!requests.is_closed());
    go.send(()).unwrap();
    while !requests.is_closed() {
        tokio::task::yield_now().await;
    }
    let failed = requests
        .send(post(whole("again")), None::<&Heard>)
        .await
        .unwrap_err();
    assert_eq!(failed.unsent.unwrap().body().length, Some(5));
}

#[tokio::test]
async fn a_stream_becomes_a_tunnel_where_it_is_agreed() {
    let mut requests = connected(|request: Request<Incoming>| {
        let refuse = request.uri().path() == "/refused";
        let answer = async move {
            assert_eq!(
                request.extensions().get::<Protocol>().unwrap().as_str(),
                "websocket"
            );
            let Incoming::Tunnel(promised) = request.into_body() else {
                panic!("a CONNECT")
            };
            let mut response = Response::new(whole(""));
            if refuse {
                *response.status_mut() = StatusCode::FORBIDDEN;
                return response;
            }
            tokio::spawn(async move {
                let mut tunnel = promised.await.unwrap();
                let mut got = [0; 4];
                tunnel.read_exact(&mut got).await.unwrap();
                tunnel.write_all(b"pong").await.unwrap();
                tunnel.shutdown().await.unwrap();
                assert_eq!(&got, b"ping");
                assert_eq!(tunnel.read(&mut got).await.unwrap(), 0);
            });
            response
        };
        (Vec::new(), answer)
    })
    .await;
    let connect = |path: &str| {
        let request = Request::connect(format!("http://web{path}"));
        let request = request.extension(Protocol::from_static("websocket"));
        request.body(()).unwrap()
    };
    // The server's SETTINGS say that it takes such.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let refused = requests.connect(connect("/refused")).await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(matches!(refused.body(), Connected::Refused(_)));
    let agreed = requests.connect(connect("/")).await.unwrap().into_body();
    let Connected::Tunnel(mut tunnel) = agreed else {
        panic!("a tunnel")
    };
    tunnel.write_all(b"ping").await.unwrap();
    let mut got = Vec::new();
    tunnel.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"pong");
    tunnel.shutdown().await.unwrap();
}
