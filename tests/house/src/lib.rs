//! Guards of the house: what CONTRIBUTING says about the source itself is so, and stays so.
//!
//! They read the repository's files as text and link nothing of the product, so that they are built and run in
//! seconds. Each is shown what it has to find before it is shown the repository.

pub mod documents;
pub mod imports;
pub mod lengths;
pub mod log_targets;
pub mod modules;
pub mod rust;
pub mod stories;

use std::io;
use std::path::{Path, PathBuf};

/// The crates, from the lowest floor up.
pub const CRATES: [&str; 4] = ["hbone", "filters", "config", "proxy"];

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files below a folder, with `/` between folders, from there; nothing that is built or hidden.
///
/// # Errors
/// A folder can't be read.
pub fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut left = vec![String::new()];
    while let Some(prefix) = left.pop() {
        for entry in std::fs::read_dir(folder.join(&prefix))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "target" || name == ".git" {
                continue;
            }
            let path = format!("{prefix}{name}");
            match entry.file_type()?.is_dir() {
                true => left.push(format!("{path}/")),
                false => found.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}
