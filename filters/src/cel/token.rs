//! Tokens of expressions: the lexical grammar of CEL, its strings (raw, of bytes, in triple quotes) and numbers.
//!
//! A number has no sign here: `-` is an operator, and the parser joins them.

use super::fault::Fault;

/// A token and where it begins, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) kind: TokenKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    Name(String),
    Int(u64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    Sign(&'static str),
    End,
}

/// Longest first.
const SIGNS: [&str; 25] = [
    "||", "&&", "<=", ">=", "==", "!=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",",
    "(", ")", "[", "]", "{", "}", "=",
];

/// # Errors
/// A character that begins nothing, or a literal that doesn't end or says what can't be.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut scanner = Scanner { text, at: 0 };
    let mut found = Vec::new();
    loop {
        scanner.skip_blanks();
        let at = scanner.at;
        let kind = scanner.next()?;
        let end = kind == TokenKind::End;
        found.push(Token { at, kind });
        if end {
            return Ok(found);
        }
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.bytes().take_while(|c| wanted(*c)).count();
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        loop {
            self.take_while(|c| c.is_ascii_whitespace());
            if !self.rest().starts_with("//") {
                return;
            }
            self.take_while(|c| c != b'\n');
        }
    }

    fn next(&mut self) -> Result<TokenKind, Fault> {
        let Some(first) = self.peek(0) else {
            return Ok(TokenKind::End);
        };
        if let Some(prefix) = self.string_prefix() {
            return self.string(prefix);
        }
        if first.is_ascii_alphabetic() || first == b'_' {
            let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == b'_');
            return Ok(TokenKind::Name(name.to_owned()));
        }
        let is_fraction = first == b'.' && self.peek(1).is_some_and(|c| c.is_ascii_digit());
        if first.is_ascii_digit() || is_fraction {
            return self.number();
        }
        match SIGNS.iter().find(|sign| self.rest().starts_with(**sign)) {
            Some(sign) => {
                self.at += sign.len();
                Ok(TokenKind::Sign(sign))
            }
            None => {
                let character = self.rest().chars().next().unwrap_or_default();
                Err(Fault::new(self.at, format!("{character:?} begins nothing")))
            }
        }
    }

    /// The letters before a quote.
    fn string_prefix(&self) -> Option<&'a str> {
        let rest = self.rest();
        let length = rest
            .bytes()
            .take(2)
            .take_while(|c| matches!(c, b'r' | b'R' | b'b' | b'B'))
            .count();
        let prefix = rest.get(..length)?;
        let doubled = length == 2
            && prefix
                .bytes()
                .next()?
                .eq_ignore_ascii_case(&prefix.bytes().last()?);
        let quoted = matches!(self.peek(length), Some(b'"' | b'\''));
        (quoted && !doubled).then_some(prefix)
    }

    fn string(&mut self, prefix: &str) -> Result<TokenKind, Fault> {
        let begin = self.at;
        self.at += prefix.len();
        let raw = prefix.contains(['r', 'R']);
        let of_bytes = prefix.contains(['b', 'B']);
        let rest = self.rest();
        let quote = match rest.get(..3) {
            Some(three @ ("'''" | "\"\"\"")) => three,
            _ => rest.get(..1).unwrap_or_default(),
        };
        self.at += quote.len();
        let mut value = Vec::new();
        loop {
            let rest = self.rest();
            if rest.starts_with(quote) {
                self.at += quote.len();
                break;
            }
            let Some(character) = rest.chars().next() else {
                return Err(Fault::new(begin, "a string that doesn't end"));
            };
            if quote.len() == 1 && matches!(character, '\n' | '\r') {
                return Err(Fault::new(begin, "a string that doesn't end on its line"));
            }
            if character == '\\' && !raw {
                self.escape(of_bytes, &mut value)?;
            } else {
                self.at += character.len_utf8();
                value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if of_bytes {
            return Ok(TokenKind::Bytes(value));
        }
        let text = String::from_utf8(value);
        text.map(TokenKind::String)
            .map_err(|_| Fault::new(begin, "a string that is no text"))
    }

    fn escape(&mut self, of_bytes: bool, value: &mut Vec<u8>) -> Result<(), Fault> {
        let at = self.at;
        let fault = || Fault::new(at, "an escape that isn't one");
        let letter = self.peek(1).ok_or_else(fault)?;
        let simple = match letter {
            b'a' => Some(7),
            b'b' => Some(8),
            b'f' => Some(12),
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'v' => Some(11),
            b'\\' | b'\'' | b'"' | b'`' | b'?' => Some(letter),
            _ => None,
        };
        if let Some(byte) = simple {
            self.at += 2;
            value.push(byte);
            return Ok(());
        }
        let (skip, digits, radix) = match letter {
            b'x' | b'X' => (2, 2, 16),
            b'u' if !of_bytes => (2, 4, 16),
            b'U' if !of_bytes => (2, 8, 16),
            b'0'..=b'3' => (1, 3, 8),
            _ => return Err(fault()),
        };
        let digits = self.text.get(at + skip..at + skip + digits);
        let digits = digits.filter(|digits| digits.bytes().all(|c| c.is_ascii_alphanumeric()));
        let digits = digits.ok_or_else(fault)?;
        let code = u32::from_str_radix(digits, radix).map_err(|_| fault())?;
        if of_bytes {
            value.push(u8::try_from(code).map_err(|_| fault())?);
        } else {
            let character = char::from_u32(code).ok_or_else(fault)?;
            value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        self.at += skip + digits.len();
        Ok(())
    }

    fn number(&mut self) -> Result<TokenKind, Fault> {
        let begin = self.at;
        let fault = || Fault::new(begin, "a number that isn't one");
        let hex = self
            .rest()
            .strip_prefix("0x")
            .or(self.rest().strip_prefix("0X"));
        let integer = if hex.is_some() {
            self.at += 2;
            let digits = self.take_while(|c| c.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).map_err(|_| fault())?
        } else {
            self.take_while(|c| c.is_ascii_digit());
            let mut is_double = false;
            if self.peek(0) == Some(b'.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
                is_double = true;
                self.at += 1;
                self.take_while(|c| c.is_ascii_digit());
            }
            if matches!(self.peek(0), Some(b'e' | b'E')) {
                is_double = true;
                self.at += 1;
                if matches!(self.peek(0), Some(b'+' | b'-')) {
                    self.at += 1;
                }
                self.take_while(|c| c.is_ascii_digit());
            }
            let text = self.text.get(begin..self.at).unwrap_or_default();
            if is_double {
                let double: f64 = text.parse().map_err(|_| fault())?;
                return self.ends(begin, TokenKind::Double(double));
            }
            text.parse().map_err(|_| fault())?
        };
        if matches!(self.peek(0), Some(b'u' | b'U')) {
            self.at += 1;
            return self.ends(begin, TokenKind::Uint(integer));
        }
        self.ends(begin, TokenKind::Int(integer))
    }

    /// No letter follows a number.
    fn ends(&self, begin: usize, kind: TokenKind) -> Result<TokenKind, Fault> {
        match self.peek(0) {
            Some(c) if c.is_ascii_alphanumeric() || c == b'_' => {
                Err(Fault::new(begin, "a number that isn't one"))
            }
            _ => Ok(kind),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn first(text: &str) -> TokenKind {
        tokens(text).unwrap().remove(0).kind
    }

    #[test]
    fn strings_and_bytes() {
        let string = |text: &str| TokenKind::String(text.to_owned());
        assert_eq!(first(r#"'a"b'"#), string("a\"b"));
        assert_eq!(
            first(r#""\x41\u00e4\U0001F600\101\n\\""#),
            string("Aä😀A\n\\")
        );
        assert_eq!(first(r"r'\d+'"), string(r"\d+"));
        assert_eq!(first("'''it's\n'''"), string("it's\n"));
        assert_eq!(first("\"\"\"a\"b\"\"\""), string("a\"b"));
        assert_eq!(first("''"), string(""));
        assert_eq!(
            first(r"b'\xffä'"),
            TokenKind::Bytes(b"\xff\xc3\xa4".to_vec())
        );
        assert_eq!(first(r"rb'\x'"), TokenKind::Bytes(br"\x".to_vec()));
        for wrong in [
            "'",
            "'a\n'",
            r"'\q'",
            r"'\ud800'",
            r"'\x4'",
            r"b'\u0041'",
            "'''a'",
        ] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_names_and_signs() {
        assert_eq!(first("0x1F"), TokenKind::Int(31));
        assert_eq!(first("42u"), TokenKind::Uint(42));
        assert_eq!(first("1.5e3"), TokenKind::Double(1500.0));
        assert_eq!(first(".5"), TokenKind::Double(0.5));
        assert_eq!(first("// told\n a_1"), TokenKind::Name("a_1".into()));
        assert_eq!(first("!="), TokenKind::Sign("!="));
        for wrong in ["1a", "0x", "99999999999999999999", "1e", "#", "ä"] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
    }
}
