//! The log's targets: whatever a level can be set for is a module that exists, or another crate of the program.

use std::collections::BTreeMap;

use crate::modules::Crate;
use crate::rust::{Source, Token};

/// Other crates that log under their own names.
const FOREIGN: [&str; 3] = ["h2", "hyper", "tonic"];

/// The targets in the table `LOGGERS` of this file that nothing can log to; `None`: there is no such table.
pub fn without_module(text: &str, crates: &BTreeMap<String, Crate>) -> Option<Vec<String>> {
    let mut wrong: Vec<String> = targets(text)?
        .into_iter()
        .filter(|target| {
            let mut path = target.split("::");
            let name = path.next().unwrap_or_default();
            let rest: Vec<&str> = path.collect();
            match crates.get(name) {
                Some(of) => !of.has(&rest),
                None => !FOREIGN.contains(&name),
            }
        })
        .collect();
    wrong.sort();
    Some(wrong)
}

/// All texts in the inner lists of `LOGGERS`.
fn targets(text: &str) -> Option<Vec<String>> {
    let tokens = Source::parse(text).tokens;
    let start = tokens.iter().position(|token| token.is_name("LOGGERS"))?;
    let table = tokens.iter().skip(start).skip_while(|token| !token.is('='));
    let mut targets = Vec::new();
    let mut depth = 0;
    for token in table.take_while(|token| !token.is(';')) {
        match token {
            Token::Punctuation('[') => depth += 1,
            Token::Punctuation(']') => depth -= 1,
            Token::Text(target) if depth == 2 => targets.push(target.clone()),
            _ => {}
        }
    }
    Some(targets)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{CRATES, files, root};

    #[test]
    fn a_target_without_a_module_is_found() {
        let text = r#"
            const LOGGERS: &[(&str, &[&str])] = &[
                ("nothing", &[]),
                ("good", &["waypoint_a", "waypoint_a::b", "hyper"]),
                ("moved", &["waypoint_a::b::c", "waypoint_a::d", "waypoint_z", "other"]),
            ];
            const LEVELS: &[&str] = &["trace"];
        "#;
        let module = |file: &str| (file.to_owned(), String::new());
        let crates = [(
            "waypoint_a".to_owned(),
            Crate::of([module("lib.rs"), module("b.rs")]),
        )];
        let wrong = without_module(text, &crates.into()).unwrap();
        assert_eq!(
            wrong,
            ["other", "waypoint_a::b::c", "waypoint_a::d", "waypoint_z"]
        );
        assert_eq!(
            without_module("const LEVELS: u8 = 1;", &BTreeMap::new()),
            None
        );
    }

    #[test]
    fn every_target_is_a_module() {
        let read = |name: &str| {
            let folder = root().join(name).join("src");
            (format!("waypoint_{name}"), Crate::read(&folder).unwrap())
        };
        let crates = CRATES.map(read).into();
        let folder = root().join("proxy/src");
        let sources = files(&folder).unwrap();
        let tables: Vec<Vec<String>> = sources
            .iter()
            .filter(|file| file.ends_with(".rs"))
            .filter_map(|file| {
                let text = std::fs::read_to_string(folder.join(file)).unwrap();
                without_module(&text, &crates).filter(|_| text.contains("const LOGGERS:"))
            })
            .collect();
        assert_eq!(tables, [Vec::<String>::new()], "one table, all of it right");
    }
}
