//! Tells the clock of heads when an answer has ended, where somebody wants to know.

use std::sync::Arc;

use crate::downstream::http::connection::HttpConnection;

/// An answer that hasn't ended.
pub(crate) struct Answering(Arc<HttpConnection>);

impl Answering {
    /// `None`: nobody wants to know.
    pub(crate) fn begin(connection: &Arc<HttpConnection>) -> Option<Answering> {
        let limit = connection.first.request_headers_timeout;
        limit.map(|_| Answering(connection.clone()))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.heads.answered();
    }
}
