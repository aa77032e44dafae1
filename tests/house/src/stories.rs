//! Tests that documents name, as `file.rs::story`: each is a test of that file.
//!
//! The path may be the end of a path, as everywhere in documents. A name without a test of its own, or a test that was
//! renamed, is found.

use std::collections::BTreeSet;

/// What is named of tests in a text, in code spans: the file and the test.
pub fn named(text: &str) -> BTreeSet<(&str, &str)> {
    let spans = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let named = spans.filter_map(|span| {
        span.split_once(".rs::")
            .map(|(file, test)| (span, file, test))
    });
    named
        .filter_map(|(span, file, test)| Some((span.get(..file.len() + 3)?, test)))
        .collect()
}

/// The names of the tests in a source file.
pub fn tests(source: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
            found.extend(rest.split('(').next());
            is_test = false;
        }
    }
    found
}

/// Whether a path is a file's, or the end of it.
pub fn is_end(file: &str, path: &str) -> bool {
    let before = file.strip_suffix(path);
    before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{files, root};

    #[test]
    fn names_and_tests_are_found() {
        let text = "| `http/a.rs::one`, `b.rs::two` | `c.rs` `d::e` |";
        let found: Vec<_> = named(text).into_iter().collect();
        assert_eq!(found, [("b.rs", "two"), ("http/a.rs", "one")]);
        let source = "#[test]\nfn one() {}\n    #[tokio::test(start_paused = true)]\n    #[ignore = \"x\"]\n    async fn two() {\nfn three() {}\n#[allow(dead_code)]\nfn four() {}";
        assert_eq!(tests(source), BTreeSet::from(["one", "two"]));
        assert!(is_end("tests/http/a.rs", "http/a.rs") && is_end("a.rs", "a.rs"));
        assert!(!is_end("tests/http/aa.rs", "a.rs"));
    }

    #[test]
    fn every_test_that_a_document_names_is_there() {
        let files = files(&root()).unwrap();
        let read = |file: &String| std::fs::read_to_string(root().join(file)).unwrap();
        let documents = files.iter().filter(|file| file.ends_with(".md"));
        let mut sources: BTreeMap<&String, String> = BTreeMap::new();
        let mut missing = Vec::new();
        for document in documents {
            let text = read(document);
            for (path, test) in named(&text) {
                let mut ends = files.iter().filter(|file| is_end(file, path));
                let is_there = ends.any(|file| {
                    let source = sources.entry(file).or_insert_with(|| read(file));
                    super::tests(source).contains(test)
                });
                if !is_there {
                    missing.push(format!("{document}: {path}::{test}"));
                }
            }
        }
        assert_eq!(missing, Vec::<String>::new());
    }
}
