//! Decoding a message so that nothing of it is lost in silence.
//!
//! Protobuf drops fields that the reader's definition doesn't have. A deny rule with a condition of a newer
//! version would then decode without it, and never match. So a decoded message has to be as long as what
//! it was decoded from; one that isn't has a field that this version doesn't know, and is refused. An
//! explicit default inside a map entry makes a message longer, too: it is refused as well, which errs on
//! the safe side, and no recorded resource of an istiod has one.

use prost::Message;

use crate::rejected::Refusal;

/// Decodes `bytes`, all of them.
///
/// # Errors
/// They are no message of this type, or hold fields that it doesn't have.
pub fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Refusal> {
    let message = M::decode(bytes).map_err(|error| Refusal::new("", error.to_string()))?;
    if message.encoded_len() == bytes.len() {
        return Ok(message);
    }
    Err(Refusal::new(
        "",
        "has a field that this version does not know",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::rbac::v3::{Permission, permission::Rule};

    use super::*;

    #[test]
    fn a_field_of_a_newer_version_is_refused_at_any_depth() {
        let mut bytes = Permission {
            rule: Some(Rule::Any(true)),
        }
        .encode_to_vec();
        assert!(decode::<Permission>(&bytes).is_ok());
        let inner = Permission { rule: None };
        let nested = Permission {
            rule: Some(Rule::NotRule(Box::new(inner))),
        }
        .encode_to_vec();
        assert!(decode::<Permission>(&nested).is_ok());
        // Field 1000, a varint.
        bytes.extend_from_slice(&[0xc0, 0x3e, 0x01]);
        assert!(decode::<Permission>(&bytes).is_err());
        // The same inside `not_rule` (field 8).
        let mut deep = vec![0x42, 3];
        deep.extend_from_slice(&[0xc0, 0x3e, 0x01]);
        let refusal = decode::<Permission>(&deep).unwrap_err().to_string();
        assert!(refusal.contains("does not know"), "{refusal}");
    }
}
