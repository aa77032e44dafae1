//! What a format is evaluated on: a stream with its live or captured heads.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::stream::stream_info::{RequestHead, StreamInfo, StreamState};

/// What an evaluation looks at.
pub struct FormatContext<'a> {
    pub stream: &'a StreamInfo,
    pub state: &'a StreamState,
    /// The live request, where there is one; the captured head otherwise.
    pub request: Option<RequestView<'a>>,
    /// The live response's headers; the captured ones otherwise.
    pub response: Option<&'a HeaderMap>,
    /// When the stream ended, for durations.
    pub end: std::time::Instant,
}

/// The head of a live request.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    pub method: &'a http::Method,
    pub uri: &'a http::Uri,
    pub headers: &'a HeaderMap,
}

impl<'a> FormatContext<'a> {
    /// Of a stream whose messages are gone: what was captured of them is told.
    pub fn recorded(
        stream: &'a StreamInfo,
        state: &'a StreamState,
        end: std::time::Instant,
    ) -> FormatContext<'a> {
        FormatContext {
            stream,
            state,
            request: None,
            response: None,
            end,
        }
    }

    pub(crate) fn captured(&self) -> &RequestHead {
        &self.state.request
    }

    /// All values under a name, in order.
    pub(crate) fn request_headers<'s>(
        &'s self,
        name: &'s HeaderName,
    ) -> impl Iterator<Item = &'s HeaderValue> {
        let live = self.request.as_ref().map(|request| request.headers);
        all(live, &self.captured().headers, name)
    }

    /// The same, of the response.
    pub(crate) fn response_headers<'s>(
        &'s self,
        name: &'s HeaderName,
    ) -> impl Iterator<Item = &'s HeaderValue> {
        all(self.response, &self.state.response.headers, name)
    }

    pub(crate) fn request_header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        match &self.request {
            Some(request) => request.headers.get(name),
            None => find(&self.captured().headers, name),
        }
    }

    pub(crate) fn response_trailer(&self, name: &HeaderName) -> Option<&HeaderValue> {
        find(&self.state.response.trailers, name)
    }

    pub(crate) fn response_header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        match self.response {
            Some(headers) => headers.get(name),
            None => find(&self.state.response.headers, name),
        }
    }
}

fn find<'a>(
    headers: &'a [(HeaderName, HeaderValue)],
    name: &HeaderName,
) -> Option<&'a HeaderValue> {
    headers.iter().find(|(n, _)| n == name).map(|(_, v)| v)
}

/// Of the live map where there is one; of what was captured otherwise.
fn all<'s>(
    live: Option<&'s HeaderMap>,
    captured: &'s [(HeaderName, HeaderValue)],
    name: &'s HeaderName,
) -> impl Iterator<Item = &'s HeaderValue> {
    let captured = if live.is_some() { &[] } else { captured };
    let live = live.map(|live| live.get_all(name));
    let captured = captured.iter().filter(move |(n, _)| n == name);
    live.into_iter()
        .flatten()
        .chain(captured.map(|(_, value)| value))
}
