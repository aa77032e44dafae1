//! Base64url as tokens and keys are written in (RFC 7515, section 2): without padding. As Envoy does, padding is taken all the
//! same, and so are bits at the end that don't count: some issuers write them.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The bytes; `None`: it is none.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    LENIENT.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_may_be_there_and_nothing_else() {
        for text in ["YQ", "YQ==", "YR"] {
            assert_eq!(decode(text).as_deref(), Some(&b"a"[..]), "{text}");
        }
        assert_eq!(decode("-_8").as_deref(), Some(&[0xfb, 0xff][..]));
        for text in ["Y", "Y Q", "+/8", "YQ=Y", " YQ", "YQ\n"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
