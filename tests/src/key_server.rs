//! A server of key sets, that answers as a story likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::app::App;
use crate::wire::read_head;

/// The server, and what it was asked.
#[derive(Clone)]
pub struct KeyServer(Arc<Mutex<State>>);

struct State {
    answers: Answers,
    asked: Vec<String>,
}

/// How it answers.
#[derive(Clone)]
pub enum Answers {
    /// 200, with this.
    With(String),
    Status(u16),
    /// A good key set, so much later.
    Late(Duration, String),
    /// A body of so many bytes.
    Large(usize),
    /// Nothing: it ends the connection.
    Not,
}

impl KeyServer {
    pub async fn start(address: SocketAddr, answers: Answers) -> KeyServer {
        let server = KeyServer(Arc::new(Mutex::new(State {
            answers,
            asked: Vec::new(),
        })));
        let owned = server.clone();
        App::tcp(address, move |tcp| owned.clone().serve(tcp)).await;
        server
    }

    /// Answers so from now on.
    pub fn set(&self, answers: Answers) {
        self.0.lock().answers = answers;
    }

    /// Request lines and hosts so far.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.0.lock().asked.clone()
    }

    async fn serve(self, tcp: TcpStream) {
        let mut tcp = BufReader::new(tcp);
        while let Some(head) = read_head(&mut tcp).await {
            let answers = {
                let mut state = self.0.lock();
                state
                    .asked
                    .push(format!("{} {}", head.line, head.header("host")));
                state.answers.clone()
            };
            let (status, body) = match answers {
                Answers::With(body) => (200, body),
                Answers::Status(status) => (status, String::new()),
                Answers::Late(time, body) => {
                    tokio::time::sleep(time).await;
                    (200, body)
                }
                Answers::Large(bytes) => (200, " ".repeat(bytes)),
                Answers::Not => return,
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
            if tcp.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
