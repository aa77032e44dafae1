//! The corpora: files of `corpus/`, a folder for each target, and what a real istiod sent (`config/tests/fixtures`).

use std::path::Path;

use waypoint_config::resource::{Resource, ResourceType};
use waypoint_config::sources::recorded;

/// The files of a target; lines are inputs of their own in files that end with `.lines`.
pub(crate) fn files(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut inputs = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        match file.extension().is_some_and(|end| end == "lines") {
            true => inputs.extend(bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec)),
            false => inputs.push(bytes),
        }
    }
    inputs
}

/// All resources of a kind that were recorded.
pub(crate) fn recorded(kind: ResourceType) -> Vec<Resource> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/tests/fixtures");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|end| end == "pb"))
        .collect();
    files.sort();
    let all = files.iter().flat_map(|file| {
        let bytes = std::fs::read(file).unwrap();
        recorded::read(&bytes).unwrap()
    });
    all.filter(|resource| resource.kind == kind).collect()
}
