//! `wait`: returns when the waypoint is ready, as `pilot-agent wait` does.

use std::time::{Duration, Instant};

use clap::Args;
use http::Uri;

use crate::pod::commands::local_http::exchange;

/// With the names that Istio's agent has for them.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// What answers 200 when it is ready.
    #[arg(long, default_value = "http://localhost:15021/healthz/ready")]
    url: Uri,
    /// Seconds to wait in all.
    #[arg(long = "timeoutSeconds", default_value = "60")]
    timeout_seconds: u64,
    /// Milliseconds for one answer.
    #[arg(long = "requestTimeoutMillis", default_value = "500", value_parser = clap::value_parser!(u64).range(1..))]
    request_timeout_millis: u64,
    /// Milliseconds between two questions.
    #[arg(long = "periodMillis", default_value = "500")]
    period_millis: u64,
}

/// Asks until it is ready.
///
/// # Errors
/// It isn't in time; what was missing last.
pub(crate) fn wait(args: &WaitArgs) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout_seconds);
    loop {
        let reason = match ask(args) {
            Ok(()) => return Ok(()),
            Err(reason) => reason,
        };
        let period = Duration::from_millis(args.period_millis);
        if Instant::now() + period >= deadline {
            return Err(format!("not ready in time: {reason}"));
        }
        std::thread::sleep(period);
    }
}

fn ask(args: &WaitArgs) -> Result<(), String> {
    let host = args.url.host().ok_or("the URL has no host")?;
    let authority = format!("{host}:{}", args.url.port_u16().unwrap_or(80));
    let path = args.url.path_and_query().map_or("/", |path| path.as_str());
    let timeout = Duration::from_millis(args.request_timeout_millis);
    let answer = exchange(&authority, "GET", path, "", timeout).map_err(|e| e.to_string())?;
    if answer.status == 200 {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&answer.body);
    Err(format!("{} {}", answer.status, body.trim()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn args(url: &str, timeout_seconds: u64) -> WaitArgs {
        WaitArgs {
            url: url.parse().unwrap(),
            timeout_seconds,
            request_timeout_millis: 500,
            period_millis: 20,
        }
    }

    #[test]
    fn it_waits_for_200() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/healthz/ready", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            for status in ["503 no", "503 no", "200 OK"] {
                let (mut tcp, _) = listener.accept().unwrap();
                let mut head = [0; 1024];
                let n = tcp.read(&mut head).unwrap();
                assert!(head[..n].starts_with(b"GET /healthz/ready HTTP/1.0\r\n"));
                write!(tcp, "HTTP/1.0 {status}\r\n\r\nwhy\n").unwrap();
            }
        });
        assert_eq!(wait(&args(&url, 10)), Ok(()));
        server.join().unwrap();
        // Nobody listens any more.
        assert!(wait(&args(&url, 0)).is_err());
    }
}
