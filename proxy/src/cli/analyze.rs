//! `waypoint analyze`: what of a folder's objects is invalid, not honoured, or without effect on a waypoint.
//!
//! An object that a process would refuse all manifests for hides nothing else here: it is told, and left out. What is sound and
//! for others is a line for each reason, and never makes the command fail. What the manifests come to is compiled as well: what of
//! it a running waypoint refuses is told by its name in xDS.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use waypoint_config::resource::Update;
use waypoint_config::standalone::{
    Aside, LoadError, ObjectName, ParentStatus, Problem, Severity, StandaloneSource, Translation,
};
use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_config::store::{OnRefused, Store};
use waypoint_filters::host::detached::DetachedHost;
use waypoint_filters::xds::rejected::Rejected;

use crate::cli::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// Manifests: files and folders, YAML or JSON.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    manifests: Vec<PathBuf>,
    /// The Gateway that it is analyzed for [default: each of class istio-waypoint].
    #[arg(long, value_name = "NS/NAME")]
    gateway: Option<String>,
    /// What makes the command fail.
    #[arg(long, value_enum, default_value = "warning")]
    fail_on: FailOn,
    /// Tell the status that istiod would write of each parent of each route, instead.
    #[arg(long)]
    status: bool,
    /// JSON, for machines.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum FailOn {
    Warning,
    Error,
    Never,
}

/// What was found.
#[derive(Debug)]
struct Found {
    /// Why a process would take nothing of the manifests.
    refused: Vec<LoadError>,
    problems: Vec<Finding>,
    /// What is translated and can't be honoured.
    rejected: Vec<Rejected>,
    /// What is for none of the waypoints.
    asides: Vec<Aside>,
}

/// One thing that was found.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    gateway: Option<ObjectName>,
    problem: Problem,
}

/// Tells what was found; the exit code is 1 where it is as bad as `--fail-on` says.
pub(crate) fn run(args: AnalyzeArgs) -> Result<ExitCode, Failure> {
    if args.status {
        return statuses(&args);
    }
    let found = findings(&args)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", found.to_json())?;
    } else {
        found.write(&mut out)?;
    }
    let levels = found.problems.iter().map(|f| level(f.problem.severity));
    let errors = found.refused.len() + found.rejected.len();
    let mut levels = levels.chain(std::iter::repeat_n("error", errors));
    let fails = match args.fail_on {
        FailOn::Warning => levels.next().is_some(),
        FailOn::Error => levels.any(|level| level == "error"),
        FailOn::Never => false,
    };
    Ok(match fails {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// Tells the status of routes; the exit code is 1 where a condition doesn't hold, unless it never is to be.
fn statuses(args: &AnalyzeArgs) -> Result<ExitCode, Failure> {
    let mut found: Vec<ParentStatus> = Vec::new();
    for gateway in gateways(args)? {
        let source = StandaloneSource::new(args.manifests.clone(), Some(gateway));
        for status in source.examine()?.statuses {
            if !found.contains(&status) {
                found.push(status);
            }
        }
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let all: Vec<Value> = found.iter().map(status_json).collect();
        writeln!(out, "{:#}", Value::Array(all))?;
    } else {
        for status in &found {
            writeln!(out, "{status}")?;
        }
    }
    let mut conditions = found.iter().flat_map(|status| &status.conditions);
    Ok(match args.fail_on {
        FailOn::Warning | FailOn::Error if conditions.any(|c| !c.holds) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

fn status_json(status: &ParentStatus) -> Value {
    let conditions = status.conditions.iter().map(|condition| {
        json!({
            "type": condition.name,
            "status": if condition.holds { "True" } else { "False" },
            "reason": condition.reason,
            "message": condition.message,
        })
    });
    json!({
        "route": status.route,
        "parent": status.parent,
        "port": status.port,
        "sectionName": status.section,
        "conditions": conditions.collect::<Vec<_>>(),
    })
}

/// What is found for each waypoint; what several say of an object is told once.
fn findings(args: &AnalyzeArgs) -> Result<Found, Failure> {
    let wanted = args.gateway.as_deref().map(named).transpose()?;
    let source = StandaloneSource::new(args.manifests.clone(), wanted);
    let examined = source.examine_sound()?;
    let several = examined.translations.len() > 1;
    let mut problems: Vec<Finding> = Vec::new();
    let mut rejected: Vec<Rejected> = Vec::new();
    for (gateway, translation) in &examined.translations {
        for refusal in rejections(translation) {
            if !rejected.contains(&refusal) {
                rejected.push(refusal);
            }
        }
        for problem in &translation.problems {
            if !problems.iter().any(|known| known.problem == *problem) {
                problems.push(Finding {
                    gateway: several.then(|| gateway.clone()),
                    problem: problem.clone(),
                });
            }
        }
    }
    Ok(Found {
        refused: examined.refused,
        problems,
        rejected,
        asides: for_others(&examined.translations),
    })
}

/// What a process would refuse of the resources.
fn rejections(translation: &Translation) -> Vec<Rejected> {
    let host = Arc::new(DetachedHost::default());
    let mut store = Store::new(host, WorkloadIndex::default(), OnRefused::Keep);
    let outcome = store.apply(Update {
        added: translation.resources.clone(),
        ..Update::default()
    });
    outcome.rejected
}

/// What each of the waypoints says is for others.
fn for_others(translations: &[(ObjectName, Translation)]) -> Vec<Aside> {
    let mut times: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (_, translation) in translations {
        for aside in &translation.asides {
            for object in &aside.objects {
                *times.entry((aside.kind, object)).or_default() += 1;
            }
        }
    }
    let of_all = |aside: &Aside| {
        let objects = aside.objects.iter();
        let of_all = objects.filter(|object| {
            times.get(&(aside.kind, object.as_str())) >= Some(&translations.len())
        });
        let objects: Vec<String> = of_all.cloned().collect();
        (!objects.is_empty()).then(|| Aside {
            objects,
            ..aside.clone()
        })
    };
    let first = translations.first().into_iter();
    first
        .flat_map(|(_, t)| t.asides.iter().filter_map(of_all))
        .collect()
}

/// The Gateway that is asked about, or all waypoints.
fn gateways(args: &AnalyzeArgs) -> Result<Vec<ObjectName>, Failure> {
    let Some(name) = &args.gateway else {
        return Ok(StandaloneSource::new(args.manifests.clone(), None).waypoints()?);
    };
    Ok(vec![named(name)?])
}

fn named(gateway: &str) -> Result<ObjectName, Failure> {
    let (namespace, name) = gateway
        .split_once('/')
        .ok_or_else(|| format!("--gateway {gateway:?}: expected NAMESPACE/NAME"))?;
    Ok(ObjectName::new(namespace, name))
}

/// An error protects less, or serves less, than its author meant.
fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::NoEffect | Severity::Ignored => "warning",
        Severity::FailClosed | Severity::Broken | Severity::Fatal => "error",
    }
}

/// What an object comes to that a process refuses all manifests for.
const REFUSES_ALL: &str = "refuses all manifests";
/// What a resource comes to that can't be honoured.
const REJECTED: &str = "refused, what it is for is closed";

impl Found {
    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        for error in &self.refused {
            writeln!(out, "error {error} ({REFUSES_ALL})")?;
        }
        for finding in &self.problems {
            let level = level(finding.problem.severity);
            let gateway = finding.gateway.as_ref();
            let gateway = gateway.map_or(String::new(), |name| format!(" [{name}]"));
            writeln!(out, "{level}{gateway} {}", finding.problem)?;
        }
        for rejected in &self.rejected {
            writeln!(out, "error {rejected} ({REJECTED})")?;
        }
        for aside in &self.asides {
            writeln!(out, "info {aside}")?;
        }
        match self.refused.len() + self.problems.len() + self.rejected.len() {
            0 => writeln!(out, "nothing is invalid, not honoured or without effect"),
            number => writeln!(out, "{number} found"),
        }
    }

    /// One element for each object that something is said of.
    fn to_json(&self) -> Value {
        let refused = self.refused.iter().map(refused_json);
        let problems = self.problems.iter().map(Finding::to_json);
        let rejected = self.rejected.iter().map(rejected_json);
        let asides = self.asides.iter().flat_map(aside_json);
        let found = refused.chain(problems).chain(rejected);
        found.chain(asides).collect()
    }
}

fn refused_json(error: &LoadError) -> Value {
    json!({
        "level": "error",
        "gateway": null,
        "object": error.resource,
        "field": error.field.as_deref().unwrap_or_default(),
        "reason": error.reason,
        "effect": REFUSES_ALL,
        "file": error.file.display().to_string(),
        "document": error.document,
    })
}

fn rejected_json(rejected: &Rejected) -> Value {
    json!({
        "level": "error",
        "gateway": null,
        "object": rejected.resource,
        "field": rejected.field,
        "reason": rejected.reason,
        "effect": REJECTED,
        "file": null,
        "document": null,
    })
}

fn aside_json(aside: &Aside) -> impl Iterator<Item = Value> {
    aside.objects.iter().map(|object| {
        json!({
            "level": "info",
            "gateway": null,
            "object": format!("{} {object}", aside.kind),
            "field": "",
            "reason": aside.reason,
            "effect": "not for this waypoint",
            "file": null,
            "document": null,
        })
    })
}

impl Finding {
    fn to_json(&self) -> Value {
        let problem = &self.problem;
        json!({
            "level": level(problem.severity),
            "gateway": self.gateway.as_ref().map(ToString::to_string),
            "object": problem.resource,
            "field": problem.field,
            "reason": problem.reason,
            "effect": problem.severity.effect(),
            "file": problem.origin.file.display().to_string(),
            "document": problem.origin.document,
        })
    }
}
