//! How long a file may be before its tests: one concept is told in less.

use std::path::Path;
use std::{fs, io};

use crate::files;

/// The most lines before `mod tests`.
pub const MOST: usize = 450;
/// The most lines of a file of stories or measurements.
pub const MOST_OF_STORIES: usize = 500;

/// Lines of a file before its unit tests.
pub fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .iter()
        .position(|line| line.ends_with("mod tests {") && !line.starts_with(' '));
    let Some(tests) = tests else {
        return lines.len();
    };
    // Attributes belong to what follows them.
    let before = lines.get(..tests).unwrap_or_default();
    let attributes = before
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#["));
    tests - attributes.count()
}

/// Files below `folder` that have more lines than `most`, each with how many.
///
/// # Errors
/// A file can't be read.
pub fn too_long(folder: &Path, most: usize) -> io::Result<Vec<(String, usize)>> {
    let mut found = Vec::new();
    for file in files(folder)? {
        if file.ends_with(".rs") {
            let lines = lines_before_tests(&fs::read_to_string(folder.join(&file))?);
            if lines > most {
                found.push((file, lines));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{CRATES, root};

    #[test]
    fn a_long_file_is_found_and_long_tests_are_not() {
        let code = "// one line\n".repeat(MOST);
        let tests =
            "\n#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod tests {\n    fn f() {}\n}\n";
        let folder = std::env::temp_dir().join(format!("waypoint-house-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
        file("fits.rs", code.clone());
        file("fits_with_tests.rs", format!("{}{tests}", &code[12..]));
        file("long.rs", format!("{code}// another\n"));
        file("long_before_tests.rs", format!("{code}{tests}"));
        file("long.md", format!("{code}{code}"));
        let found = too_long(&folder, MOST);
        fs::remove_dir_all(&folder).unwrap();
        let expected = ["long.rs", "long_before_tests.rs"].map(|name| (name.to_owned(), MOST + 1));
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn no_file_is_too_long() {
        let mut found = too_long(&root(), MOST_OF_STORIES).unwrap();
        for name in CRATES {
            found.extend(too_long(&root().join(name).join("src"), MOST).unwrap());
        }
        assert!(found.is_empty(), "too many lines: {found:#?}");
    }
}
