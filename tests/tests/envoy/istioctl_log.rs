//! Levels of loggers as the real istioctl reads and changes them, of Envoy and of the waypoint, through the API server's
//! port-forward.

use std::collections::BTreeMap;
use std::process::Stdio;

use waypoint_tests::Program;
use waypoint_tests::istioctl::Istioctl;
use waypoint_tests::istiod::Istiod;

use crate::istioctl::Pair;

const BINARY: &str = env!("CARGO_BIN_EXE_waypoint-under-test");

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: waypoint-1, namespace: default}
status: {phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: envoy-0, namespace: default}
status: {phase: Running}
";

/// Levels by loggers, as `istioctl proxy-config log` prints them.
fn levels(printed: &str) -> BTreeMap<String, String> {
    let lines = printed.lines().filter_map(|line| line.strip_prefix("  "));
    let pairs = lines.filter_map(|line| line.split_once(": "));
    pairs
        .map(|(name, level)| (name.to_owned(), level.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy, istiod, istioctl"]
async fn istioctl_prints_the_same_levels_of_both() {
    let pair = Pair::start().await;
    // One that logs by itself: the levels of this process are nobody's.
    let program = Program::start(&pair.mesh, BINARY, "", &[], |command| {
        command.stderr(Stdio::null());
    });
    let program = program.await;
    pair.mesh.manifest("pods.yaml", PODS);
    let pods = [("waypoint-1", program.admin), ("envoy-0", pair.envoy_admin)];
    let istiod = Istiod::start_forwarding(&pair.mesh, &[], &pods);
    let istioctl = Istioctl::new(&pair.mesh, &istiod);
    for change in [
        "--level warning",
        "--level http:debug,rbac:trace",
        "--level off",
        "--level upstream:critical,conn_handler:info",
        "--reset",
        "",
    ] {
        let [ours, theirs] = pods.map(|(name, _)| {
            let pod = format!("{name}.default");
            let mut words = vec!["proxy-config", "log", &pod];
            words.extend(change.split_whitespace());
            let printed = istioctl.says(&words);
            assert!(
                printed.contains(&format!("{pod}:\nactive loggers:\n")),
                "{printed}"
            );
            levels(&printed)
        });
        assert!(theirs.len() > 40, "{theirs:?}");
        // Nothing here is worse than an error: that level is the same.
        let here = |level: &str| if level == "critical" { "error" } else { level }.to_owned();
        let differing: Vec<_> = theirs
            .iter()
            .filter(|(name, level)| ours.get(*name) != Some(&here(level)))
            .collect();
        assert!(
            differing.is_empty(),
            "{change}: {differing:?}, here {ours:?}"
        );
    }
    for wrong in ["--level nobody:debug", "--level http:loud", "--level loud"] {
        let printed = pods.map(|(name, _)| {
            let mut words = vec!["proxy-config", "log", name];
            words.extend(wrong.split(' '));
            istioctl.run(&words)
        });
        let [ours, theirs] = printed.map(|printed| (printed.ok, printed.errors));
        assert!(!ours.0, "{wrong}");
        assert_eq!(ours, theirs, "{wrong}");
    }
}
