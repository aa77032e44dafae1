//! The standalone source: a set of files and folders, read at start and polled for changes.
//!
//! A folder gives its own `*.yaml`, `*.yml` and `*.json` files, links followed, hidden names left out
//! (editors' locks, the `..data` of a mounted ConfigMap). A scan counts only when the one before saw the
//! same files with the same size, times and inode, so that half of a git checkout is never read. What is
//! broken or unreadable is broken, not absent: the scan is refused and the caller keeps what it has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::cluster_state::ClusterState;
use super::manifest::ObjectName;
use super::ownership;
use super::problem::{LoadError, Problem};
use super::translate::{IpFamilies, Translation, translate};
use super::yaml::{self, MAX_FILE_BYTES};
use crate::resource::{Resource, Update};

/// Most files of one scan.
const MAX_FILES: usize = 10_000;
/// Most bytes of one scan.
const MAX_TOTAL_BYTES: u64 = 256 << 20;
/// How often reading is tried again when files change meanwhile.
const ATTEMPTS: usize = 5;

/// Manifests on disk, and the Gateway that they are read for.
#[derive(Clone, Debug)]
pub struct StandaloneSource {
    /// Files and folders; of two objects of one name the later stands.
    pub paths: Vec<PathBuf>,
    /// `None`: the only Gateway of class `istio-waypoint`.
    pub gateway: Option<ObjectName>,
    /// `None`: the families that the manifests use.
    pub families: Option<IpFamilies>,
}

/// What a scan saw of the files, without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(Vec<Seen>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change of content, and of the inode.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl StandaloneSource {
    pub fn new(paths: Vec<PathBuf>, gateway: Option<ObjectName>) -> StandaloneSource {
        StandaloneSource {
            paths,
            gateway,
            families: None,
        }
    }

    /// Reads for the start of a process: refuses what a process must not start with. Blocks on the disk.
    pub fn load(&self) -> Result<Translation, LoadError> {
        let (translation, _) = self.read_settled()?;
        refuse(translation.refuses_start())?;
        Ok(translation)
    }

    /// A watch that has seen nothing yet: its second poll gives the first translation.
    pub fn watch(self) -> Watch {
        Watch {
            source: self,
            last: None,
            reported: None,
        }
    }

    /// Looks at the files without reading them. Blocks on the disk.
    pub fn scan(&self) -> Result<Fingerprint, LoadError> {
        let mut seen: Vec<Seen> = Vec::new();
        for path in &self.paths {
            let metadata = fs::metadata(path).map_err(|error| LoadError::file(path, error))?;
            if metadata.is_dir() {
                let found = files_of(path)?;
                if found.is_empty() {
                    return Err(LoadError::file(path, "the folder holds no manifests"));
                }
                for file in found {
                    seen.push(Seen::at(file)?);
                }
            } else {
                seen.push(Seen::at(path.clone())?);
            }
        }
        let total = seen
            .iter()
            .fold(0, |sum: u64, file| sum.saturating_add(file.size));
        let first = self.paths.first().map_or(Path::new("-f"), PathBuf::as_path);
        if seen.is_empty() {
            return Err(LoadError::file(first, "no files are given"));
        }
        if seen.len() > MAX_FILES || total > MAX_TOTAL_BYTES {
            let reason = format!("more than {MAX_FILES} files or {MAX_TOTAL_BYTES} bytes");
            return Err(LoadError::file(first, reason));
        }
        Ok(Fingerprint(seen))
    }

    /// Reads until the files are the same before and after.
    fn read_settled(&self) -> Result<(Translation, Fingerprint), LoadError> {
        let mut before = self.scan()?;
        for _ in 0..ATTEMPTS {
            let read = self.read(&before);
            let after = self.scan()?;
            if after == before {
                return read.map(|translation| (translation, after));
            }
            before = after;
        }
        let first = self.paths.first().map_or(Path::new("-f"), PathBuf::as_path);
        Err(LoadError::file(
            first,
            "the files keep changing while they are read",
        ))
    }

    /// The objects themselves, for those who play the rest of the cluster. Blocks on the disk.
    pub fn cluster_state(&self) -> Result<ClusterState, LoadError> {
        Self::objects(&self.scan()?)
    }

    fn objects(files: &Fingerprint) -> Result<ClusterState, LoadError> {
        let mut documents = Vec::new();
        for file in &files.0 {
            let bytes = fs::read(&file.path).map_err(|error| LoadError::file(&file.path, error))?;
            let text = String::from_utf8(bytes)
                .map_err(|_| LoadError::file(&file.path, "is not UTF-8"))?;
            documents.extend(yaml::documents(&file.path, &text)?);
        }
        ClusterState::read(documents)
    }

    fn read(&self, files: &Fingerprint) -> Result<Translation, LoadError> {
        let state = Self::objects(files)?;
        let first = self.paths.first().map_or(Path::new("-f"), PathBuf::as_path);
        let gateway = ownership::choose(&state, self.gateway.as_ref())
            .map_err(|error| LoadError::file(first, error))?;
        translate(&state, gateway, self.families).map_err(|reason| LoadError::file(first, reason))
    }
}

/// Turns the problem that forbids a translation's use into the scan's error.
fn refuse(problem: Option<&Problem>) -> Result<(), LoadError> {
    match problem {
        None => Ok(()),
        Some(problem) => Err(LoadError {
            resource: Some(problem.resource.clone()),
            field: Some(problem.field.clone()),
            ..LoadError::document(&problem.origin, &problem.reason)
        }),
    }
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
    files.sort();
    Ok(files)
}

impl Seen {
    fn at(path: PathBuf) -> Result<Seen, LoadError> {
        let metadata = fs::metadata(&path).map_err(|error| LoadError::file(&path, error))?;
        if !metadata.is_file() {
            return Err(LoadError::file(&path, "is no regular file"));
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(LoadError::file(
                &path,
                format!("is larger than {MAX_FILE_BYTES} bytes"),
            ));
        }
        Ok(Seen {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            path,
        })
    }
}

/// Polls a source. Holds no resources: the caller keeps the last good ones.
#[derive(Debug)]
pub struct Watch {
    source: StandaloneSource,
    /// What the last poll saw.
    last: Option<Result<Fingerprint, LoadError>>,
    /// What was last given out, as it was seen.
    reported: Option<Result<Fingerprint, LoadError>>,
}

impl Watch {
    /// Looks once; to be called every second or so, blocks on the disk. `None`: nothing new, or not settled
    /// yet. An error is given once; what is in use then stays.
    pub fn poll(&mut self) -> Option<Result<Translation, LoadError>> {
        let seen = self.source.scan();
        let settled = self.last.as_ref() == Some(&seen);
        self.last = Some(seen.clone());
        if !settled || self.reported.as_ref() == Some(&seen) {
            return None;
        }
        let fingerprint = match &seen {
            Ok(fingerprint) => fingerprint,
            Err(error) => {
                let error = error.clone();
                self.reported = Some(seen);
                return Some(Err(error));
            }
        };
        let read = self.source.read(fingerprint);
        if self.source.scan().as_ref() != Ok(fingerprint) {
            self.last = None;
            return None;
        }
        self.reported = Some(seen);
        Some(read.and_then(|translation| {
            refuse(translation.refuses_update())?;
            Ok(translation)
        }))
    }
}

/// What leads from one set of resources to another; both are ordered by type and name.
pub fn difference(old: &[Resource], new: &[Resource]) -> Update {
    let find = |resources: &[Resource], wanted: &Resource| {
        let key = (wanted.kind, wanted.name.as_str());
        resources
            .binary_search_by(|resource| (resource.kind, resource.name.as_str()).cmp(&key))
            .ok()
    };
    let unchanged = |resource: &&Resource| {
        find(old, resource)
            .and_then(|index| old.get(index))
            .is_some_and(|before| before == *resource)
    };
    let removed = old.iter().filter(|resource| find(new, resource).is_none());
    Update {
        added: new
            .iter()
            .filter(|resource| !unchanged(resource))
            .cloned()
            .collect(),
        removed: removed
            .map(|resource| (resource.kind, resource.name.clone()))
            .collect(),
        version: String::new(),
    }
}
