//! A real Prometheus that scrapes waypoints, and its `promtool`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tokio::sync::oneshot;

use crate::mesh::Mesh;
use crate::telemetry::http_get;
use crate::wait::{until, within};

/// A program of Prometheus' by what names it: `prometheus`, `promtool`.
fn program(name: &str) -> PathBuf {
    let folder = std::env::var("WAYPOINT_PROMETHEUS")
        .expect("WAYPOINT_PROMETHEUS is the folder with prometheus and promtool: see `make test-prometheus`");
    Path::new(&folder).join(name)
}

/// What `promtool` says; it succeeds.
///
/// # Panics
/// It doesn't.
#[must_use]
pub fn promtool(arguments: &[&str]) -> String {
    let output = Command::new(program("promtool"))
        .args(arguments)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "promtool {arguments:?}: {out}{errors}"
    );
    out
}

/// A running server.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Scrapes these twice a second, each by the name of its job, and evaluates `rules` as often.
    ///
    /// # Panics
    /// It doesn't start.
    pub async fn start(
        mesh: &Mesh,
        targets: &[(&str, SocketAddr)],
        rules: Option<&str>,
    ) -> Prometheus {
        let folder = mesh.folder().join("prometheus");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("rules.yaml"), rules.unwrap_or("groups: []\n")).unwrap();
        let jobs: String = targets
            .iter()
            .map(|(job, address)| {
                format!(
                    "- job_name: {job}\n  metrics_path: /stats/prometheus\n  static_configs: [{{targets: ['{address}']}}]\n"
                )
            })
            .collect();
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [rules.yaml]\nscrape_configs:\n{jobs}"
        );
        fs::write(folder.join("prometheus.yaml"), config).unwrap();
        let mut child = Command::new(program("prometheus"))
            .arg(format!(
                "--config.file={}",
                folder.join("prometheus.yaml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .arg("--log.format=json")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (found, address) = oneshot::channel();
        std::thread::spawn(move || {
            let mut found = Some(found);
            // What it says later must not fill its pipe.
            for line in lines.map_while(Result::ok) {
                let told: Value = serde_json::from_str(&line).unwrap_or_default();
                if told["msg"] == "Listening on"
                    && let Some(found) = found.take()
                {
                    let _ = found.send(told["address"].as_str().unwrap().parse().unwrap());
                }
            }
        });
        let address = within("Prometheus' port", address).await.unwrap();
        let server = Prometheus { child, address };
        until("Prometheus", async || {
            (http_get(address, "/-/ready").await.0 == 200).then_some(())
        })
        .await;
        server
    }

    /// The series that an expression comes to now: labels, and value as text.
    ///
    /// # Panics
    /// It is no expression.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let path = format!("/api/v1/query?query={}", escaped(expression));
        let (status, body) = http_get(self.address, &path).await;
        assert_eq!(status, 200, "{expression}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let result = &answer["data"]["result"];
        // A scalar is a pair.
        match answer["data"]["resultType"].as_str() {
            Some("scalar") => vec![result.clone()],
            _ => result.as_array().unwrap().clone(),
        }
    }

    /// Alerts that fire, by name, with all that they say.
    pub async fn firing(&self) -> Vec<(String, Value)> {
        let (_, body) = http_get(self.address, "/api/v1/alerts").await;
        let answer: Value = serde_json::from_str(&body).unwrap();
        let alerts = answer["data"]["alerts"].as_array().unwrap();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing
            .map(|alert| {
                let name = alert["labels"]["alertname"].as_str().unwrap().to_owned();
                (name, alert.clone())
            })
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As a query of a URL has it.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
