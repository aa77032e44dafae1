//! Series by their labels, with a bound.
//!
//! The data path looks series up by many readers at a time. Whoever tells or sweeps them takes the table for a few hundred
//! at a time, so that nobody waits for twenty thousand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::metrics::series::Series;

/// Label values, or names and values in turn.
pub(crate) type Key = Arc<[Arc<str>]>;

/// Looked at in one go.
const BLOCK: usize = 256;
/// A table with fewer places isn't worth being made smaller.
const SMALL: usize = 1024;

pub(crate) struct Table<S> {
    places: RwLock<Places<S>>,
    /// Held by whoever tells all series, or takes some away: none is to be told twice because it came again.
    whole: Mutex<()>,
}

struct Places<S> {
    by_key: HashMap<Key, usize>,
    all: Vec<Option<Arc<Entry<S>>>>,
    free: Vec<usize>,
    folded: usize,
}

/// A series and its labels.
pub(crate) struct Entry<S> {
    pub(crate) key: Key,
    pub(crate) series: S,
    /// Others are counted in it.
    folds: bool,
    seen: Mutex<Seen>,
}

/// What the last sweep saw.
#[derive(Clone, Copy, Default)]
struct Seen {
    mark: u64,
    /// When the mark was last seen to change; `None` until the first sweep.
    since: Option<Instant>,
}

/// How a table is bounded.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    pub(crate) series: usize,
    pub(crate) folded: usize,
}

impl<S> Default for Table<S> {
    fn default() -> Table<S> {
        Table {
            places: RwLock::new(Places {
                by_key: HashMap::new(),
                all: Vec::new(),
                free: Vec::new(),
                folded: 0,
            }),
            whole: Mutex::new(()),
        }
    }
}

impl<S: Series> Table<S> {
    /// The series under a key. Where there is no room for it: the one that it is folded into, and `true`; `fold` says
    /// which, or with `true` the one where nothing is told apart.
    pub(crate) fn get(
        &self,
        key: &[Arc<str>],
        room: Room,
        fold: impl Fn(bool) -> Key,
    ) -> (S, bool) {
        {
            let places = self.places.read();
            if let Some(series) = places.find(key) {
                return (series, false);
            }
            if places.len() >= room.series
                && let Some(series) = places.find(&fold(false))
            {
                return (series, true);
            }
        }
        let mut places = self.places.write();
        // Another may have been faster.
        if let Some(series) = places.find(key) {
            return (series, false);
        }
        if places.len() < room.series {
            return (places.insert(key.into(), false), false);
        }
        let key = fold(places.folded >= room.folded);
        let series = match places.find(&key) {
            Some(series) => series,
            None => places.insert(key, true),
        };
        (series, true)
    }

    /// Without those that fold others.
    pub(crate) fn len(&self) -> usize {
        self.places.read().len()
    }

    /// All series as they are now.
    pub(crate) fn all(&self) -> Vec<Arc<Entry<S>>> {
        let _whole = self.whole.lock();
        let mut found = Vec::with_capacity(self.places.read().by_key.len());
        for start in (0..).step_by(BLOCK) {
            let places = self.places.read();
            let Some(rest) = places.all.get(start..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            found.extend(rest.iter().take(BLOCK).flatten().cloned());
        }
        found
    }

    /// Drops what nobody holds and hasn't changed for `idle`.
    pub(crate) fn expire(&self, now: Instant, idle: Duration) {
        let _whole = self.whole.lock();
        for start in (0..).step_by(BLOCK) {
            let mut places = self.places.write();
            if start >= places.all.len() {
                places.shrink();
                break;
            }
            let end = places.all.len().min(start + BLOCK);
            let gone: Vec<_> = (start..end)
                .filter_map(|place| places.expire(place, now, idle))
                .collect();
            drop(places);
            // Its strings are let go while others go on.
            drop(gone);
        }
    }
}

impl<S: Series> Places<S> {
    fn len(&self) -> usize {
        self.by_key.len() - self.folded
    }

    fn find(&self, key: &[Arc<str>]) -> Option<S> {
        let entry = self.all.get(*self.by_key.get(key)?)?.as_ref()?;
        Some(entry.series.clone())
    }

    fn insert(&mut self, key: Key, folds: bool) -> S {
        let series = S::default();
        let entry = Some(Arc::new(Entry {
            key: key.clone(),
            series: series.clone(),
            folds,
            seen: Mutex::default(),
        }));
        let free = self.free.pop();
        let place = free.unwrap_or(self.all.len());
        match self.all.get_mut(place) {
            Some(empty) => *empty = entry,
            None => self.all.push(entry),
        }
        self.by_key.insert(key, place);
        self.folded += usize::from(folds);
        series
    }

    fn expire(&mut self, place: usize, now: Instant, idle: Duration) -> Option<Arc<Entry<S>>> {
        let at = self.all.get_mut(place)?;
        if !at.as_ref()?.is_idle(now, idle) {
            return None;
        }
        let gone = at.take()?;
        self.by_key.remove(&gone.key);
        self.free.push(place);
        self.folded -= usize::from(gone.folds);
        Some(gone)
    }

    /// Gives memory back when most of the places are free.
    fn shrink(&mut self) {
        if self.all.len() < SMALL || self.by_key.len() * 4 > self.all.len() {
            return;
        }
        self.all = self.all.drain(..).flatten().map(Some).collect();
        self.free = Vec::new();
        let places = self.all.iter().flatten().enumerate();
        self.by_key = places
            .map(|(place, entry)| (entry.key.clone(), place))
            .collect();
    }
}

impl<S: Series> Entry<S> {
    fn is_idle(&self, now: Instant, idle: Duration) -> bool {
        let mark = self.series.mark();
        let mut seen = self.seen.lock();
        match seen.since {
            Some(since) if seen.mark == mark && !self.series.held() => {
                now.saturating_duration_since(since) >= idle
            }
            _ => {
                let since = Some(now);
                *seen = Seen { mark, since };
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::series::Counter;

    const IDLE: Duration = Duration::from_secs(10);
    const ROOM: Room = Room {
        series: 5_000,
        folded: 2,
    };

    fn get(table: &Table<Counter>, key: &str) -> Counter {
        let fold = |all| {
            [Arc::from(if all {
                "all"
            } else {
                key.get(..1).unwrap_or("")
            })]
            .into()
        };
        table.get(&[key.into()], ROOM, fold).0
    }

    #[test]
    fn series_that_are_gone_leave_nothing_behind_and_those_in_use_stay_where_they_are() {
        let table = Table::default();
        let held = get(&table, "held");
        for n in 0..4_999 {
            get(&table, &format!("{n}")).add(1);
        }
        let start = Instant::now();
        table.expire(start, IDLE);
        get(&table, "17").add(1);
        table.expire(start + IDLE / 2, IDLE);
        assert_eq!(table.len(), 5_000);
        table.expire(start + IDLE, IDLE);
        assert_eq!(table.len(), 2, "one is held, one was used since");
        {
            let places = table.places.read();
            assert_eq!((places.all.len(), places.free.len()), (2, 0));
            assert!(places.all.capacity() < 100 && places.by_key.capacity() < 100);
        }
        assert_eq!(get(&table, "17").get(), 2);
        table.expire(start + IDLE * 3, IDLE);
        assert_eq!((table.len(), table.all().len()), (1, 1));
        held.add(1);
        assert_eq!(get(&table, "held").get(), 1);
        assert_eq!(get(&table, "17").get(), 0, "it begins again");
    }

    #[test]
    fn what_has_no_room_is_folded_and_what_folds_has_little() {
        let table = Table::default();
        for n in 0..5_000 {
            get(&table, &format!("k{n}")).add(1);
        }
        for key in ["a1", "a2", "b1", "c1", "d1", "a3"] {
            get(&table, key).add(1);
        }
        assert_eq!(table.len(), 5_000);
        let counted = |key: &str| get(&table, key).get();
        assert_eq!((counted("a4"), counted("b2"), counted("c2")), (3, 1, 2));
        assert_eq!(table.all().len(), 5_003);
        // There is room again once they are gone.
        table.expire(Instant::now(), IDLE);
        table.expire(Instant::now() + IDLE, IDLE);
        assert_eq!((counted("a1"), table.len()), (0, 1));
    }
}
