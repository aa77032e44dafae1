//! Messages as their bytes: fields found, replaced, taken out.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, skip_field};

/// A field as it stands in a message's bytes.
#[derive(Clone, Debug)]
pub(crate) struct RawField<'a> {
    pub(crate) number: u32,
    /// Key and value.
    pub(crate) all: &'a [u8],
    /// The value's bytes, where it has a length.
    pub(crate) content: Option<&'a [u8]>,
    /// The value, where it is a varint.
    pub(crate) varint: u64,
}

pub(crate) fn fields(bytes: &[u8]) -> Vec<RawField<'_>> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let start = bytes.len() - rest.len();
        let (number, wire_type) = decode_key(&mut rest).unwrap();
        let mut content = None;
        let mut varint = 0;
        match wire_type {
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest).unwrap() as usize;
                content = Some(&rest[..length]);
                rest = &rest[length..];
            }
            WireType::Varint => varint = decode_varint(&mut rest).unwrap(),
            other => skip_field(other, number, &mut rest, DecodeContext::default()).unwrap(),
        }
        found.push(RawField {
            number,
            all: &bytes[start..bytes.len() - rest.len()],
            content,
            varint,
        });
    }
    found
}

pub(crate) fn with_length(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

pub(crate) fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(number, WireType::Varint, &mut out);
    prost::encoding::encode_varint(value, &mut out);
    out
}

/// The message without the fields of these numbers.
pub(crate) fn without(bytes: &[u8], numbers: &[u32]) -> Vec<u8> {
    let fields = fields(bytes).into_iter();
    let kept = fields.filter(|field| !numbers.contains(&field.number));
    kept.flat_map(|field| field.all.to_vec()).collect()
}

/// The message in which the message at `path` (field numbers, each with its how-manieth) is changed.
pub(crate) fn edit(
    bytes: &[u8],
    path: &[(u32, usize)],
    change: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let Some(((number, which), below)) = path.split_first() else {
        return change(bytes);
    };
    let mut seen = 0;
    let mut out = Vec::new();
    for field in fields(bytes) {
        if field.number == *number {
            seen += 1;
            if seen == which + 1 {
                let inner = edit(field.content.unwrap(), below, change);
                out.extend_from_slice(&with_length(*number, &inner));
                continue;
            }
        }
        out.extend_from_slice(field.all);
    }
    // A value that is empty isn't there.
    if seen == *which {
        out.extend_from_slice(&with_length(*number, &edit(&[], below, change)));
    }
    out
}
