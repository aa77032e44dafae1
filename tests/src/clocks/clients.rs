//! The clients of the stories: an exchange over HTTP/1.1 or HTTP/2, as it is seen.

use std::time::Instant;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hbone_stream::HboneStream;

use super::{Exchange, UNIT, Upload};

/// An exchange as its client saw it.
pub(super) struct Seen {
    pub(super) status: String,
    pub(super) end: String,
    /// When that was; where the answer was cut, when its last byte came.
    pub(super) at: Instant,
}

/// When an exchange that goes on is given up.
pub(super) const LONG: u32 = 6;

pub(super) async fn http1_exchange(tunnel: HboneStream, path: &str, exchange: &Exchange) -> Seen {
    let (mut read, mut write) = tokio::io::split(tunnel);
    let mut head = format!("POST {path} HTTP/1.1\r\nhost: web\r\n");
    for (name, value) in exchange.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(match exchange.upload {
        Upload::None => "content-length: 0\r\n\r\n",
        _ => "transfer-encoding: chunked\r\n\r\n",
    });
    let (upload, started) = (exchange.upload, Instant::now());
    let writing = async {
        let _ = write.write_all(head.as_bytes()).await;
        for n in 1..=chunks(upload) {
            let _ = write.write_all(b"1\r\nu\r\n").await;
            tokio::time::sleep_until((started + UNIT * n / 7).into()).await;
        }
        if matches!(upload, Upload::For(_)) {
            let _ = write.write_all(b"0\r\n\r\n").await;
        }
        std::future::pending::<()>().await;
    };
    let (mut answer, mut at) = (String::new(), Instant::now());
    let reading = async {
        let mut buffer = [0; 4096];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) => return "closed",
                Err(_) => return "cut",
                Ok(n) => answer.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
            at = Instant::now();
            if is_whole(&answer) {
                return "whole";
            }
        }
    };
    let end = tokio::select! {
        () = writing => "",
        end = reading => end,
        () = tokio::time::sleep(UNIT * LONG) => "open",
    };
    if end == "open" {
        at = Instant::now();
    }
    let grpc = answer.to_ascii_lowercase();
    let grpc = grpc
        .split_once("grpc-status: ")
        .and_then(|(_, rest)| rest.split("\r\n").next());
    Seen {
        status: answer.split(' ').nth(1).unwrap_or("-").to_owned(),
        end: match grpc {
            Some(grpc) => format!("{end} (grpc-status {grpc})"),
            None => end.to_owned(),
        },
        at,
    }
}

pub(super) fn chunks(upload: Upload) -> u32 {
    match upload {
        Upload::None => 0,
        Upload::For(units) => units * 7,
        Upload::Open => 7 * LONG,
    }
}

pub(super) fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    match head.split_once("content-length: ") {
        Some((_, rest)) => {
            rest.split("\r\n").next().and_then(|n| n.parse().ok()) == Some(body.len())
        }
        None => body.ends_with("0\r\n\r\n"),
    }
}

pub(super) async fn http2_exchange(tunnel: HboneStream, path: &str, exchange: &Exchange) -> Seen {
    let (client, driver) = h2::client::handshake(tunnel).await.unwrap();
    tokio::spawn(driver);
    let mut request = Request::post(format!("http://web{path}"));
    for (name, value) in exchange.headers {
        request = request.header(*name, *value);
    }
    let (upload, started) = (exchange.upload, Instant::now());
    let (response, mut send) = client
        .ready()
        .await
        .unwrap()
        .send_request(request.body(()).unwrap(), upload == Upload::None)
        .unwrap();
    let writing = async {
        for n in 1..=chunks(upload) {
            let _ = send.send_data(Bytes::from_static(b"u"), false);
            tokio::time::sleep_until((started + UNIT * n / 7).into()).await;
        }
        if matches!(upload, Upload::For(_)) {
            let _ = send.send_data(Bytes::new(), true);
        }
        std::future::pending::<()>().await;
    };
    let mut status = "-".to_owned();
    let reading = async {
        let cut = |error: h2::Error| match error.reason() {
            Some(h2::Reason::INTERNAL_ERROR) => "cut".to_owned(),
            reason => format!("reset {reason:?}"),
        };
        let response = match response.await {
            Ok(response) => response,
            Err(error) => return cut(error),
        };
        status = response.status().as_u16().to_string();
        let grpc = |map: &http::HeaderMap| {
            let value = map.get("grpc-status")?.to_str().ok()?.to_owned();
            Some(format!("whole (grpc-status {value})"))
        };
        let in_head = grpc(response.headers());
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => drop(body.flow_control().release_capacity(data.len())),
                Err(error) => return cut(error),
            }
        }
        match body.trailers().await {
            Err(error) => cut(error),
            Ok(trailers) => trailers
                .and_then(|map| grpc(&map))
                .or(in_head)
                .unwrap_or("whole".into()),
        }
    };
    let end = tokio::select! {
        () = writing => String::new(),
        end = reading => end,
        () = tokio::time::sleep(UNIT * LONG) => "open".into(),
    };
    Seen {
        status,
        end,
        at: Instant::now(),
    }
}
