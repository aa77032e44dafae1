//! Who is told what an upstream says for a request, whatever the client speaks.

use std::sync::Arc;

use http::{HeaderMap, Request, StatusCode};
use waypoint_hbone::messages::client::Listener;

use crate::upstream::connection::informational::heads::is_passed_on;
use crate::upstream::connection::informational::http1::Informational;
use crate::upstream::connection::informational::http2::Interim;

/// Who may be told what is said for a request; in its extensions.
#[derive(Clone)]
pub(crate) struct Relay {
    client: Client,
    attempt: u32,
}

#[derive(Clone)]
enum Client {
    /// On a connection that has one request at a time, the request with this number.
    Http1(Arc<Informational>, u64),
    Http2(Arc<Interim>),
}

impl Relay {
    /// To the client of an HTTP/1.1 connection, whose request with this number begins.
    pub(crate) fn to_connection(informational: &Arc<Informational>, number: u64) -> Relay {
        let request = informational.begin(number);
        Relay::new(Client::Http1(informational.clone(), request))
    }

    /// To an HTTP/2 client.
    pub(crate) fn to_stream(interim: Arc<Interim>) -> Relay {
        Relay::new(Client::Http2(interim))
    }

    fn new(client: Client) -> Relay {
        Relay { client, attempt: 0 }
    }

    /// Has hyper tell what the upstream says before its answer. `heard` is called for each.
    pub(crate) fn listen<B>(
        &self,
        request: &mut Request<B>,
        heard: impl Fn() + Send + Sync + 'static,
    ) {
        let relay = self.clone();
        hyper::ext::on_informational(request, move |response| {
            heard();
            relay.tell(response.status(), response.headers());
        });
    }

    fn tell(&self, status: StatusCode, headers: &HeaderMap) {
        match &self.client {
            Client::Http1(informational, request) => {
                informational.tell(*request, self.attempt, status, headers);
            }
            Client::Http2(interim) if is_passed_on(status) => {
                interim.tell(self.attempt, status, headers);
            }
            Client::Http2(_) => {}
        }
    }

    /// Whether a request on the connection has expected 100, in the words of HTTP/1.1's reader.
    pub(crate) fn was_expected(&self) -> bool {
        match &self.client {
            Client::Http1(informational, _) => informational.was_expected(),
            Client::Http2(_) => false,
        }
    }

    /// The client waits with its body.
    pub(crate) fn wait(&self) {
        if let Client::Http1(informational, request) = &self.client {
            informational.wait(*request);
        }
    }

    /// Whether the client waits with its body, and has to be told to send it.
    pub(crate) fn is_waiting(&self) -> bool {
        match &self.client {
            Client::Http1(informational, request) => informational.is_waiting(*request),
            Client::Http2(_) => false,
        }
    }

    /// Tells a client that waits with its body to send it, whatever the upstream says.
    pub(crate) fn go_on(&self) {
        if let Client::Http1(informational, request) = &self.client {
            informational.go_on(*request);
        }
    }

    /// Whether an upstream has said something for this request: the client has heard of that one.
    pub(crate) fn has_spoken(&self) -> bool {
        match &self.client {
            Client::Http1(informational, request) => informational.has_spoken(*request),
            Client::Http2(interim) => interim.spoken() != 0,
        }
    }

    /// Which attempt it was.
    pub(crate) fn speaker(&self) -> Option<u32> {
        self.has_spoken().then(|| match &self.client {
            Client::Http1(informational, _) => informational.speaker(),
            Client::Http2(interim) => interim.speaker(),
        })
    }

    /// A number that changes whenever something is said.
    pub(crate) fn spoken(&self) -> u64 {
        match &self.client {
            Client::Http1(informational, _) => informational.spoken(),
            Client::Http2(interim) => interim.spoken(),
        }
    }

    /// The request is an attempt among others.
    pub(crate) fn number<B>(request: &mut Request<B>, attempt: u32) {
        if let Some(relay) = request.extensions_mut().get_mut::<Relay>() {
            relay.attempt = attempt;
        }
    }
}

/// What an HTTP/2 upstream says.
impl Listener for Relay {
    fn heard(&self, status: StatusCode, headers: &HeaderMap) {
        self.tell(status, headers);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;
    use crate::upstream::connection::informational::heads::MAX_UNWRITTEN;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::LINK, HeaderValue::from_static("</a>"));
        headers.insert("x-some-thing", HeaderValue::from_static("1"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
        headers
    }

    fn text(informational: &Informational) -> String {
        let mut text = String::new();
        while let Some(head) = informational.next() {
            text.push_str(&String::from_utf8_lossy(&head));
        }
        text
    }

    #[test]
    fn what_is_said_is_the_clients_and_not_the_connections() {
        for (title, told) in [
            (false, "link: </a>\r\nx-some-thing: 1\r\n"),
            (true, "Link: </a>\r\nX-Some-Thing: 1\r\n"),
        ] {
            let informational = Arc::new(Informational::new(title));
            let relay = Relay::to_connection(&informational, 0);
            for (status, line) in [
                (StatusCode::EARLY_HINTS, "103 Early Hints"),
                (StatusCode::PROCESSING, "102 Processing"),
            ] {
                relay.tell(status, &headers());
                assert!(informational.is_unwritten());
                assert_eq!(
                    text(&informational),
                    format!("HTTP/1.1 {line}\r\n{told}\r\n")
                );
                assert!(!informational.is_unwritten());
            }
            relay.tell(StatusCode::SWITCHING_PROTOCOLS, &headers());
            assert!(!informational.is_unwritten());
        }
    }

    #[test]
    fn nothing_is_said_after_the_answer_or_for_another_request() {
        let informational = Arc::new(Informational::default());
        let first = Relay::to_connection(&informational, 0);
        assert!(!first.has_spoken());
        first.tell(StatusCode::EARLY_HINTS, &headers());
        assert!(first.has_spoken() && !informational.end());
        first.tell(StatusCode::EARLY_HINTS, &headers());
        assert_eq!(text(&informational).matches("HTTP/1.1").count(), 1);
        let second = Relay::to_connection(&informational, 1);
        first.tell(StatusCode::EARLY_HINTS, &headers());
        assert_eq!(
            (text(&informational), second.has_spoken()),
            (String::new(), false)
        );
    }

    #[test]
    fn a_client_waits_until_it_is_told_to_go_on_or_has_its_answer() {
        let informational = Arc::new(Informational::default());
        let relay = Relay::to_connection(&informational, 0);
        relay.wait();
        assert!(relay.is_waiting());
        relay.go_on();
        relay.go_on();
        assert_eq!(text(&informational), "HTTP/1.1 100 Continue\r\n\r\n");
        assert!(!relay.is_waiting() && !relay.has_spoken() && !informational.end());
        let relay = Relay::to_connection(&informational, 1);
        relay.wait();
        assert!(informational.end(), "its body never comes");
        relay.go_on();
        assert_eq!(text(&informational), "");
    }

    #[test]
    fn of_attempts_beside_each_other_one_is_heard_and_only_so_much() {
        let informational = Arc::new(Informational::default());
        let mut first = Relay::to_connection(&informational, 0);
        first.attempt = 1;
        let mut second = first.clone();
        second.attempt = 2;
        second.tell(StatusCode::PROCESSING, &headers());
        first.tell(StatusCode::EARLY_HINTS, &headers());
        assert_eq!(first.speaker(), Some(2));
        assert!(text(&informational).starts_with("HTTP/1.1 102"));
        let mut large = HeaderMap::new();
        large.insert(
            header::LINK,
            HeaderValue::from_bytes(&[b'a'; 40_000]).unwrap(),
        );
        for _ in 0..9 {
            second.tell(StatusCode::EARLY_HINTS, &large);
        }
        assert!((40_000..MAX_UNWRITTEN).contains(&text(&informational).len()));
    }
}
