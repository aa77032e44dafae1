//! `waypoint services` and `waypoint workloads`: the mesh as its ztunnels are told of it, in the tables of
//! `istioctl ztunnel-config`, with the waypoint that each service and workload uses.
//!
//! A running waypoint is told of its own services and of all workloads, but not of other waypoints.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use waypoint_config::standalone::StandaloneSource;
use waypoint_config::standalone::state::cluster_state::ClusterState;
use waypoint_config::standalone::state::directory::{self, ServiceRow, WorkloadRow};

use crate::cli::asked::{Asked, AskedArgs, field, left_out, list, page};
use crate::cli::failure::Failure;
use crate::cli::table::{Cell, Table};
use crate::cli::terminal::{Colours, Progress, Tone};

#[derive(Debug, Args)]
pub(crate) struct DirectoryArgs {
    #[command(flatten)]
    asked: AskedArgs,
    /// Of this namespace alone.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Services,
    Workloads,
}

pub(crate) fn run(kind: Kind, args: DirectoryArgs) -> Result<ExitCode, Failure> {
    let (shown, namespace) = (args.asked.shown, args.namespace);
    let who = args.asked.who();
    let ask = || {
        let told = match (&who, kind) {
            (Asked::Running(admin), Kind::Services) => page(admin, "/view/services")?,
            (Asked::Running(admin), Kind::Workloads) => page(admin, "/view/workloads")?,
            (Asked::Folder { paths, .. }, _) => {
                let _progress = Progress::of("reading the manifests");
                of_folder(
                    kind,
                    &StandaloneSource::new(paths.clone(), None).cluster_state()?,
                )
            }
        };
        Ok(of_namespace(told, namespace.as_deref()))
    };
    let colours = Colours::of_stdout();
    shown.print(ask, |told| match kind {
        Kind::Services => services(told, colours),
        Kind::Workloads => workloads(told, colours),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn of_namespace(mut told: Value, namespace: Option<&str>) -> Value {
    let rows = ["services", "workloads"].map(|name| told.get(name).is_some().then_some(name));
    for name in rows.into_iter().flatten() {
        if let (Some(wanted), Some(rows)) = (namespace, told[name].as_array_mut()) {
            rows.retain(|row| row["namespace"].as_str() == Some(wanted));
        }
    }
    told
}

fn of_folder(kind: Kind, state: &ClusterState) -> Value {
    match kind {
        Kind::Services => {
            let rows = directory::services(state);
            json!({"services": rows.iter().map(service).collect::<Vec<_>>()})
        }
        Kind::Workloads => {
            let rows = directory::workloads(state);
            json!({"workloads": rows.iter().map(workload).collect::<Vec<_>>()})
        }
    }
}

fn service(row: &ServiceRow) -> Value {
    let by = row.waypoint.by.as_ref();
    json!({
        "namespace": row.namespace,
        "name": row.name,
        "hostname": row.hostname,
        "addresses": row.addresses,
        "waypoint": by.map(|by| &by.name),
        "waypointNamespace": by.map(|by| &by.namespace),
        "reason": row.waypoint.reason,
        "healthy": row.healthy,
        "endpoints": row.endpoints,
    })
}

fn workload(row: &WorkloadRow) -> Value {
    let by = row.waypoint.by.as_ref();
    json!({
        "namespace": row.namespace,
        "name": row.name,
        "addresses": row.addresses,
        "node": row.node,
        "waypoint": by.map(|by| &by.name),
        "waypointNamespace": by.map(|by| &by.namespace),
        "reason": row.waypoint.reason,
        "protocol": if row.hbone { "HBONE" } else { "TCP" },
        "healthy": row.healthy,
    })
}

fn services(told: &Value, colours: Colours) -> String {
    let mut table = Table::new(&[
        "NAMESPACE",
        "SERVICE NAME",
        "SERVICE VIP",
        "WAYPOINT",
        "ENDPOINTS",
    ]);
    for row in list(told, "services") {
        let (healthy, all) = (row["healthy"].as_u64(), row["endpoints"].as_u64());
        let tone = if healthy < all {
            Tone::Warn
        } else {
            Tone::Plain
        };
        let endpoints = format!("{}/{}", healthy.unwrap_or(0), all.unwrap_or(0));
        table.row([
            field(row, "namespace").into(),
            field(row, "name").into(),
            addresses(row),
            waypoint(row),
            Cell::toned(tone, endpoints),
        ]);
    }
    table.print(colours) + &left_out(told)
}

fn workloads(told: &Value, colours: Colours) -> String {
    let mut table = Table::new(&[
        "NAMESPACE",
        "POD NAME",
        "ADDRESS",
        "NODE",
        "WAYPOINT",
        "PROTOCOL",
    ]);
    for row in list(told, "workloads") {
        table.row([
            field(row, "namespace").into(),
            field(row, "name").into(),
            addresses(row),
            field(row, "node").into(),
            waypoint(row),
            field(row, "protocol").into(),
        ]);
    }
    table.print(colours) + &left_out(told)
}

fn addresses(row: &Value) -> Cell {
    let all: Vec<&str> = list(row, "addresses").filter_map(Value::as_str).collect();
    all.join(",").into()
}

/// istioctl's word for nobody is `None`.
fn waypoint(row: &Value) -> Cell {
    match row["waypoint"].as_str() {
        Some(name) => Cell::toned(Tone::Good, name),
        None => "None".into(),
    }
}
