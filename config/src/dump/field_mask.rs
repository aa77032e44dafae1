//! Field masks: which fields of a message are wanted.

use std::collections::BTreeMap;

/// Of a longer path, all that its beginning leads to.
const MAX_DEPTH: usize = 32;

/// Which fields are wanted: everything, or what a tree of paths leads to. Paths lead through lists, and
/// through an `Any` into its message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(Option<BTreeMap<String, Mask>>);

impl Mask {
    /// Everything.
    pub const ALL: Mask = Mask(None);

    /// Reads a field mask, `a,b.c`. An empty one is everything.
    pub fn parse(text: &str) -> Mask {
        let mut fields = BTreeMap::new();
        for path in text.split(',').filter(|path| !path.is_empty()) {
            add(&mut fields, path, MAX_DEPTH);
        }
        Mask((!fields.is_empty()).then_some(fields))
    }

    /// What is wanted of this field; `None`: nothing.
    pub fn of(&self, field: &str) -> Option<&Mask> {
        match &self.0 {
            None => Some(&Mask::ALL),
            Some(fields) => fields.get(field),
        }
    }
}

fn add(fields: &mut BTreeMap<String, Mask>, path: &str, depth: usize) {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) if depth > 0 => (first, rest),
        split => {
            let field = split.map_or(path, |(first, _)| first);
            fields.insert(field.to_owned(), Mask::ALL);
            return;
        }
    };
    let inner = fields
        .entry(first.to_owned())
        .or_insert_with(|| Mask(Some(BTreeMap::new())));
    // Where the whole field is wanted already, a part of it adds nothing.
    if let Mask(Some(inner)) = inner {
        add(inner, rest, depth - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_field_stands_above_its_parts() {
        let mask = Mask::parse("a.b,a,a.c,d.e,");
        assert_eq!(mask, Mask::parse("d.e,a"));
        assert_eq!(mask.of("a"), Some(&Mask::ALL));
        assert_eq!(mask.of("d").and_then(|d| d.of("f")), None);
        assert!(mask.of("b").is_none());
        assert_eq!(Mask::parse(""), Mask::ALL);
        // Nobody's stack is used up.
        Mask::parse(&"a.".repeat(1_000_000));
    }
}
