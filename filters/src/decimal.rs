//! Numbers and addresses as text, as `Display` has them, appended to bytes: logs print some with every request, and what
//! `fmt` does around each costs more than its digits.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Digits of the longest number.
const MOST: usize = 20;

pub(crate) fn number(out: &mut Vec<u8>, value: u64) {
    padded(out, value, 1);
}

pub(crate) fn signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    number(out, value.unsigned_abs());
}

/// With zeros before it, so that it has this many digits at least.
pub(crate) fn padded(out: &mut Vec<u8>, mut value: u64, digits: usize) {
    let mut text = [b'0'; MOST];
    let mut begin = MOST;
    for (at, digit) in text.iter_mut().enumerate().rev() {
        if value == 0 {
            break;
        }
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        begin = at;
    }
    let begin = begin.min(MOST.saturating_sub(digits.max(1)));
    out.extend_from_slice(text.get(begin..).unwrap_or_default());
}

/// `address:port`.
pub(crate) fn socket(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            ip(out, IpAddr::V4(*v4.ip()));
            out.push(b':');
            number(out, v4.port().into());
        }
        SocketAddr::V6(_) => {
            // Writing to memory doesn't fail.
            let _ = write!(out, "{address}");
        }
    }
}

pub(crate) fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (at, part) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                number(out, part.into());
            }
        }
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"x".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap().split_off(1)
    }

    #[test]
    fn numbers_and_addresses_are_those_of_display() {
        let mut numbers: Vec<u64> = (0..64).flat_map(|n| [1 << n, (1 << n) - 1]).collect();
        numbers.extend([u64::MAX, 9, 10, 99, 100, 10_000_000_000_000_000_000]);
        for n in numbers {
            assert_eq!(text(|out| number(out, n)), n.to_string());
            for width in 0..=20 {
                assert_eq!(text(|out| padded(out, n, width)), format!("{n:0width$}"));
            }
            let n = n.cast_signed();
            assert_eq!(text(|out| signed(out, n)), n.to_string());
        }
        for address in [
            "0.0.0.0:0",
            "10.96.30.255:65535",
            "[::1]:80",
            "[::ffff:1.2.3.4]:80",
            "[fe80::1%3]:1",
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(text(|out| socket(out, address)), address.to_string());
            let bare = address.ip();
            assert_eq!(text(|out| ip(out, bare)), bare.to_string());
        }
    }
}
