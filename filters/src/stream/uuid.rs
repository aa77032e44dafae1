//! Random UUIDs (RFC 9562 version 4), as text: request ids and `%UNIQUE_ID%`.

/// The text of the UUID with these random bits.
pub fn v4(random: u128) -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (index, place) in text.iter_mut().enumerate() {
        if !matches!(index, 8 | 13 | 18 | 23) {
            shift -= 4;
            *place = DIGITS[(bits >> shift) as usize & 15];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_variant_are_fixed() {
        let id = v4(u128::MAX);
        assert_eq!(&id, b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        let id = v4(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(&id, b"01234567-89ab-4def-8123-456789abcdef");
    }
}
