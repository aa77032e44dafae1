//! Texts as strings of JSON, made of bytes where they stand: those without bytes that JSON or UTF-8 minds are not copied.

pub(super) fn append(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.extend_from_slice(text);
    close(start, out);
}

/// Makes the text from `start` on a JSON string, whose first quote stands already.
pub(super) fn close(start: usize, out: &mut Vec<u8>) {
    let text = out.get(start..).unwrap_or_default();
    let plain = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    // Of all bytes, whatever the first says: that is many at a time.
    let all_plain = text.iter().fold(true, |all, byte| all & plain(*byte));
    if !all_plain {
        let text = String::from_utf8_lossy(text).into_owned();
        out.truncate(start.saturating_sub(1));
        // A text is always JSON, and writing to memory doesn't fail.
        let _ = serde_json::to_writer(&mut *out, &text);
        return;
    }
    out.push(b'"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_as_serde_json_has_it() {
        let wide = "hä\u{2028}\u{1f600}".as_bytes().to_vec();
        let bytes = (0..=u8::MAX).map(|byte| vec![b'a', byte, b'b']);
        for text in bytes.chain([vec![], wide, b"plain".to_vec()]) {
            let mut out = b"before".to_vec();
            append(&text, &mut out);
            let lossy = String::from_utf8_lossy(&text);
            let wanted = serde_json::to_string(&lossy).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!("before{wanted}"));
        }
    }
}
