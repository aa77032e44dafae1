//! The waypoint's certificate from istiod's CA, and peers that are no longer trusted.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use waypoint_hbone::certificates::dev_ca::{DevCa, MintedCertificate};
use waypoint_hbone::identity::Identity;
use waypoint_proxy::run::{CrlFile, RunOptions};
use waypoint_tests::load::Load;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::scripted_ca::{Issue, Signer};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get, tls};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel, logs};

const DAY: Duration = Duration::from_secs(24 * 3600);
const EXPIRY: &str = "istio_agent_cert_expiry_seconds";

fn options(mesh: &Mesh, istiod: &ControlPlane) -> RunOptions {
    mesh.options(istiod.source(), istiod.certificates())
}

/// The certificate that the waypoint shows.
async fn shown(mesh: &Mesh, waypoint: &Waypoint) -> Vec<u8> {
    let certificate = mesh.certificate("default", "curl");
    let tls = tls(waypoint.address(), Some(&certificate), &[b"h2"]);
    let tls = tls.await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn ca_requests(waypoint: &Waypoint, result: &str) -> f64 {
    let labels = [("result", result)];
    waypoint.metric("waypoint_ca_requests_total", &labels).await
}

async fn connect(waypoint: &Waypoint, certificate: &MintedCertificate) -> Ztunnel {
    Ztunnel::connect(waypoint.address(), certificate)
        .await
        .unwrap()
}

/// The CA answers so, is told of as so, and then does well.
async fn spoiled(issue: Issue, told: &str) {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    istiod.ca.issue(issue);
    let options = options(&mesh, &istiod);
    let waypoint = mesh.try_start_with(options).await.unwrap();
    let address = istiod.address().address;
    logs::until_line(&["WARN", "no certificate yet", &address, told]).await;
    until("all but the certificate", async || {
        let unready = waypoint.readiness().await;
        (unready == (503, "no certificate yet\n".to_owned())).then_some(())
    })
    .await;
    assert!(ca_requests(&waypoint, "failed").await >= 1.0);
    assert!(!waypoint.metrics().await.contains(EXPIRY));

    istiod.ca.issue(Issue::Good);
    waypoint.until_ready().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    assert_eq!(ca_requests(&waypoint, "issued").await, 1.0);
    let left = waypoint
        .metric(EXPIRY, &[("resource_name", "default")])
        .await;
    let day = DAY.as_secs_f64();
    assert!((day - 60.0..=day).contains(&left), "{left}");
}

#[tokio::test]
async fn what_the_ca_spoils_is_refused_and_asked_for_again() {
    logs::record();
    let foreign = Identity::istio("cluster.local", "default", "admin").unwrap();
    let told = "it is for spiffe://cluster.local/ns/default/sa/admin, not for";
    spoiled(Issue::Identity(foreign), told).await;
    spoiled(Issue::ForeignKey, "the private key doesn't belong").await;
    spoiled(Issue::Expired, "it has expired already").await;
}

#[tokio::test]
async fn a_certificate_of_another_trust_domain_is_used_and_told_of() {
    logs::record();
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let moved = Identity::istio("moved.example", "default", "waypoint").unwrap();
    istiod.ca.issue(Issue::Identity(moved.clone()));
    let waypoint = mesh.start_under(&istiod).await;
    let parts = ["WARN", "the CA has another trust domain", moved.as_str()];
    logs::until_line(&parts).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_no_certificate_is_refused_and_asked_for_again() {
    logs::record();
    spoiled(Issue::LeafOnly, "answered with 1 PEM elements").await;
    spoiled(Issue::Garbage, "certificate chain: no certificate in it").await;
    spoiled(Issue::Noise, "decode").await;
    spoiled(Issue::Status(14, "busy"), "busy").await;
}

#[tokio::test]
async fn a_ca_that_does_not_finish_its_answer_is_given_up() {
    logs::record();
    let waited = async |issue| {
        let mesh = Mesh::new();
        let istiod = ControlPlane::of(&mesh).await;
        istiod.ca.issue(issue);
        let options = options(&mesh, &istiod);
        let _waypoint = mesh.try_start_with(options).await.unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        let address = istiod.address().address;
        logs::until_line(&["WARN", "no certificate yet", &address, "within 10s"]).await;
        assert_eq!(istiod.ca.requests(), 1, "and asked once meanwhile");
    };
    tokio::join!(waited(Issue::Silence), waited(Issue::Stall));
}

#[tokio::test]
async fn renewals_under_load_lose_no_request() {
    let mesh = Mesh::new();
    let (web, _, ztunnel) = mesh.captured_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    istiod.ca.issue(Issue::For(Duration::from_secs(4)));
    let waypoint = mesh.start_under(&istiod).await;
    let first = shown(&mesh, &waypoint).await;
    let open = Load::start(&mesh, &waypoint, web).await;
    let new = Load::reconnecting(&mesh, &waypoint, web);
    until("the fourth certificate", async || {
        (ca_requests(&waypoint, "issued").await >= 4.0).then_some(())
    })
    .await;
    open.more(50).await;
    open.finish().await;
    new.finish().await;
    assert_ne!(shown(&mesh, &waypoint).await, first);
    assert_eq!(ca_requests(&waypoint, "failed").await, 0.0);
    assert!(ztunnel.connections() >= 3, "each certificate makes its own");
    let untrusted = "waypoint_connections_untrusted_total";
    assert_eq!(waypoint.metric(untrusted, &[]).await, 0.0);
    assert!(waypoint.metric(EXPIRY, &[]).await <= 4.0);
}

#[tokio::test]
async fn a_new_root_is_trusted_beside_the_old_one_and_the_old_one_goes_with_a_grace() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    istiod.ca.issue(Issue::For(Duration::from_secs(3)));
    let options = RunOptions {
        trust_grace: Duration::from_secs(2),
        ..options(&mesh, &istiod)
    };
    let waypoint = mesh.try_start_with(options).await.unwrap();
    waypoint.until_ready().await;
    let renewed = async || {
        let before = ca_requests(&waypoint, "issued").await;
        until("the next certificate", async || {
            (ca_requests(&waypoint, "issued").await > before).then_some(())
        })
        .await;
    };
    let load = Load::start(&mesh, &waypoint, web).await;

    // The CA comes back with a new root. Peers of both are served, and both serve.
    let folder = mesh.folder().join("new-ca");
    let new_ca = DevCa::open_or_create(&folder).unwrap();
    let newer = |name: &str| {
        let identity = Identity::istio("cluster.local", "default", name).unwrap();
        new_ca.mint(&identity, DAY).unwrap()
    };
    let both = format!("{}{}", mesh.ca.root_pem(), new_ca.root_pem());
    istiod.ca.sign_with(Signer::open(&folder), &both);
    renewed().await;
    let new_client = connect(&waypoint, &newer("curl")).await;
    assert_eq!(new_client.get(web, "/").await.status, StatusCode::OK);
    mesh.describe_pod(2, "behind-1", "behind", true);
    let _app = App::http(mesh.backend(2), "behind").await;
    let ztunnel = PodZtunnel::start(mesh.pod_ip(2), &newer("behind")).await;
    let behind = mesh.service(2, "behind");
    istiod.discovery.set(mesh.resources());
    let answered = async || {
        new_client
            .connect_to(&behind.to_string(), &[])
            .await
            .unwrap()
            .0
    };
    until("the service behind a new ztunnel", async || {
        (answered().await == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(new_client.get(behind, "/").await.status, StatusCode::OK);
    assert_eq!(ztunnel.connects().len(), 1);
    load.finish().await;

    // Then the old one is taken out.
    let old_client = mesh.client(&waypoint, "default", "curl").await;
    let mut old_connection = old_client.http1(web).await;
    istiod
        .ca
        .sign_with(Signer::open(&folder), new_ca.root_pem());
    renewed().await;
    let of_old = Ztunnel::connect(waypoint.address(), &mesh.certificate("default", "curl")).await;
    assert!(of_old.is_err(), "no new connection");
    let answer = old_connection.send(get("/")).await;
    assert_eq!(answer.status, StatusCode::OK, "the open one has its grace");
    until("the end of the old connection", async || {
        old_connection.start(get("/")).await.is_err().then_some(())
    })
    .await;
    let labels = [("reason", "unknown_issuer")];
    waypoint
        .until_metric("waypoint_connections_untrusted_total", &labels, 1.0)
        .await;
    assert_eq!(new_client.get(web, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_outage_of_the_ca_is_survived_and_told_ever_louder() {
    logs::record();
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    istiod.ca.issue(Issue::For(Duration::from_secs(7)));
    let waypoint = mesh.start_under(&istiod).await;
    let load = Load::start(&mesh, &waypoint, web).await;
    istiod.ca.issue(Issue::Status(14, "out of order"));
    let address = istiod.address().address;
    for told in [
        ["WARN", "certificate not renewed"],
        ["ERROR", "certificate not renewed and about to expire"],
        ["ERROR", "certificate not renewed and expired"],
    ] {
        logs::until_line(&[told[0], told[1], &address, "out of order"]).await;
    }
    assert!(waypoint.metric(EXPIRY, &[]).await <= 0.0);
    assert_eq!(waypoint.readiness().await.0, 200, "LIVE is remembered");
    load.finish().await;
    istiod.ca.issue(Issue::Good);
    until("a certificate again", async || {
        (waypoint.metric(EXPIRY, &[]).await > 3600.0).then_some(())
    })
    .await;
}

fn mesh_config(mesh: &Mesh, settings: &str) {
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
         data:\n  mesh: |\n    accessLogFile: /dev/stdout\n    {settings}\n"
    );
    mesh.manifest("mesh.yaml", &text);
}

#[tokio::test]
async fn a_trust_domain_that_is_gone_goes_with_a_grace() {
    logs::record();
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    mesh_config(&mesh, "trustDomainAliases: [merged.example]");
    let istiod = ControlPlane::of(&mesh).await;
    let options = RunOptions {
        trust_grace: Duration::from_secs(1),
        ..options(&mesh, &istiod)
    };
    let waypoint = mesh.try_start_with(options).await.unwrap();
    waypoint.until_ready().await;
    let load = Load::start(&mesh, &waypoint, web).await;
    let identity = Identity::istio("merged.example", "default", "curl").unwrap();
    let certificate = mesh.ca.mint(&identity, DAY).unwrap();
    let merged = connect(&waypoint, &certificate).await;
    let mut connection = merged.http1(web).await;
    assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);

    mesh_config(&mesh, "trustDomainAliases: []");
    istiod.discovery.set(mesh.resources());
    until("the end of the connection", async || {
        connection.start(get("/")).await.is_err().then_some(())
    })
    .await;
    let labels = [("reason", "foreign_trust_domain")];
    waypoint
        .until_metric("waypoint_connections_untrusted_total", &labels, 1.0)
        .await;
    logs::until_line(&["WARN", "isn't trusted any more", identity.as_str()]).await;
    assert!(
        Ztunnel::connect(waypoint.address(), &certificate)
            .await
            .is_err()
    );
    waypoint
        .until_metric("waypoint_connections_refused_total", &labels, 1.0)
        .await;
    load.finish().await;
}

/// A mesh with a file of CRLs.
struct Revoking {
    mesh: Mesh,
    file: PathBuf,
}

impl Revoking {
    fn new() -> Revoking {
        let mesh = Mesh::new();
        let file = mesh.folder().join("ca-crl.pem");
        Revoking { mesh, file }
    }

    fn revoke(&self, certificates: &[&MintedCertificate], due: SystemTime) {
        let serials: Vec<String> = certificates
            .iter()
            .map(|certificate| certificate.workload().unwrap().serial().to_owned())
            .collect();
        let serials: Vec<&str> = serials.iter().map(String::as_str).collect();
        let now = SystemTime::now() - DAY;
        let list = self.mesh.ca.revoke(&serials, now, due).unwrap();
        std::fs::write(&self.file, list).unwrap();
    }

    async fn start(&self, istiod: &ControlPlane) -> Waypoint {
        let crl = CrlFile {
            path: self.file.clone(),
            optional: true,
        };
        let options = RunOptions {
            crl: Some(crl),
            ..options(&self.mesh, istiod)
        };
        let waypoint = self.mesh.try_start_with(options).await.unwrap();
        waypoint.until_ready().await;
        waypoint
    }
}

#[tokio::test]
async fn the_revoked_are_cut_off_in_both_directions_as_soon_as_the_list_says_so() {
    logs::record();
    let scene = Revoking::new();
    let mesh = &scene.mesh;
    let (web, _) = mesh.http_service(1, "web").await;
    mesh.describe_pod(2, "behind-1", "behind", true);
    let _app = App::http(mesh.backend(2), "behind").await;
    let (bad_pod, bad) = (
        mesh.certificate("default", "behind"),
        mesh.certificate("default", "bad"),
    );
    let ztunnel = PodZtunnel::start(mesh.pod_ip(2), &bad_pod).await;
    let behind = mesh.service(2, "behind");
    let istiod = ControlPlane::of(mesh).await;
    let waypoint = scene.start(&istiod).await;

    let load = Load::start(mesh, &waypoint, web).await;
    let good = mesh.client(&waypoint, "default", "good").await;
    assert_eq!(good.get(behind, "/").await.status, StatusCode::OK);
    let client = connect(&waypoint, &bad).await;
    let mut connection = client.http1(web).await;
    assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);

    scene.revoke(&[&bad], SystemTime::now() + DAY);
    until("the end of the revoked client", async || {
        connection.start(get("/")).await.is_err().then_some(())
    })
    .await;
    let revoked = [("reason", "revoked")];
    waypoint
        .until_metric("waypoint_connections_untrusted_total", &revoked, 1.0)
        .await;
    assert!(Ztunnel::connect(waypoint.address(), &bad).await.is_err());
    waypoint
        .until_metric("waypoint_connections_refused_total", &revoked, 1.0)
        .await;
    assert_eq!(good.get(behind, "/").await.status, StatusCode::OK);
    assert_eq!(ztunnel.connections(), 1, "nobody else is disturbed");

    scene.revoke(&[&bad, &bad_pod], SystemTime::now() + DAY);
    until("the end of the revoked pod", async || {
        let answer = good.get(behind, "/").await;
        let told = waypoint.log().contains("certificate_has_been_revoked");
        (answer.status == StatusCode::SERVICE_UNAVAILABLE && told).then_some(())
    })
    .await;

    // What can't be read changes nothing.
    std::fs::write(&scene.file, "half a li").unwrap();
    let path = scene.file.display().to_string();
    logs::until_line(&["ERROR", "the CRLs can't be used; those in use stay", &path]).await;
    let failed = [("result", "failed")];
    let loads = waypoint.metric("waypoint_crl_loads_total", &failed).await;
    assert_eq!(loads, 1.0);
    assert!(Ztunnel::connect(waypoint.address(), &bad).await.is_err());

    // Nobody is revoked any more.
    scene.revoke(&[], SystemTime::now() + DAY);
    until("the client again", async || {
        Ztunnel::connect(waypoint.address(), &bad).await.ok()
    })
    .await;
    until("the pod again", async || {
        let answer = good.get(behind, "/").await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    load.finish().await;
}

#[tokio::test]
async fn an_overdue_list_counts_and_is_told_of_and_a_broken_one_is_no_start() {
    logs::record();
    let scene = Revoking::new();
    let mesh = &scene.mesh;
    let (web, _) = mesh.http_service(1, "web").await;
    let bad = mesh.certificate("default", "bad");
    scene.revoke(&[&bad], SystemTime::now() - DAY / 2);
    let istiod = ControlPlane::of(mesh).await;
    let waypoint = scene.start(&istiod).await;
    let path = scene.file.display().to_string();
    logs::until_line(&["ERROR", "a CRL is overdue", &path]).await;
    let left = waypoint
        .metric("waypoint_crl_next_update_seconds", &[])
        .await;
    assert!(left < 0.0, "{left}");
    assert!(Ztunnel::connect(waypoint.address(), &bad).await.is_err());
    let good = mesh.client(&waypoint, "default", "good").await;
    assert_eq!(good.get(web, "/").await.status, StatusCode::OK);

    std::fs::write(&scene.file, "no list").unwrap();
    let options = RunOptions {
        crl: Some(CrlFile {
            path: scene.file.clone(),
            optional: true,
        }),
        ..options(mesh, &istiod)
    };
    let error = mesh.try_start_with(options).await.err().unwrap();
    assert!(
        error.to_string().contains("ca-crl.pem: no CRL in it"),
        "{error}"
    );
}
