//! Numbers of connections (`%CONNECTION_ID%`): unique in this process, from 1, and given out when first asked
//! for, so that they cost nothing otherwise.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct SerialId(OnceLock<u64>);

impl SerialId {
    pub fn get(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        *self.0.get_or_init(|| NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_each() {
        let (a, b) = (SerialId::default(), SerialId::default());
        let first = b.get();
        assert!(first > 0 && a.get() > first);
        assert_eq!(b.get(), first);
    }
}
