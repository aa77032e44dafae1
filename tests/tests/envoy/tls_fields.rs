//! What access logs print of certificates and of TLS: here of the tunnel, for what comes in it; by Envoy of the connection
//! that it terminates.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::core::v3::SubstitutionFormatString;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use waypoint_config::resource::Resource;
use waypoint_hbone::identity::Identity;
use waypoint_tests::Mesh;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::scripted_ca::Signer;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Shown, Ztunnel, get};

const FIELDS: &[&str] = &[
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER_SERIAL",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START(%Y-%m-%d %H:%M:%S)",
    "DOWNSTREAM_PEER_CERT_V_END(%s)",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_GROUP",
    "DOWNSTREAM_TLS_SESSION_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
];

fn format() -> String {
    let fields: Vec<_> = FIELDS.iter().map(|field| format!("%{field}%")).collect();
    format!("tls¦{}\n", fields.join("¦"))
}

/// One for each client.
fn values(log: &str) -> Option<Vec<BTreeMap<String, String>>> {
    let lines = log.lines().filter_map(|line| line.strip_prefix("tls¦"));
    let names = FIELDS.iter().map(|field| (*field).to_owned());
    let mut lines: Vec<BTreeMap<String, String>> = lines
        .map(|line| {
            names
                .clone()
                .zip(line.split('¦').map(str::to_owned))
                .collect()
        })
        .collect();
    lines.sort_by(|one, other| one["DOWNSTREAM_PEER_SERIAL"].cmp(&other["DOWNSTREAM_PEER_SERIAL"]));
    (lines.len() == 2).then_some(lines)
}

/// Has the listener that terminates tunnels write what it knows of them.
fn with_log(resource: &mut Resource) {
    if resource.name != "connect_terminate" {
        return;
    }
    let log = FileAccessLog {
        path: "/dev/stdout".into(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(
            SubstitutionFormatString {
                format: Some(Format::TextFormat(format())),
                ..SubstitutionFormatString::default()
            },
        )),
    };
    let log = AccessLog {
        name: "log".into(),
        config_type: Some(access_log::ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
                .into(),
            value: log.encode_to_vec(),
        })),
        ..AccessLog::default()
    };
    let mut listener = Listener::decode(resource.body.clone()).unwrap();
    let chains = listener.filter_chains.iter_mut();
    for filter in chains.flat_map(|chain| &mut chain.filters) {
        if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type
            && any.type_url.ends_with(".HttpConnectionManager")
        {
            let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
            manager.access_log.push(log.clone());
            any.value = manager.encode_to_vec();
        }
    }
    resource.body = listener.encode_to_vec().into();
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn certificates_are_printed_as_envoy_prints_them() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let mut resources = mesh.resources();
    resources.iter_mut().for_each(with_log);
    mesh.access_log_format(&format());
    let waypoint = mesh.start().await;
    let (envoy, address) = Envoy::beside(&mesh, &resources).await;
    let client = Identity::istio("cluster.local", "default", "curl").unwrap();
    let (chain, key) = Signer::open(&mesh.folder().join("ca")).talkative(&client);
    let plain = mesh.certificate("default", "curl");
    for address in [waypoint.address(), address] {
        let shown = Shown {
            chain: &chain,
            key: &key,
        };
        let talkative = Ztunnel::connect_showing(address, shown).await.unwrap();
        let plain = Ztunnel::connect(address, &plain).await.unwrap();
        for client in [talkative, plain] {
            client.request(to, get("/")).await;
            // What Envoy writes of a tunnel it writes at its end.
            client.kill();
        }
    }
    let ours = until("the waypoint's lines", async || values(&waypoint.log())).await;
    let theirs = until("Envoy's lines", async || values(&envoy.log())).await;
    let mut differences = Vec::new();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for field in FIELDS {
            let (ours, theirs) = (&ours[*field], &theirs[*field]);
            if ours != theirs {
                differences.push(format!("{field}:\n  {ours}\n  {theirs}, says Envoy"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What Envoy hands to its internal listener has no TLS of its own; what is printed here is compared in `tls_fields`.
#[tokio::test]
#[ignore = "needs Envoy"]
async fn envoy_has_nothing_of_what_carries_a_stream_in_a_tunnel() {
    const UPSTREAM: &str = "up %UPSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER% %UPSTREAM_PEER_SUBJECT% \
        %UPSTREAM_PEER_URI_SAN% %UPSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_TLS_VERSION% \
        %COMMON_DURATION(US_CX_BEG:US_HS_END:ns)%\n";
    let mesh = Mesh::new();
    let (to, _app, _ztunnel) = mesh.captured_service(1, "web").await;
    mesh.access_log_format(UPSTREAM);
    let (envoy, address) = Envoy::beside(&mesh, &mesh.resources()).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    let answer = client.get(to, "/").await;
    assert_eq!(answer.status, http::StatusCode::OK);
    let line = until("Envoy's line", async || {
        let log = envoy.log();
        log.lines()
            .find_map(|line| line.strip_prefix("up "))
            .map(str::to_owned)
    })
    .await;
    assert_eq!(line, "- - - - - - - -");
}
