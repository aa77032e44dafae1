//! `request METHOD PATH [BODY] [--debug-port PORT]`: asks a port of the pod, as `pilot-agent request` does. istioctl execs it.

use std::time::Duration;

use crate::pod::commands::local_http::exchange;

/// The ports that may be asked: admin, readiness, metrics, and one that Istio keeps for debugging.
const ALLOWED: [u16; 4] = [15000, 15021, 15020, 15004];
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
struct Request<'a> {
    port: u16,
    method: &'a str,
    path: String,
    body: &'a str,
}

/// The answer's body.
///
/// # Errors
/// The words make no request, or the answer isn't a good one.
pub(crate) fn request(words: &[String]) -> Result<Vec<u8>, String> {
    let Request {
        port,
        method,
        path,
        body,
    } = parse(words)?;
    let authority = format!("localhost:{port}");
    let answer = exchange(&authority, method, &path, body, TIMEOUT)
        .map_err(|error| format!("{method} {path} on port {port}: {error}"))?;
    if (200..300).contains(&answer.status) {
        return Ok(answer.body);
    }
    let body = String::from_utf8_lossy(&answer.body);
    Err(format!(
        "{method} {path}: {} {}",
        answer.status,
        body.trim()
    ))
}

fn parse(words: &[String]) -> Result<Request<'_>, String> {
    let mut port = 15000;
    let mut plain = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("--debug-port") {
            Some(value) => {
                let value = value
                    .strip_prefix('=')
                    .or_else(|| words.next().map(String::as_str));
                let value = value.ok_or("--debug-port needs a port")?;
                port = value
                    .parse()
                    .map_err(|error| format!("--debug-port {value}: {error}"))?;
            }
            None => plain.push(word.as_str()),
        }
    }
    if !ALLOWED.contains(&port) {
        return Err(format!("port {port} is not one of {ALLOWED:?}"));
    }
    let [method, path, body @ ..] = plain.as_slice() else {
        return Err("usage: request METHOD PATH [BODY] [--debug-port PORT]".into());
    };
    Ok(Request {
        port,
        method,
        path: format!("/{}", path.strip_prefix('/').unwrap_or(path)),
        body: body.first().copied().unwrap_or_default(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn paths_need_no_slash_and_ports_are_few() {
        for (line, port, path, body) in [
            ("GET config_dump", 15000, "/config_dump", ""),
            ("GET /ready", 15000, "/ready", ""),
            (
                "POST logging?level=debug x",
                15000,
                "/logging?level=debug",
                "x",
            ),
            (
                "GET healthz/ready --debug-port 15021",
                15021,
                "/healthz/ready",
                "",
            ),
            ("--debug-port=15020 GET metrics", 15020, "/metrics", ""),
        ] {
            let words = words(line);
            let request = parse(&words).unwrap();
            assert_eq!(
                (request.port, request.path.as_str(), request.body),
                (port, path, body)
            );
        }
        for wrong in [
            "",
            "GET",
            "GET / --debug-port 80",
            "GET / --debug-port",
            "GET / --debug-port=x",
        ] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
