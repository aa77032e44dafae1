//! What streams show to those who look: the last denials, and a line for each stream while somebody watches.
//!
//! While nobody does, a stream costs a look at one number. It never waits: a denial that finds another one being
//! written down isn't kept, and a viewer who reads too slowly misses lines. Paths are told without their query, which
//! may have secrets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use waypoint_filters::stream::recorder::Recorder;
use waypoint_filters::stream::stream_info::{Capture, StreamInfo, StreamState};
use waypoint_filters::stream::watched::{Watched, Watching};

/// Denials that are kept.
const DENIALS: usize = 100;
/// Lines that wait for a slow viewer.
const LINES: usize = 512;
/// Viewers at a time.
const VIEWERS: usize = 8;
/// Lines a second; of what is more, the number.
const LINES_PER_SECOND: u64 = 500;
/// Of any text of a peer's, this much is told.
const MAX_TEXT: usize = 256;

/// Told of every stream.
pub(crate) struct Witness {
    watched: Watched,
    lines: broadcast::Sender<Arc<str>>,
    began: Instant,
    pace: Pace,
    denials: Mutex<VecDeque<Value>>,
}

/// A viewer's place.
pub(crate) struct Viewer {
    lines: broadcast::Receiver<Arc<str>>,
    _watching: Watching,
}

impl Default for Witness {
    fn default() -> Witness {
        let (lines, _) = broadcast::channel(LINES);
        Witness {
            watched: Watched::default(),
            lines,
            began: Instant::now(),
            pace: Pace::default(),
            denials: Mutex::default(),
        }
    }
}

impl Witness {
    /// `None`: there are viewers enough.
    pub(crate) fn watch(&self) -> Option<Viewer> {
        Some(Viewer {
            _watching: self.watched.watch(VIEWERS)?,
            lines: self.lines.subscribe(),
        })
    }

    /// The last denials, the newest first.
    pub(crate) fn denials(&self) -> Vec<Value> {
        self.denials.lock().iter().rev().cloned().collect()
    }

    fn keep(&self, denial: Value) {
        // The data path doesn't wait for a reader.
        let Some(mut denials) = self.denials.try_lock() else {
            return;
        };
        if denials.len() == DENIALS {
            denials.pop_front();
        }
        denials.push_back(denial);
    }
}

impl Viewer {
    /// The next line, or the number of lines that were missed. `None`: there will be no more.
    pub(crate) async fn next(&mut self) -> Option<Result<Arc<str>, u64>> {
        match self.lines.recv().await {
            Ok(line) => Some(Ok(line)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Err(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// A line that is there already.
    pub(crate) fn ready(&mut self) -> Option<Arc<str>> {
        self.lines.try_recv().ok()
    }
}

impl Recorder for Witness {
    fn capture(&self) -> Capture {
        Capture {
            request_line_for: Some(self.watched.clone()),
            ..Capture::default()
        }
    }

    fn record(&self, stream: &StreamInfo, end: Instant) {
        let state = stream.state();
        if let Some(by) = &state.denied_by {
            let mut denial = story(stream, &state);
            denial["by"] = (&**by).into();
            self.keep(denial);
        }
        if !self.watched.is_watched() {
            return;
        }
        let second = end.saturating_duration_since(self.began).as_secs();
        let Some(skipped) = self.pace.turn(second) else {
            return;
        };
        let mut line = story(stream, &state);
        tell(&mut line, stream, &state, end);
        if skipped > 0 {
            line["skippedBefore"] = skipped.into();
        }
        drop(state);
        // Nobody listens any more: that is all right.
        let _ = self.lines.send(line.to_string().into());
    }
}

/// Who wanted what, and what was said.
fn story(stream: &StreamInfo, state: &StreamState) -> Value {
    let connection = &stream.connection;
    let request = &state.request;
    let at = stream.start_time.duration_since(UNIX_EPOCH);
    let at = at.unwrap_or_default().as_millis() as u64;
    let authority = request
        .authority
        .as_ref()
        .and_then(|host| host.to_str().ok());
    let details = state.response_code_details.as_deref();
    json!({
        "at": at,
        "source": connection.peer.as_ref().map(|peer| short(peer.as_str())),
        "sourceAddress": connection.source.ip().to_canonical().to_string(),
        "workload": connection.downstream_peer.as_ref().map(|peer| short(&peer.workload)),
        "destination": connection.destination.to_string(),
        "service": state.service.as_ref().map(|service| short(&service.host)),
        "method": request.method.as_ref().map(|method| short(method.as_str())),
        "host": authority.map(short),
        "path": request.path.as_ref().map(|path| short(path.path())),
        "status": state.response.code,
        "details": details.or(state.connection_termination_details.as_deref()).map(short),
    })
}

/// What came of it.
fn tell(line: &mut Value, stream: &StreamInfo, state: &StreamState, end: Instant) {
    let upstream = state.upstream.as_ref();
    let peer = upstream.and_then(|upstream| upstream.peer.as_ref());
    let took = end.saturating_duration_since(stream.start);
    line["protocol"] = stream.protocol.name().unwrap_or("TCP").into();
    line["flags"] = state.flags.to_short().as_ref().into();
    line["milliseconds"] = (took.as_micros() as f64 / 1000.0).into();
    line["received"] = stream.bytes_received().into();
    line["sent"] = stream.bytes_sent().into();
    line["upstream"] = upstream.map(|upstream| upstream.host.to_string()).into();
    line["upstreamWorkload"] = peer.map(|peer| short(&peer.workload)).into();
    line["route"] = state
        .route
        .as_ref()
        .map(|route| short(&route.info().name))
        .into();
    line["attempts"] = state.attempts.into();
    line["by"] = state.denied_by.as_deref().map(short).into();
}

/// Of a text of a peer's, as much as is told.
fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

/// So many lines a second, and the number of what was more.
#[derive(Default)]
struct Pace {
    /// The second, and in the low bits the lines of it.
    now: AtomicU64,
    skipped: AtomicU64,
}

impl Pace {
    const BITS: u32 = 16;

    /// `None`: the second is full. Else how many were skipped since the last line.
    fn turn(&self, second: u64) -> Option<u64> {
        let next = |now: u64| match now >> Pace::BITS == second {
            true if now & ((1 << Pace::BITS) - 1) >= LINES_PER_SECOND => None,
            true => Some(now + 1),
            false => Some((second << Pace::BITS) + 1),
        };
        match self
            .now
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        {
            Ok(_) => Some(self.skipped.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::SystemTime;

    use waypoint_filters::stream::connection::Connection;
    use waypoint_filters::stream::stream_info::Protocol;

    use super::*;

    fn stream() -> Arc<StreamInfo> {
        let any = "192.0.2.1:80".parse().unwrap();
        let connection = Arc::new(Connection::new(any, any, Instant::now()));
        StreamInfo::new(
            connection,
            Protocol::Http11,
            Instant::now(),
            SystemTime::now(),
        )
    }

    #[test]
    fn a_second_has_so_many_lines_and_the_next_tells_of_the_rest() {
        let pace = Pace::default();
        let turns = |second, count: u64| {
            let turns = (0..count).map(|_| pace.turn(second));
            turns.flatten().count() as u64
        };
        assert_eq!(turns(3, LINES_PER_SECOND + 7), LINES_PER_SECOND);
        assert_eq!(pace.turn(4), Some(7));
        assert_eq!(pace.turn(4), Some(0));
    }

    #[tokio::test]
    async fn lines_are_made_while_somebody_watches() {
        let witness = Witness::default();
        assert!(!witness.capture().of_request());
        witness.record(&stream(), Instant::now());
        let mut viewer = witness.watch().unwrap();
        assert!(witness.capture().of_request());
        let watched = stream();
        watched.state().response.code = Some(418);
        watched.state().request.path = Some("/tea?token=secret".parse().unwrap());
        witness.record(&watched, Instant::now());
        let line: Value = serde_json::from_str(&viewer.next().await.unwrap().unwrap()).unwrap();
        assert_eq!(
            (&line["status"], &line["path"]),
            (&418.into(), &"/tea".into())
        );
        assert_eq!(viewer.ready(), None);
        drop(viewer);
        assert!(!witness.capture().of_request());
    }

    #[test]
    fn the_last_denials_are_kept_with_who_denied() {
        let witness = Witness::default();
        for n in 0..DENIALS + 3 {
            let denied = stream();
            denied.state().denied_by = Some(format!("DENY a/p rule {n}").into());
            witness.record(&denied, Instant::now());
        }
        witness.record(&stream(), Instant::now());
        let denials = witness.denials();
        assert_eq!(denials.len(), DENIALS);
        assert_eq!(denials[0]["by"], format!("DENY a/p rule {}", DENIALS + 2));
    }

    #[test]
    fn texts_are_cut() {
        assert_eq!(short("ü"), "ü");
        assert_eq!(
            short(&"ü".repeat(MAX_TEXT + 1)).chars().count(),
            MAX_TEXT + 1
        );
    }
}
