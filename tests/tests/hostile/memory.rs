//! Memory has a sum: a peer that makes the waypoint hold much is stopped by the waypoint, not by the kernel, and
//! nobody else goes without.
//!
//! The waypoint is a process of its own with a small limit, a greedy peer takes what it gets, and a second client of another
//! identity is measured all the while.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::JoinHandle;
use waypoint_hbone::certificates::dev_ca::MintedCertificate;
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::program::Program;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{App, Mesh, Ztunnel};

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

struct Scene {
    waypoint: Program,
    mesh: Mesh,
    /// A backend that sends [`MUCH`] for a GET, and reads nothing of a PUT.
    much: SocketAddr,
    /// The same backend as a service of plain streams.
    stream: SocketAddr,
    backend: SocketAddr,
    /// An ordinary one.
    other: SocketAddr,
    log: PathBuf,
    limit: u64,
}

impl Scene {
    /// With the setting's limit.
    async fn new(limit: u64) -> Scene {
        let mesh = Mesh::alone().await;
        let limit_text = format!("{}Mi", limit / MIB);
        Scene::over(mesh, &["--memory-limit", &limit_text], None, limit).await
    }

    async fn over(mesh: Mesh, arguments: &[&str], cgroup: Option<&Path>, limit: u64) -> Scene {
        mesh.describe_pod(1, "much-1", "much", false);
        let backend = SocketAddr::new(mesh.pod_ip(1), 8080);
        App::tcp(backend, |mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            if head.starts_with(b"GET") {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                for _ in 0..MUCH / CHUNK.len() {
                    if stream.write_all(&CHUNK).await.is_err() {
                        return;
                    }
                }
            }
            std::future::pending::<()>().await;
        })
        .await;
        let much = mesh.service(1, "much");
        let stream = mesh.vip(3);
        mesh.manifest(
            "service-stream.yaml",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: stream, namespace: default}}\n\
                 spec: {{clusterIP: {}, selector: {{app: much}}, ports: [{{name: tcp, port: 80, targetPort: 8080}}]}}\n",
                stream.ip()
            ),
        );
        let (other, _) = mesh.http_service(2, "other").await;
        let log = mesh.folder().join("log");
        let out = std::fs::File::create(&log).unwrap();
        let shell = cgroup.map_or_else(String::new, |folder| {
            format!("echo $$ > {}", folder.join("cgroup.procs").display())
        });
        let waypoint = Program::start(&mesh, BINARY, &shell, arguments, |command| {
            command.env("NO_COLOR", "1");
            command.stdout(out.try_clone().unwrap()).stderr(out);
        })
        .await;
        Scene {
            mesh,
            much,
            stream,
            backend,
            other,
            waypoint,
            log,
            limit,
        }
    }

    /// Anonymous memory that is resident, in bytes.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.waypoint.child.id()));
        let status = status.expect("the waypoint lives");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.expect("the waypoint lives").split_whitespace().next();
        kib.unwrap().parse::<u64>().unwrap() * 1024
    }

    /// What it wrote: its log, and the access log.
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    async fn action(&self, action: &str) -> f64 {
        let labels = [("action", action)];
        let name = "waypoint_overload_action_active";
        self.waypoint.metric(name, &labels).await
    }

    /// Everything is as before: nothing is refused, and what was held is given back.
    async fn is_over(&self) {
        for action in [
            "shrink_windows",
            "stop_accepting_tunnels",
            "stop_accepting_connections",
        ] {
            until(action, async || {
                (self.action(action).await == 0.0).then_some(())
            })
            .await;
        }
        until("nothing is held", async || {
            let held = self
                .waypoint
                .metric("waypoint_memory_held_bytes", &[])
                .await;
            (held < MIB as f64).then_some(())
        })
        .await;
        let client = ztunnel(
            self.waypoint.hbone,
            &self.mesh.certificate("default", "greedy"),
        )
        .await;
        assert_eq!(
            client.get(self.other, "/after").await.status,
            StatusCode::OK
        );
    }

    /// What the kernel keeps of what the waypoint wrote to the backend.
    fn unsent(&self) -> (u64, u64) {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let SocketAddr::V4(backend) = self.backend else {
            unreachable!("the mesh has IPv4 addresses")
        };
        let number = u32::from_le_bytes(backend.ip().octets());
        let remote = format!("{number:08X}:{:04X}", backend.port());
        let queues: Vec<u64> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields.get(2) == Some(&remote.as_str()))
            .filter_map(|fields| {
                let queue = fields.get(4)?.split(':').next()?;
                u64::from_str_radix(queue, 16).ok()
            })
            .collect();
        (queues.len() as u64, queues.iter().sum())
    }
}

async fn ztunnel(via: SocketAddr, certificate: &MintedCertificate) -> Ztunnel {
    Ztunnel::connect(via, certificate).await.unwrap()
}

/// So much the second client does in any case, before it stops.
const ENOUGH: usize = 10;

/// A client that asks for little, all the time.
struct Second {
    stop: Arc<AtomicBool>,
    keeping: JoinHandle<Seen>,
    opening: JoinHandle<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    times: Vec<Duration>,
    failed: usize,
}

impl Seen {
    fn at(&mut self, percent: usize) -> Duration {
        self.times.sort_unstable();
        let last = self.times.len().saturating_sub(1);
        self.times
            .get(last * percent / 100)
            .copied()
            .unwrap_or_default()
    }
}

impl Second {
    async fn start(scene: &Scene) -> Second {
        let stop = Arc::new(AtomicBool::new(false));
        let certificate = scene.mesh.certificate("default", "curl");
        let (via, to) = (scene.waypoint.hbone, scene.other);
        let client = ztunnel(via, &certificate).await;
        let mut kept = client.http1(to).await;
        let stopped = stop.clone();
        let keeping = tokio::spawn(async move {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) || seen.times.len() < ENOUGH {
                let start = Instant::now();
                let answer = kept.send(get("/kept")).await;
                seen.times.push(start.elapsed());
                seen.failed += usize::from(answer.status != StatusCode::OK);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            seen
        });
        let stopped = stop.clone();
        let authority = to.to_string();
        let opening = tokio::spawn(async move {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) || seen.times.len() < ENOUGH {
                let start = Instant::now();
                // Now on the connection that is open, then on one of its own.
                let own = match seen.times.len() % 4 {
                    0 => Ztunnel::connect(via, &certificate).await.ok(),
                    _ => None,
                };
                let opened = own.as_ref().unwrap_or(&client).connect_to(&authority, &[]);
                let granted = matches!(opened.await, Ok((StatusCode::OK, _)));
                seen.times.push(start.elapsed());
                seen.failed += usize::from(!granted);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            seen
        });
        Second {
            stop,
            keeping,
            opening,
        }
    }

    /// No request on an open connection failed, and next to no new tunnel.
    async fn finish(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut kept = self.keeping.await.unwrap();
        let mut opened = self.opening.await.unwrap();
        eprintln!(
            "{what}: second client: {} requests p50 {:?} p99 {:?} failed {}, {} tunnels p50 {:?} p99 {:?} failed {}",
            kept.times.len(),
            kept.at(50),
            kept.at(99),
            kept.failed,
            opened.times.len(),
            opened.at(50),
            opened.at(99),
            opened.failed,
        );
        assert_eq!(kept.failed, 0, "{what}: requests of the second client");
        assert!(
            opened.failed * 5 <= opened.times.len(),
            "{what}: {} of {} tunnels of the second client were refused",
            opened.failed,
            opened.times.len()
        );
    }
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

/// A tunnel that nobody reads.
struct Unread(HboneStream);

impl AsyncRead for Unread {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Unread {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// HTTP/2 in a tunnel, with windows as large as they get.
async fn http2<T>(io: T) -> SendRequest<Bytes>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, driver) = h2::client::Builder::new()
        .initial_window_size((1 << 31) - 1)
        .initial_connection_window_size((1 << 31) - 1)
        .initial_max_send_streams(1000)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(async move {
        let _ = driver.await;
    });
    client
}

fn asking(method: Method) -> Request<()> {
    let request = Request::builder().method(method).uri("http://much/");
    request.version(Version::HTTP_2).body(()).unwrap()
}

/// A request of which nobody reads the answer.
type Asked = (ResponseFuture, SendStream<Bytes>);

/// What a greedy peer keeps open.
#[derive(Default)]
struct Greed {
    connections: Vec<Ztunnel>,
    answers: Vec<(SendRequest<Bytes>, Vec<Asked>)>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Greed {
    /// The peer leaves in good order: its connections stay until its tunnels have said their goodbyes.
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Greed {
    /// Tunnels, as far as they are granted.
    async fn tunnels(&mut self, scene: &Scene, size: Size) -> Vec<HboneStream> {
        let certificate = scene.mesh.certificate("default", "greedy");
        let mut tunnels = Vec::new();
        for _ in 0..size.connections {
            let Ok(client) = Ztunnel::connect(scene.waypoint.hbone, &certificate).await else {
                continue;
            };
            for _ in 0..size.tunnels {
                let opened = client.connect_to(&scene.much.to_string(), &[]).await;
                if let Ok((StatusCode::OK, stream)) = opened {
                    tunnels.push(stream);
                }
            }
            self.connections.push(client);
        }
        tunnels
    }

    /// Requests over HTTP/2 whose answers are never read.
    async fn unread_answers(scene: &Scene, size: Size) -> Greed {
        let mut greed = Greed::default();
        for tunnel in greed.tunnels(scene, size).await {
            let mut client = http2(Unread(tunnel)).await;
            let mut answers = Vec::new();
            for _ in 0..size.streams {
                match client.send_request(asking(Method::GET), true) {
                    Ok(answer) => answers.push(answer),
                    Err(_) => break,
                }
            }
            greed.answers.push((client, answers));
        }
        greed
    }

    /// Uploads over HTTP/1.1 to a backend that reads nothing.
    async fn uploads(scene: &Scene, size: Size) -> Greed {
        let mut greed = Greed::default();
        for mut tunnel in greed.tunnels(scene, size).await {
            greed.tasks.push(tokio::spawn(async move {
                let head =
                    format!("PUT / HTTP/1.1\r\nhost: much\r\ncontent-length: {MUCH}\r\n\r\n");
                let _ = tunnel.write_all(head.as_bytes()).await;
                while tunnel.write_all(&CHUNK).await.is_ok() {}
            }));
        }
        greed
    }

    /// Uploads over HTTP/2, many in a tunnel, to a backend that reads nothing.
    async fn uploads_over_http2(scene: &Scene, size: Size) -> Greed {
        let mut greed = Greed::default();
        for tunnel in greed.tunnels(scene, size).await {
            let mut client = http2(tunnel).await;
            for _ in 0..size.streams {
                let Ok((_, stream)) = client.send_request(asking(Method::PUT), false) else {
                    break;
                };
                greed.tasks.push(tokio::spawn(upload(stream)));
            }
            greed.answers.push((client, Vec::new()));
        }
        greed
    }
}

async fn upload(mut stream: SendStream<Bytes>) {
    loop {
        stream.reserve_capacity(CHUNK.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let bytes = Bytes::from_static(&CHUNK).slice(..room.min(CHUNK.len()));
                if stream.send_data(bytes, false).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
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
