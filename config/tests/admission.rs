//! What the API server admits and refuses, beside what is admitted and refused here.
//!
//! The fixture's verdicts are those of the API server's own code (`k8s.io/apiextensions-apiserver` 0.36.1: defaults,
//! schema and CEL rules) with the CRDs of the Gateway API 1.6.0 (experimental channel) and of Istio 1.31, for manifests
//! that try the fields which are read here and their neighbours.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use waypoint_config::standalone::Severity;
use waypoint_config::standalone::input::yaml::documents;
use waypoint_config::standalone::state::cluster_state::ClusterState;

const FIXTURE: &str = include_str!("fixtures/admission.txt");

/// Why a process wouldn't start with this manifest.
fn refused(text: &str) -> Option<String> {
    let read = documents(Path::new("a.yaml"), text).and_then(ClusterState::read);
    let state = match read {
        Ok(state) => state,
        Err(error) => return Some(error.to_string()),
    };
    let closing = state.closures.iter().map(|closure| &closure.problem);
    let mut all = state.problems.iter().chain(closing);
    let broken = all.find(|problem| problem.severity >= Severity::Broken);
    broken.map(ToString::to_string)
}

#[test]
fn as_the_api_server() {
    let mut seen = [0, 0];
    for line in FIXTURE.lines() {
        let (verdict, text) = line.split_once(' ').unwrap();
        match (verdict, refused(text)) {
            ("admit", None) => seen[0] += 1,
            ("refuse", Some(_)) => seen[1] += 1,
            (_, reason) => panic!("{line}: {reason:?}"),
        }
    }
    assert!(seen.iter().all(|verdicts| *verdicts > 50), "{seen:?}");
}
