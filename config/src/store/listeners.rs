//! Listeners: `connect_terminate` whole, `main_internal` chain by chain, and those that are the waypoint's own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use waypoint_filters::record::access_log::LogContext;
use waypoint_filters::xds::omitted::{Omissions, Omitted};
use waypoint_filters::xds::rejected::{Refusal, Rejected};

use crate::model::discovered::Reference;
use crate::model::listener::filter_chain_matcher::FilterChainMatcher;
use crate::model::listener::inspection::Inspection;
use crate::model::listener::snapshot::{ConnectTerminate, MainListener, Snapshot};
use crate::model::listener::{self, CONNECT_TERMINATE, MAIN_INTERNAL, RawListener};
use crate::resource::check_name;
use crate::store::chains::{ChainState, ChainTable, NotCompiled, OnRefused, Surroundings};
use crate::store::received::Chains;

pub(crate) struct ListenerTable {
    /// As they were accepted.
    bodies: HashMap<String, Bytes>,
    terminate: Terminate,
    chains: ChainTable,
    main: Option<Arc<MainListener>>,
    /// What `main_internal` itself leaves out.
    main_omitted: Vec<Omitted>,
}

/// `connect_terminate` as it was received last, and what serves.
#[derive(Default)]
struct Terminate {
    newest: Bytes,
    in_force: Option<Arc<ConnectTerminate>>,
    referred: BTreeSet<Reference>,
    omitted: Vec<Omitted>,
}

impl ListenerTable {
    pub(crate) fn new(on_refused: OnRefused) -> ListenerTable {
        ListenerTable {
            bodies: HashMap::new(),
            terminate: Terminate::default(),
            chains: ChainTable::new(on_refused),
            main: None,
            main_omitted: Vec::new(),
        }
    }

    /// Takes a listener; says whether anything changed. Chains that can't serve are added to `rejected`, and
    /// don't make the listener one that is refused.
    pub(crate) fn take(
        &mut self,
        name: &str,
        body: &Bytes,
        around: &Surroundings<'_>,
        rejected: &mut Vec<Rejected>,
    ) -> Result<bool, Refusal> {
        if self.bodies.get(name) == Some(body) {
            if name == MAIN_INTERNAL {
                // What was refused is refused again, or istiod would take it for accepted.
                rejected.extend(self.chains.rejected());
            }
            return Ok(false);
        }
        match name {
            CONNECT_TERMINATE => self.connect_terminate(body.clone(), around)?,
            MAIN_INTERNAL => self.main_internal(body, around, rejected)?,
            // How tunnels go up is the waypoint's own; the other two carry multi-network traffic, which
            // no endpoint leads into: endpoints that would are refused by name.
            "connect_originate" | "inner_connect_originate" | "outer_connect_originate" => {
                checked(name, body)?.check_originate()?;
            }
            _ => {
                let reason = "no waypoint has a listener of this name";
                return Err(Refusal::new("name", reason));
            }
        }
        self.bodies.insert(name.to_owned(), body.clone());
        Ok(true)
    }

    /// Compiles anew what refers to one of these. Chains that can't serve then are added to `rejected`; gives what
    /// became of `connect_terminate`, and its bytes, if it was touched.
    pub(crate) fn take_references(
        &mut self,
        changed: &BTreeSet<Reference>,
        around: &Surroundings<'_>,
        rejected: &mut Vec<Rejected>,
    ) -> Option<(Bytes, Result<bool, Refusal>)> {
        rejected.extend(self.chains.take_references(changed, around));
        if self.terminate.referred.is_disjoint(changed) {
            return None;
        }
        let body = self.terminate.newest.clone();
        let taken = self.connect_terminate(body.clone(), around);
        Some((body, taken.map(|()| true)))
    }

    fn connect_terminate(&mut self, body: Bytes, around: &Surroundings<'_>) -> Result<(), Refusal> {
        let raw = checked(CONNECT_TERMINATE, &body)?;
        let compiled = around.compile(|context| listener::connect_terminate(&raw, context));
        match compiled.result {
            Ok(terminate) => self.terminate.in_force = Some(Arc::new(terminate)),
            // What served before serves on, until that has come.
            Err(NotCompiled::Waits(_)) => {}
            Err(NotCompiled::For(refusal)) => return Err(refusal),
        }
        self.terminate.newest = body;
        self.terminate.referred = compiled.referred;
        self.terminate.omitted = compiled.omitted;
        Ok(())
    }

    /// Chain by chain: those whose bytes are the same stay as they are.
    fn main_internal(
        &mut self,
        body: &Bytes,
        around: &Surroundings<'_>,
        rejected: &mut Vec<Rejected>,
    ) -> Result<(), Refusal> {
        let raw = checked(MAIN_INTERNAL, body)?;
        let proto = raw
            .listener
            .filter_chain_matcher
            .as_ref()
            .ok_or_else(|| Refusal::missing("filter_chain_matcher"))?;
        let inspection = Inspection::from_proto(&raw.listener.listener_filters)?;
        let omissions = Omissions::default();
        let logs = LogContext {
            host: &**around.host,
            clusters: &|name| around.clusters.slot(name),
        };
        let recorders = listener::recorders(&raw.listener, &logs, &omissions);
        let mut chains = HashMap::new();
        for chain in &raw.chains {
            let (slot, refused) = self.chains.take(&chain.name, &chain.body, around);
            rejected.extend(refused);
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

    /// Says whether there was such a listener.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        match name {
            MAIN_INTERNAL => {
                self.main = None;
                self.main_omitted = Vec::new();
                self.chains.retain(&HashSet::new());
            }
            CONNECT_TERMINATE => self.terminate = Terminate::default(),
            _ => {}
        }
        self.bodies.remove(name).is_some()
    }

    /// What the data path reads, if it is complete.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let (connect_terminate, main) = (&self.terminate.in_force, &self.main);
        Some(Snapshot {
            connect_terminate: connect_terminate.clone()?,
            main: main.clone()?,
        })
    }

    /// Trust domains of `connect_terminate`.
    pub(crate) fn trust_domains(&self) -> Vec<String> {
        let terminate = self.terminate.in_force.as_ref();
        terminate.map_or(Vec::new(), |c| c.trust_domains.clone())
    }

    /// What listeners refer to by name.
    pub(crate) fn referred(&self) -> impl Iterator<Item = &Reference> {
        self.chains.referred().chain(&self.terminate.referred)
    }

    /// What was left out, with the name of the listener or chain that it stands in.
    pub(crate) fn omitted(&self) -> impl Iterator<Item = (&str, &Omitted)> {
        let terminate = self.terminate.omitted.iter();
        let main = self.main_omitted.iter().map(|o| (MAIN_INTERNAL, o));
        let own = terminate.map(|o| (CONNECT_TERMINATE, o)).chain(main);
        own.chain(self.chains.omitted())
    }

    /// Chains whose newest version was refused.
    pub(crate) fn rejected_chains(&self) -> Vec<Rejected> {
        self.chains.rejected()
    }

    pub(crate) fn chain_states(&self) -> BTreeMap<ChainState, usize> {
        self.chains.states()
    }

    /// The chains of `main_internal` that serve, and why others don't; `None`: all serve as received last.
    pub(crate) fn chains_apart(&self) -> Option<Chains> {
        self.chains.apart()
    }
}

/// A listener whose own fields are honoured; its chains are looked at one by one.
fn checked(name: &str, body: &Bytes) -> Result<RawListener, Refusal> {
    let raw = RawListener::decode(body)?;
    check_name(&raw.listener.name, name)?;
    Ok(raw)
}
