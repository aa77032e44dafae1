//! The `date` of an answer that has none (RFC 9110 §6.6.1), written once a second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

thread_local! {
    /// The second since 1970, and what it is called.
    static WRITTEN: RefCell<(u64, HeaderValue)> =
        const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// As of now.
pub(super) fn now() -> HeaderValue {
    let now = SystemTime::now();
    let second = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    WRITTEN.with_borrow_mut(|(written, value)| {
        if *written != second {
            let text = httpdate::fmt_http_date(now);
            *value = HeaderValue::from_str(&text).unwrap_or_else(|_| value.clone());
            *written = second;
        }
        value.clone()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn is_of_this_second() {
        let before = SystemTime::now() - std::time::Duration::from_secs(1);
        let told = httpdate::parse_http_date(now().to_str().unwrap()).unwrap();
        assert!(before <= told && told <= SystemTime::now());
    }
}
