//! What of the manifests shows in a translation.
//!
//! Whoever makes something of a part of an object (a match, a parent, a target, a port) marks the part. What isn't
//! marked in the end had no effect, and `no_effect` says why. A part is known by its address and type: the state
//! that is translated stays where it is.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashSet;

#[derive(Debug, Default)]
pub(crate) struct Effects {
    marks: RefCell<HashSet<(usize, TypeId)>>,
}

impl Effects {
    /// The part has had an effect.
    pub(crate) fn mark<T: 'static>(&self, part: &T) {
        self.marks.borrow_mut().insert(key(part));
    }

    pub(crate) fn shows<T: 'static>(&self, part: &T) -> bool {
        self.marks.borrow().contains(&key(part))
    }
}

fn key<T: 'static>(part: &T) -> (usize, TypeId) {
    (std::ptr::from_ref(part).addr(), TypeId::of::<T>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_known_by_its_place() {
        let effects = Effects::default();
        let twins = [(1_u8, 2_u8), (1, 2)];
        effects.mark(&twins[0]);
        assert!(effects.shows(&twins[0]) && !effects.shows(&twins[1]));
        // The first field stands where its whole stands.
        assert!(!effects.shows(&twins[0].0));
    }
}
