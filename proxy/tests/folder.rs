//! The commands that ask a folder: explain, test and analyze, as a person or a CI job calls them.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waypoint");

fn examples(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

fn waypoint(words: &[&str], folder: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(PROGRAM);
    command
        .arg(words[0])
        .arg("-f")
        .arg(folder)
        .args(&words[1..]);
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A folder of the test's own; removed with it.
struct Folder(PathBuf);

impl Folder {
    fn with(name: &str, text: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("waypoint-folder-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("a.yaml"), text).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_examples_cases_hold() {
    let cases = examples("bookinfo-tests/cases.yaml");
    let junit = std::env::temp_dir().join(format!("waypoint-junit-{}.xml", std::process::id()));
    let words = [
        "test",
        "--junit",
        junit.to_str().unwrap(),
        cases.to_str().unwrap(),
    ];
    let (code, out, err) = waypoint(&words, &examples("bookinfo"));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let count = out.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(count >= 10, "{out}");
    let xml = std::fs::read_to_string(&junit).unwrap();
    std::fs::remove_file(&junit).unwrap();
    assert!(
        xml.contains(&format!("tests=\"{count}\" failures=\"0\"")),
        "{xml}"
    );
}

#[test]
fn a_case_that_fails_says_what_was_expected_and_what_came() {
    let cases = Folder::with(
        "failing",
        "cases:\n- name: wrong\n  from: default/curl\n  request: POST http://reviews:9080/\n  \
         expect: {outcome: forwarded, backends: {reviews-v1: 100}}\n\
         - name: right\n  from: default/curl\n  request: GET http://reviews:9080/\n  expect: {outcome: forwarded}\n",
    );
    let file = cases.0.join("a.yaml");
    let (code, out, _) = waypoint(&["test", file.to_str().unwrap()], &examples("bookinfo"));
    assert_eq!(code, Some(1));
    for line in [
        "FAILED wrong",
        "outcome: expected forwarded, got denied",
        "backend reviews-v1: expected 100 %, got 0 %",
        "ok     right",
        "2 cases, 1 failed",
    ] {
        assert!(out.contains(line), "{line:?} in {out}");
    }
}

#[test]
fn a_request_is_explained_from_the_client_to_the_endpoint() {
    let words = [
        "explain",
        "--from",
        "default/curl",
        "GET",
        "http://reviews:9080/reviews/1",
    ];
    let (code, out, err) = waypoint(&words, &examples("bookinfo"));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for line in [
        "from      spiffe://cluster.local/ns/default/sa/curl",
        "waypoint  default/waypoint: Namespace default has the label istio.io/use-waypoint",
        "  yes     default/viewer rule 0",
        "cluster   90 % inbound-vip|9080|http|reviews-v1.default.svc.cluster.local",
        "verdict   forwarded",
    ] {
        assert!(out.contains(line), "{line:?} in {out}");
    }
    let words = [
        "explain",
        "--from",
        "billing/x",
        "GET",
        "http://reviews.default:9080/",
    ];
    let (code, out, _) = waypoint(&words, &examples("bookinfo"));
    assert_eq!(code, Some(1));
    assert!(
        out.contains("  no      default/viewer rule 0: none of: "),
        "{out}"
    );
    let verdict =
        "verdict   denied 403 (rbac_access_denied_matched_policy[none])\n  by      ALLOW ";
    assert!(out.contains(verdict), "{out}");
}

const MESH: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: way}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: way, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: m, port: 15008, protocol: HBONE}]}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.1.0.1, ports: [{port: 80, appProtocol: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: free, namespace: shop, labels: {istio.io/use-waypoint: none}}, spec: {clusterIP: 10.1.0.2, ports: [{port: 80, appProtocol: http}]}}
";

#[test]
fn what_no_waypoint_takes_is_said_with_the_reason() {
    let folder = Folder::with("untaken", MESH);
    let words = ["explain", "--from", "shop/curl", "GET", "http://free/"];
    let (code, out, _) = waypoint(&words, &folder.0);
    assert_eq!(code, Some(1));
    let says = "no waypoint takes it, ztunnel carries it there: Service shop/free has the label istio.io/use-waypoint: none";
    assert!(out.contains(says), "{out}");
}

#[test]
fn analyze_tells_the_status_that_istiod_would_write() {
    let route = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: lost, namespace: shop}, \
                 spec: {parentRefs: [{group: '', kind: Service, name: gone}], rules: [{backendRefs: [{name: gone, port: 80}]}]}}\n";
    let folder = Folder::with("status", &format!("{MESH}{route}"));
    let (code, out, _) = waypoint(&["analyze", "--status"], &folder.0);
    assert_eq!(code, Some(1), "{out}");
    let told = "HTTPRoute shop/lost of Service shop/gone: not Accepted (NoMatchingParent: ";
    assert!(out.contains(told), "{out}");
    let (code, out, _) = waypoint(
        &["analyze", "--status", "--json", "--fail-on", "never"],
        &folder.0,
    );
    assert_eq!(code, Some(0));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let all = found.as_array().unwrap();
    let lost = all.iter().find(|s| s["route"] == "HTTPRoute shop/lost");
    let resolved = &lost.unwrap()["conditions"][1];
    assert_eq!(
        (&resolved["type"], &resolved["status"], &resolved["reason"]),
        (
            &"ResolvedRefs".into(),
            &"False".into(),
            &"BackendNotFound".into()
        )
    );
}

#[test]
fn analyze_names_what_has_no_effect_and_fails_as_asked() {
    let policy = "---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: lost, namespace: shop}, \
                  spec: {targetRefs: [{group: '', kind: Service, name: gone}], action: DENY, rules: [{}]}}\n";
    let folder = Folder::with("analyze", &format!("{MESH}{policy}"));
    let (code, out, _) = waypoint(&["analyze"], &folder.0);
    assert_eq!(code, Some(1), "{out}");
    assert!(
        out.contains("warning") && out.contains("AuthorizationPolicy shop/lost"),
        "{out}"
    );
    let (code, _, _) = waypoint(&["analyze", "--fail-on", "error"], &folder.0);
    assert_eq!(code, Some(0));
    let (_, out, _) = waypoint(&["analyze", "--json"], &folder.0);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let lost = found.as_array().unwrap().iter();
    let lost: Vec<_> = lost
        .filter(|f| f["object"] == "AuthorizationPolicy shop/lost")
        .collect();
    assert_eq!(lost.len(), 1, "{out}");
    assert_eq!(
        (&lost[0]["level"], &lost[0]["effect"]),
        (&"warning".into(), &"no effect".into())
    );
    let (code, out, _) = waypoint(&["analyze"], &examples("bookinfo"));
    assert_eq!(
        (code, out.as_str()),
        (
            Some(0),
            "nothing is invalid, not honoured or without effect\n"
        )
    );
}

#[test]
fn analyze_tells_what_a_running_waypoint_refuses() {
    // More places than a ring may have, in Envoy as well; admission lets it pass.
    let rule = "---\n{apiVersion: v1, kind: Service, metadata: {name: calls, namespace: shop}, spec: {clusterIP: 10.0.0.77, \
                selector: {app: x}, ports: [{name: grpc, port: 90}]}}\n---\n\
                {apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: calls, namespace: shop}, spec: \
                {host: calls, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 9000000}}}}}}\n";
    let folder = Folder::with("rejected", &format!("{MESH}{rule}"));
    let (code, out, _) = waypoint(&["analyze", "--fail-on", "error"], &folder.0);
    assert_eq!(code, Some(1), "{out}");
    let line = out.lines().find(|line| line.contains("|calls.shop"));
    assert!(
        line.is_some_and(|line| line.contains("minimum_ring_size")),
        "{out}"
    );
}

#[test]
fn analyze_goes_on_behind_objects_that_refuse_all() {
    let broken = "---\n{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {ports: [{port: y}]}}\n\
                  ---\n{apiVersion: v2, kind: Service, metadata: {name: b, namespace: shop}}\n\
                  ---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, \
                  spec: {selector: {matchLabels: {app: x}}, rules: [{}]}}\n\
                  ---\n{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: s, namespace: shop}, spec: {}}\n";
    let folder = Folder::with("broken", &format!("{MESH}{broken}"));
    let (code, out, _) = waypoint(&["analyze", "--json"], &folder.0);
    assert_eq!(code, Some(1), "{out}");
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let level = |object: &str| {
        let mut all = found.as_array().unwrap().iter();
        let one = all.find(|finding| finding["object"] == object);
        one.map(|finding| finding["level"].as_str().unwrap().to_owned())
    };
    assert_eq!(level("Service shop/a").as_deref(), Some("error"), "{out}");
    assert_eq!(level("Service shop/b").as_deref(), Some("error"), "{out}");
    assert_eq!(
        level("AuthorizationPolicy shop/p").as_deref(),
        Some("warning"),
        "{out}"
    );
    assert_eq!(level("Sidecar shop/s").as_deref(), Some("info"), "{out}");
}
