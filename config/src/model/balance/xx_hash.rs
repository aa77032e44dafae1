//! XXH64, with which Envoy hashes keys of requests and of endpoints.
//!
//! After the specification of xxHash (`doc/xxhash_spec.md` of its project): 32 bytes at a time in four lanes, then the rest.

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// The hash with seed 0.
pub fn xx_hash(data: &[u8]) -> u64 {
    xx_hash_seeded(data, 0)
}

pub fn xx_hash_seeded(data: &[u8], seed: u64) -> u64 {
    let (stripes, rest) = data.as_chunks::<32>();
    let start = if stripes.is_empty() {
        seed.wrapping_add(P5)
    } else {
        of_stripes(stripes, seed)
    };
    avalanche(with_rest(start.wrapping_add(data.len() as u64), rest))
}

fn of_stripes(stripes: &[[u8; 32]], seed: u64) -> u64 {
    let mut lanes = [
        seed.wrapping_add(P1).wrapping_add(P2),
        seed.wrapping_add(P2),
        seed,
        seed.wrapping_sub(P1),
    ];
    for stripe in stripes {
        for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    let [a, b, c, d] = lanes;
    let sum = a.rotate_left(1).wrapping_add(b.rotate_left(7));
    let sum = sum.wrapping_add(c.rotate_left(12));
    let sum = sum.wrapping_add(d.rotate_left(18));
    lanes.iter().fold(sum, |sum, lane| {
        (sum ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4)
    })
}

fn round(lane: u64, word: u64) -> u64 {
    let mixed = lane.wrapping_add(word.wrapping_mul(P2));
    mixed.rotate_left(31).wrapping_mul(P1)
}

/// The last bytes, fewer than 32.
fn with_rest(mut hash: u64, rest: &[u8]) -> u64 {
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        hash ^= round(0, u64::from_le_bytes(*word));
        hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let (halves, rest) = rest.as_chunks::<4>();
    for half in halves {
        hash ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(P5);
        hash = hash.rotate_left(11).wrapping_mul(P1);
    }
    hash
}

fn avalanche(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xxHash's own self-test: what it hashes is made by this generator.
    fn sanity_buffer(length: usize) -> Vec<u8> {
        let mut generator = 2_654_435_761_u64;
        let next = || {
            let byte = (generator >> 56) as u8;
            generator = generator.wrapping_mul(11_400_714_785_074_694_797);
            byte
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn published_values() {
        const PRIME32: u64 = 2_654_435_761;
        for (length, seed, expected) in [
            (0, 0, 0xEF46_DB37_51D8_E999),
            (0, PRIME32, 0xAC75_FDA2_929B_17EF),
            (1, 0, 0xE934_A84A_DB05_2768),
            (1, PRIME32, 0x5014_6076_43A9_B4C3),
            (4, 0, 0x9136_A0DC_A574_57EE),
            (14, 0, 0x8282_DCC4_994E_35C8),
            (14, PRIME32, 0xC3BD_6BF6_3DEB_6DF0),
            (222, 0, 0xB641_AE8C_B691_C174),
            (222, PRIME32, 0x20CB_8AB7_AE10_C14A),
        ] {
            let data = sanity_buffer(length);
            let hash = xx_hash_seeded(&data, seed);
            assert_eq!(hash, expected, "{length} bytes, seed {seed}");
        }
        assert_eq!(xx_hash(b"foo"), 3_728_699_739_546_630_719);
        assert_eq!(xx_hash(b"bar"), 5_234_164_152_756_840_025);
    }
}
