//! The buckets of one filter, or of one connection.
//!
//! Of the buckets that a request counts for the slowest is asked first. What was taken of one before another had none is gone, as in
//! Envoy.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::http::local_rate_limit::settings::{DescriptorLimit, Settings};
use crate::http::rate_limit::descriptor::Descriptor;
use crate::http::rate_limit::token_bucket::{Size, TokenBucket};

pub(super) struct Limiter {
    all: Option<TokenBucket>,
    /// All requests count for the first, too, where descriptors have buckets.
    always_all: bool,
    of_descriptors: Box<[Counted]>,
}

/// A descriptor's bucket, or buckets.
struct Counted {
    /// A value that is empty is open.
    entries: Descriptor,
    kind: Kind,
}

enum Kind {
    One(Arc<TokenBucket>),
    /// One for each list of open values.
    Each {
        size: Size,
        most: usize,
        buckets: Mutex<Buckets>,
    },
}

#[derive(Default)]
struct Buckets {
    by_values: HashMap<Vec<Box<str>>, (Arc<TokenBucket>, u64)>,
    /// Counts uses, to tell which is oldest.
    uses: u64,
}

/// What is left, as answers tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) limit: u32,
    pub(super) remaining: u32,
    /// Seconds until there is more.
    pub(super) reset: u64,
}

impl Quota {
    fn of(bucket: &TokenBucket, now: Duration) -> Quota {
        Quota {
            limit: bucket.size().tokens,
            remaining: bucket.left(now),
            reset: bucket.next(now),
        }
    }
}

impl Limiter {
    pub(super) fn new(settings: &Settings, now: Duration) -> Limiter {
        let counted = |limit: &DescriptorLimit| Counted {
            entries: limit.entries.clone(),
            kind: match limit.is_open() {
                false => Kind::One(Arc::new(TokenBucket::new(limit.size, now))),
                true => Kind::Each {
                    size: limit.size,
                    most: settings.most_open,
                    buckets: Mutex::default(),
                },
            },
        };
        Limiter {
            all: settings.all.map(|size| TokenBucket::new(size, now)),
            always_all: settings.always_all,
            of_descriptors: settings.descriptors.iter().map(counted).collect(),
        }
    }

    /// Takes a token of each bucket that the request counts for; says whether there were, and what is left where.
    pub(super) fn admit(&self, descriptors: &[Descriptor], now: Duration) -> (bool, Option<Quota>) {
        let mut found: Vec<Arc<TokenBucket>> = descriptors
            .iter()
            .filter_map(|descriptor| self.bucket(descriptor, now))
            .collect();
        found.sort_by_key(|bucket| std::cmp::Reverse(bucket.slowness()));
        for bucket in &found {
            if !bucket.take(now) {
                return (false, Some(Quota::of(bucket, now)));
            }
        }
        let all = self.all.as_ref();
        if let Some(all) = all.filter(|_| self.always_all || found.is_empty())
            && !all.take(now)
        {
            return (false, Some(Quota::of(all, now)));
        }
        let slowest = found.first().map(|bucket| &**bucket).or(all);
        (true, slowest.map(|bucket| Quota::of(bucket, now)))
    }

    fn bucket(&self, descriptor: &Descriptor, now: Duration) -> Option<Arc<TokenBucket>> {
        // What is written out goes before what is open.
        let written = self
            .of_descriptors
            .iter()
            .find_map(|counted| match &counted.kind {
                Kind::One(bucket) if counted.entries == *descriptor => Some(bucket.clone()),
                _ => None,
            });
        written.or_else(|| {
            self.of_descriptors
                .iter()
                .find_map(|counted| match &counted.kind {
                    Kind::Each {
                        size,
                        most,
                        buckets,
                    } => {
                        let values = counted.open_values(descriptor)?;
                        Some(buckets.lock().of(values, *size, *most, now))
                    }
                    Kind::One(_) => None,
                })
        })
    }
}

impl Counted {
    /// The values that this leaves open, if the rest is what it says.
    fn open_values(&self, descriptor: &Descriptor) -> Option<Vec<Box<str>>> {
        if self.entries.len() != descriptor.len() {
            return None;
        }
        let mut open = Vec::new();
        for ((key, value), (own_key, own_value)) in self.entries.iter().zip(descriptor) {
            if key != own_key || !(value.is_empty() || value == own_value) {
                return None;
            }
            if value.is_empty() {
                open.push(own_value.clone());
            }
        }
        Some(open)
    }
}

impl Buckets {
    /// The bucket of these values. Where there are too many, the one that wasn't used for longest makes room.
    fn of(
        &mut self,
        values: Vec<Box<str>>,
        size: Size,
        most: usize,
        now: Duration,
    ) -> Arc<TokenBucket> {
        self.uses += 1;
        let uses = self.uses;
        if let Some((bucket, used)) = self.by_values.get_mut(&values) {
            *used = uses;
            return bucket.clone();
        }
        if self.by_values.len() >= most {
            let oldest = self.by_values.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(values, _)| values.clone()) {
                self.by_values.remove(&oldest);
            }
        }
        let bucket = Arc::new(TokenBucket::new(size, now));
        self.by_values.insert(values, (bucket.clone(), uses));
        bucket
    }
}
