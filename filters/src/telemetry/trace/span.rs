//! A span, as it is handed over to an exporter.

use std::borrow::Cow;

use crate::telemetry::export::exporter::Exported;

/// One span that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) trace_id: u128,
    pub(crate) id: u64,
    pub(crate) parent: Option<u64>,
    pub(crate) state: Option<Box<str>>,
    pub(crate) name: Box<str>,
    pub(crate) kind: Kind,
    /// In nanoseconds since 1970.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) tags: Vec<(Cow<'static, str>, String)>,
    /// The address of ours that it came to.
    pub(crate) local: Option<std::net::SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Server,
    Client,
}

impl Exported for Span {
    const NAME: &'static str = "spans";

    fn size(&self) -> usize {
        let tags = self.tags.iter().map(|(key, value)| key.len() + value.len());
        let state = self.state.as_ref().map_or(0, |state| state.len());
        size_of::<Span>()
            + self.name.len()
            + state
            + self.tags.len() * size_of::<(Cow<'static, str>, String)>()
            + tags.sum::<usize>()
    }
}

impl Span {
    pub(crate) fn tag(&self, name: &str) -> Option<&str> {
        let found = self.tags.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether what was answered is an error to whoever has this kind of span.
    pub(crate) fn is_error(&self) -> bool {
        let code = self
            .tag("http.status_code")
            .and_then(|code| code.parse().ok());
        let least = match self.kind {
            Kind::Server => 500,
            Kind::Client => 400,
        };
        code.is_some_and(|code: u32| code >= least)
    }
}
