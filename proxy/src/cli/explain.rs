//! `waypoint explain`: what would become of a request, by a folder or by a running waypoint. Nothing is sent there.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use waypoint_config::standalone::state::taken::taken;
use waypoint_config::standalone::{ObjectName, StandaloneSource};

use crate::cli::failure::Failure;
use crate::configuration::source::ConfigSource;
use crate::explain::explain;
use crate::explain::question::{Question, Words};
use crate::explain::report::{Outcome, Report};
use crate::pod::commands::local_http::exchange;
use crate::run::offline::Offline;

/// How long a running waypoint may take for each step of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    asked: AskedArgs,
    /// The Gateway that is asked [default: the one that the destination uses].
    #[arg(long, value_name = "NS/NAME")]
    gateway: Option<String>,
    /// The client's identity: spiffe://…, or NAMESPACE/SERVICE-ACCOUNT.
    #[arg(long, value_name = "IDENTITY")]
    from: String,
    /// The client's address [default: 192.0.2.1, which nobody has].
    #[arg(long, value_name = "IP")]
    source_ip: Option<String>,
    /// A token, or a file with one, for the Authorization header.
    #[arg(long, value_name = "FILE|TOKEN")]
    jwt: Option<String>,
    /// Where the client connects to [default: the URL's host].
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    /// The server name that a TLS client asks for, to TCP ports.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// A header of the request.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// JSON, for machines.
    #[arg(long)]
    json: bool,
    method: String,
    url: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct AskedArgs {
    /// Manifests: files and folders, YAML or JSON.
    #[arg(short = 'f', long = "filename", value_name = "PATH", num_args = 1)]
    manifests: Vec<PathBuf>,
    /// The admin port of a running waypoint.
    #[arg(long, value_name = "ADDR")]
    pod: Option<String>,
}

/// Tells it; the exit code is 0 where the request would be forwarded or redirected, 1 where it would not.
pub(crate) fn run(args: ExplainArgs) -> Result<ExitCode, Failure> {
    let jwt = args.jwt.map(token).transpose()?;
    let words = Words {
        from: args.from,
        source: args.source_ip,
        jwt,
        to: args.to,
        sni: args.sni,
        method: args.method,
        url: args.url,
        headers: args.headers,
    };
    let mut out = std::io::stdout();
    if let Some(pod) = args.asked.pod {
        let form = if args.json { "json" } else { "text" };
        let target = format!("/explain?format={form}&{}", words.to_query());
        let answer = exchange(&pod, "GET", &target, "", PATIENCE)?;
        let body = String::from_utf8_lossy(&answer.body);
        if answer.status != 200 {
            return Err(format!("{pod} answers {}: {}", answer.status, body.trim()).into());
        }
        out.write_all(body.as_bytes())?;
        return Ok(match passes(&body, args.json) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        });
    }
    let report = Folder::new(args.asked.manifests, args.gateway).ask(&words)?;
    match args.json {
        true => writeln!(out, "{:#}", report.to_json())?,
        false => write!(out, "{report}")?,
    }
    Ok(match report.verdict.outcome {
        Outcome::Forwarded | Outcome::Answered => ExitCode::SUCCESS,
        Outcome::Denied | Outcome::Unserved => ExitCode::FAILURE,
    })
}

/// Whether a report, as text or JSON, says that the request is forwarded or answered.
fn passes(report: &str, json: bool) -> bool {
    if !json {
        let mut lines = report.lines();
        let verdict = lines.find_map(|line| line.strip_prefix("verdict   "));
        return verdict.is_some_and(|says| {
            !says.starts_with(Outcome::Denied.name()) && !says.starts_with("not served")
        });
    }
    let report: Value = serde_json::from_str(report).unwrap_or_default();
    let outcome = report.pointer("/verdict/outcome").and_then(Value::as_str);
    let passing = [Outcome::Forwarded, Outcome::Answered].map(Outcome::name);
    outcome.is_some_and(|outcome| passing.contains(&outcome))
}

/// The token itself, or that of a file.
fn token(given: String) -> Result<String, Failure> {
    let file = PathBuf::from(&given);
    match file.is_file() {
        true => Ok(std::fs::read_to_string(file)?),
        false => Ok(given),
    }
}

/// Manifests that are asked; each of their waypoints is read when it is needed first.
pub(crate) struct Folder {
    paths: Vec<PathBuf>,
    gateway: Option<String>,
    read: Vec<(Option<String>, Offline)>,
}

impl Folder {
    pub(crate) fn new(paths: Vec<PathBuf>, gateway: Option<String>) -> Folder {
        Folder {
            paths,
            gateway,
            read: Vec::new(),
        }
    }

    /// Asks the waypoint that takes the request.
    pub(crate) fn ask(&mut self, words: &Words) -> Result<Report, Failure> {
        let state = StandaloneSource::new(self.paths.clone(), None).cluster_state()?;
        let trust_domain = state.mesh().trust_domain;
        let question = Question::new(words, &trust_domain)?;
        let namespace = question.from.namespace().unwrap_or("default");
        let taken = taken(&state, &question.to.0, namespace);
        let wanted = match (&self.gateway, &taken) {
            (Some(gateway), _) => Some(gateway.clone()),
            (None, Some(taken)) => match &taken.by {
                Some(by) => Some(by.to_string()),
                None => return Ok(untaken(&question, &taken.reason)),
            },
            (None, None) => None,
        };
        let offline = self.offline(wanted)?;
        let Some(snapshot) = offline.snapshot.load() else {
            return Err("the configuration isn't complete".into());
        };
        let identity = Some(offline.identity.clone());
        let mut report = explain(&snapshot, identity, &question);
        report.waypoint = taken.and_then(|taken| {
            let by: ObjectName = taken.by?;
            Some(format!("{by}: {}", taken.reason))
        });
        Ok(report)
    }

    fn offline(&mut self, gateway: Option<String>) -> Result<&Offline, Failure> {
        let known = self.read.iter().position(|(name, _)| *name == gateway);
        let index = match known {
            Some(index) => index,
            None => {
                let source = ConfigSource::Manifests {
                    paths: self.paths.clone(),
                    gateway: gateway.clone(),
                };
                self.read.push((gateway, Offline::read(source)?));
                self.read.len() - 1
            }
        };
        let (_, offline) = self.read.get(index).ok_or("no waypoint was read")?;
        Ok(offline)
    }
}

/// What no waypoint takes.
fn untaken(question: &Question, reason: &str) -> Report {
    let mut report = Report {
        from: question.from.to_string(),
        source: question.source.to_string(),
        ..Report::default()
    };
    report.verdict.details = format!("no waypoint takes it, ztunnel carries it there: {reason}");
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::report::Verdict;

    #[test]
    fn what_a_pod_says_is_read_from_its_report() {
        for (outcome, passing) in [
            (Outcome::Forwarded, true),
            (Outcome::Answered, true),
            (Outcome::Denied, false),
            (Outcome::Unserved, false),
        ] {
            let report = Report {
                verdict: Verdict {
                    outcome,
                    ..Verdict::default()
                },
                ..Report::default()
            };
            assert_eq!(passes(&report.to_string(), false), passing, "{report}");
            assert_eq!(passes(&report.to_json().to_string(), true), passing);
        }
        assert!(!passes("", false) && !passes("", true));
    }
}
