//! What a connection's streams have come to, and the series that count each: looked up by their labels once, found by the stream
//! after.
//!
//! Labels are told by what the stream's state says, and by what the expressions of overrides say of it, as bytes. For those
//! there may be many values, so they have a table; nothing is allocated for a stream whose series are known. What is kept is
//! bounded in number and in bytes, and begins again when that is reached.

use std::collections::HashMap;
use std::sync::Arc;

use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::{DestinationService, StreamState, UpstreamInfo};

/// States that are told apart.
const MAX_STATES: usize = 64;
/// What expressions said, in all states, and bytes of it.
const MAX_SAID: usize = 256;
const MAX_BYTES: usize = 64 * 1024;

/// Of one connection; `H` is what holds the series.
pub(super) struct Outcomes<H> {
    known: Vec<Known<H>>,
    said: usize,
    bytes: usize,
}

struct Known<H> {
    outcome: Outcome,
    /// The values of the standard labels.
    labels: Vec<Arc<str>>,
    /// Where nothing is said.
    series: Option<Arc<H>>,
    by_said: HashMap<Box<[u8]>, Arc<H>>,
}

/// What decides on the standard labels, within one connection.
struct Outcome {
    upstream: Option<Arc<UpstreamInfo>>,
    service: Option<Arc<DestinationService>>,
    code: Option<u16>,
    flags: ResponseFlags,
    grpc: Option<Option<u32>>,
}

impl Outcome {
    fn of(state: &StreamState) -> Outcome {
        Outcome {
            upstream: state.upstream.clone(),
            service: state.service.clone(),
            code: state.response.code,
            flags: state.flags,
            grpc: state.grpc.as_ref().map(|grpc| grpc.status),
        }
    }

    fn is_of(&self, state: &StreamState) -> bool {
        let same_upstream = match (&self.upstream, &state.upstream) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.host == b.host && a.cluster == b.cluster),
            _ => false,
        };
        let same_service = match (&self.service, &state.service) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        };
        same_upstream
            && same_service
            && (self.code, self.flags) == (state.response.code, state.flags)
            && self.grpc == state.grpc.as_ref().map(|grpc| grpc.status)
    }
}

impl<H> Default for Outcomes<H> {
    fn default() -> Outcomes<H> {
        Outcomes {
            known: Vec::new(),
            said: 0,
            bytes: 0,
        }
    }
}

impl<H> Outcomes<H> {
    /// The series of a stream of which the expressions say `said`. If they aren't known: `labels` are the values of the
    /// standard labels, and `find` looks the series up by those.
    pub(super) fn series(
        &mut self,
        state: &StreamState,
        said: &[u8],
        labels: impl FnOnce() -> Vec<Arc<str>>,
        find: impl FnOnce(&[Arc<str>]) -> H,
    ) -> Arc<H> {
        let mut at = self
            .known
            .iter()
            .position(|known| known.outcome.is_of(state));
        let found = at
            .and_then(|at| self.known.get(at))
            .and_then(|known| known.series(said));
        if let Some(found) = found {
            return found.clone();
        }
        let full = self.said >= MAX_SAID || self.bytes + said.len() > MAX_BYTES;
        if full || (at.is_none() && self.known.len() >= MAX_STATES) {
            *self = Outcomes::default();
            at = None;
        }
        let at = at.unwrap_or(self.known.len());
        if at == self.known.len() {
            self.known.push(Known {
                outcome: Outcome::of(state),
                labels: labels(),
                series: None,
                by_said: HashMap::new(),
            });
        }
        let Some(known) = self.known.get_mut(at) else {
            // It was just put there.
            return Arc::new(find(&[]));
        };
        let series = Arc::new(find(&known.labels));
        if said.is_empty() {
            known.series = Some(series.clone());
        } else {
            known.by_said.insert(said.into(), series.clone());
            self.said += 1;
            self.bytes += said.len();
        }
        series
    }
}

impl<H> Known<H> {
    fn series(&self, said: &[u8]) -> Option<&Arc<H>> {
        match said.is_empty() {
            true => self.series.as_ref(),
            false => self.by_said.get(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how often labels and series are asked for.
    #[derive(Default)]
    struct Asked {
        outcomes: Outcomes<String>,
        labels: usize,
        series: usize,
    }

    impl Asked {
        fn series(&mut self, state: &StreamState, said: &str) -> String {
            let code = state.response.code.unwrap_or(0);
            let (labels, series) = (&mut self.labels, &mut self.series);
            let found = self.outcomes.series(
                state,
                said.as_bytes(),
                || {
                    *labels += 1;
                    vec![code.to_string().into()]
                },
                |labels| {
                    *series += 1;
                    format!("{}/{said}", labels.concat())
                },
            );
            assert_eq!(*found, format!("{code}/{said}"));
            String::clone(&found)
        }
    }

    fn state(code: u16) -> StreamState {
        let mut state = StreamState::default();
        state.response.code = Some(code);
        state
    }

    #[test]
    fn what_is_known_is_not_asked_for_again() {
        let mut asked = Asked::default();
        for _ in 0..3 {
            for code in [200, 404] {
                for said in ["", "a", "b"] {
                    asked.series(&state(code), said);
                }
            }
        }
        assert_eq!((asked.labels, asked.series), (2, 6));
        let mut flagged = state(200);
        flagged.flags = ResponseFlags::NO_ROUTE;
        asked.series(&flagged, "");
        assert_eq!((asked.labels, asked.series), (3, 7));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut asked = Asked::default();
        for code in 0..1000 {
            asked.series(&state(code), "");
            assert!(asked.outcomes.known.len() <= MAX_STATES);
        }
        for n in 0..1000 {
            asked.series(&state(n % 2), &n.to_string());
            let kept = asked.outcomes.known.iter().map(|known| known.by_said.len());
            assert_eq!(kept.sum::<usize>(), asked.outcomes.said);
            assert!(asked.outcomes.said <= MAX_SAID);
        }
        for n in 0..100 {
            asked.series(&state(200), &format!("{n}{}", "x".repeat(MAX_BYTES / 10)));
            assert!(asked.outcomes.bytes <= MAX_BYTES);
        }
    }
}
