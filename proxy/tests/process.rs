//! The program as a process: how it starts as a pod's container, and how it ends on signals.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waypoint");
const PATIENCE: Duration = Duration::from_secs(20);

/// The container's arguments, as istiod's template renders them.
const ARGUMENTS: &[&str] = &[
    "proxy",
    "waypoint",
    "--domain",
    "default.svc.cluster.local",
    "--serviceCluster",
    "waypoint.default",
    "--proxyLogLevel",
    "warning",
    "--proxyComponentLogLevel",
    "misc:error",
    "--log_output_level",
    "default:info",
];

/// A folder of the test's own; removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("waypoint-process-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A waypoint as a pod's container, on loopback address `ip`, with an istiod that isn't there.
fn container(root: &Path, ip: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    let at = |port: u16| format!("{ip}:{port}");
    command
        .args(ARGUMENTS)
        .env_clear()
        .env("WAYPOINT_ROOT", root)
        .env("WAYPOINT_HBONE_ADDR", at(15008))
        .env("WAYPOINT_ADMIN_ADDR", at(15000))
        .env("WAYPOINT_READINESS_ADDR", at(15021))
        .env("WAYPOINT_STATS_ADDR", at(15020))
        .env("WAYPOINT_PROMETHEUS_ADDR", at(15090))
        .env("POD_NAME", "waypoint-0")
        .env("POD_NAMESPACE", "default")
        .env("SERVICE_ACCOUNT", "waypoint")
        .env("INSTANCE_IP", "10.0.0.7")
        .env("HOST_IP", "10.0.0.1")
        .env("PILOT_CERT_PROVIDER", "istiod")
        .env("CA_ADDR", at(9))
        .env("ISTIO_CPU_LIMIT", "1")
        .env("GOMEMLIMIT", "1073741824")
        .env("TRUST_DOMAIN", "cluster.local")
        .env("ISTIO_META_CLUSTER_ID", "Kubernetes")
        .env(
            "PROXY_CONFIG",
            format!("{{\"discoveryAddress\": \"{}\"}}\n", at(9)),
        );
    command
}

/// A running program.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it and waits until it serves.
    fn start(mut command: Command, log: PathBuf) -> Running {
        let file = fs::File::create(&log).unwrap();
        let child = command
            .stdout(Stdio::from(file.try_clone().unwrap()))
            .stderr(Stdio::from(file))
            .spawn()
            .unwrap();
        let running = Running { child, log };
        running.until("it serves", |log| log.contains("readiness="));
        running
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn until(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.log()) {
            assert!(Instant::now() < deadline, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(killed.unwrap().success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "still runs: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(address: &str, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_has_no_effect_is_named_in_one_line() {
    let folder = Folder::new("names");
    let pod = Running::start(container(&folder.0, "127.77.0.1"), folder.0.join("log"));
    let log = pod.log();
    let named: Vec<_> = log
        .lines()
        .filter(|line| line.contains("without effect"))
        .collect();
    assert_eq!(named.len(), 1, "{log}");
    let expected = "--proxyComponentLogLevel, HOST_IP, PILOT_CERT_PROVIDER";
    assert!(named[0].contains(expected), "{log}");
    assert!(log.contains("limit of open files"), "{log}");
    assert!(!log.contains('\u{1b}'), "no colours in a file: {log}");
}

#[test]
fn the_log_may_be_json_on_stdout() {
    let folder = Folder::new("json");
    let mut command = container(&folder.0, "127.77.0.2");
    command.args(["--log_as_json", "--log_target", "stdout"]);
    let file = fs::File::create(folder.0.join("log")).unwrap();
    let mut child = command
        .stdout(Stdio::from(file))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = || fs::read_to_string(folder.0.join("log")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while log().lines().count() < 3 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stderr), "");
    let log = log();
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(
            line["message"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn on_sigterm_it_drains_for_as_long_as_it_is_told_and_exits_with_0() {
    let folder = Folder::new("drain");
    let mut command = container(&folder.0, "127.77.0.3");
    command.env(
        "PROXY_CONFIG",
        r#"{"terminationDrainDuration": "1.5s", "discoveryAddress": "127.77.0.3:9"}"#,
    );
    let mut pod = Running::start(command, folder.0.join("log"));
    let started = Instant::now();
    pod.terminate();
    pod.until("the signal", |log| log.contains("draining"));
    let answer = get("127.77.0.3:15021", "/healthz/ready");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("draining\n"), "{answer}");
    assert!(
        TcpStream::connect("127.77.0.3:15008").is_ok(),
        "it goes on taking tunnels"
    );
    assert_eq!(pod.exit_code(), Some(0));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = Folder::new("second");
    let mut command = container(&folder.0, "127.77.0.4");
    command.env("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true");
    command.env("MINIMUM_DRAIN_DURATION", "600s");
    let mut pod = Running::start(command, folder.0.join("log"));
    pod.terminate();
    pod.until("the signal", |log| log.contains("draining"));
    let second = Instant::now();
    pod.terminate();
    assert_eq!(pod.exit_code(), Some(0));
    assert!(second.elapsed() < Duration::from_secs(3));
}

#[test]
fn what_cannot_be_honoured_keeps_it_from_starting() {
    let folder = Folder::new("wrong");
    let start = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = container(&folder.0, "127.77.0.5");
        command.args(arguments).envs(variables.iter().copied());
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    for (arguments, variables, part) in [
        (&["--dev-ca", "ca"][..], &[][..], "--dev-ca"),
        (&["sidecar"], &[], "\"sidecar\""),
        (&[], &[("POD_NAME", "")], "POD_NAME"),
        (&[], &[("PROXY_CONFIG", "{")], "PROXY_CONFIG"),
        (&[], &[("SECRET_TTL", "soon")], "SECRET_TTL=\"soon\""),
    ] {
        let stderr = start(arguments, variables);
        assert!(stderr.contains(part), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_link_named_pilot_agent_has_its_commands() {
    let folder = Folder::new("link");
    let agent = folder.0.join("pilot-agent");
    std::os::unix::fs::symlink(PROGRAM, &agent).unwrap();
    let pod = Running::start(container(&folder.0, "127.77.0.6"), folder.0.join("log"));

    let version = run(Command::new(&agent).args(["version", "-s"]));
    assert!(text(&version.stdout).starts_with("client version: 1."));
    let json = run(Command::new(&agent).args(["version", "-o", "json"]));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["clientVersion"]["version"].is_string());

    let wait = run(Command::new(&agent).args([
        "wait",
        "--url",
        "http://127.77.0.6:15021/healthz/ready",
        "--timeoutSeconds",
        "1",
        "--periodMillis",
        "100",
    ]));
    assert_eq!(wait.status.code(), Some(1));
    let reason = text(&wait.stderr);
    assert!(reason.contains("503") && reason.contains("yet"), "{reason}");

    let request = run(Command::new(&agent).args(["request", "GET", "/", "--debug-port", "80"]));
    assert_eq!(request.status.code(), Some(1));
    assert!(text(&request.stderr).contains("port 80"));
    drop(pod);
}
