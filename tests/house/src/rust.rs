//! Rust source as tokens, as far as the guards need it: names, punctuation and texts; without comments,
//! attributes, and whatever is compiled for tests only.

/// A piece of source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A name or keyword.
    Name(String),
    /// `::`
    PathSeparator,
    Punctuation(char),
    /// What a string literal says.
    Text(String),
    /// A number, a character, a lifetime.
    Other,
}

impl Token {
    pub fn is(&self, character: char) -> bool {
        *self == Token::Punctuation(character)
    }

    pub fn is_name(&self, name: &str) -> bool {
        self.name() == Some(name)
    }

    pub fn name(&self) -> Option<&str> {
        match self {
            Token::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// A file, without what is for tests.
#[derive(Debug)]
pub struct Source {
    pub tokens: Vec<Token>,
    /// Modules in files of their own that are for tests.
    pub test_modules: Vec<String>,
}

impl Source {
    pub fn parse(text: &str) -> Source {
        let mut source = Source {
            tokens: Vec::new(),
            test_modules: Vec::new(),
        };
        let all = tokens(text);
        let mut at = 0;
        while let Some(token) = all.get(at) {
            let is_attribute = token.is('#')
                && all
                    .get(at + 1)
                    .is_some_and(|next| next.is('[') || next.is('!'));
            if !is_attribute {
                source.tokens.push(token.clone());
                at += 1;
                continue;
            }
            let (attribute, after) = attribute(&all, at);
            at = after;
            if is_for_tests(attribute) {
                let end = end_of_item(&all, at);
                source.note_test_module(all.get(at..end).unwrap_or_default());
                at = end;
            }
        }
        source
    }

    fn note_test_module(&mut self, item: &[Token]) {
        if let [.., keyword, Token::Name(name), end] = item
            && keyword.is_name("mod")
            && end.is(';')
        {
            self.test_modules.push(name.clone());
        }
    }
}

/// The attribute that begins at `at`, and what comes after it.
fn attribute(all: &[Token], at: usize) -> (&[Token], usize) {
    let mut depth = 0;
    for (i, token) in all.iter().enumerate().skip(at) {
        match token {
            Token::Punctuation('[') => depth += 1,
            Token::Punctuation(']') => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return (all.get(at..i).unwrap_or_default(), i + 1);
        }
    }
    (&[], all.len())
}

/// `#[cfg(test)]`, and no more than that.
fn is_for_tests(attribute: &[Token]) -> bool {
    matches!(attribute, [_, _, cfg, open, test, _]
        if cfg.is_name("cfg") && open.is('(') && test.is_name("test"))
}

/// Where the item or field that begins at `at` is over.
fn end_of_item(all: &[Token], at: usize) -> usize {
    const ITEMS: [&str; 12] = [
        "pub", "fn", "mod", "impl", "struct", "enum", "const", "static", "type", "trait", "async",
        "let",
    ];
    let mut at = at;
    while all.get(at).is_some_and(|token| token.is('#')) {
        at = attribute(all, at).1;
    }
    let first = all.get(at).and_then(Token::name).unwrap_or_default();
    let mut depth = 0;
    for (i, token) in all.iter().enumerate().skip(at) {
        match token {
            Token::Punctuation('{' | '(' | '[') => depth += 1,
            Token::Punctuation('}' | ')' | ']') if depth == 0 => return i,
            Token::Punctuation('}') if depth == 1 && first != "use" => return i + 1,
            Token::Punctuation('}' | ')' | ']') => depth -= 1,
            Token::Punctuation(';') if depth == 0 => return i + 1,
            Token::Punctuation(',') if depth == 0 && !ITEMS.contains(&first) => return i + 1,
            _ => {}
        }
    }
    all.len()
}

/// All tokens of a text.
fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            _ if first.is_whitespace() => (None, first.len_utf8()),
            '/' if rest.starts_with("//") => (None, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (None, block_comment(rest)),
            '"' => text_literal(rest, 0),
            'r' | 'b' | 'c' if literal_prefix(rest).is_some() => {
                let prefix = literal_prefix(rest).unwrap_or_default();
                text_literal(rest, prefix)
            }
            '\'' => (Some(Token::Other), quote(rest)),
            '0'..='9' => (Some(Token::Other), name_length(rest)),
            _ if first == '_' || first.is_alphanumeric() => {
                let length = name_length(rest);
                let name = rest.get(..length).unwrap_or_default();
                // A raw name: `r#type`.
                match rest.strip_prefix("r#") {
                    Some(raw) => {
                        let length = name_length(raw);
                        let name = raw.get(..length).unwrap_or_default();
                        (Some(Token::Name(name.to_owned())), length + 2)
                    }
                    None => (Some(Token::Name(name.to_owned())), length),
                }
            }
            ':' if rest.starts_with("::") => (Some(Token::PathSeparator), 2),
            other => (Some(Token::Punctuation(other)), other.len_utf8()),
        };
        found.extend(token);
        rest = rest.get(length..).unwrap_or_default();
    }
    found
}

fn name_length(text: &str) -> usize {
    text.find(|c: char| c != '_' && !c.is_alphanumeric())
        .unwrap_or(text.len())
}

/// They nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => depth += 1,
            Some(b"*/") => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at
}

/// How long the letters and `#` before a string's quote are: of `r#"`, `b"`, `br"` and the like.
fn literal_prefix(text: &str) -> Option<usize> {
    let letters = text.trim_start_matches(['r', 'b', 'c']);
    let hashes = letters.trim_start_matches('#');
    let prefix = text.len() - hashes.len();
    let is_raw = text.get(..prefix)?.contains('r');
    let is_short = text.len() - letters.len() <= 2;
    let may_have_hashes = is_raw || letters.len() == hashes.len();
    (hashes.starts_with('"') && is_short && may_have_hashes).then_some(prefix)
}

/// A string literal behind `prefix` bytes.
fn text_literal(text: &str, prefix: usize) -> (Option<Token>, usize) {
    let before = text.get(..prefix).unwrap_or_default();
    let hashes = before.matches('#').count();
    let inner = text.get(prefix + 1..).unwrap_or_default();
    let length = if before.contains('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        inner.find(&end).unwrap_or(inner.len())
    } else {
        let mut escaped = false;
        let ends = |(_, c): &(usize, char)| {
            let end = !escaped && *c == '"';
            escaped = !escaped && *c == '\\';
            end
        };
        let end = inner.char_indices().find(ends);
        end.map_or(inner.len(), |(at, _)| at)
    };
    let said = inner.get(..length).unwrap_or_default().to_owned();
    (Some(Token::Text(said)), prefix + 1 + length + 1 + hashes)
}

/// A character or a lifetime.
fn quote(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            let after = text.get(escaped + 1..).unwrap_or_default();
            after
                .find('\'')
                .map_or(text.len(), |at| escaped + 1 + at + 1)
        }
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 1 + name_length(text.get(1..).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        let of = |token: &Token| match token {
            Token::Name(name) => name.clone(),
            Token::PathSeparator => "::".to_owned(),
            Token::Punctuation(c) => c.to_string(),
            Token::Text(text) => format!("<{text}>"),
            Token::Other => "·".to_owned(),
        };
        let source = Source::parse(text);
        let words: Vec<String> = source.tokens.iter().map(of).collect();
        words.join(" ")
    }

    #[test]
    fn texts_and_comments_hold_no_names() {
        assert_eq!(words("a // crate::b\n/* c /* d */ crate::e */ f"), "a f");
        assert_eq!(
            words(r##"let x = r#"crate::"a""#; b"\"q" c"##),
            r#"let x = <crate::"a"> ; <\"q> c"#
        );
        assert_eq!(
            words("'a' '\\'' 'static &'a T r#type b'x'"),
            "· · · & · T type b ·"
        );
    }

    #[test]
    fn what_is_for_tests_is_left_out() {
        assert_eq!(
            words("use a; #[cfg(test)] #[allow(x)] mod tests { use b; } fn c() {}"),
            "use a ; fn c ( ) { }"
        );
        assert_eq!(words("#[cfg(test)] use a::{b, c}; d"), "d");
        assert_eq!(
            words("struct A { #[cfg(test)] b: C<D>, e: F } #[cfg(test)] fn g<A, B>() {} h"),
            "struct A { e : F } h"
        );
        assert_eq!(words("#[cfg(not(test))] a #![b] c"), "a c");
        let source = Source::parse("#[cfg(test)]\nmod stories;\nmod a;");
        assert_eq!(source.test_modules, ["stories"]);
    }
}
