//! What one evaluation may make. Each part of an expression is evaluated once at most, so its length bounds the time; texts and
//! lists that functions make could still grow with every step.

use super::value::NoValue;

/// Bytes of all texts and lists that an evaluation makes.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn whole() -> Budget {
        Budget(MAX_BYTES)
    }

    /// # Errors
    /// It is used up.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), NoValue> {
        self.0 = self.0.checked_sub(bytes).ok_or(NoValue)?;
        Ok(())
    }
}
