//! Services that say whether streams may pass, over gRPC and over HTTP, and configuration as istiod has it for them.
//!
//! They answer as the story has it, and keep what they were asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::rpc::Status;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::app::{App, Seen};
use crate::wait::until;

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What a gRPC service answers.
#[derive(Clone, Debug)]
pub enum Reply {
    Check(Box<CheckResponse>),
    /// This, after a while.
    Late(Duration, Box<CheckResponse>),
    /// The call's own status, without a message.
    Status(u32),
    /// An answer that isn't gRPC.
    Http(u16),
    /// So many bytes in place of a message.
    Noise(usize),
    /// RST_STREAM.
    Reset,
    /// Nothing ever.
    Never,
}

/// An answer with this status alone.
#[must_use]
pub fn check(code: i32) -> CheckResponse {
    CheckResponse {
        status: Some(Status {
            code,
            ..Status::default()
        }),
        ..CheckResponse::default()
    }
}

/// A gRPC service. Clones share it.
#[derive(Clone)]
pub struct Authorizer(Arc<Mutex<State>>);

struct State {
    reply: Reply,
    asked: Vec<(HeaderMap, CheckRequest)>,
    cancelled: usize,
    open: Vec<AbortHandle>,
}

impl Authorizer {
    /// It lets everything pass.
    pub async fn start(address: SocketAddr) -> Authorizer {
        let authorizer = Authorizer(Arc::new(Mutex::new(State {
            reply: Reply::Check(Box::new(check(0))),
            asked: Vec::new(),
            cancelled: 0,
            open: Vec::new(),
        })));
        let owned = authorizer.clone();
        App::tcp(address, move |tcp| {
            let serving = tokio::spawn(owned.clone().serve(tcp));
            owned.0.lock().open.push(serving.abort_handle());
            async {}
        })
        .await;
        authorizer
    }

    /// Ends all connections, as when it starts anew, and says how many there were.
    pub fn cut(&self) -> usize {
        let open = std::mem::take(&mut self.0.lock().open);
        open.iter().for_each(AbortHandle::abort);
        open.len()
    }

    /// Answers like this from now on.
    pub fn replies(&self, reply: Reply) {
        self.0.lock().reply = reply;
    }

    /// As [`Authorizer::replies`], with a message.
    pub fn says(&self, answer: CheckResponse) {
        self.replies(Reply::Check(Box::new(answer)));
    }

    /// What it was asked since this was last asked, with the calls' heads.
    #[must_use]
    pub fn take(&self) -> Vec<(HeaderMap, CheckRequest)> {
        std::mem::take(&mut self.0.lock().asked)
    }

    /// What it was asked once.
    ///
    /// # Panics
    /// It wasn't, or more than once.
    #[must_use]
    pub fn asked_once(&self) -> CheckRequest {
        let mut asked = self.take();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0).1
    }

    /// Calls that were ended while it kept silent.
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.0.lock().cancelled
    }

    /// Waits until it was asked.
    pub async fn until_asked(&self) {
        until("a check", async || {
            (!self.0.lock().asked.is_empty()).then_some(())
        })
        .await;
    }

    async fn serve(self, tcp: TcpStream) {
        let _ = tcp.set_nodelay(true);
        let Ok(mut connection) = h2::server::handshake(tcp).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer(request, respond));
        }
    }

    async fn answer(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, mut body) = request.into_parts();
        assert_eq!(head.uri.path(), METHOD);
        let mut data = BytesMut::new();
        while let Some(Ok(chunk)) = body.data().await {
            let _ = body.flow_control().release_capacity(chunk.len());
            data.extend_from_slice(&chunk);
        }
        let mut headers = head.headers;
        let authority = head
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        headers.insert("host", authority.parse().unwrap());
        let message = CheckRequest::decode(data.get(5..).unwrap()).unwrap();
        let reply = {
            let mut state = self.0.lock();
            state.asked.push((headers, message));
            state.reply.clone()
        };
        if let Reply::Late(time, _) = &reply {
            tokio::time::sleep(*time).await;
        }
        match reply {
            Reply::Check(answer) | Reply::Late(_, answer) => {
                let length = u32::try_from(answer.encoded_len()).unwrap();
                let prefix = [&[0], &length.to_be_bytes()[..]].concat();
                let message = [prefix, answer.encode_to_vec()].concat();
                finish(&mut respond, message.into());
            }
            Reply::Noise(bytes) => finish(&mut respond, vec![b'x'; bytes].into()),
            Reply::Status(status) => {
                let head = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", status);
                let _ = respond.send_response(head.body(()).unwrap(), true);
            }
            Reply::Http(status) => {
                let head = Response::builder().status(status);
                let _ = respond.send_response(head.body(()).unwrap(), true);
            }
            Reply::Reset => respond.send_reset(Reason::INTERNAL_ERROR),
            Reply::Never => {
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                self.0.lock().cancelled += 1;
            }
        }
    }
}

fn finish(respond: &mut SendResponse<Bytes>, data: Bytes) {
    let head = Response::builder().header("content-type", "application/grpc");
    let Ok(mut send) = respond.send_response(head.body(()).unwrap(), false) else {
        return;
    };
    let _ = send.send_data(data, false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    let _ = send.send_trailers(trailers);
}

/// An HTTP service: it answers as the story has it. Clones share it.
#[derive(Clone)]
pub struct HttpAuthorizer(Arc<Mutex<HttpState>>);

struct HttpState {
    reply: HttpReply,
    asked: Vec<Seen>,
}

/// What an HTTP service answers.
#[derive(Clone, Debug)]
pub struct HttpReply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// It takes so long.
    pub after: Duration,
}

impl HttpReply {
    #[must_use]
    pub fn new(status: u16, headers: &[(&str, &str)], body: &'static str) -> HttpReply {
        let owned = headers
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        HttpReply {
            status,
            headers: owned.collect(),
            body: Bytes::from_static(body.as_bytes()),
            after: Duration::ZERO,
        }
    }
}

impl HttpAuthorizer {
    /// It lets everything pass.
    pub async fn start(address: SocketAddr) -> HttpAuthorizer {
        let authorizer = HttpAuthorizer(Arc::new(Mutex::new(HttpState {
            reply: HttpReply::new(200, &[], ""),
            asked: Vec::new(),
        })));
        let owned = authorizer.clone();
        App::tcp(address, move |tcp| owned.clone().serve(tcp)).await;
        authorizer
    }

    /// Answers like this from now on.
    pub fn replies(&self, reply: HttpReply) {
        self.0.lock().reply = reply;
    }

    /// What it was asked since this was last asked.
    #[must_use]
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().asked)
    }

    async fn serve(self, tcp: TcpStream) {
        let service = service_fn(move |request| {
            let authorizer = self.clone();
            async move { Ok::<_, Infallible>(authorizer.answer(request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let reply = {
            let mut state = self.0.lock();
            state.asked.push(Seen {
                method: head.method,
                target: head.uri.to_string(),
                version: head.version,
                headers: head.headers,
                body,
                trailers: None,
            });
            state.reply.clone()
        };
        tokio::time::sleep(reply.after).await;
        let mut response = Response::builder().status(reply.status);
        for (name, value) in &reply.headers {
            response = response.header(name, value);
        }
        response.body(Full::new(reply.body)).unwrap()
    }
}
