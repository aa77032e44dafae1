//! Who keeps account of what a tunnel's stream holds: it is told when the stream is gone.

use std::sync::{Arc, Weak};

use crate::held::account::Account;
use crate::held::holder::Holder;

/// What a stream may hand to h2 that isn't sent yet, with what each frame costs. Above what h2 itself takes in bytes.
pub(super) const MAX_UNSENT: usize = 512 * 1024;

/// Where a stream's memory is kept account of.
pub(super) struct Held {
    /// Who looks at what it hasn't read.
    watched_by: Watcher,
    pub(super) unsent: Arc<Account>,
}

pub(super) enum Watcher {
    /// The holder that the stream itself is.
    Own(Arc<Holder>),
    /// One whose bytes it carries, and its number there.
    Carried(Weak<Holder>, u64),
}

impl Held {
    pub(super) fn new(watched_by: Watcher, holder: &Holder) -> Box<Held> {
        Box::new(Held {
            watched_by,
            unsent: holder.account().exactly_below(MAX_UNSENT / 2),
        })
    }

    pub(super) fn is_carried_for(&self, holder: &Arc<Holder>) -> bool {
        matches!(&self.watched_by, Watcher::Carried(known, _) if known.as_ptr() == Arc::as_ptr(holder))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match &self.watched_by {
            Watcher::Own(holder) => holder.unwatch(),
            Watcher::Carried(holder, number) => {
                if let Some(holder) = holder.upgrade() {
                    holder.unwatch_onward(*number);
                }
            }
        }
    }
}
