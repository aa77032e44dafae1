//! Profiles of a running waypoint, as pprof's tools read them. It is a process of its own: whose heap is recorded, and whose
//! threads are interrupted, is the product.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::read::GzDecoder;
use http::StatusCode;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_tests::telemetry::{http_get, http_request};
use waypoint_tests::wait::until;
use waypoint_tests::{App, Mesh, Program};

const BINARY: &str = env!("CARGO_BIN_EXE_waypoint-under-test");

/// What of `perftools.profiles.Profile` is looked at.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    kinds: Vec<Pair>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    locations: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    functions: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    strings: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
}

/// A kind with its unit, or a label.
#[derive(Clone, Copy, PartialEq, Message)]
struct Pair {
    #[prost(int64, tag = "1")]
    first: i64,
    #[prost(int64, tag = "2")]
    second: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    locations: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    values: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    labels: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    lines: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    fn text(&self, id: i64) -> &str {
        &self.strings[usize::try_from(id).unwrap()]
    }

    fn kinds(&self) -> Vec<(&str, &str)> {
        let kinds = self.kinds.iter();
        kinds
            .map(|k| (self.text(k.first), self.text(k.second)))
            .collect()
    }

    /// The functions of each sample, the innermost first.
    fn stacks(&self) -> Vec<Vec<&str>> {
        let name = |id: &u64| {
            let location = self.locations.iter().find(|l| l.id == *id).unwrap();
            let function = location.lines.first()?.function;
            let function = self.functions.iter().find(|f| f.id == function).unwrap();
            Some(self.text(function.name))
        };
        let samples = self.samples.iter();
        samples
            .map(|s| s.locations.iter().filter_map(name).collect())
            .collect()
    }

    fn threads(&self) -> BTreeSet<&str> {
        let labels = self.samples.iter().flat_map(|sample| &sample.labels);
        labels.map(|label| self.text(label.second)).collect()
    }

    /// The sum of the last kind.
    fn sum(&self) -> i64 {
        self.samples.iter().filter_map(|s| s.values.last()).sum()
    }
}

/// Asks for a profile and reads it.
async fn profile(admin: SocketAddr, path: &str) -> Profile {
    let mut tcp = TcpStream::connect(admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nhost: {admin}\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let said = String::from_utf8_lossy(&answer[end..]);
    assert!(head.starts_with("http/1.0 200"), "{path}: {head}{said}");
    assert!(
        head.contains("content-type: application/octet-stream"),
        "{head}"
    );
    let mut unpacked = Vec::new();
    GzDecoder::new(&answer[end..])
        .read_to_end(&mut unpacked)
        .unwrap();
    if let Some(folder) = std::env::var_os("WAYPOINT_KEEP_PROFILES") {
        let name = path[1..].replace(['/', '?'], "-");
        std::fs::write(std::path::Path::new(&folder).join(name), &answer[end..]).unwrap();
    }
    Profile::decode(&*unpacked).unwrap()
}

async fn start(mesh: &Mesh, arguments: &[&str], temporary: &str) -> (SocketAddr, App, Program) {
    let (web, app) = mesh.http_service(1, "web").await;
    let program = Program::start(mesh, BINARY, "", arguments, |command: &mut Command| {
        command.stderr(Stdio::null()).env("TMPDIR", temporary);
    });
    (web, app, program.await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_waypoint_shows_where_its_time_goes() {
    let mesh = Mesh::new();
    // As in a pod, there is nothing to be written where temporary files are.
    let (web, _app, program) = start(&mesh, &[], "/nowhere").await;
    let done = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> =
        futures_util::future::join_all((0..4).map(|_| program.client(&mesh, "curl")))
            .await
            .into_iter()
            .map(|client| {
                let done = done.clone();
                tokio::spawn(async move {
                    while !done.load(Ordering::Relaxed) {
                        assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
                    }
                })
            })
            .collect();
    let admin = program.admin;
    let first = tokio::spawn(async move { profile(admin, "/debug/pprof/profile?seconds=3").await });
    let says = "a profile is being made: one profile at a time\n";
    until("the first one's beginning", async || {
        (http_get(admin, "/heapprofiler").await == (409, says.to_owned())).then_some(())
    })
    .await;
    for another in ["/debug/pprof/profile", "/debug/pprof/heap", "/heap_dump"] {
        let refused = http_get(admin, another).await;
        assert_eq!(refused, (409, says.to_owned()), "{another}");
    }
    let profile = first.await.unwrap();
    done.store(true, Ordering::Relaxed);
    for client in busy {
        client.await.unwrap();
    }
    assert_eq!(
        profile.kinds(),
        [("samples", "count"), ("cpu", "nanoseconds")]
    );
    assert!(profile.duration_nanos >= 3_000_000_000);
    let stacks = profile.stacks();
    let ours = |name: &&str| name.contains("waypoint_proxy::downstream");
    let of_ours = stacks.iter().filter(|stack| stack.iter().any(ours));
    let (all, of_ours) = (stacks.len(), of_ours.count());
    assert!(
        of_ours > 0 && of_ours * 4 > all,
        "{of_ours} of {all}: {stacks:?}"
    );
    let own = |stack: &Vec<&str>| {
        stack
            .iter()
            .any(|name| name.contains("perf_signal_handler"))
    };
    assert!(!stacks.iter().any(own), "{stacks:?}");
    assert!(
        profile.threads().contains("data"),
        "{:?}",
        profile.threads()
    );
    // The sampler is gone, and the next one comes.
    let client = program.client(&mesh, "curl").await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    self::profile(admin, "/debug/pprof/profile?seconds=1").await;
}

#[tokio::test]
async fn a_heap_profile_shows_who_holds_it() {
    let mesh = Mesh::new();
    let (web, _app, program) = start(&mesh, &[], "/nowhere").await;
    let admin = program.admin;
    let idle = (200, "the heap isn't recorded\n".to_owned());
    assert_eq!(http_get(admin, "/heapprofiler").await, idle);
    let (status, _, _) = http_request(admin, "GET", "/heapprofiler?enable=y").await;
    assert_eq!(status, 405);
    let (status, _, says) = http_request(admin, "POST", "/heapprofiler?enable=y").await;
    assert!(status == 200 && says.contains("is recorded"), "{says}");
    let mut tunnels = Vec::new();
    for _ in 0..24 {
        let client = program.client(&mesh, "curl").await;
        for _ in 0..8 {
            tunnels.push(client.tunnel(web).await);
        }
    }
    let recorded = profile(admin, "/heap_dump").await;
    assert_eq!(
        recorded.kinds(),
        [("inuse_objects", "count"), ("inuse_space", "bytes")]
    );
    let stacks = recorded.stacks();
    let ours = |stack: &Vec<&str>| stack.iter().any(|name| name.contains("waypoint_"));
    assert!(stacks.iter().any(ours), "{stacks:?}");
    // Of what a profile takes itself there is nothing.
    let held = recorded.sum();
    assert!((1 << 19..1 << 25).contains(&held), "{held}");
    let innermost = stacks.iter().filter_map(|stack| stack.first());
    let allocator: Vec<_> = innermost
        .filter(|name| name.contains("_rjem_") || name.contains("__rust_alloc"))
        .collect();
    assert!(allocator.is_empty(), "{allocator:?}");
    for path in [
        "/debug/pprof/profile?seconds=1",
        "/debug/pprof/heap?seconds=1",
    ] {
        let says = "the heap is being recorded: one profile at a time\n".to_owned();
        assert_eq!(http_get(admin, path).await, (409, says), "{path}");
    }
    let (_, _, says) = http_request(admin, "POST", "/heapprofiler?enable=n").await;
    assert_eq!(says, idle.1);
    // What there was is forgotten.
    let next = profile(admin, "/debug/pprof/heap?seconds=1").await;
    assert!(
        next.sum() < recorded.sum(),
        "{} {}",
        next.sum(),
        recorded.sum()
    );
    assert_eq!(http_get(admin, "/heapprofiler").await, idle);
}

#[tokio::test]
async fn a_profile_is_short_and_takes_no_memory_from_traffic() {
    let mesh = Mesh::new();
    let (_, _app, program) = start(&mesh, &["--memory-limit", "128Mi"], "/tmp").await;
    for seconds in ["0", "61", "1.5", "-1", "", "x"] {
        for page in ["/debug/pprof/profile", "/debug/pprof/heap", "/heap_dump"] {
            let (status, says) =
                http_get(program.admin, &format!("{page}?seconds={seconds}")).await;
            assert_eq!(status, 400, "{page} {seconds}: {says}");
        }
    }
    let (status, _, _) = http_request(program.admin, "POST", "/heapprofiler?enable=x").await;
    assert_eq!(status, 400);
    let (status, says) = http_get(program.admin, "/debug/pprof/profile?seconds=1").await;
    assert!(status == 503 && says.contains("no room"), "{status} {says}");
    profile(program.admin, "/debug/pprof/heap?seconds=1").await;
}
