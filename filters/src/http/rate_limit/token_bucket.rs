//! A token bucket that fills steadily, as Envoy's does: a tenth of the interval brings a tenth of the tokens.
//!
//! It is one number, the moment since which it has been filling if it began empty. There is no timer and no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::r#type::v3::TokenBucket as TokenBucketProto;

use crate::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::duration;
use crate::xds::rejected::Refusal;

/// How much a bucket holds, and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) tokens: u32,
    /// How long one takes, in nanoseconds.
    each: u64,
}

#[derive(Debug)]
pub(crate) struct TokenBucket {
    size: Size,
    /// Nanoseconds on the clock that is given with each question, and [`PAST`].
    since: AtomicU64,
}

/// The clock's zero, so that a bucket can have been filling for long at its beginning.
const PAST: u64 = 1 << 62;
/// Envoy takes none that fills faster.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) static TOKEN_BUCKET: Table = Table {
    name: "envoy.type.v3.TokenBucket",
    fields: &[
        honoured(1, "max_tokens"),
        honoured(2, "tokens_per_fill").of(&UINT32_VALUE),
        honoured(3, "fill_interval").of(&DURATION),
    ],
    refused: "",
    required: &[required("fill_interval", &[3])],
};

impl Size {
    pub(crate) fn from_proto(proto: &TokenBucketProto) -> Result<Size, Refusal> {
        let interval = duration::optional(&proto.fill_interval, "fill_interval")?;
        let interval = interval.ok_or_else(|| Refusal::missing("fill_interval"))?;
        if interval < LEAST_INTERVAL {
            return Err(Refusal::new("fill_interval", "must be 50 ms at least"));
        }
        let tokens = proto.tokens_per_fill.as_ref().map_or(1, |n| n.value);
        if tokens == 0 {
            return Err(Refusal::new("tokens_per_fill", "must be 1 at least"));
        }
        let each = interval.as_nanos() / u128::from(tokens);
        Ok(Size {
            tokens: proto.max_tokens,
            // A bucket that takes longer to fill than this process lives doesn't fill.
            each: u64::try_from(each).unwrap_or(u64::MAX).clamp(1, PAST >> 32),
        })
    }

    fn whole(self) -> u64 {
        self.each.saturating_mul(self.tokens.into())
    }
}

impl TokenBucket {
    /// A full one.
    pub(crate) fn new(size: Size, now: Duration) -> TokenBucket {
        TokenBucket {
            size,
            since: AtomicU64::new(at(now).saturating_sub(size.whole())),
        }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&self, now: Duration) -> bool {
        let now = at(now);
        let full = now.saturating_sub(self.size.whole());
        let taken = |since: u64| {
            let since = since.max(full).saturating_add(self.size.each);
            (since <= now).then_some(since)
        };
        self.since
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }

    /// Whole tokens that are left.
    pub(crate) fn left(&self, now: Duration) -> u32 {
        let filling = at(now).saturating_sub(self.since.load(Ordering::Relaxed));
        let left = u32::try_from(filling / self.size.each).unwrap_or(u32::MAX);
        left.min(self.size.tokens)
    }

    /// How long until there is another, in seconds.
    pub(crate) fn next(&self, now: Duration) -> u64 {
        let filling = at(now).saturating_sub(self.since.load(Ordering::Relaxed));
        let missing = self.size.each.saturating_sub(filling);
        missing.div_ceil(1_000_000_000)
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// How fast it fills, for whoever asks the slowest first.
    pub(crate) fn slowness(&self) -> u64 {
        self.size.each
    }
}

fn at(now: Duration) -> u64 {
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    PAST.saturating_add(now)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::google::protobuf::{Duration as DurationProto, UInt32Value};

    use super::*;

    fn size(tokens: u32, per_fill: u32, millis: i64) -> Result<Size, Refusal> {
        Size::from_proto(&TokenBucketProto {
            max_tokens: tokens,
            tokens_per_fill: Some(UInt32Value { value: per_fill }),
            fill_interval: Some(DurationProto {
                seconds: millis / 1000,
                nanos: (millis % 1000 * 1_000_000) as i32,
            }),
        })
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_bucket_begins_full_and_fills_steadily() {
        let bucket = TokenBucket::new(size(3, 2, 1000).unwrap(), ms(0));
        let taken = |at| (0..9).filter(|_| bucket.take(ms(at))).count();
        assert_eq!(bucket.left(ms(0)), 3);
        assert_eq!(taken(0), 3);
        assert_eq!((taken(499), taken(500), taken(500)), (0, 1, 0));
        assert_eq!(bucket.next(ms(500)), 1);
        assert_eq!(bucket.left(ms(1750)), 2);
        assert_eq!(taken(60_000), 3, "no more than it holds");
    }

    #[test]
    fn a_bucket_of_none_has_none() {
        let bucket = TokenBucket::new(size(0, 1, 1000).unwrap(), ms(0));
        assert!(!bucket.take(ms(0)) && !bucket.take(ms(1 << 40)));
    }

    #[test]
    fn what_is_no_bucket() {
        assert!(size(1, 0, 1000).is_err());
        assert!(size(1, 1, 49).is_err());
    }
}
