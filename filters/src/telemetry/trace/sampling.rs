//! Which requests are traced, decided by their ids, and the mark that says so in the id: Envoy's `UuidRequestIdConfig` and
//! the `*_sampling` of its connection manager.
//!
//! The 15th character of `x-request-id`, the version of a UUID, is `4` where nothing is traced, `9` where chance decided,
//! `b` where the client asked, `a` where a service did; every proxy on the way reads it and decides the same.

use envoy_types::pb::envoy::r#type::v3::Percent;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::xds::rejected::Refusal;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
/// Where the mark stands.
const MARK: usize = 14;

/// Shares, in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sampling {
    pub(crate) client: u32,
    pub(crate) random: u32,
    pub(crate) overall: u32,
    /// Whether the id's mark decides; otherwise every request is traced.
    pub(crate) by_request_id: bool,
    /// Whether the id is marked.
    pub(crate) marks: bool,
}

/// A share in hundredths of a percent; all, where nothing is said. Envoy keeps those of clients and of all in whole percents.
pub(crate) fn share(percent: Option<&Percent>, whole: bool, field: &str) -> Result<u32, Refusal> {
    let Some(percent) = percent else {
        return Ok(10_000);
    };
    if !(0.0..=100.0).contains(&percent.value) {
        return Err(Refusal::new(field, "is no percentage"));
    }
    Ok(match whole {
        true => percent.value as u32 * 100,
        false => (percent.value * 100.0).round() as u32,
    })
}

impl Sampling {
    /// Decides for a request, and marks its id. `random` decides where clients ask, whose share has no other number.
    pub(crate) fn decide(&self, headers: &mut HeaderMap, random: u32) -> bool {
        if !self.by_request_id {
            return true;
        }
        let Some(id) = headers.get(X_REQUEST_ID) else {
            return false;
        };
        let Some(number) = number(id) else {
            return false;
        };
        let of_uuid = id.len() == 36;
        let marked = id.as_bytes().get(MARK).copied().filter(|_| of_uuid);
        let mut mark = marked.filter(|mark| matches!(mark, b'9' | b'a' | b'b'));
        let mut change = None;
        if mark.is_none() {
            if headers.contains_key(X_CLIENT_TRACE_ID) && random % 10_000 < self.client {
                mark = Some(b'b');
            } else if number < self.random {
                mark = Some(b'9');
            }
            change = mark;
        }
        if mark.is_some() && number % 100 >= self.overall / 100 {
            mark = None;
            change = Some(b'4');
        }
        if let Some(change) = change.filter(|_| self.marks && of_uuid) {
            set(headers, change);
        }
        mark.is_some()
    }
}

/// The number that chance is taken from: the first eight digits, of ten thousand.
fn number(id: &HeaderValue) -> Option<u32> {
    let digits = std::str::from_utf8(id.as_bytes().get(..8)?).ok()?;
    Some(u32::from_str_radix(digits, 16).ok()? % 10_000)
}

fn set(headers: &mut HeaderMap, mark: u8) {
    let Some(id) = headers.get(X_REQUEST_ID) else {
        return;
    };
    let mut bytes = id.as_bytes().to_vec();
    if let Some(place) = bytes.get_mut(MARK) {
        *place = mark;
    }
    if let Ok(id) = HeaderValue::from_bytes(&bytes) {
        headers.insert(X_REQUEST_ID, id);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: Sampling = Sampling {
        client: 10_000,
        random: 10_000,
        overall: 10_000,
        by_request_id: true,
        marks: true,
    };

    fn decided(sampling: Sampling, id: &'static str, asks: bool) -> (bool, String) {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(id));
        if asks {
            headers.insert(X_CLIENT_TRACE_ID, HeaderValue::from_static("1"));
        }
        let traced = sampling.decide(&mut headers, 9_999);
        (traced, headers[X_REQUEST_ID].to_str().unwrap().to_owned())
    }

    /// 0x1388 is 5000.
    const HALF: &str = "00001388-89ab-4def-8123-456789abcdef";
    const HALF_SAMPLED: &str = "00001388-89ab-9def-8123-456789abcdef";

    #[test]
    fn the_id_decides_and_is_marked() {
        let half = Sampling {
            random: 5_001,
            ..ALL
        };
        assert_eq!(decided(half, HALF, false), (true, HALF_SAMPLED.into()));
        let less = Sampling {
            random: 5_000,
            ..ALL
        };
        assert_eq!(decided(less, HALF, false), (false, HALF.into()));
        // Somebody before has decided.
        assert_eq!(
            decided(less, HALF_SAMPLED, false),
            (true, HALF_SAMPLED.into())
        );
        let asked = "00001388-89ab-bdef-8123-456789abcdef";
        assert_eq!(decided(less, HALF, true), (true, asked.into()));
    }

    #[test]
    fn of_what_is_to_be_traced_there_is_a_share_of_all() {
        let none = Sampling { overall: 0, ..ALL };
        assert_eq!(decided(none, HALF_SAMPLED, false), (false, HALF.into()));
        assert_eq!(decided(none, HALF, false), (false, HALF.into()));
    }

    #[test]
    fn ids_of_others_stay_as_they_are() {
        for id in ["", "short", "not-hexadecimal-but-36-characters-xx"] {
            assert_eq!(decided(ALL, id, false), (false, id.into()));
        }
        assert_eq!(decided(ALL, "12345678", false), (true, "12345678".into()));
        let unmarked = Sampling {
            marks: false,
            ..ALL
        };
        assert_eq!(decided(unmarked, HALF, false), (true, HALF.into()));
        let all = Sampling {
            by_request_id: false,
            ..ALL
        };
        assert_eq!(decided(all, "short", false), (true, "short".into()));
    }

    #[test]
    fn shares_are_kept_as_envoy_keeps_them() {
        let of = |value| share(Some(&Percent { value }), false, "random_sampling");
        assert_eq!((of(0.015).unwrap(), of(100.0).unwrap()), (2, 10_000));
        assert!(of(100.1).is_err() && of(-1.0).is_err() && of(f64::NAN).is_err());
        let whole = share(Some(&Percent { value: 1.9 }), true, "client_sampling");
        assert_eq!(whole.unwrap(), 100);
        assert_eq!(share(None, true, "x").unwrap(), 10_000);
    }
}
