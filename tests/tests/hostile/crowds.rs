//! Many connections of one identity that are always busy: they share the turns of a few, and a second client waits beside all
//! of them hardly longer than beside those few.
//!
//! The waypoint is a process of its own with one thread for traffic, and the second client has a thread of its own: what is measured
//! is the waypoint's queue, not that of the attackers' runtime.

use std::net::SocketAddr;
use std::time::Duration;

use waypoint_tests::attack::{Fate, Latencies, Shape, Witness, attack, shapes};
use waypoint_tests::program::Program;
use waypoint_tests::{App, Mesh};

use crate::attacks::POLICY;

const BINARY: &str = env!("CARGO_BIN_EXE_waypoint-under-test");

const FEW: usize = 4;
const CROWD: usize = 64;
/// Of the crowd's connections, once they are there.
const LENGTH: Duration = Duration::from_secs(3);

struct Scene {
    mesh: Mesh,
    to: SocketAddr,
    _app: App,
    program: Program,
}

async fn scene() -> Scene {
    let mesh = Mesh::alone().await;
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("policy.yaml", POLICY);
    let quiet = |command: &mut std::process::Command| {
        command.stderr(std::process::Stdio::null());
    };
    let program = Program::start(&mesh, BINARY, "", &["--concurrency", "1"], quiet).await;
    Scene {
        mesh,
        to,
        _app: app,
        program,
    }
}

impl Scene {
    /// What a second client sees beside so many connections of a shape.
    async fn beside(&self, shape: &Shape, connections: usize) -> Latencies {
        let second = self.mesh.certificate("default", "second");
        let attackers: Vec<_> = (0..connections)
            .map(|_| {
                let (shape, to, via) = (*shape, self.to, self.program.hbone);
                let certificate = self.mesh.certificate("default", "curl");
                tokio::spawn(async move { attack(&shape, via, &certificate, to, LENGTH).await })
            })
            .collect();
        let (to, via) = (self.to, self.program.hbone);
        let witness = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                tokio::time::sleep(LENGTH / 6).await;
                let client = waypoint_tests::Ztunnel::connect(via, &second)
                    .await
                    .unwrap();
                let witness = Witness::start(client, to, "/p/1").await;
                tokio::time::sleep(LENGTH / 2).await;
                witness.finish().await
            })
        });
        for attacker in attackers {
            let outcome = attacker.await.unwrap().unwrap();
            assert!(!outcome.closed, "{}: {outcome:?}", shape.name);
        }
        let seen = tokio::task::spawn_blocking(|| witness.join().unwrap());
        seen.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_busy_connections_has_the_turns_of_a_few() {
    let scene = scene().await;
    for shape in shapes().iter().filter(|shape| shape.fate == Fate::Shared) {
        let few = scene.beside(shape, FEW).await;
        let crowd = scene.beside(shape, CROWD).await;
        println!(
            "{}: {few:?} beside {FEW}, {crowd:?} beside {CROWD}",
            shape.name
        );
        // Sixteen times as many; without a bound it takes as much longer.
        assert!(
            crowd.p50 < 5 * few.p50,
            "{}: {few:?}, {crowd:?}",
            shape.name
        );
    }
}
