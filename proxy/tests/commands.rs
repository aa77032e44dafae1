//! The commands that look: at a folder, and at a running waypoint; and what istioctl prints of the same.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waypoint");
const BOOKINFO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/bookinfo");

fn waypoint(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .env_remove("WAYPOINT_LOG")
        .output()
        .unwrap()
}

/// What a command prints; it succeeds.
fn printed(arguments: &[&str]) -> String {
    let output = waypoint(arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

fn told(arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(arguments)).unwrap()
}

/// The first row with this text, by columns.
fn row<'a>(text: &'a str, part: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.contains(part));
    line.unwrap_or_else(|| panic!("no {part} in {text}"))
        .split_whitespace()
        .collect()
}

#[test]
fn a_folder_is_told_in_the_tables_of_ztunnel_config() {
    let services = printed(&["services", "-f", BOOKINFO]);
    assert!(services.starts_with("NAMESPACE "), "{services}");
    let reviews = row(&services, "reviews ");
    assert_eq!(
        (reviews[0], reviews[1], reviews[3]),
        ("default", "reviews", "waypoint")
    );
    let workloads = printed(&["workloads", "-f", BOOKINFO, "-n", "default"]);
    let pod = row(&workloads, "reviews-v1");
    assert_eq!(pod[0], "default", "{workloads}");
    // Not a terminal: nothing but text.
    assert!(!services.contains('\u{1b}'));
    let json = told(&["services", "-f", BOOKINFO, "--json"]);
    let rows = json["services"].as_array().unwrap();
    let reviews = rows.iter().find(|row| row["name"] == "reviews").unwrap();
    assert_eq!(reviews["waypointNamespace"], "default");
    assert!(
        reviews["reason"]
            .as_str()
            .unwrap()
            .contains("istio.io/use-waypoint"),
        "{reviews}"
    );
}

#[test]
fn a_folders_configuration_is_shown_as_it_would_be_in_force() {
    let routes = printed(&["config", "routes", "-f", BOOKINFO]);
    assert!(
        routes.contains("90.0 %") && routes.contains("10.0 %"),
        "{routes}"
    );
    let clusters = printed(&[
        "config",
        "clusters",
        "-f",
        BOOKINFO,
        "--matching",
        "reviews",
    ]);
    assert!(
        clusters.contains("LEAST_REQUEST") && !clusters.contains("ratings"),
        "{clusters}"
    );
    assert!(
        printed(&["config", "listeners", "-f", BOOKINFO]).contains("inbound-vip|9080|http|reviews")
    );
    assert!(printed(&["config", "endpoints", "-f", BOOKINFO]).contains("HEALTHY"));
    let certs = printed(&["config", "certs", "-f", BOOKINFO]);
    assert!(
        certs.contains("spiffe://cluster.local/ns/default/sa/waypoint"),
        "{certs}"
    );
    assert!(printed(&["status", "-f", BOOKINFO]).contains("MANIFESTS"));
    let output = waypoint(&["status", "--admin", "127.0.0.1:1"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && told.contains("no waypoint answers at 127.0.0.1:1"),
        "{told}"
    );
}

/// A waypoint that runs on addresses of its own.
struct Running {
    child: Child,
    admin: String,
    folder: PathBuf,
}

impl Running {
    fn start() -> Running {
        let ip = format!("127.41.{}.1", std::process::id() % 250);
        let folder = std::env::temp_dir().join(format!("waypoint-commands-{}", std::process::id()));
        let at = |port: u16| format!("{ip}:{port}");
        let child = Command::new(PROGRAM)
            .args(["run", "-f", BOOKINFO, "--dev-ca"])
            .arg(folder.join("ca"))
            .args(["--hbone-addr", &at(15008), "--admin-addr", &at(15000)])
            .args(["--readiness-addr", &at(15021), "--stats-addr", &at(15020)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running {
            child,
            admin: at(15000),
            folder,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !waypoint(&["status", "--admin", &running.admin])
            .status
            .success()
        {
            assert!(Instant::now() < deadline, "it isn't ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_running_waypoint_is_asked_by_its_admin_port() {
    let running = Running::start();
    let asked = |words: &[&str]| {
        let all: Vec<&str> = words
            .iter()
            .copied()
            .chain(["--admin", &running.admin])
            .collect();
        printed(&all)
    };
    let status = asked(&["status"]);
    assert!(
        status.contains("LIVE") && status.contains("manifests in"),
        "{status}"
    );
    // Its own services are told as those of the folder.
    let services = asked(&["services"]);
    let of_folder = printed(&["services", "-f", BOOKINFO]);
    assert_eq!(row(&services, "reviews "), row(&of_folder, "reviews "));
    assert_eq!(
        asked(&["workloads"]),
        printed(&["workloads", "-f", BOOKINFO])
    );
    assert!(asked(&["config", "routes"]).contains("90.0 %"));
    let certs = asked(&["config", "certs"]);
    assert!(
        certs.contains("Cert Chain spiffe://cluster.local/ns/default/sa/waypoint"),
        "{certs}"
    );
    let levels = asked(&["log", "--level", "rbac:debug"]);
    assert!(levels.contains("rbac: debug"), "{levels}");
    assert!(asked(&["log"]).contains("rbac: debug"));
    let wrong = waypoint(&["log", "--level", "loud", "--admin", &running.admin]);
    assert!(!wrong.status.success());
}

#[test]
fn enrolling_keeps_a_namespaces_labels_and_never_takes_it_from_another_waypoint() {
    let folder = std::env::temp_dir().join(format!("waypoint-enroll-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = |labels: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n"
        );
        std::fs::write(folder.join("namespace.yaml"), text).unwrap();
    };
    let path = folder.to_str().unwrap();
    let enroll = ["enroll", "-n", "shop", "-f", path];
    manifest("istio.io/dataplane-mode: ambient, team: a");
    let text = printed(&enroll);
    assert!(
        text.contains("kind: Gateway")
            && text.contains("    istio.io/use-waypoint: waypoint\n    team: a\n"),
        "{text}"
    );
    assert_eq!(waypoint(&enroll).stderr, b"");
    manifest("team: a");
    let told = waypoint(&enroll).stderr;
    assert!(String::from_utf8_lossy(&told).contains("namespace is not enrolled in ambient"));
    manifest("istio.io/dataplane-mode: ambient, istio.io/use-waypoint: other");
    let refused = waypoint(&enroll);
    assert_eq!(refused.stdout, b"");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("already has an enrolled Waypoint"));
    let all: Vec<&str> = enroll.into_iter().chain(["--overwrite"]).collect();
    assert!(printed(&all).contains("istio.io/use-waypoint: waypoint\n"));
    std::fs::remove_dir_all(&folder).unwrap();
}

fn istioctl(arguments: &[&str], input: &str) -> String {
    let program =
        std::env::var("WAYPOINT_ISTIOCTL").expect("WAYPOINT_ISTIOCTL: see `make test-istiod`");
    let mut child = Command::new(Path::new(&program))
        .args(arguments)
        // Nothing of this asks a cluster, whichever somebody has at hand.
        .env("KUBECONFIG", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs istioctl: make test-istiod"]
fn generate_writes_what_istioctl_writes() {
    for words in [
        &[][..],
        &["--for", "all"],
        &["--for", "workload", "--revision", "canary"],
        &["--revision", "1-20"],
        &["--revision", "1.20", "--name", "123"],
        &["--name", "yes"],
    ] {
        for namespace in ["", "shop"] {
            let ours: Vec<&str> = ["generate", "-n", namespace]
                .iter()
                .chain(words)
                .copied()
                .collect();
            let theirs: Vec<&str> = ["waypoint", "generate", "-n", namespace]
                .iter()
                .chain(words)
                .copied()
                .collect();
            assert_eq!(
                printed(&ours),
                istioctl(&theirs, ""),
                "{words:?} {namespace}"
            );
        }
    }
}

/// What a ztunnel would dump that is told what our JSON says.
fn dump(services: &Value, workloads: &Value) -> Value {
    let waypoint = |row: &Value| match (&row["waypointNamespace"], &row["waypoint"]) {
        (Value::String(namespace), Value::String(name)) => {
            json!({"destination": format!("{namespace}/{name}.{namespace}.svc.cluster.local")})
        }
        _ => Value::Null,
    };
    let mut all: Vec<Value> = Vec::new();
    let mut wells: Vec<Value> = Vec::new();
    let mut waypoints: Vec<(String, String)> = Vec::new();
    for row in services["services"].as_array().unwrap() {
        let count = row["endpoints"].as_u64().unwrap();
        let healthy = row["healthy"].as_u64().unwrap();
        let host = row["hostname"].as_str().unwrap();
        let mut endpoints = serde_json::Map::new();
        for n in 0..count {
            let uid = format!("{host}-{n}");
            let status = if n < healthy { "Healthy" } else { "Unhealthy" };
            wells.push(json!({"uid": uid, "status": status, "namespace": "zz", "name": uid}));
            endpoints.insert(
                uid.clone(),
                json!({"workloadUid": uid, "service": host, "port": {}}),
            );
        }
        let vips: Vec<String> = row["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| format!("/{}", ip.as_str().unwrap()))
            .collect();
        if let (Some(namespace), Some(name)) =
            (row["waypointNamespace"].as_str(), row["waypoint"].as_str())
        {
            waypoints.push((namespace.to_owned(), name.to_owned()));
        }
        all.push(json!({"name": row["name"], "namespace": row["namespace"], "hostname": host, "vips": vips,
            "endpoints": endpoints, "ports": {}, "waypoint": waypoint(row)}));
    }
    waypoints.sort();
    waypoints.dedup();
    // istiod makes a Service for each waypoint, which a folder needn't hold.
    for (namespace, name) in waypoints {
        all.push(json!({"name": name, "namespace": namespace, "hostname": format!("{name}.{namespace}.svc.cluster.local"),
            "vips": [], "endpoints": {}, "ports": {}}));
    }
    let rows = workloads["workloads"].as_array().unwrap();
    let workloads = rows.iter().map(|row| {
        json!({"uid": row["name"], "name": row["name"], "namespace": row["namespace"], "workloadIps": row["addresses"],
            "node": row["node"], "protocol": row["protocol"], "status": "Healthy", "waypoint": waypoint(row)})
    });
    json!({"services": all, "workloads": workloads.chain(wells).collect::<Vec<_>>()})
}

#[test]
#[ignore = "needs istioctl: make test-istiod"]
fn the_tables_are_those_of_ztunnel_config() {
    let services = told(&["services", "-f", BOOKINFO, "--json"]);
    let workloads = told(&["workloads", "-f", BOOKINFO, "--json"]);
    let dump = dump(&services, &workloads).to_string();
    // But for the rows that only the stand-in needs, line by line.
    let held = |theirs: &str, ours: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let theirs: Vec<String> = theirs.lines().map(words).collect();
        for line in ours.lines() {
            assert!(
                theirs.contains(&words(line)),
                "{line:?} is not in {theirs:?}"
            );
        }
    };
    held(
        &istioctl(&["ztunnel-config", "service", "-f", "-"], &dump),
        &printed(&["services", "-f", BOOKINFO]),
    );
    held(
        &istioctl(&["ztunnel-config", "workload", "-f", "-"], &dump),
        &printed(&["workloads", "-f", BOOKINFO]),
    );
}
