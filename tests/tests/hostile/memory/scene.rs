//! A waypoint with a small limit, a backend that reads nothing, and an ordinary one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_hbone::certificates::dev_ca::MintedCertificate;
use waypoint_tests::program::Program;
use waypoint_tests::wait::until;
use waypoint_tests::{App, Mesh, Ztunnel};

use super::{BINARY, CHUNK, MIB, MUCH};

pub(super) struct Scene {
    pub(super) waypoint: Program,
    pub(super) mesh: Mesh,
    /// A backend that sends [`MUCH`] for a GET, and reads nothing of a PUT.
    pub(super) much: SocketAddr,
    /// The same backend as a service of plain streams.
    pub(super) stream: SocketAddr,
    pub(super) backend: SocketAddr,
    /// An ordinary one.
    pub(super) other: SocketAddr,
    pub(super) log: PathBuf,
    pub(super) limit: u64,
}

impl Scene {
    /// With the setting's limit.
    pub(super) async fn new(limit: u64) -> Scene {
        let mesh = Mesh::alone().await;
        let limit_text = format!("{}Mi", limit / MIB);
        Scene::over(mesh, &["--memory-limit", &limit_text], None, limit).await
    }

    pub(super) async fn over(
        mesh: Mesh,
        arguments: &[&str],
        cgroup: Option<&Path>,
        limit: u64,
    ) -> Scene {
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
    pub(super) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.waypoint.child.id()));
        let status = status.expect("the waypoint lives");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.expect("the waypoint lives").split_whitespace().next();
        kib.unwrap().parse::<u64>().unwrap() * 1024
    }

    /// What it wrote: its log, and the access log.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(super) async fn action(&self, action: &str) -> f64 {
        let labels = [("action", action)];
        let name = "waypoint_overload_action_active";
        self.waypoint.metric(name, &labels).await
    }

    /// Everything is as before: nothing is refused, and what was held is given back.
    pub(super) async fn is_over(&self) {
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
    pub(super) fn unsent(&self) -> (u64, u64) {
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

pub(super) async fn ztunnel(via: SocketAddr, certificate: &MintedCertificate) -> Ztunnel {
    Ztunnel::connect(via, certificate).await.unwrap()
}
