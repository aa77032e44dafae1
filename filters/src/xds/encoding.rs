//! Protobuf messages written field by field, without the structs in between that a message is usually made of: for those that
//! are sent with every request.
//!
//! A message inside of another is written where it stands, and its length put before it once it is known. As in proto3, what is
//! empty or zero isn't written; where that says something (`oneof`), there is [`Fields::always`].

/// The fields of a message, appended to what was written before.
pub(crate) struct Fields<'a>(pub(crate) &'a mut Vec<u8>);

/// Types of the wire.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const DELIMITED: u64 = 2;

impl Fields<'_> {
    fn tag(&mut self, field: u32, kind: u64) {
        varint(u64::from(field) << 3 | kind, self.0);
    }

    /// A number: `uint64`, `uint32`, and of `int64` and `int32` what isn't negative.
    pub(crate) fn number(&mut self, field: u32, value: u64) {
        if value > 0 {
            self.tag(field, VARINT);
            varint(value, self.0);
        }
    }

    /// The same where zero says something.
    pub(crate) fn number_always(&mut self, field: u32, value: u64) {
        self.tag(field, VARINT);
        varint(value, self.0);
    }

    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        if value > 0 {
            self.tag(field, FIXED_64);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Bytes, or a text.
    pub(crate) fn bytes(&mut self, field: u32, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        if !value.is_empty() {
            self.always(field, value);
        }
    }

    /// Bytes, a text, or a message that is encoded, also where they are empty.
    pub(crate) fn always(&mut self, field: u32, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.tag(field, DELIMITED);
        varint(value.len() as u64, self.0);
        self.0.extend_from_slice(value);
    }

    /// A message, also where it is empty.
    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Fields<'_>)) {
        self.tag(field, DELIMITED);
        let place = self.0.len();
        self.0.push(0);
        let begin = self.0.len();
        write(&mut Fields(self.0));
        let length = self.0.len() - begin;
        let more = length_of_varint(length as u64) - 1;
        if more > 0 {
            let end = self.0.len();
            self.0.resize(end + more, 0);
            self.0.copy_within(begin..end, begin + more);
        }
        let mut rest = length as u64;
        for byte in self.0.iter_mut().skip(place).take(more + 1) {
            *byte = (rest & 0x7f) as u8 | 0x80;
            rest >>= 7;
        }
        if let Some(last) = self.0.get_mut(place + more) {
            *last &= 0x7f;
        }
    }
}

pub(crate) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes of a number.
pub(crate) fn length_of_varint(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Inner {
        #[prost(string, tag = "1")]
        text: String,
        #[prost(message, optional, boxed, tag = "200")]
        inner: Option<Box<Inner>>,
        #[prost(uint64, tag = "3")]
        number: u64,
        #[prost(fixed64, tag = "4")]
        fixed: u64,
        #[prost(bytes = "vec", tag = "5")]
        bytes: Vec<u8>,
        #[prost(int64, optional, tag = "6")]
        always: Option<i64>,
    }

    fn write(message: &Inner, fields: &mut Fields<'_>) {
        fields.bytes(1, &message.text);
        fields.number(3, message.number);
        fields.fixed64(4, message.fixed);
        fields.bytes(5, &message.bytes);
        if let Some(always) = message.always {
            fields.number_always(6, always.cast_unsigned());
        }
        if let Some(inner) = &message.inner {
            fields.message(200, |fields| write(inner, fields));
        }
    }

    #[test]
    fn messages_are_those_of_prost() {
        let mut message = Inner::default();
        for length in [0, 1, 100, 126, 127, 128, 129, 16_300, 16_384, 3_000_000] {
            message = Inner {
                text: "a".repeat(length),
                number: length as u64,
                fixed: u64::MAX - length as u64,
                bytes: vec![0xff; length / 2],
                always: (length % 2 == 0).then_some(-(length as i64)),
                inner: Some(Box::new(message)),
            };
            let mut out = b"before".to_vec();
            write(&message, &mut Fields(&mut out));
            assert!(out.starts_with(b"before"));
            assert_eq!(out.get(6..), Some(&*message.encode_to_vec()), "{length}");
        }
        for bits in 0..64 {
            for value in [1 << bits, (1 << bits) - 1] {
                let mut out = Vec::new();
                varint(value, &mut out);
                assert_eq!(out.len(), length_of_varint(value), "{value}");
                assert_eq!(out.len(), prost::encoding::encoded_len_varint(value));
            }
        }
    }
}
