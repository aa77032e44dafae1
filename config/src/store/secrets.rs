//! Secrets that are delivered by name, and the slots that clusters have for them.
//!
//! Secrets and clusters come in any order. A cluster whose secret hasn't come is in force, and its connections fail: so it is with
//! Envoy once it has waited for its secrets. One that is taken away stays in its slot.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret as SecretProto;
use waypoint_filters::xds::coverage;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::delivered_secret::{DeliveredSecret, SECRET};
use crate::model::cluster::secret::{KeySource, RootsSource};
use crate::model::cluster::secret_slot::{SecretKind, SecretSlots};
use crate::model::cluster::upstream_tls::UpstreamTls;
use crate::resource::check_name;

#[derive(Default)]
pub(crate) struct SecretTable {
    pub(crate) slots: SecretSlots,
    /// What is in force, by name.
    held: HashMap<String, (Bytes, DeliveredSecret)>,
}

impl SecretTable {
    /// Takes a secret; says whether anything changed.
    pub(crate) fn take(&mut self, name: &str, body: &Bytes) -> Result<bool, Refusal> {
        if self.held.get(name).is_some_and(|(held, _)| held == body) {
            return Ok(false);
        }
        let proto: SecretProto = coverage::decode(body, &SECRET)?;
        check_name(&proto.name, name)?;
        let secret = DeliveredSecret::from_proto(&proto)?;
        let (is, other, reason) = match secret.kind() {
            SecretKind::Key => (SecretKind::Key, SecretKind::Roots, NO_ROOTS),
            SecretKind::Roots => (SecretKind::Roots, SecretKind::Key, NO_KEY),
        };
        if self.slots.asks(name, other) && !self.slots.asks(name, is) {
            return Err(Refusal::new("type", reason));
        }
        self.fill(name, &secret);
        self.held.insert(name.to_owned(), (body.clone(), secret));
        Ok(true)
    }

    fn fill(&self, name: &str, secret: &DeliveredSecret) {
        match secret {
            DeliveredSecret::Key(key) if self.slots.asks(name, SecretKind::Key) => {
                self.slots.key(name).fill(key.clone());
            }
            DeliveredSecret::Roots(roots) if self.slots.asks(name, SecretKind::Roots) => {
                self.slots.roots(name).fill(roots.clone());
            }
            // Its cluster comes later.
            DeliveredSecret::Key(_) | DeliveredSecret::Roots(_) => {}
        }
    }

    /// Fills the slots that a cluster has made, with what has come already.
    pub(crate) fn fill_new(&self) {
        for name in self.slots.awaited() {
            if let Some((_, secret)) = self.held.get(&name) {
                self.fill(&name, secret);
            }
        }
    }

    /// None of those that haven't come will.
    pub(crate) fn set_absent(&self) {
        for name in self.slots.awaited() {
            self.tell_absent(&name);
        }
    }

    fn tell_absent(&self, name: &str) {
        if self.slots.asks(name, SecretKind::Key) {
            self.slots.key(name).set_absent();
        }
        if self.slots.asks(name, SecretKind::Roots) {
            self.slots.roots(name).set_absent();
        }
    }

    /// Who delivers says that there is no such secret. Says whether there was one, which stays in use.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.tell_absent(name);
        self.held.remove(name).is_some()
    }

    /// Whether clusters have it, be it still delivered or not.
    pub(crate) fn is_in_use(&self, name: &str) -> bool {
        let asked = |kind| self.slots.asks(name, kind);
        (asked(SecretKind::Key) || asked(SecretKind::Roots)) && !self.slots.awaited().contains(name)
    }

    /// Whether it is delivered, be it in use or not.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.held.contains_key(name)
    }

    /// Keeps the slots that clusters with these settings have.
    pub(crate) fn retain_of<'a>(&self, settings: impl Iterator<Item = &'a UpstreamTls>) {
        let (mut keys, mut roots) = (BTreeSet::new(), BTreeSet::new());
        for tls in settings {
            if let Some(KeySource::Delivered(slot)) = &tls.key {
                keys.insert(slot.name.clone());
            }
            if let Some(RootsSource::Delivered(slot)) = &tls.roots {
                roots.insert(slot.name.clone());
            }
        }
        self.slots.retain(&keys, &roots);
    }
}

const NO_ROOTS: &str = "is a certificate with its key, where roots are asked for";
const NO_KEY: &str = "are roots, where a certificate with its key is asked for";
