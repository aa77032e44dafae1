//! Whether somebody looks: what is made for a viewer alone is made while there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Something that may be looked at; clones are the same thing.
#[derive(Clone, Debug, Default)]
pub struct Watched(Arc<AtomicUsize>);

/// Somebody looks, as long as this lives.
#[derive(Debug)]
pub struct Watching(Watched);

impl Watched {
    pub fn is_watched(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Begins to look, unless `most` do already.
    pub fn watch(&self, most: usize) -> Option<Watching> {
        let one_more = |looking| (looking < most).then_some(looking + 1);
        let counted = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.ok().map(|_| Watching(self.clone()))
    }
}

impl PartialEq for Watched {
    fn eq(&self, other: &Watched) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Watched {}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_watched_while_somebody_looks_and_by_so_many_at_most() {
        let watched = Watched::default();
        let looking = [watched.watch(2), watched.watch(2), watched.watch(2)];
        assert_eq!(looking.each_ref().map(Option::is_some), [true, true, false]);
        assert!(watched.is_watched());
        drop(looking);
        assert!(!watched.is_watched());
    }
}
