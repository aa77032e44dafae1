//! Tokens whose signature was found good: whoever shows one again costs no second look at it.
//!
//! Each thread has a shelf of its own, so that nobody waits for another, as each of Envoy's workers has a cache. A shelf has
//! two rows: a full first row becomes the second, and what lay there is let go, unless it was asked for meanwhile. Memory is
//! bounded by shelf, and by a room that all key sets share. Time and audience are judged each time; a key set that goes
//! takes what it verified with it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Shelves of a key set. More threads than this share.
const SHELVES: usize = 16;
/// Bytes of a shelf.
const SHELF_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of all that is remembered.
const ROOM_BYTES: usize = 64 * 1024 * 1024;

/// How much of it is remembered, by thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub tokens: usize,
    /// Bytes of a token; longer ones aren't remembered.
    pub token_bytes: usize,
}

/// What is remembered: a token by its text.
pub trait Remembered {
    fn text(&self) -> &str;
    /// Bytes that it takes, about.
    fn bytes(&self) -> usize;
    /// Whether it may be forgotten by now, in seconds since 1970.
    fn is_over(&self, now: u64) -> bool;
}

/// Bytes that all memories together may still take.
#[derive(Debug)]
pub struct Room(AtomicUsize);

impl Default for Room {
    fn default() -> Room {
        Room(AtomicUsize::new(ROOM_BYTES))
    }
}

/// Tokens that one key set has verified.
pub struct VerifiedTokens<T: Remembered> {
    hasher: RandomState,
    limits: Limits,
    shelves: [Mutex<Shelf<T>>; SHELVES],
}

struct Shelf<T: Remembered> {
    first: Row<T>,
    second: Row<T>,
    room: Arc<Room>,
}

/// Tokens by the hash of their text, and the bytes of them all.
struct Row<T> {
    tokens: HashMap<u64, Arc<T>>,
    bytes: usize,
}

impl<T: Remembered> VerifiedTokens<T> {
    pub fn new(limits: Limits, room: &Arc<Room>) -> VerifiedTokens<T> {
        VerifiedTokens {
            hasher: RandomState::new(),
            limits,
            shelves: std::array::from_fn(|_| {
                Mutex::new(Shelf {
                    first: Row::default(),
                    second: Row::default(),
                    room: room.clone(),
                })
            }),
        }
    }

    /// The token with this text, if it is known here.
    pub fn get(&self, text: &str) -> Option<Arc<T>> {
        if text.len() > self.limits.token_bytes {
            return None;
        }
        let key = self.hasher.hash_one(text);
        let mut shelf = self.shelf().lock();
        let found = shelf.first.tokens.get(&key).cloned();
        let found = found.or_else(|| {
            let token = shelf.second.remove(key)?;
            shelf.first.insert(key, token.clone());
            Some(token)
        });
        found.filter(|token| token.text() == text)
    }

    /// Remembers a token, if there is room for it.
    pub fn insert(&self, token: Arc<T>) {
        if token.text().len() > self.limits.token_bytes {
            return;
        }
        let key = self.hasher.hash_one(token.text());
        self.shelf().lock().put(key, token, self.limits.tokens);
    }

    /// Forgets a token.
    pub fn remove(&self, text: &str) {
        let key = self.hasher.hash_one(text);
        let mut shelf = self.shelf().lock();
        let before = shelf.bytes();
        shelf.first.remove(key);
        shelf.second.remove(key);
        shelf.give_back(before - shelf.bytes());
    }

    /// Forgets what is over.
    pub fn sweep(&self, now: u64) {
        for shelf in &self.shelves {
            let mut shelf = shelf.lock();
            let before = shelf.bytes();
            shelf.first.sweep(now);
            shelf.second.sweep(now);
            shelf.give_back(before - shelf.bytes());
        }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        let of = |shelf: &Mutex<Shelf<T>>| {
            let shelf = shelf.lock();
            shelf.first.tokens.len() + shelf.second.tokens.len()
        };
        self.shelves.iter().map(of).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// This thread's.
    fn shelf(&self) -> &Mutex<Shelf<T>> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHELVES;
        }
        &self.shelves[MINE.with(|mine| *mine)]
    }
}

impl<T: Remembered> Shelf<T> {
    fn put(&mut self, key: u64, token: Arc<T>, most: usize) {
        let bytes = token.bytes();
        let before = self.bytes();
        let full = self.first.tokens.len() >= most.div_ceil(2)
            || self.first.bytes + bytes > SHELF_BYTES / 2;
        if full {
            self.second = std::mem::take(&mut self.first);
        }
        self.first.remove(key);
        self.give_back(before - self.bytes());
        let less = |left: usize| left.checked_sub(bytes);
        let room = &self.room.0;
        let taken = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if taken.is_ok() {
            self.first.insert(key, token);
        }
    }

    fn bytes(&self) -> usize {
        self.first.bytes + self.second.bytes
    }

    fn give_back(&self, bytes: usize) {
        self.room.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl<T: Remembered> Drop for Shelf<T> {
    fn drop(&mut self) {
        self.give_back(self.bytes());
    }
}

impl<T> Default for Row<T> {
    fn default() -> Row<T> {
        Row {
            tokens: HashMap::new(),
            bytes: 0,
        }
    }
}

impl<T: Remembered> Row<T> {
    /// There was none with this key.
    fn insert(&mut self, key: u64, token: Arc<T>) {
        self.bytes += token.bytes();
        self.tokens.insert(key, token);
    }

    fn remove(&mut self, key: u64) -> Option<Arc<T>> {
        let token = self.tokens.remove(&key)?;
        self.bytes -= token.bytes();
        Some(token)
    }

    fn sweep(&mut self, now: u64) {
        let gone = self.tokens.extract_if(|_, token| token.is_over(now));
        self.bytes -= gone.map(|(_, token)| token.bytes()).sum::<usize>();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Known(String, u64);

    impl Remembered for Known {
        fn text(&self) -> &str {
            &self.0
        }

        fn bytes(&self) -> usize {
            1000 + self.0.len()
        }

        fn is_over(&self, now: u64) -> bool {
            now > self.1
        }
    }

    const LIMITS: Limits = Limits {
        tokens: 10,
        token_bytes: 100,
    };

    fn known(text: impl Into<String>) -> Arc<Known> {
        Arc::new(Known(text.into(), 50))
    }

    #[test]
    fn a_token_is_known_again_as_long_as_it_is_asked_for() {
        let room = Arc::new(Room::default());
        let all = VerifiedTokens::new(LIMITS, &room);
        all.insert(known("mine"));
        for n in 0..100 {
            assert!(all.get("mine").is_some(), "{n}");
            all.insert(known(format!("other {n}")));
        }
        assert!(all.get("other 99").is_some() && all.get("other 1").is_none());
        assert!(all.len() <= 15, "{}", all.len());
        all.insert(known("x".repeat(101)));
        assert!(all.get(&"x".repeat(101)).is_none(), "too long");
        all.remove("mine");
        assert!(all.get("mine").is_none());
    }

    #[test]
    fn what_is_over_is_forgotten_and_the_room_is_given_back() {
        let room = Arc::new(Room(AtomicUsize::new(5000)));
        let left = || room.0.load(Ordering::Relaxed);
        let all = VerifiedTokens::new(LIMITS, &room);
        for n in 0..9 {
            all.insert(Arc::new(Known(format!("{n}"), n)));
        }
        assert_eq!(all.len(), 4, "no more than there is room for");
        all.insert(Arc::new(Known("0".into(), 0)));
        assert_eq!(left(), 5000 - 4 * 1001);
        all.sweep(2);
        assert_eq!((all.len(), left()), (2, 5000 - 2 * 1001));
        drop(all);
        assert_eq!(left(), 5000);
    }

    #[test]
    fn each_thread_has_a_shelf_of_its_own() {
        let all = VerifiedTokens::new(LIMITS, &Arc::default());
        all.insert(known("a"));
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| all.get("a")).join().unwrap());
        assert_eq!(elsewhere, None);
        assert!(all.get("a").is_some());
    }
}
