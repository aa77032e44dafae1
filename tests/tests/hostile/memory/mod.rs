//! Memory has a sum: a peer that makes the waypoint hold much is stopped by the waypoint, not by the kernel, and
//! nobody else goes without.
//!
//! The waypoint is a process of its own with a small limit, a greedy peer takes what it gets, and a second client of another
//! identity is measured all the while.

mod greed;
mod scene;
mod second;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use waypoint_tests::Mesh;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;

use greed::Greed;
use scene::Scene;
use second::Second;

const BINARY: &str = env!("CARGO_BIN_EXE_waypoint-under-test");
const MIB: u64 = 1 << 20;
static CHUNK: [u8; 64 * 1024] = [b'x'; 64 * 1024];
/// More than anybody holds of one body.
const MUCH: usize = 8 << 20;

/// How much the greedy peer asks for.
#[derive(Clone, Copy)]
struct Size {
    connections: usize,
    tunnels: usize,
    streams: usize,
}

/// Watches the process for some time: what it had resident at most.
async fn most_resident(scene: &Scene, time: Duration) -> u64 {
    let deadline = Instant::now() + time;
    let mut most = 0;
    while Instant::now() < deadline {
        most = most.max(scene.resident());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    most
}

/// Plays an attack for some time; what was resident at most.
async fn play(
    what: &str,
    scene: &Scene,
    time: Duration,
    attack: impl Future<Output = Greed>,
) -> u64 {
    let second = Box::pin(Second::start(scene)).await;
    let (greed, most) = tokio::join!(Box::pin(attack), Box::pin(most_resident(scene, time)));
    let (sockets, unsent) = scene.unsent();
    eprintln!(
        "{what}: at most {} MiB of {} resident, {} MiB unsent in {sockets} sockets to the backend",
        most / MIB,
        scene.limit / MIB,
        unsent / MIB
    );
    let named = ["waypoint_overload", "waypoint_memory"];
    let (_, metrics) = http_get(scene.waypoint.stats, "/stats/prometheus").await;
    for line in metrics
        .lines()
        .filter(|l| named.iter().any(|name| l.starts_with(name)))
    {
        eprintln!("{what}: {line}");
    }
    second.finish(what).await;
    assert!(
        most < scene.limit,
        "{what}: {} MiB are resident",
        most / MIB
    );
    // A socket keeps what isn't sent yet, and what the backend's own buffer took.
    assert!(
        unsent <= sockets * 512 * 1024,
        "{what}: {unsent} bytes in {sockets} sockets"
    );
    drop(greed);
    most
}

const SHORT: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_not_taken_from_upstream() {
    let scene = Scene::new(128 * MIB).await;
    let size = Size {
        connections: 1,
        tunnels: 4,
        streams: 100,
    };
    let attack = Greed::unread_answers(&scene, size);
    play("unread answers", &scene, SHORT, attack).await;
    scene.is_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_to_a_backend_that_reads_nothing_are_reset_when_they_are_too_many() {
    let scene = Scene::new(96 * MIB).await;
    let size = Size {
        connections: 6,
        tunnels: 40,
        streams: 1,
    };
    let attack = Greed::uploads(&scene, size);
    play("uploads", &scene, SHORT, attack).await;
    let reset = "waypoint_overload_tunnels_reset_total";
    assert!(scene.waypoint.metric(reset, &[]).await > 0.0);
    // Those that were reset are in the access log, with Envoy's flag.
    until("the record of a reset", async || {
        let log = scene.log();
        log.lines()
            .any(|line| line.contains(" OM overload "))
            .then_some(())
    })
    .await;
    scene.is_over().await;
    for said in [
        // Whichever step was the first.
        "not_told=0",
        "peer=spiffe://cluster.local/ns/default/sa/greedy",
        "memory is no longer short",
    ] {
        until(said, async || scene.log().contains(said).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_to_a_backend_that_reads_nothing_hold_what_their_windows_are() {
    let mut scene = Scene::new(96 * MIB).await;
    scene.much = scene.stream;
    let size = Size {
        connections: 6,
        tunnels: 40,
        streams: 1,
    };
    let attack = Greed::uploads(&scene, size);
    let most = play("streams", &scene, SHORT, attack).await;
    assert!(most < scene.limit / 2, "{} MiB are resident", most / MIB);
    scene.is_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_over_http2_hold_little_in_the_kernel() {
    let scene = Scene::new(128 * MIB).await;
    let size = Size {
        connections: 1,
        tunnels: 20,
        streams: 16,
    };
    let attack = Greed::uploads_over_http2(&scene, size);
    play("uploads over HTTP/2", &scene, SHORT, attack).await;
    scene.is_over().await;
}

/// A cgroup of the test's own with this limit; removed with it. `None`: there can't be one here.
struct Group(PathBuf);

impl Group {
    fn new(name: &str, limit: u64) -> Option<Group> {
        let base = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
            .into_iter()
            .find(|base| Path::new(base).join("cgroup.procs").exists())?;
        let folder = Path::new(base).join(format!("waypoint-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        let group = Group(folder);
        let set = ["memory.max", "memory.limit_in_bytes"]
            .into_iter()
            .filter(|file| group.0.join(file).exists())
            .any(|file| std::fs::write(group.0.join(file), limit.to_string()).is_ok());
        set.then_some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..50 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const POD: u64 = 1024 * MIB;
const LONG: Duration = Duration::from_secs(20);

/// The pod's real size, and a real limit where one can be made.
/// The group goes last: it can't be removed while the process is in it.
async fn pod(name: &str) -> (Option<Group>, Scene) {
    let group = Group::new(name, POD);
    let arguments: &[&str] = match group {
        // Found by itself.
        Some(_) => &[],
        None => &["--memory-limit", "1Gi"],
    };
    let folder = group.as_ref().map(|group| group.0.clone());
    let scene = Scene::over(Mesh::alone().await, arguments, folder.as_deref(), POD).await;
    let limit = scene
        .waypoint
        .metric("waypoint_memory_limit_bytes", &[])
        .await;
    assert_eq!(limit, POD as f64);
    (group, scene)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long"]
async fn attack_memory_unread_answers_many_streams() {
    let (_group, scene) = pod("answers").await;
    for (tunnels, streams) in [(4, 700), (20, 100)] {
        let size = Size {
            connections: 1,
            tunnels,
            streams,
        };
        let what = format!("unread answers, {tunnels} tunnels of {streams}");
        play(&what, &scene, LONG, Greed::unread_answers(&scene, size)).await;
        scene.is_over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long"]
async fn attack_memory_uploads_that_nobody_reads() {
    let (_group, scene) = pod("uploads").await;
    let size = Size {
        connections: 30,
        tunnels: 100,
        streams: 1,
    };
    play(
        "uploads, 30 connections of 100",
        &scene,
        LONG,
        Greed::uploads(&scene, size),
    )
    .await;
    scene.is_over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long"]
async fn attack_memory_uploads_over_http2() {
    let (_group, scene) = pod("http2").await;
    let size = Size {
        connections: 1,
        tunnels: 90,
        streams: 16,
    };
    let attack = Greed::uploads_over_http2(&scene, size);
    play(
        "uploads over HTTP/2, 90 tunnels of 16",
        &scene,
        LONG,
        attack,
    )
    .await;
    scene.is_over().await;
}
