//! Mutations of bytes: flipped bits, other lengths, parts that come twice, or from another input.

use fastrand::Rng;

/// No input grows beyond this: readers have their own bounds, and what is longer takes time from other inputs.
const MAX_INPUT: usize = 64 * 1024;

/// What readers have opinions about.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"%",
    b"%2f",
    b"%2e",
    b"%25",
    b"%5C",
    b"%00",
    b"/",
    b"//",
    b"/../",
    b"/./",
    b";",
    b"\\",
    b"?",
    b"#",
    b":",
    b"[",
    b"]",
    b"::",
    b".",
    b"..",
    b"*",
    b"\r\n",
    b"\n",
    b" ",
    b"\t",
    b",",
    b"\"",
    b"{",
    b"}",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"65536",
    b"content-length: 1\r\n",
    b"transfer-encoding: chunked\r\n",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xc3\xa4",
    b"\xed\xa0\x80",
    b"==",
    b"e30",
];

/// A few mutations, one after the other; `other` is another input.
pub(crate) fn mutate(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + rng.usize(..4) {
        once(rng, input, other);
    }
    input.truncate(MAX_INPUT);
}

fn once(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    let at = rng.usize(..=input.len());
    let end = at + rng.usize(..=(input.len() - at).min(32));
    match rng.u8(..9) {
        0 => flip(input, at, 1 << rng.u8(..8)),
        1 => set(input, at, rng.u8(..)),
        2 => drop(input.drain(at..end)),
        3 => {
            let part = input[at..end].to_vec();
            for _ in 0..1 + rng.usize(..3) {
                input.splice(at..at, part.iter().copied());
            }
        }
        4 => {
            let token = TOKENS[rng.usize(..TOKENS.len())];
            input.splice(at..at, token.iter().copied());
        }
        5 => {
            let token = TOKENS[rng.usize(..TOKENS.len())];
            input.splice(at..end, token.iter().copied());
        }
        6 => {
            let from = rng.usize(..=other.len());
            let to = from + rng.usize(..=(other.len() - from).min(256));
            input.splice(at..end, other[from..to].iter().copied());
        }
        7 => input.truncate(at),
        // A length that is off by a little.
        _ => {
            let by = rng.u8(1..4);
            let up = rng.bool();
            if let Some(byte) = input.get_mut(at) {
                *byte = if up {
                    byte.wrapping_add(by)
                } else {
                    byte.wrapping_sub(by)
                };
            }
        }
    }
}

fn flip(input: &mut [u8], at: usize, mask: u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= mask;
    }
}

fn set(input: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte = value;
    }
}
