//! The store's listeners: `connect_terminate` whole, `main_internal` chain by chain.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use waypoint_filters::omitted::{Omissions, Omitted};
use waypoint_filters::rejected::Refusal;

use crate::model::discovered::Reference;
use crate::model::filter_chain_matcher::FilterChainMatcher;
use crate::model::listener::{self, Inspection, RawListener};
use crate::model::snapshot::{ConnectTerminate, MainListener};
use crate::received::Response;
use crate::resource::{Resource, check_name};
use crate::store::chains::{Refused, Surroundings};
use crate::store::{CONNECT_TERMINATE, MAIN_INTERNAL, Outcome, Store};

/// `connect_terminate` as it was received last, and what serves.
#[derive(Default)]
pub(super) struct Terminate {
    pub(super) newest: Bytes,
    pub(super) in_force: Option<Arc<ConnectTerminate>>,
    pub(super) referred: BTreeSet<Reference>,
    pub(super) omitted: Vec<Omitted>,
}

impl Store {
    pub(super) fn apply_listener(
        &mut self,
        resource: Resource,
        response: &Arc<Response>,
        outcome: &mut Outcome,
    ) {
        if self.listeners.get(&resource.name) == Some(&resource.body) {
            if resource.name == MAIN_INTERNAL {
                // What was refused is refused again, or istiod would take it for accepted.
                outcome.rejected.extend(self.chains.rejected());
            }
            self.settle(resource, Ok(false), response, outcome);
            return;
        }
        let applied = match resource.name.as_str() {
            CONNECT_TERMINATE => self.connect_terminate(resource.body.clone()),
            MAIN_INTERNAL => self.main_internal(&resource.body, outcome),
            // How tunnels go up is the waypoint's own; the other two carry multi-network traffic, which
            // no endpoint leads into: endpoints that would are refused by name.
            "connect_originate" | "inner_connect_originate" | "outer_connect_originate" => {
                checked(&resource.name, &resource.body).and_then(|raw| raw.check_originate())
            }
            _ => Err(Refusal::new(
                "name",
                "no waypoint has a listener of this name",
            )),
        };
        if applied.is_ok() {
            self.listeners
                .insert(resource.name.clone(), resource.body.clone());
        }
        let taken = applied.map(|()| true);
        self.settle(resource, taken, response, outcome);
    }

    pub(super) fn connect_terminate(&mut self, body: Bytes) -> Result<(), Refusal> {
        let raw = checked(CONNECT_TERMINATE, &body)?;
        let around = Surroundings {
            host: &self.host,
            clusters: &self.clusters,
            discovered: &self.discovered,
        };
        let compiled = around.compile(|context| listener::connect_terminate(&raw, context));
        match compiled.result {
            Ok(terminate) => self.terminate.in_force = Some(Arc::new(terminate)),
            // What served before serves on, until that has come.
            Err(Refused::Waits(_)) => {}
            Err(Refused::For(refusal)) => return Err(refusal),
        }
        self.terminate.newest = body;
        self.terminate.referred = compiled.referred;
        self.terminate.omitted = compiled.omitted;
        Ok(())
    }

    /// Chain by chain: those whose bytes are the same stay as they are.
    fn main_internal(&mut self, body: &Bytes, outcome: &mut Outcome) -> Result<(), Refusal> {
        let raw = checked(MAIN_INTERNAL, body)?;
        let proto = raw
            .listener
            .filter_chain_matcher
            .as_ref()
            .ok_or_else(|| Refusal::missing("filter_chain_matcher"))?;
        let inspection = Inspection::from_proto(&raw.listener.listener_filters)?;
        let omissions = Omissions::default();
        let recorders = listener::recorders(&raw.listener, &*self.host, &omissions);
        let around = Surroundings {
            host: &self.host,
            clusters: &self.clusters,
            discovered: &self.discovered,
        };
        let mut chains = HashMap::new();
        for chain in &raw.chains {
            let (slot, rejected) = self.chains.take(&chain.name, &chain.body, &around);
            outcome.rejected.extend(rejected);
            chains.insert(slot.name.clone(), slot);
        }
        let by_name = |name: &str| chains.get(name).cloned();
        let matcher = FilterChainMatcher::from_proto(proto, &by_name)
            .map_err(|e| e.within("filter_chain_matcher"))?;
        let names: HashSet<&str> = raw.chains.iter().map(|c| c.name.as_str()).collect();
        self.chains.retain(&names);
        self.main_omitted = omissions.into_vec();
        self.main = Some(Arc::new(MainListener {
            matcher,
            inspection,
            chains,
            recorders,
        }));
        Ok(())
    }
}

/// A listener whose own fields are honoured; its chains are looked at one by one.
fn checked(name: &str, body: &Bytes) -> Result<RawListener, Refusal> {
    let raw = RawListener::decode(body)?;
    check_name(&raw.listener.name, name)?;
    Ok(raw)
}
