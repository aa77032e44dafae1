//! The modules of a crate and who uses whom: no circles, between files and between rooms.
//!
//! A name that a module hands on (`pub use`) is looked up where it is defined: who takes it from there uses that
//! file, and the module that only hands it on uses nothing. A room is a folder with all that is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

use crate::files;
use crate::imports::{Import, Mentions};
use crate::rust::Source;

/// How many times a name may be handed on.
const MAX_HANDS: usize = 16;

/// The modules of one crate, by their path in it; the crate's root is the empty one.
#[derive(Debug, Default)]
pub struct Crate {
    modules: BTreeMap<Vec<String>, Module>,
}

#[derive(Debug)]
struct Module {
    file: String,
    mentions: Mentions,
}

/// Files or rooms that use each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circle {
    pub members: Vec<String>,
    /// What each takes of another.
    pub uses: Vec<String>,
}

/// Who uses whom, and for what.
type Uses = BTreeMap<(String, String), BTreeSet<String>>;

impl Crate {
    /// The crate whose source is below `folder`.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn read(folder: &Path) -> io::Result<Crate> {
        let mut texts = Vec::new();
        for file in files(folder)? {
            if file.ends_with(".rs") && file != "main.rs" && !file.starts_with("bin/") {
                let text = fs::read_to_string(folder.join(&file))?;
                texts.push((file, text));
            }
        }
        Ok(Crate::of(texts))
    }

    /// The crate of these files: path below `src`, and text.
    pub fn of(files: impl IntoIterator<Item = (String, String)>) -> Crate {
        let mut modules = BTreeMap::new();
        let mut for_tests = Vec::new();
        for (file, text) in files {
            let source = Source::parse(&text);
            let path = module_path(&file);
            for name in &source.test_modules {
                for_tests.push(child(&path, name));
            }
            let mentions = Mentions::of(&source);
            modules.insert(path, Module { file, mentions });
        }
        modules.retain(|path, _| !for_tests.iter().any(|test| path.starts_with(test)));
        Crate { modules }
    }

    /// Whether `path`, as in `pool` or `standalone::kinds`, is a module.
    pub fn has(&self, path: &[&str]) -> bool {
        let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
        self.modules.contains_key(&path)
    }

    /// Files that use each other.
    pub fn circles(&self) -> Vec<Circle> {
        circles(&self.uses(|from, to| (self.file(from), self.file(to))))
    }

    /// Rooms, and files beside them, that use each other.
    pub fn circles_of_rooms(&self) -> Vec<Circle> {
        let mut circles = circles(&self.uses(|from, to| {
            let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            let room = |path: &[String]| match path.get(..=shared) {
                Some(room) if self.is_room(room) => format!("{}/", room.join("/")),
                _ => self.file(path),
            };
            (room(from), room(to))
        }));
        // Files alone are found as files.
        circles.retain(|circle| circle.members.iter().any(|member| member.ends_with('/')));
        circles
    }

    fn is_room(&self, path: &[String]) -> bool {
        let is_inside = |other: &Vec<String>| other.len() > path.len() && other.starts_with(path);
        self.modules.keys().any(is_inside)
    }

    fn file(&self, path: &[String]) -> String {
        let module = self.modules.get(path);
        module.map(|module| module.file.clone()).unwrap_or_default()
    }

    /// Who uses whom, where `named` says what both are called.
    fn uses(&self, named: impl Fn(&[String], &[String]) -> (String, String)) -> Uses {
        let mut uses = Uses::new();
        for (from, module) in &self.modules {
            for (to, what) in self.used_by(from, &module.mentions) {
                let (from, to) = named(from, &to);
                if from != to {
                    uses.entry((from, to)).or_default().insert(what);
                }
            }
        }
        uses
    }

    /// The modules that one uses, with what it takes of them.
    fn used_by(&self, from: &[String], mentions: &Mentions) -> Vec<(Vec<String>, String)> {
        let mut used = Vec::new();
        let mut add = |path: &[String]| {
            if let Some(to) = self.absolute(from, path).and_then(|p| self.defines(&p, 0)) {
                used.push((to, path.join("::")));
            }
        };
        for import in mentions.imports.iter().filter(|import| !import.is_public) {
            add(&import.path);
        }
        for path in &mentions.paths {
            let Some(first) = path.first() else { continue };
            let imported = mentions.import(first);
            match imported {
                Some(import) => {
                    let rest = path.iter().skip(1);
                    let whole: Vec<String> = import.path.iter().chain(rest).cloned().collect();
                    add(&whole);
                }
                None if path.len() > 1 => add(path),
                None => {}
            }
        }
        for import in mentions.imports.iter().filter(|import| import.is_public) {
            let to = self.absolute(from, &import.path);
            let to = to.and_then(|path| self.defines(&path, 0));
            // A module may hand on what is below it.
            if to.is_some_and(|to| !to.starts_with(from)) {
                add(&import.path);
            }
        }
        used
    }

    /// A path as seen from the crate's root; `None`: it leads out of the crate.
    fn absolute(&self, from: &[String], path: &[String]) -> Option<Vec<String>> {
        let first = path.first()?.as_str();
        let rest = path.get(1..).unwrap_or_default();
        match first {
            "crate" => Some(rest.to_vec()),
            "self" => Some([from, rest].concat()),
            "super" => {
                let parent = from.get(..from.len().checked_sub(1)?)?;
                match rest.first().map(String::as_str) {
                    Some("super") => self.absolute(parent, rest),
                    _ => Some([parent, rest].concat()),
                }
            }
            _ if self.modules.contains_key(&child(from, first)) => Some([from, path].concat()),
            _ => {
                let import = self.modules.get(from)?.mentions.import(first)?;
                // A name that is brought in as itself comes from outside.
                let is_itself = import.path.first().is_some_and(|name| name == first);
                let whole = [import.path.as_slice(), rest].concat();
                (!is_itself).then(|| self.absolute(from, &whole))?
            }
        }
    }

    /// The module that defines what `path` names from the crate's root; `None`: another crate does.
    fn defines(&self, path: &[String], hands: usize) -> Option<Vec<String>> {
        let mut at = Vec::new();
        for (i, name) in path.iter().enumerate() {
            let below = child(&at, name);
            if self.modules.contains_key(&below) {
                at = below;
                continue;
            }
            let Some(import) = self.modules.get(&at)?.mentions.import(name) else {
                break;
            };
            if hands == MAX_HANDS {
                return None;
            }
            let rest = path.get(i + 1..).unwrap_or_default();
            let handed_on = [import.path.as_slice(), rest].concat();
            let handed_on = self.absolute(&at, &handed_on)?;
            return self.defines(&handed_on, hands + 1);
        }
        self.modules.contains_key(&at).then_some(at)
    }
}

impl Mentions {
    fn import(&self, name: &str) -> Option<&Import> {
        let mut imports = self.imports.iter();
        imports.find(|import| import.name.as_deref() == Some(name))
    }
}

/// `a/b.rs` and `a/b/mod.rs` are both `a::b`.
fn module_path(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let mut path: Vec<String> = path.split('/').map(str::to_owned).collect();
    let last = path.last().map(String::as_str);
    if last == Some("mod") || (path.len() == 1 && last == Some("lib")) {
        path.pop();
    }
    path
}

fn child(path: &[String], name: &str) -> Vec<String> {
    [path, &[name.to_owned()]].concat()
}

/// All sets in which everybody reaches everybody.
fn circles(uses: &Uses) -> Vec<Circle> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in uses.keys() {
        next.entry(from).or_default().insert(to);
    }
    let all = next.keys().map(|from| (*from, reached(from, &next)));
    let reached: BTreeMap<&str, BTreeSet<&str>> = all.collect();
    let reaches = |a: &str, b: &str| reached.get(a).is_some_and(|seen| seen.contains(b));
    let mut known: BTreeSet<&str> = BTreeSet::new();
    let mut circles = Vec::new();
    for from in reached.keys().filter(|from| reaches(from, from)) {
        if known.contains(*from) {
            continue;
        }
        let is_member = |other: &str| reaches(from, other) && reaches(other, from);
        let members = reached.keys().copied().filter(|other| is_member(other));
        let members: Vec<&str> = members.collect();
        known.extend(members.iter().copied());
        let inside = uses
            .iter()
            .filter(|((a, b), _)| is_member(a) && is_member(b));
        let line = |((a, b), what): (&(String, String), &BTreeSet<String>)| {
            let what: Vec<&str> = what.iter().map(String::as_str).collect();
            format!("{a} uses {b}: {}", what.join(", "))
        };
        circles.push(Circle {
            members: members.into_iter().map(str::to_owned).collect(),
            uses: inside.map(line).collect(),
        });
    }
    circles
}

/// Everything that is used by `from`, over any number of others.
fn reached<'a>(from: &'a str, next: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut left = vec![from];
    while let Some(at) = left.pop() {
        let new = next.get(at).into_iter().flatten();
        left.extend(new.filter(|to| seen.insert(**to)));
    }
    seen
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{CRATES, root};

    fn made_up(files: &[(&str, &str)]) -> Crate {
        let owned = |(file, text): &(&str, &str)| ((*file).to_owned(), (*text).to_owned());
        Crate::of(files.iter().map(owned))
    }

    fn found(circles: &[Circle]) -> Vec<&[String]> {
        circles
            .iter()
            .map(|circle| circle.uses.as_slice())
            .collect()
    }

    #[test]
    fn files_that_use_each_other_are_found_however_they_say_it() {
        let by = [
            "use crate::b::B;",
            "use super::b::B;",
            "use super::{b::{self, B as _}, c};",
            "fn f() { crate::b::f(); }",
            "fn f(b: super::b::B) {}",
            "use crate::c; fn f() { c::handed_on(); }",
            "use crate::c::handed_on;",
            "use crate::b::*;",
        ];
        for way in by {
            let crate_ = made_up(&[
                ("lib.rs", "mod a; mod b; mod c;"),
                ("a.rs", way),
                ("b.rs", "pub use crate::a::A; pub struct B; pub fn f() {}"),
                ("c.rs", "pub use crate::b::f as handed_on;"),
            ]);
            let circles = crate_.circles();
            assert_eq!(circles.len(), 1, "{way}: {circles:?}");
            let uses = circles[0].uses.join("\n");
            assert!(uses.contains("a.rs uses b.rs: "), "{uses}");
            assert!(uses.contains("b.rs uses a.rs: crate::a::A"), "{uses}");
        }
    }

    #[test]
    fn what_only_tests_use_and_what_is_handed_on_closes_no_circle() {
        let crate_ = made_up(&[
            ("lib.rs", "mod a; mod b; mod room; pub use room::One;"),
            ("a.rs", "use crate::b::B; #[cfg(test)] mod tests { }"),
            (
                "b.rs",
                "/// See [`crate::a`].\n#[cfg(test)] mod tests { use crate::a::A; }\n#[cfg(test)] mod more;",
            ),
            ("b/more.rs", "use crate::a::A;"),
            (
                "room/mod.rs",
                "mod one; mod two; pub use one::One; pub use two::Two;",
            ),
            ("room/one.rs", "pub struct One;"),
            (
                "room/two.rs",
                "use crate::room::One; use crate::One as Same; pub struct Two;",
            ),
        ]);
        assert_eq!(crate_.circles(), []);
        assert_eq!(crate_.circles_of_rooms(), []);
    }

    #[test]
    fn a_parent_that_uses_a_child_must_not_be_used_by_it() {
        let crate_ = made_up(&[
            ("lib.rs", "mod room;"),
            (
                "room/mod.rs",
                "mod one; pub struct Of; fn f() { one::build(); }",
            ),
            ("room/one.rs", "use super::Of; pub fn build() {}"),
        ]);
        assert_eq!(
            found(&crate_.circles()),
            [[
                "room/mod.rs uses room/one.rs: one::build",
                "room/one.rs uses room/mod.rs: super::Of"
            ]]
        );
    }

    #[test]
    fn rooms_that_use_each_other_are_found_though_no_files_do() {
        let crate_ = made_up(&[
            ("lib.rs", "mod a; mod b;"),
            ("a/mod.rs", "pub mod one; pub mod two;"),
            ("a/one.rs", "use crate::b::one::One;"),
            ("a/two.rs", "pub struct Two;"),
            ("b/mod.rs", "pub mod one; pub mod two;"),
            ("b/one.rs", "pub struct One;"),
            ("b/two.rs", "use crate::a::two::Two;"),
        ]);
        assert_eq!(crate_.circles(), []);
        assert_eq!(
            found(&crate_.circles_of_rooms()),
            [[
                "a/ uses b/: crate::b::one::One",
                "b/ uses a/: crate::a::two::Two"
            ]]
        );
    }

    #[test]
    fn no_crate_has_circles() {
        let (mut found, mut uses) = (BTreeSet::new(), String::new());
        for name in CRATES {
            let crate_ = Crate::read(&root().join(name).join("src")).unwrap();
            assert!(crate_.modules.len() > 10, "{name} is read");
            for circle in [crate_.circles(), crate_.circles_of_rooms()].concat() {
                let circle_of = format!("{name}: {}", circle.members.join(" "));
                uses += &format!("{circle_of}\n  {}\n", circle.uses.join("\n  "));
                found.insert(circle_of);
            }
        }
        assert!(found.is_empty(), "{found:#?}\n{uses}");
    }
}
