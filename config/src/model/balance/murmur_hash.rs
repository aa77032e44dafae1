//! MurmurHash2 of 64 bits with the seed of libstdc++'s `std::hash`, which a ring may ask for (`MURMUR_HASH_2`).

const MUL: u64 = 0xC6A4_A793_5BD1_E995;
const SEED: u64 = 0xC70F_6907;

pub(crate) fn murmur_hash(data: &[u8]) -> u64 {
    let mut hash = SEED ^ (data.len() as u64).wrapping_mul(MUL);
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        let mixed = shift(u64::from_le_bytes(*word).wrapping_mul(MUL)).wrapping_mul(MUL);
        hash = (hash ^ mixed).wrapping_mul(MUL);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev();
        let last = last.fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        hash = (hash ^ last).wrapping_mul(MUL);
    }
    shift(shift(hash).wrapping_mul(MUL))
}

fn shift(value: u64) -> u64 {
    value ^ (value >> 47)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `std::hash<std::string>` of GNU's C++ library says.
    #[test]
    fn values_of_the_standard_library() {
        for (text, expected) in STANDARD {
            assert_eq!(murmur_hash(text.as_bytes()), expected, "{text:?}");
        }
    }

    const STANDARD: [(&str, u64); 6] = [
        ("", 6_142_509_188_972_423_790),
        ("a", 4_993_892_634_952_068_459),
        ("1234567", 7_888_703_982_793_837_558),
        ("12345678", 10_113_836_418_918_046_885),
        ("10.0.0.1:8080_17", 14_014_034_734_899_239_605),
        (
            "envoy://connect_originate/10.0.0.1:8080_341",
            12_599_089_640_710_670_774,
        ),
    ];
}
