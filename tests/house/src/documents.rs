//! File paths in documents: each names a file or folder of the repository.
//!
//! Paths in code spans begin at the root, or are the end of a path (`upstream/body.rs`); links begin at their
//! document. In code blocks only what begins with a folder of the root is one. What is no path of this repository (a URL, a flag, a file of a reader's own) is left alone.

use std::collections::BTreeSet;

/// Files that are told from other words by their ends.
const ENDS: [&str; 7] = [".rs", ".md", ".sh", ".go", ".toml", ".lock", ".pb"];

/// The repository's files and folders; folders end with `/`.
#[derive(Debug)]
pub struct Tree(BTreeSet<String>);

impl Tree {
    pub fn new(files: &[String]) -> Tree {
        let mut paths = BTreeSet::new();
        for file in files {
            let folders = file
                .match_indices('/')
                .filter_map(|(at, _)| file.get(..=at));
            paths.extend(folders.map(str::to_owned));
            paths.insert(file.clone());
        }
        Tree(paths)
    }

    /// The paths in a document that lead nowhere.
    pub fn missing(&self, document: &str, text: &str) -> Vec<String> {
        let (spans, commands) = code(text);
        let spans = spans.into_iter().filter(|span| self.is_path(span));
        let commands = commands.into_iter().filter(|word| self.is_below_root(word));
        let paths = spans.chain(commands);
        let missing = paths.filter(|path| !self.has_end(path, document));
        let links = links(text).filter(|link| !self.has_link(document, link));
        missing.chain(links).map(str::to_owned).collect()
    }

    /// Whether a word is meant as a path of this repository.
    fn is_path(&self, word: &str) -> bool {
        let is_named = word.ends_with('/') || ENDS.iter().any(|end| word.ends_with(end));
        self.is_below_root(word) || (is_plain(word) && is_named)
    }

    fn is_below_root(&self, word: &str) -> bool {
        let first = word.split_inclusive('/').next().unwrap_or_default();
        is_plain(word) && first != word && self.0.contains(first)
    }

    fn has_end(&self, path: &str, document: &str) -> bool {
        let is_end = |known: &String| match known.strip_suffix(path) {
            Some(before) => before.is_empty() || before.ends_with('/'),
            None => false,
        };
        let as_folder = format!("{path}/");
        self.0.contains(&as_folder) || self.0.iter().any(is_end) || self.has_link(document, path)
    }

    fn has_link(&self, document: &str, link: &str) -> bool {
        let mut at: Vec<&str> = document.split('/').collect();
        at.pop();
        for step in link.trim_end_matches('/').split('/') {
            match step {
                "." => {}
                ".." => {
                    at.pop();
                }
                name => at.push(name),
            }
        }
        let path = at.join("/");
        self.0.contains(&path) || self.0.contains(&format!("{path}/"))
    }
}

/// Whether a word has nothing that paths here haven't, and begins within the repository.
fn is_plain(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    word.chars().all(is_plain) && !word.starts_with(['/', '.', '-'])
}

/// Code spans, and the words of code blocks.
fn code(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut spans, mut words) = (Vec::new(), Vec::new());
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            words.extend(line.split_whitespace());
        } else {
            spans.extend(line.split('`').skip(1).step_by(2));
        }
    }
    (spans, words)
}

/// Where links lead, if within the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let link = rest.split(')').next()?;
        let path = link.split('#').next()?;
        (!path.is_empty() && !path.contains(':')).then_some(path)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{files, root};

    #[test]
    fn a_path_that_leads_nowhere_is_found() {
        let tree = Tree::new(&[
            "docs/a.md".to_owned(),
            "proxy/src/upstream/body.rs".to_owned(),
            "README.md".to_owned(),
            "Makefile".to_owned(),
        ]);
        let good = "`proxy/src/upstream/` `upstream/body.rs` `body.rs` `proxy/src` `a.md` [x](a.md#y) [up](../README.md) \
                    [z](https://e.test/a) [here](#there) `/clusters` `--a/b` `istio-system/istio` `a.b` `NS/NAME`\n\
                    ```\nrun proxy/src/upstream/ none.rs a/none.rs\n```\n";
        assert_eq!(tree.missing("docs/a.md", good), Vec::<String>::new());
        let wrong = "`proxy/src/none.rs`, `ody.rs`, `upstream/none.rs`, `none/`, `proxy/none`, [x](README.md)\n```\nrun proxy/a.md\n```";
        assert_eq!(
            tree.missing("docs/a.md", wrong),
            [
                "proxy/src/none.rs",
                "ody.rs",
                "upstream/none.rs",
                "none/",
                "proxy/none",
                "proxy/a.md",
                "README.md"
            ]
        );
    }

    #[test]
    fn every_path_in_a_document_leads_somewhere() {
        let files = files(&root()).unwrap();
        let tree = Tree::new(&files);
        let is_document = |file: &&String| {
            let is_top = ["README.md", "CONTRIBUTING.md"].contains(&file.as_str());
            is_top || (file.starts_with("docs/") && file.ends_with(".md"))
        };
        let mut missing = Vec::new();
        for document in files.iter().filter(is_document) {
            let text = std::fs::read_to_string(root().join(document)).unwrap();
            let of_document = tree.missing(document, &text);
            missing.extend(of_document.iter().map(|path| format!("{document}: {path}")));
        }
        assert_eq!(missing, Vec::<String>::new());
    }
}
