//! The files behind `-f`: which there are, and what can be seen of them without reading.
//!
//! A folder gives its own `*.yaml`, `*.yml` and `*.json` files, links followed, hidden names left out
//! (editors' locks, the `..data` of a mounted ConfigMap). What is broken or unreadable is broken, not absent.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::standalone::input::problem::LoadError;
use crate::standalone::input::yaml::MAX_FILE_BYTES;

/// Most files of one scan.
const MAX_FILES: usize = 10_000;
/// Most bytes of one scan.
const MAX_TOTAL_BYTES: u64 = 256 << 20;

/// A file's place among all of them: of two objects of one name the one in the later place stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Position of the `-f` that gave it.
    root: usize,
    pub(crate) path: PathBuf,
}

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change of content, and of the inode.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// All files, each as it was seen, or why it can't be.
pub(crate) type Scan = BTreeMap<Place, Result<Seen, LoadError>>;

/// Looks at the files without reading them. Blocks on the disk. An error is about no single file.
pub(crate) fn scan(paths: &[PathBuf]) -> Result<Scan, LoadError> {
    let mut found = Scan::new();
    for (root, path) in paths.iter().enumerate() {
        let metadata = fs::metadata(path).map_err(|error| LoadError::file(path, error))?;
        let files = if metadata.is_dir() {
            files_of(path)?
        } else {
            vec![path.clone()]
        };
        if files.is_empty() {
            return Err(LoadError::file(path, "the folder holds no manifests"));
        }
        for path in files {
            let seen = Seen::at(&path);
            found.insert(Place { root, path }, seen);
        }
    }
    let sizes = found.values().flatten().map(|seen| seen.size);
    let total = sizes.fold(0, |sum: u64, size| sum.saturating_add(size));
    let first = first(paths);
    if found.is_empty() {
        return Err(LoadError::file(first, "no files are given"));
    }
    if found.len() > MAX_FILES || total > MAX_TOTAL_BYTES {
        let reason = format!("more than {MAX_FILES} files or {MAX_TOTAL_BYTES} bytes");
        return Err(LoadError::file(first, reason));
    }
    Ok(found)
}

/// What an error that is about no file is said of.
pub(crate) fn first(paths: &[PathBuf]) -> &Path {
    paths.first().map_or(Path::new("-f"), PathBuf::as_path)
}

/// The text of a file, together with what it was seen as. `None`: it changed meanwhile.
pub(crate) fn read(path: &Path, seen: &Seen) -> Option<Result<String, LoadError>> {
    let bytes = fs::read(path).map_err(|error| LoadError::file(path, error));
    if Seen::at(path).as_ref() != Ok(seen) {
        return None;
    }
    Some(bytes.and_then(|bytes| {
        String::from_utf8(bytes).map_err(|_| LoadError::file(path, "is not UTF-8"))
    }))
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let entries = fs::read_dir(folder).map_err(|error| LoadError::file(folder, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| LoadError::file(folder, error))?
            .path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| extension == *known)
        });
        // A folder may end in .yaml, too; a link that leads nowhere is a broken file and is kept.
        if manifest && !hidden && !path.is_dir() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(LoadError::file(
                folder,
                format!("more than {MAX_FILES} files"),
            ));
        }
    }
    Ok(files)
}

impl Seen {
    fn at(path: &Path) -> Result<Seen, LoadError> {
        let metadata = fs::metadata(path).map_err(|error| LoadError::file(path, error))?;
        if !metadata.is_file() {
            return Err(LoadError::file(path, "is no regular file"));
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(LoadError::file(
                path,
                format!("is larger than {MAX_FILE_BYTES} bytes"),
            ));
        }
        Ok(Seen {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}
