//! `waypoint demo`: a small mesh in one process. Pods from manifests, their ztunnels, the waypoint, and a
//! client that sends requests as several identities.
//!
//! The waypoint is the real one, on the real ports' protocols; only the pods and ztunnels are played.

/// Prints a line. A reader that has gone (`| head`) is no reason to fail.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod client;
mod error;
mod pods;
mod story;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use waypoint_config::standalone::StandaloneSource;
use waypoint_config::standalone::state::cluster_state::ClusterState;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::identity::Identity;

use crate::run::{
    AccessLogTarget, CertificateSource, ConfigSource, DrainTimes, RunOptions, Running, start,
};

use self::client::Client;
pub(crate) use self::error::DemoError;

/// Settings of the demo.
#[derive(Clone, Debug)]
pub(crate) struct DemoOptions {
    pub(crate) manifests: PathBuf,
    /// Where the CA, certificates and the access log go.
    pub(crate) work: PathBuf,
    pub(crate) hbone_addr: SocketAddr,
    /// Check what was seen and end, instead of staying.
    pub(crate) once: bool,
}

/// Plays the demo, then stays until `ended`, unless it is to be played once.
pub(crate) async fn run(
    options: DemoOptions,
    ended: impl Future<Output = ()>,
) -> Result<(), DemoError> {
    std::fs::create_dir_all(&options.work)?;
    let state = StandaloneSource::new(vec![options.manifests.clone()], None).cluster_state()?;
    let ca_dir = options.work.join("ca");
    let ca = DevCa::open_or_create(&ca_dir)?;
    let pods = pods::start(&state, &ca).await?;
    let running = start(run_options(&options, ca_dir)).await?;
    introduce(&options, &state, &running, pods);

    let client = |namespace: &str, account: &str| -> Result<Client, DemoError> {
        let identity = Identity::istio(state.mesh().trust_domain.as_str(), namespace, account)?;
        Client::new(running.hbone_addr, &ca, identity)
    };
    let outcome = story::play(&state, client).await;
    if options.once {
        running.shutdown().await;
        return outcome;
    }
    if let Err(failed) = outcome {
        say!("\n{failed}");
    }
    invite(&options, &state, &ca, &running)?;
    ended.await;
    say!("\nEnding.");
    running.shutdown().await;
    Ok(())
}

fn run_options(options: &DemoOptions, ca: PathBuf) -> RunOptions {
    let source = ConfigSource::Manifests {
        paths: vec![options.manifests.clone()],
        gateway: None,
    };
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    RunOptions {
        hbone_addr: options.hbone_addr,
        admin_addr: any_port,
        readiness_addr: any_port,
        stats_addr: any_port,
        poll: Duration::from_millis(500),
        drain: DrainTimes::at_most(Duration::from_secs(2)),
        access_log: AccessLogTarget::File(options.work.join("access.log")),
        ..RunOptions::new(source, CertificateSource::DevCa(ca))
    }
}

fn introduce(options: &DemoOptions, state: &ClusterState, running: &Running, pods: pods::Pods) {
    say!(
        "A mesh from {}: {} services, {} pods ({} behind a ztunnel), and the waypoint on {}.",
        options.manifests.display(),
        state.services.len(),
        pods.backends,
        pods.captured,
        running.hbone_addr
    );
}

/// How to go on by hand.
fn invite(
    options: &DemoOptions,
    state: &ClusterState,
    ca: &DevCa,
    running: &Running,
) -> Result<(), DemoError> {
    let identity = Identity::istio(state.mesh().trust_domain.as_str(), "default", "curl")?;
    let certs = options.work.join("curl");
    ca.mint(&identity, crate::identity::certificates::DEV_TTL)?
        .write(&certs)?;
    let reviews = story::service_address(state, "reviews")?;
    let program = std::env::args().next().unwrap_or_else(|| "waypoint".into());
    say!(
        "\nIt keeps running. Try it by hand, in another terminal:\n\
         \n  {program} connect --via {hbone} --certs {certs} --to {reviews} --listen 127.0.0.1:8080 &\
         \n  curl -i http://127.0.0.1:8080/reviews/1 -H 'Host: reviews:9080'\
         \n  curl -i -X POST http://127.0.0.1:8080/reviews/1 -H 'Host: reviews:9080'\
         \n\
         \nChange {manifests} (the weights in route.yaml, the policy): it is picked up within seconds.\
         \n\
         \n  Page         http://{admin}/  in a browser: who calls whom, routes, policies, a live log\
         \n  Metrics      curl http://{stats}/stats/prometheus\
         \n  Access log   tail -f {log}\
         \n\
         \nCtrl-C ends it.",
        hbone = running.hbone_addr,
        certs = certs.display(),
        manifests = options.manifests.display(),
        admin = running.admin_addr,
        stats = running.stats_addr,
        log = options.work.join("access.log").display(),
    );
    Ok(())
}
