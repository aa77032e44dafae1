//! How soon a changed manifest is in force while others never come to rest, at the pace of the product itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use waypoint_tests::wait::{PATIENCE, until};
use waypoint_tests::ztunnel::{Http1, get};
use waypoint_tests::{App, Mesh, Waypoint};

/// As the command line has it.
const PACE: Duration = Duration::from_secs(1);

fn denial(name: &str, paths: &[&str]) -> String {
    let rules: Vec<String> = paths
        .iter()
        .map(|path| format!("  - to: [{{operation: {{paths: [{path}]}}}}]\n"))
        .collect();
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: web}}]\n  action: DENY\n  rules:\n{}",
        rules.concat()
    )
}

/// A mesh whose waypoint looks at its files as it does in the field.
async fn started(mesh: &Mesh) -> (Waypoint, SocketAddr, App) {
    let (to, app) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start_with(|options| options.poll = PACE).await;
    (waypoint, to, app)
}

/// A file that something writes anew all the time, until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start(file: PathBuf, text: impl Fn(u32) -> String + Send + 'static) -> Busy {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let mut turn = 0;
            while !stopped.load(Ordering::Relaxed) {
                std::fs::write(&file, text(turn)).unwrap();
                turn += 1;
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        Busy(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn until_status(connection: &mut Http1, path: &str, wanted: StatusCode) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = connection.send(get(path)).await.status;
        if status == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{path} is still {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_denial_is_in_force_in_time_whatever_another_file_does() {
    let mesh = Mesh::new();
    let (waypoint, to, _app) = started(&mesh).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut connection = client.http1(to).await;
    let mut calm = Duration::ZERO;
    for path in ["/calm0", "/calm1"] {
        let written = Instant::now();
        mesh.manifest("calm.yaml", &denial("calm", &[path]));
        until_status(&mut connection, path, StatusCode::FORBIDDEN).await;
        calm = calm.max(written.elapsed());
    }
    let _busy = Busy::start(mesh.manifests().join("busy.yaml"), |turn| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: busy, labels: {{turn: '{turn}'}}}}\n"
        )
    });
    let _broken = Busy::start(mesh.manifests().join("broken.yaml"), |turn| {
        "kind: [ # ".repeat(turn as usize % 3 + 1)
    });
    let mut times = Vec::new();
    for round in 0..6 {
        let (file, path) = (format!("deny-{round}.yaml"), format!("/secret{round}"));
        assert_eq!(connection.send(get(&path)).await.status, StatusCode::OK);
        let text = denial(&format!("deny-{round}"), &[&path]);
        let written = Instant::now();
        if round % 2 == 0 {
            mesh.manifest(&file, &text);
        } else {
            // As editors and `kubectl cp` do it.
            let new = mesh.manifests().join(format!(".{file}"));
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, mesh.manifests().join(&file)).unwrap();
        }
        until_status(&mut connection, &path, StatusCode::FORBIDDEN).await;
        times.push(written.elapsed());
        // Not in step with the looks.
        tokio::time::sleep(Duration::from_millis(170 * round)).await;
    }
    println!("in force after {times:?}, {calm:?} in a folder at rest");
    // The rule itself is held to two seconds where the clock is its test's own. Here it is held to what a change takes
    // where nothing else is written.
    times.sort();
    assert!(times[2] <= calm + 2 * PACE, "{times:?}, {calm:?}");
    assert!(times[5] <= calm + 4 * PACE, "{times:?}, {calm:?}");
    for name in ["busy.yaml", "broken.yaml"] {
        let problems = waypoint.until_problem(name).await;
        assert!(problems.contains("keeps changing"), "{problems}");
    }

    // What goes is gone as soon.
    let removed = Instant::now();
    mesh.remove_manifest("deny-0.yaml");
    until_status(&mut connection, "/secret0", StatusCode::OK).await;
    assert!(removed.elapsed() <= calm + 4 * PACE);
    assert_eq!(
        connection.send(get("/secret1")).await.status,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn a_policy_is_never_taken_for_its_first_half() {
    let mesh = Mesh::new();
    let paths = ["/one", "/two", "/three", "/four"];
    mesh.manifest("policy.yaml", &denial("guard", &paths));
    let (waypoint, to, app) = started(&mesh).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut connection = client.http1(to).await;
    // Each prefix of whole lines is good YAML, and protects less.
    let paths = ["/one", "/two", "/three", "/four", "/five"];
    let text = denial("guard", &paths);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let file = mesh.manifests().join("policy.yaml");
    for round in 0..2 {
        for end in 1..=lines.len() {
            std::fs::write(&file, lines[..end].concat()).unwrap();
            let next = Instant::now() + Duration::from_millis(300);
            while Instant::now() < next {
                let status = connection.send(get("/four")).await.status;
                assert_eq!(status, StatusCode::FORBIDDEN, "round {round}, line {end}");
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
    }
    until_status(&mut connection, "/five", StatusCode::FORBIDDEN).await;
    assert!(app.seen().iter().all(|seen| seen.target != "/four"));
    until("no problem left", async || {
        (!waypoint.problems().await.contains("policy.yaml")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broken_file_holds_up_no_policy() {
    let mesh = Mesh::new();
    let (waypoint, to, _app) = started(&mesh).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut connection = client.http1(to).await;
    mesh.manifest(
        "broken.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: default}\nspec: {ports: [{port: y}]}\n",
    );
    mesh.manifest("deny.yaml", &denial("deny", &["/secret"]));
    until_status(&mut connection, "/secret", StatusCode::FORBIDDEN).await;
    let problems = waypoint.until_problem("broken.yaml").await;
    for part in ["not in use", "Service default/other", "spec.ports[0].port"] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);
}
