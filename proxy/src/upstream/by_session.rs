//! Where the session that a request belongs to leads it.
//!
//! Only its first attempt: a retry goes where the policy leads it, as in Envoy.

use waypoint_filters::stream::session::Wanted;

use crate::upstream::reach::{Chosen, ToCluster};

/// What a session says of the choice of an endpoint.
pub(crate) enum Led {
    To(Chosen),
    /// Nothing: the policy chooses.
    Anywhere,
    /// The endpoint isn't there, or isn't well, and no other takes its place.
    Nowhere,
}

impl ToCluster<'_> {
    pub(crate) fn led_by_session(&self) -> Led {
        let mut state = self.stream.state();
        let Some(session) = &mut state.session else {
            return Led::Anywhere;
        };
        let endpoints = self.slot.endpoints();
        let found = match session.wanted {
            Wanted::Nothing => return Led::Anywhere,
            _ if !self.cluster.discovery.lists_endpoints() => return Led::Anywhere,
            Wanted::Nobody => None,
            Wanted::Host(host) => endpoints.at(host),
        };
        let strict = session.strict;
        session.is_gone = found.is_none();
        drop(state);
        match found.filter(|endpoint| endpoint.is_healthy()) {
            Some(endpoint) => Led::To(self.chosen(endpoint.clone())),
            None if strict => Led::Nowhere,
            None => Led::Anywhere,
        }
    }

    /// The session is told which endpoint it has now.
    pub(crate) fn tell_session(&self, chosen: &Chosen) {
        if let Some(session) = &mut self.stream.state().session {
            session.chosen = Some(chosen.endpoint.session_host());
        }
    }
}
