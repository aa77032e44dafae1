//! The program as a process of its own, `waypoint run`: its standard streams, limits and signals are the story's.

use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::mesh::Mesh;
use crate::telemetry::{http_get, metric};
use crate::wait::until;
use crate::ztunnel::Ztunnel;

/// A running waypoint.
pub struct Program {
    pub child: Child,
    pub hbone: SocketAddr,
    pub admin: SocketAddr,
    pub readiness: SocketAddr,
    pub stats: SocketAddr,
}

impl Program {
    /// Starts `binary` (`env!("CARGO_BIN_EXE_waypoint-under-test")`) on the mesh's manifests, and waits until it is
    /// ready. `shell` is what a shell does before: limits, redirections.
    ///
    /// # Panics
    /// It doesn't start.
    pub async fn start(
        mesh: &Mesh,
        binary: &str,
        shell: &str,
        arguments: &[&str],
        streams: impl FnOnce(&mut Command),
    ) -> Program {
        let at = |port| SocketAddr::new(mesh.pod_ip(254), port);
        let (hbone, admin, readiness, stats) = (at(15008), at(15000), at(15021), at(15020));
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{shell}\nexec \"$0\" \"$@\""))
            .arg(binary)
            .arg("run")
            .arg("-f")
            .arg(mesh.manifests())
            .arg("--dev-ca")
            .arg(mesh.folder().join("ca"));
        for (flag, address) in [
            ("--hbone-addr", hbone),
            ("--admin-addr", admin),
            ("--readiness-addr", readiness),
            ("--stats-addr", stats),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        streams(&mut command);
        let mut program = Program {
            child: command.spawn().unwrap(),
            hbone,
            admin,
            readiness,
            stats,
        };
        until("the program's readiness", async || {
            if let Some(status) = program.child.try_wait().unwrap() {
                panic!("it has ended: {status}");
            }
            tokio::net::TcpStream::connect(readiness).await.ok()?;
            (program.readiness().await == 200).then_some(())
        })
        .await;
        program
    }

    pub async fn readiness(&self) -> u16 {
        http_get(self.readiness, "/healthz/ready").await.0
    }

    /// The sum of a metric's series with these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (_, text) = http_get(self.stats, "/stats/prometheus").await;
        metric(&text, name, labels)
    }

    /// A ztunnel for a client with this service account, connected.
    pub async fn client(&self, mesh: &Mesh, account: &str) -> Ztunnel {
        let certificate = mesh.certificate("default", account);
        Ztunnel::connect(self.hbone, &certificate).await.unwrap()
    }

    /// Sends a signal by its name, as `kill` does.
    ///
    /// # Panics
    /// There is no such process any more.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success(), "kill -s {name} {id}");
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        until("the program's end", async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
