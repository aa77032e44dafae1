//! Who holds how many bytes: counters that chunks hold on to for as long as their memory is in use.
//!
//! A chunk that is charged ([`Account::charge`]) counts until nobody refers to its memory any more, wherever it is by
//! then: in h2's send buffer, in hyper's, kept for a retry. So nothing has to be told when it leaves. An account passes on
//! to the one above it in grains: a tunnel's chunks don't touch the counters of its connection and of its peer's identity
//! each time, and what those say is at most a grain per account below too little.
//!
//! A chunk counts [`OVERHEAD`] bytes more than it has: a queue of single bytes costs what its entries do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

/// What a queued chunk costs beside its bytes: h2's entry for a frame, and the counter of its owners.
pub const OVERHEAD: usize = 256;

/// In which steps an account tells the one above it.
const GRAIN: isize = 16 * 1024;

/// A counter of held bytes.
pub struct Account {
    /// May be below nothing for a moment: two threads needn't reach the account above in the order in which they
    /// passed here.
    held: AtomicIsize,
    above: Option<Arc<Account>>,
    grain: isize,
    /// Whoever waits is woken when no more than this is held.
    wake_at: isize,
    waiting: AtomicBool,
    waiters: Mutex<Vec<(usize, Waker)>>,
}

impl Account {
    /// An account that nobody is above of.
    #[must_use]
    pub fn top() -> Arc<Account> {
        Arc::new(Account::new(None, GRAIN, 0))
    }

    /// An account whose bytes are this one's, too, in grains.
    #[must_use]
    pub fn below(self: &Arc<Account>) -> Arc<Account> {
        Arc::new(Account::new(Some(self.clone()), GRAIN, 0))
    }

    /// As [`Account::below`]; who waits for room in it is woken when `wake_at` or less is held.
    #[must_use]
    pub fn below_waking_at(self: &Arc<Account>, wake_at: usize) -> Arc<Account> {
        Arc::new(Account::new(Some(self.clone()), GRAIN, signed(wake_at)))
    }

    /// As [`Account::below`], to the byte, for few bytes; who waits for room in it is woken when `wake_at` or less is held.
    #[must_use]
    pub fn exactly_below(self: &Arc<Account>, wake_at: usize) -> Arc<Account> {
        Arc::new(Account::new(Some(self.clone()), 1, signed(wake_at)))
    }

    fn new(above: Option<Arc<Account>>, grain: isize, wake_at: isize) -> Account {
        Account {
            held: AtomicIsize::new(0),
            above,
            grain,
            wake_at,
            waiting: AtomicBool::new(false),
            waiters: Mutex::default(),
        }
    }

    /// Bytes held now.
    #[must_use]
    pub fn held(&self) -> usize {
        usize::try_from(self.held.load(SeqCst)).unwrap_or_default()
    }

    /// The chunk, counted until its memory is free.
    #[must_use]
    pub fn charge(self: &Arc<Account>, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        let cost = signed(bytes.len() + OVERHEAD);
        self.add(cost);
        Bytes::from_owner(Charged {
            bytes,
            cost,
            account: self.clone(),
        })
    }

    /// Ready when less than `bound` is held. For an account that only one task waits for.
    pub fn poll_below(&self, cx: &mut Context<'_>, bound: usize) -> Poll<()> {
        self.poll_below_as(0, cx, bound)
    }

    /// As [`Account::poll_below`], for one of many; each has a number of its own, and is to be [forgotten](Account::forget)
    /// when it waits no more: the account may live for long, and would keep its task's memory.
    pub fn poll_below_as(&self, waiter: usize, cx: &mut Context<'_>, bound: usize) -> Poll<()> {
        if self.held() < bound {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters.lock();
        match waiters.iter_mut().find(|(number, _)| *number == waiter) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => waiters.push((waiter, cx.waker().clone())),
        }
        drop(waiters);
        self.waiting.store(true, SeqCst);
        // What was given back meanwhile has seen nobody wait.
        if self.held() < bound {
            self.forget(waiter);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// This one waits no more.
    pub fn forget(&self, waiter: usize) {
        self.waiters.lock().retain(|(number, _)| *number != waiter);
    }

    fn add(&self, n: isize) {
        let before = self.held.fetch_add(n, SeqCst);
        let now = before + n;
        let grains = now.div_euclid(self.grain) - before.div_euclid(self.grain);
        if let Some(above) = &self.above
            && grains != 0
        {
            above.add(grains * self.grain);
        }
        if n < 0 && now <= self.wake_at && self.waiting.load(SeqCst) {
            self.waiting.store(false, SeqCst);
            let waiters = std::mem::take(&mut *self.waiters.lock());
            waiters.into_iter().for_each(|(_, waker)| waker.wake());
        }
    }
}

fn signed(n: usize) -> isize {
    isize::try_from(n).unwrap_or(isize::MAX)
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

/// The memory of a charged chunk.
struct Charged {
    bytes: Bytes,
    cost: isize,
    account: Arc<Account>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.account.add(-self.cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 1000;
    const COST: usize = CHUNK + OVERHEAD;

    fn chunk() -> Bytes {
        vec![b'x'; CHUNK].into()
    }

    #[test]
    fn a_chunk_counts_until_its_last_part_is_gone() {
        let account = Account::top();
        let mut whole = account.charge(chunk());
        assert_eq!(account.held(), COST);
        let part = whole.split_to(10);
        drop(whole);
        assert_eq!(account.held(), COST, "the memory is still in use");
        drop(part);
        assert_eq!(account.held(), 0);
        assert!(account.charge(Bytes::new()).is_empty());
        assert_eq!(account.held(), 0, "nothing costs nothing");
    }

    #[test]
    fn what_is_below_is_passed_on_in_grains_and_nothing_is_lost() {
        let identity = Account::top();
        let tunnel = identity.below();
        let stream = tunnel.exactly_below(0);
        let few = stream.charge(chunk());
        assert_eq!((tunnel.held(), identity.held()), (COST, 0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let stream = tunnel.exactly_below(0);
                std::thread::spawn(move || {
                    for _ in 0..500 {
                        let held: Vec<_> = (0..40).map(|_| stream.charge(chunk())).collect();
                        drop(held);
                    }
                    (0..40).map(|_| stream.charge(chunk())).collect::<Vec<_>>()
                })
            })
            .collect();
        let held: Vec<_> = threads
            .into_iter()
            .map(|t| t.join().unwrap_or_default())
            .collect();
        let all = 161 * COST;
        assert_eq!(tunnel.held(), all);
        assert_eq!(identity.held(), all / GRAIN as usize * GRAIN as usize);
        drop((few, held));
        assert_eq!((tunnel.held(), identity.held()), (0, 0));
    }

    #[test]
    fn who_waits_for_room_is_woken_when_there_is() {
        use std::sync::atomic::AtomicUsize;
        use std::task::Wake;
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let woken = Arc::new(Count::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let tunnel = Account::top().exactly_below(COST);
        assert!(tunnel.poll_below(&mut cx, 1).is_ready());
        let chunks: Vec<_> = (0..3).map(|_| tunnel.charge(chunk())).collect();
        assert!(tunnel.poll_below(&mut cx, 2 * COST).is_pending());
        assert!(tunnel.poll_below(&mut cx, 2 * COST).is_pending());
        let mut chunks = chunks.into_iter();
        drop(chunks.next());
        assert_eq!(woken.0.load(SeqCst), 0, "not enough is gone");
        drop(chunks.next());
        assert_eq!(woken.0.load(SeqCst), 1, "once, however often it asked");
        assert!(tunnel.poll_below(&mut cx, 2 * COST).is_ready());

        // Of many, each waits once, and leaves nothing behind.
        for waiter in [1, 2, 2, 3] {
            assert!(tunnel.poll_below_as(waiter, &mut cx, 1).is_pending());
        }
        assert_eq!(tunnel.waiters.lock().len(), 3);
        tunnel.forget(2);
        drop(chunks);
        assert_eq!(woken.0.load(SeqCst), 3);
        assert!(tunnel.waiters.lock().is_empty());
    }
}
