//! The filter chains of `main_internal` by name: what was received last, and what is in force.
//!
//! The two differ where the last version was refused, or waits for what it refers to by name.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use waypoint_filters::host::Host;
use waypoint_filters::xds::omitted::{Omissions, Omitted};
use waypoint_filters::xds::rejected::{Refusal, Rejected};

use crate::model::discovered::{Discovered, Lookup, Reference, waiting};
use crate::model::http::connection_manager::ChainContext;
use crate::model::listener;
use crate::model::listener::chain::{ChainSlot, FilterChain};
use crate::store::clusters::ClusterTable;
use crate::store::received::Chains;

/// What becomes of a chain or cluster whose new version is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRefused {
    /// Its last good version stays.
    #[default]
    Keep,
    /// It is closed, as one that never had a good version.
    Close,
}

/// How a chain stands to what was received last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainState {
    /// The version that was received last serves.
    Current,
    /// An earlier one serves: the last was refused, or waits.
    Stale,
    /// None serves: its streams are answered 503, or reset.
    Closed,
}

impl ChainState {
    pub const ALL: [ChainState; 3] = [ChainState::Current, ChainState::Stale, ChainState::Closed];

    /// For metric labels.
    pub fn label(self) -> &'static str {
        match self {
            ChainState::Current => "current",
            ChainState::Stale => "stale",
            ChainState::Closed => "closed",
        }
    }
}

/// What chains are compiled with.
pub(crate) struct Surroundings<'a> {
    pub(crate) host: &'a Arc<dyn Host>,
    pub(crate) clusters: &'a ClusterTable,
    pub(crate) discovered: &'a Discovered,
}

/// What came of a compilation.
pub(crate) struct Compiled<T> {
    pub(crate) result: Result<T, NotCompiled>,
    /// What it refers to by name, there or not.
    pub(crate) referred: BTreeSet<Reference>,
    pub(crate) omitted: Vec<Omitted>,
}

/// Why nothing came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotCompiled {
    /// What it refers to hasn't come.
    Waits(Reference),
    For(Refusal),
}

impl Surroundings<'_> {
    pub(crate) fn compile<T>(
        &self,
        compile: impl FnOnce(&ChainContext<'_>) -> Result<T, Refusal>,
    ) -> Compiled<T> {
        let slot = |name: &str| self.clusters.slot(name);
        let (lookup, omissions) = (Lookup::new(self.discovered), Omissions::default());
        let result = compile(&ChainContext {
            host: self.host,
            slot: &slot,
            lookup: &lookup,
            omissions: &omissions,
        });
        let (referred, missing) = lookup.end();
        Compiled {
            result: result
                .map_err(|refusal| missing.map_or(NotCompiled::For(refusal), NotCompiled::Waits)),
            referred,
            omitted: omissions.into_vec(),
        }
    }
}

struct Entry {
    slot: Arc<ChainSlot>,
    /// Received last.
    newest: Bytes,
    /// What serves; `None`: closed.
    in_force: Option<Bytes>,
    /// Why the newest doesn't serve.
    refused: Option<NotCompiled>,
    referred: BTreeSet<Reference>,
    omitted: Vec<Omitted>,
}

#[derive(Default)]
pub(crate) struct ChainTable {
    on_refused: OnRefused,
    entries: HashMap<String, Entry>,
}

impl ChainTable {
    pub(crate) fn new(on_refused: OnRefused) -> ChainTable {
        ChainTable {
            on_refused,
            entries: HashMap::new(),
        }
    }

    /// Takes a chain as it was received. Its slot; and why it can't serve, each time that it is received.
    pub(crate) fn take(
        &mut self,
        name: &str,
        body: &Bytes,
        around: &Surroundings<'_>,
    ) -> (Arc<ChainSlot>, Option<Rejected>) {
        let known = self.entries.get_mut(name);
        if let Some(entry) = known.filter(|entry| entry.newest == *body) {
            // The same bytes: now those of the newest listener, so that the one before is let go.
            if entry.refused.is_none() {
                entry.in_force = Some(body.clone());
            }
            entry.newest = body.clone();
            return (entry.slot.clone(), entry.rejected(name));
        }
        let entry = self.compile(name, body.clone(), around);
        (entry.slot.clone(), entry.rejected(name))
    }

    /// Compiles the chains anew that refer to one of these; gives those that can't serve then.
    pub(crate) fn take_references(
        &mut self,
        changed: &BTreeSet<Reference>,
        around: &Surroundings<'_>,
    ) -> Vec<Rejected> {
        let refers = |entry: &Entry| !entry.referred.is_disjoint(changed);
        let entries = self.entries.iter();
        let touched: Vec<(String, Bytes)> = entries
            .filter(|(_, entry)| refers(entry))
            .map(|(name, entry)| (name.clone(), entry.newest.clone()))
            .collect();
        touched
            .into_iter()
            .filter_map(|(name, body)| self.compile(&name, body, around).rejected(&name))
            .collect()
    }

    fn compile(&mut self, name: &str, body: Bytes, around: &Surroundings<'_>) -> &Entry {
        let compiled = around.compile(|context| listener::chain(&body, context));
        let before = self.entries.remove(name);
        let slot = before.as_ref().map_or_else(
            || Arc::new(ChainSlot::new(name, FilterChain::Closed("".into()))),
            |entry| entry.slot.clone(),
        );
        let mut in_force = before.and_then(|entry| entry.in_force);
        let refused = match compiled.result {
            Ok(chain) => {
                slot.store(chain);
                in_force = Some(body.clone());
                None
            }
            Err(refused) => {
                if self.on_refused == OnRefused::Close && matches!(refused, NotCompiled::For(_)) {
                    in_force = None;
                }
                // What serves on doesn't hold the whole listener that it came in.
                in_force = in_force.map(|body| Bytes::copy_from_slice(&body));
                if in_force.is_none() {
                    slot.store(FilterChain::Closed(refused.to_string().into()));
                }
                Some(refused)
            }
        };
        let entry = Entry {
            slot,
            newest: body,
            in_force,
            refused,
            referred: compiled.referred,
            omitted: compiled.omitted,
        };
        self.entries
            .entry(name.to_owned())
            .insert_entry(entry)
            .into_mut()
    }

    /// Keeps these chains only.
    pub(crate) fn retain(&mut self, names: &HashSet<&str>) {
        self.entries.retain(|name, _| names.contains(name.as_str()));
    }

    /// Chains whose newest version was refused.
    pub(crate) fn rejected(&self) -> Vec<Rejected> {
        let entries = self.entries.iter();
        entries
            .filter_map(|(name, entry)| entry.rejected(name))
            .collect()
    }

    /// The chains that serve, and why others don't; `None`: all serve as they were received last.
    pub(crate) fn apart(&self) -> Option<Chains> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        if entries.iter().all(|(_, entry)| entry.refused.is_none()) {
            return None;
        }
        entries.sort_by_key(|(name, _)| name.as_str());
        let reason = |(name, entry): &(&String, &Entry)| {
            let refused = entry.refused.as_ref()?;
            Some(format!("{name}: {refused}"))
        };
        let reasons = entries.iter().filter_map(reason);
        let serves = |(name, entry): &(&String, &Entry)| {
            let body = entry.in_force.clone()?;
            Some(((*name).clone(), body))
        };
        let serving = entries.iter().filter_map(serves);
        Some(Chains::new(serving.collect(), reasons))
    }

    /// What chains refer to by name.
    pub(crate) fn referred(&self) -> impl Iterator<Item = &Reference> {
        self.entries.values().flat_map(|entry| &entry.referred)
    }

    /// What was left out, with its chain's name.
    pub(crate) fn omitted(&self) -> impl Iterator<Item = (&str, &Omitted)> {
        let entries = self.entries.iter();
        entries.flat_map(|(name, entry)| entry.omitted.iter().map(move |o| (name.as_str(), o)))
    }

    /// How many chains are in which state.
    pub(crate) fn states(&self) -> BTreeMap<ChainState, usize> {
        let mut states: BTreeMap<_, usize> = ChainState::ALL.map(|state| (state, 0)).into();
        for entry in self.entries.values() {
            *states.entry(entry.state()).or_default() += 1;
        }
        states
    }
}

impl Entry {
    fn rejected(&self, name: &str) -> Option<Rejected> {
        match &self.refused {
            Some(NotCompiled::For(refusal)) => {
                Some(refusal.clone().of(format!("main_internal > {name}")))
            }
            _ => None,
        }
    }

    fn state(&self) -> ChainState {
        match (&self.refused, &self.in_force) {
            (None, _) => ChainState::Current,
            (Some(_), Some(_)) => ChainState::Stale,
            (Some(_), None) => ChainState::Closed,
        }
    }
}

impl std::fmt::Display for NotCompiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotCompiled::Waits(reference) => write!(f, "{}", waiting(reference).reason),
            NotCompiled::For(refusal) => write!(f, "{refusal}"),
        }
    }
}
