//! What `istioctl analyze` finds for the kinds that are read, held against `waypoint analyze`.
//!
//! `analyzers/` has an object for each of its messages: the file's name begins with the code, and its first lines say of which
//! object that is told, and what our line has in it (`told`), or why we tell nothing (`silent`; `docs/explain.md` lists those).
//! That istioctl finds them is asked where there is one: it must be the code that the file is for. What it knows of Services, Pods
//! and Namespaces it asks of a cluster alone (`with a cluster`), which isn't there.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_waypoint");
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/analyzers");
const MESH: &str = "mesh.yaml";

/// Codes that we tell nothing of, of objects of a kind or (`""`) of any, and why.
const NOT_HERE: &[(&str, &str, &str)] = &[
    ("IST0002", "", "it is honoured or refused all the same"),
    ("IST0102", "", "of the injection of sidecars"),
    ("IST0103", "", "of the injection of sidecars"),
    ("IST0109", "", "VirtualServices of a host follow each other"),
    ("IST0112", "", "the port that was asked is meant"),
    ("IST0118", "", "a connection's first bytes tell"),
    ("IST0128", "", "the system's roots hold"),
    ("IST0129", "", "the system's roots hold"),
    (
        "IST0133",
        "AuthorizationPolicy ",
        "told where there are TCP ports",
    ),
    ("IST0135", "", "it is honoured or refused all the same"),
    (
        "IST0160",
        "",
        "those with targetRefs, and the one that counts",
    ),
    ("IST0175", "", "istiod's own setting"),
    ("IST0177", "", "the one that counts"),
];

struct Case {
    file: PathBuf,
    code: String,
    /// `Kind namespace/name`.
    object: String,
    /// `None`: nothing is told.
    told: Option<Vec<String>>,
    /// Whether istioctl finds it in files.
    in_files: bool,
}

fn cases() -> Vec<Case> {
    let files = std::fs::read_dir(CASES).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|file| !file.ends_with(MESH)).collect();
    files.sort();
    files.into_iter().map(case).collect()
}

fn case(file: PathBuf) -> Case {
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    let of = lines.next().unwrap().strip_prefix("# ").unwrap();
    let (code, object) = of.split_once(" for ").unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(code), "{name} is for {code}");
    let second = lines.next().unwrap();
    let told = second.strip_prefix("# told: ");
    assert!(told.is_some() || second.starts_with("# silent: "), "{name}");
    let in_files = !lines.next().unwrap().starts_with("# with a cluster: ");
    Case {
        in_files,
        code: code.to_owned(),
        object: object.to_owned(),
        told: told.map(|parts| parts.split("; ").map(str::to_owned).collect()),
        file,
    }
}

/// What is found, in JSON.
fn found(files: &[&Path]) -> Vec<Value> {
    let mut command = Command::new(PROGRAM);
    command.args(["analyze", "--json", "--fail-on", "never"]);
    for file in files {
        command.arg("-f").arg(file);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{files:?}: {told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn object(finding: &Value) -> &str {
    finding["object"].as_str().unwrap_or_default()
}

#[test]
fn what_istioctl_warns_of_is_told_of_the_same_object() {
    let mesh = Path::new(CASES).join(MESH);
    assert_eq!(found(&[&mesh]), Vec::<Value>::new());
    let mut wrong = Vec::new();
    for case in cases() {
        let findings = found(&[&mesh, &case.file]);
        let of_object = findings.iter().filter(|f| object(f) == case.object);
        let line = |finding: &Value| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("field"), text("reason"))
        };
        let lines: Vec<String> = of_object.map(line).collect();
        let as_said = match &case.told {
            None => lines.is_empty(),
            Some(parts) => lines.iter().any(|l| parts.iter().all(|p| l.contains(p))),
        };
        if !as_said {
            let (file, told) = (case.file.display(), &case.told);
            wrong.push(format!(
                "{file}: {told:?} of {}: {findings:#?}",
                case.object
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_document_lists_what_is_not_told() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/explain.md");
    let text = std::fs::read_to_string(document).unwrap();
    let (_, text) = text.split_once("### Beside `istioctl analyze`").unwrap();
    let (found_here, not_here) = text.split_once("Not here, and why:").unwrap();
    for case in cases() {
        let part = if case.told.is_some() {
            found_here
        } else {
            not_here
        };
        assert!(part.contains(&case.code), "{}", case.file.display());
    }
    for (code, ..) in NOT_HERE {
        assert!(not_here.contains(code), "{code}");
    }
}

/// Codes and objects (`Kind namespace/name`) of what istioctl finds.
fn istioctl(files: &[&Path]) -> BTreeSet<(String, String)> {
    let program =
        std::env::var("WAYPOINT_ISTIOCTL").expect("WAYPOINT_ISTIOCTL: see `make test-istiod`");
    let output = Command::new(program)
        .args([
            "analyze",
            "--use-kube=false",
            "--all-namespaces",
            "-o",
            "json",
        ])
        .args(["--failure-threshold", "Error", "--output-threshold", "Info"])
        .args(files)
        .env("KUBECONFIG", "/nonexistent")
        .output()
        .unwrap();
    let messages: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let told = String::from_utf8_lossy(&output.stderr);
        panic!("{files:?}: {error}: {told}")
    });
    let of = |message: &Value| {
        let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        (text("code"), text("origin"))
    };
    messages.iter().map(of).collect()
}

#[test]
#[ignore = "needs istioctl: make test-istiod"]
fn istioctl_finds_what_the_cases_are_for() {
    let mesh = Path::new(CASES).join(MESH);
    let mut wrong = Vec::new();
    for case in cases().into_iter().filter(|case| case.in_files) {
        let theirs = istioctl(&[&mesh, &case.file]);
        if !theirs.contains(&(case.code.clone(), case.object.clone())) {
            let (file, code) = (case.file.display(), &case.code);
            wrong.push(format!("{file}: {code} of {}: {theirs:?}", case.object));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All meshes beside which `waypoint analyze` is tested.
fn meshes() -> Vec<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let fixtures = root.join("config/tests/fixtures");
    let base = fixtures.join("bookinfo.yaml");
    let files = std::fs::read_dir(fixtures).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|end| end == "yaml"));
    let mut all: Vec<Vec<PathBuf>> = yaml.map(|file| vec![base.clone(), file]).collect();
    let cases = cases().into_iter().filter(|case| case.told.is_some());
    all.extend(cases.map(|case| vec![Path::new(CASES).join(MESH), case.file]));
    all.push(vec![root.join("examples/bookinfo")]);
    all.sort();
    all
}

#[test]
#[ignore = "needs istioctl: make test-istiod"]
fn what_istioctl_finds_in_all_manifests_is_told() {
    let mut missed = Vec::new();
    let mut seen = 0;
    for mesh in meshes() {
        let files: Vec<&Path> = mesh.iter().map(PathBuf::as_path).collect();
        let ours = found(&files);
        for (code, object_of) in istioctl(&files) {
            seen += 1;
            let here = NOT_HERE
                .iter()
                .all(|(other, kind, _)| *other != code || !object_of.starts_with(kind));
            if here && !ours.iter().any(|f| object(f) == object_of) {
                missed.push(format!("{mesh:?}: {code} of {object_of}"));
            }
        }
    }
    assert!(seen > 20, "istioctl found {seen}");
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
