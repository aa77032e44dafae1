//! What is said before an answer, to an HTTP/2 client: its stream's task sends it.
//!
//! It is said in that task, too, which drives the attempts; so nobody has to be woken.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, Response, StatusCode};
use parking_lot::Mutex;

use crate::upstream::connection::informational::heads::{MAX_UNWRITTEN, is_clients};

/// What is said for one request.
#[derive(Default)]
pub(crate) struct Interim {
    /// How often an upstream has spoken.
    spoken: AtomicU64,
    /// How much of it was taken.
    taken: AtomicU64,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    heads: VecDeque<Response<()>>,
    /// Of all that was ever said.
    bytes: usize,
    /// The attempt that has spoken.
    speaker: u32,
}

impl Interim {
    pub(super) fn tell(&self, attempt: u32, status: StatusCode, headers: &HeaderMap) {
        let mut said = self.said.lock();
        if self.spoken() != 0 && said.speaker != attempt {
            return;
        }
        let mut head = Response::new(());
        *head.status_mut() = status;
        let passed = headers.iter().filter(|(name, _)| is_clients(name));
        for (name, value) in passed {
            head.headers_mut().append(name, value.clone());
        }
        let lines = head.headers().iter();
        let bytes: usize = lines
            .map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum();
        said.speaker = attempt;
        if said.bytes + bytes + 32 <= MAX_UNWRITTEN {
            said.bytes += bytes + 32;
            said.heads.push_back(head);
        }
        self.spoken.fetch_add(1, Ordering::Relaxed);
    }

    /// What is to be sent next.
    pub(crate) fn next(&self) -> Option<Response<()>> {
        if self.taken.load(Ordering::Relaxed) == self.spoken() {
            return None;
        }
        let next = self.said.lock().heads.pop_front();
        if next.is_none() {
            self.taken.store(self.spoken(), Ordering::Relaxed);
        }
        next
    }

    pub(super) fn spoken(&self) -> u64 {
        self.spoken.load(Ordering::Relaxed)
    }

    pub(super) fn speaker(&self) -> u32 {
        self.said.lock().speaker
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    #[test]
    fn one_attempt_is_heard_without_what_is_its_connections() {
        let interim = Interim::default();
        let mut headers = HeaderMap::new();
        headers.insert(header::LINK, HeaderValue::from_static("</a>"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        assert!(interim.next().is_none());
        interim.tell(2, StatusCode::EARLY_HINTS, &headers);
        interim.tell(1, StatusCode::PROCESSING, &headers);
        let head = interim.next().unwrap();
        assert_eq!(head.status(), StatusCode::EARLY_HINTS);
        assert_eq!(head.headers().len(), 1);
        assert!(interim.next().is_none());
        assert_eq!((interim.spoken(), interim.speaker()), (1, 2));
    }

    #[test]
    fn only_so_much_is_said_for_a_request() {
        let interim = Interim::default();
        let mut headers = HeaderMap::new();
        let large = HeaderValue::from_bytes(&[b'a'; 20_000]).unwrap();
        headers.insert(header::LINK, large);
        for _ in 0..100 {
            interim.tell(0, StatusCode::EARLY_HINTS, &headers);
        }
        let sent = std::iter::from_fn(|| interim.next()).count();
        assert_eq!(sent, 3);
        assert_eq!(interim.spoken(), 100, "it has spoken, all the same");
    }
}
