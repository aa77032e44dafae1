//! HTTP/1 messages as bytes, read as strictly as RFC 9112 asks, for peers that a library would tidy up.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// How a message says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    /// Chunked in HTTP/1, no length in HTTP/2.
    Unknown,
    /// Until the end of the connection.
    Close,
}

/// A message's head.
#[derive(Clone, Debug)]
pub struct Head {
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The header's first value; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(n, _)| n == name);
        values.next().map_or("", |(_, value)| value)
    }

    /// # Panics
    /// Two readers could tell two lengths.
    #[must_use]
    pub fn request_framing(&self) -> Framing {
        match (
            self.header("content-length"),
            self.header("transfer-encoding"),
        ) {
            ("", "") => Framing::None,
            ("", "chunked") => Framing::Unknown,
            (length, "") => Framing::Length(length.parse().unwrap()),
            both => panic!("two framings: {both:?}"),
        }
    }

    /// Of an answer to this method.
    #[must_use]
    pub fn answer_framing(&self, method: &str) -> Framing {
        let status = self.line.split(' ').nth(1).unwrap_or_default();
        let bodiless =
            method == "HEAD" || status.starts_with('1') || ["204", "304"].contains(&status);
        match self.request_framing() {
            _ if bodiless => Framing::None,
            Framing::None => Framing::Close,
            framing => framing,
        }
    }
}

/// `None`: the connection ended.
pub async fn read_head(tcp: &mut (impl AsyncBufRead + Unpin)) -> Option<Head> {
    let line = read_line(tcp).await?;
    let headers = read_fields(tcp).await?;
    Some(Head { line, headers })
}

async fn read_fields(tcp: &mut (impl AsyncBufRead + Unpin)) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(tcp).await?;
        if line.is_empty() {
            return Some(fields);
        }
        let (name, value) = line.split_once(':')?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

async fn read_line(tcp: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    tcp.read_until(b'\n', &mut line).await.ok()?;
    let line = line.strip_suffix(b"\r\n")?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// The body and its trailers; `None`: it broke off.
pub async fn read_body(
    tcp: &mut (impl AsyncBufRead + Unpin),
    framing: Framing,
) -> Option<(String, Vec<(String, String)>)> {
    let mut body = Vec::new();
    let mut trailers = Vec::new();
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            body.resize(length, 0);
            tcp.read_exact(&mut body).await.ok()?;
        }
        Framing::Close => {
            tcp.read_to_end(&mut body).await.ok()?;
        }
        Framing::Unknown => loop {
            let size = usize::from_str_radix(&read_line(tcp).await?, 16).ok()?;
            if size == 0 {
                trailers = read_fields(tcp).await?;
                break;
            }
            let start = body.len();
            body.resize(start + size, 0);
            tcp.read_exact(&mut body[start..]).await.ok()?;
            if !read_line(tcp).await?.is_empty() {
                return None;
            }
        },
    }
    Some((String::from_utf8_lossy(&body).into_owned(), trailers))
}
