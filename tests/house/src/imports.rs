//! What a file brings in with `use`, and the paths that it writes out.

use crate::rust::{Source, Token};

/// One name that a `use` brings in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// As it is written: `["crate", "pool", "Lease"]`.
    pub path: Vec<String>,
    /// What it is called here. `None`: everything in it, or a trait without a name.
    pub name: Option<String>,
    /// `pub` in any form.
    pub is_public: bool,
}

/// What a file says of others.
#[derive(Debug, Default)]
pub struct Mentions {
    pub imports: Vec<Import>,
    /// The modules that it declares.
    pub modules: Vec<String>,
    /// Names with what follows them after `::`, outside of `use`; one name alone, too.
    pub paths: Vec<Vec<String>>,
}

impl Mentions {
    pub fn of(source: &Source) -> Mentions {
        let tokens = &source.tokens;
        let mut mentions = Mentions::default();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let next = tokens.get(at + 1);
            let is_bound = next.is_some_and(|next| next.is('<'));
            match token.name() {
                Some("use") if !is_bound => {
                    let is_public = is_public(tokens.get(..at).unwrap_or_default());
                    let found = mentions.imports.len();
                    at = tree(tokens, at + 1, &[], &mut mentions.imports);
                    for import in mentions.imports.iter_mut().skip(found) {
                        import.is_public = is_public;
                    }
                }
                Some("mod") => {
                    let name = next.and_then(Token::name);
                    let in_file = tokens.get(at + 2).is_some_and(|end| end.is(';'));
                    mentions
                        .modules
                        .extend(name.filter(|_| in_file).map(str::to_owned));
                    at += 2;
                }
                // How far something may be seen is no use of what may see it.
                Some("pub") => at = after_visibility(tokens, at),
                Some(_) => {
                    let is_member = at > 0 && tokens.get(at - 1).is_some_and(|t| t.is('.'));
                    let (path, after) = path(tokens, at);
                    if !is_member {
                        mentions.paths.push(path);
                    }
                    at = after;
                }
                None => at += 1,
            }
        }
        mentions
    }
}

/// What comes after `pub`, `pub(crate)`, `pub(in crate::a)`.
fn after_visibility(tokens: &[Token], at: usize) -> usize {
    if tokens.get(at + 1).is_some_and(|token| token.is('(')) {
        let end = tokens.iter().skip(at).position(|token| token.is(')'));
        let scope = tokens.get(at + 2).and_then(Token::name);
        if scope.is_some_and(|scope| ["crate", "in", "self", "super"].contains(&scope)) {
            return end.map_or(tokens.len(), |end| at + end + 1);
        }
    }
    at + 1
}

/// Whether what comes before an item makes it public.
fn is_public(before: &[Token]) -> bool {
    match before {
        [.., last] if last.is_name("pub") => true,
        [.., last] if last.is(')') => {
            let open = before.iter().rposition(|token| token.is('('));
            let visibility = open.and_then(|open| before.get(open.checked_sub(1)?));
            visibility.is_some_and(|token| token.is_name("pub"))
        }
        _ => false,
    }
}

/// The path that begins at `at`, and what comes after it.
fn path(tokens: &[Token], at: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    let mut at = at;
    while let Some(name) = tokens.get(at).and_then(Token::name) {
        path.push(name.to_owned());
        at += 1;
        match tokens.get(at) {
            Some(Token::PathSeparator) => at += 1,
            _ => break,
        }
    }
    (path, at)
}

/// The tree of a `use` from `at`, whose names stand behind `prefix`; gives what comes after it.
fn tree(tokens: &[Token], at: usize, prefix: &[String], found: &mut Vec<Import>) -> usize {
    let leading = matches!(tokens.get(at), Some(Token::PathSeparator));
    let (names, mut at) = path(tokens, at + usize::from(leading));
    let whole: Vec<String> = prefix.iter().cloned().chain(names).collect();
    let mut import = |path: Vec<String>, name: Option<String>| {
        found.push(Import {
            path,
            name,
            is_public: false,
        });
    };
    match tokens.get(at) {
        Some(token) if token.is('{') => {
            at += 1;
            while tokens.get(at).is_some_and(|token| !token.is('}')) {
                let before = at;
                at = tree(tokens, at, &whole, found);
                if tokens.get(at).is_some_and(|token| token.is(',')) || at == before {
                    at += 1;
                }
            }
            at + 1
        }
        Some(token) if token.is('*') => {
            import(whole, None);
            at + 1
        }
        _ => {
            let mut path = whole;
            if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                path.pop();
            }
            let mut name = path.last().cloned();
            // `a as b`: no `::` between them, so the path ended before `as`.
            if tokens.get(at).is_some_and(|token| token.is_name("as")) {
                name = tokens.get(at + 1).and_then(Token::name).map(str::to_owned);
                name = name.filter(|name| name != "_");
                at += 2;
            }
            import(path, name);
            at
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mentions(text: &str) -> Mentions {
        Mentions::of(&Source::parse(text))
    }

    fn imports(text: &str) -> Vec<String> {
        let line = |import: &Import| {
            let name = import.name.as_deref().unwrap_or("*");
            let public = if import.is_public { "pub " } else { "" };
            format!("{public}{} = {name}", import.path.join("::"))
        };
        mentions(text).imports.iter().map(line).collect()
    }

    #[test]
    fn every_form_of_use() {
        assert_eq!(imports("use crate::a::B;"), ["crate::a::B = B"]);
        assert_eq!(
            imports("use super::{a::{self, B as C}, d::*, e as _};"),
            [
                "super::a = a",
                "super::a::B = C",
                "super::d = *",
                "super::e = *"
            ]
        );
        assert_eq!(
            imports(
                "pub use a::B; pub(crate) use c::D; pub(in crate::x) use e::F; fn f() { use g; }"
            ),
            ["pub a::B = B", "pub c::D = D", "pub e::F = F", "g = g"]
        );
        assert_eq!(
            imports("fn f(&self) -> impl A + use<'_> { }"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn paths_are_found_outside_of_use() {
        let found = mentions(
            "mod a; pub(in crate::i) mod b; mod c { } struct J(pub K, pub (L, M)); fn f(x: crate::d::E) { super::g(x.h); }",
        );
        assert_eq!(found.modules, ["a", "b"]);
        let paths: Vec<String> = found.paths.iter().map(|path| path.join("::")).collect();
        assert!(paths.contains(&"crate::d::E".to_owned()), "{paths:?}");
        assert!(paths.contains(&"super::g".to_owned()), "{paths:?}");
        assert!(paths.contains(&"L".to_owned()), "{paths:?}");
        assert!(!paths.contains(&"h".to_owned()), "{paths:?}");
        assert!(!paths.contains(&"crate::i".to_owned()), "{paths:?}");
    }
}
