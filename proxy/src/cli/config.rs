//! `waypoint config clusters|listeners|routes|endpoints|certs`: what is in force in a running waypoint, or would be with a
//! folder.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::asked::{Asked, AskedArgs, field, left_out, list, offline, page};
use crate::cli::failure::Failure;
use crate::cli::table::{Cell, Table};
use crate::cli::terminal::{Colours, Tone};
use crate::run::offline::Offline;
use crate::view;

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// What is shown.
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    asked: AskedArgs,
    /// Only rows that have this in them.
    #[arg(long, value_name = "TEXT")]
    matching: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Clusters,
    Listeners,
    Routes,
    Endpoints,
    Certs,
}

impl What {
    /// The page of a running waypoint that says it.
    fn page(self) -> &'static str {
        match self {
            What::Clusters | What::Endpoints => "/view/endpoints",
            What::Listeners | What::Routes => "/view/routes",
            What::Certs => "/certs",
        }
    }

    /// The same of manifests; a folder has no certificate, only whose it would be.
    fn offline(self, offline: &Offline) -> Result<Value, Failure> {
        Ok(match self {
            What::Clusters | What::Endpoints => {
                view::endpoints::endpoints(&offline.received.clusters(), Instant::now())
            }
            What::Listeners | What::Routes => {
                let snapshot = offline.snapshot.load();
                let snapshot = snapshot.ok_or("the configuration isn't complete")?;
                view::routes::routes(&snapshot)
            }
            What::Certs => {
                json!({"identity": offline.identity.as_str(), "certificates": []})
            }
        })
    }

    fn table(self, told: &Value, matching: &str, colours: Colours) -> String {
        let mut table = match self {
            What::Clusters => clusters(told),
            What::Listeners => listeners(told),
            What::Routes => routes(told),
            What::Endpoints => endpoints(told),
            What::Certs => certs(told),
        };
        table.keep(matching);
        table.print(colours) + &left_out(told)
    }
}

pub(crate) fn run(args: ConfigArgs) -> Result<ExitCode, Failure> {
    let (what, shown) = (args.what, args.asked.shown);
    let who = args.asked.who();
    let ask = || match &who {
        Asked::Running(admin) => page(admin, what.page()),
        Asked::Folder { paths, gateway } => what.offline(&offline(paths, gateway.as_ref())?),
    };
    let colours = Colours::of_stdout();
    let matching = args.matching.unwrap_or_default();
    shown.print(ask, |told| what.table(told, &matching, colours))?;
    Ok(ExitCode::SUCCESS)
}

/// Host, port and subset in a cluster's name; of others the name.
fn parts(name: &str) -> [String; 3] {
    let parts: Vec<&str> = name.split('|').collect();
    match parts.as_slice() {
        [_, port, subset, host] => {
            let subset = subset.split_once('/').map_or("-", |(_, subset)| subset);
            [(*host).to_owned(), (*port).to_owned(), subset.to_owned()]
        }
        _ => [name.to_owned(), "-".to_owned(), "-".to_owned()],
    }
}

fn number(value: &Value) -> String {
    value.as_u64().unwrap_or(0).to_string()
}

fn clusters(told: &Value) -> Table {
    let mut table = Table::new(&[
        "SERVICE FQDN",
        "PORT",
        "SUBSET",
        "TYPE",
        "BALANCING",
        "HEALTHY",
        "EJECTED",
    ]);
    for row in list(told, "clusters") {
        let [host, port, subset] = parts(field(row, "name"));
        let (healthy, all) = (number(&row["healthy"]), number(&row["total"]));
        let ejected = row["ejections"]["active"].as_u64();
        table.row([
            host.into(),
            port.into(),
            subset.into(),
            field(row, "discovery").into(),
            field(row, "balancing").into(),
            Cell::toned(
                if healthy == all {
                    Tone::Plain
                } else {
                    Tone::Warn
                },
                format!("{healthy}/{all}"),
            ),
            match ejected {
                None => "-".into(),
                Some(0) => "0".into(),
                Some(some) => Cell::toned(Tone::Bad, some.to_string()),
            },
        ]);
    }
    table
}

fn listeners(told: &Value) -> Table {
    let mut table = Table::new(&["ADDRESS", "PORT", "SERVICE", "PROTOCOL", "CHAIN"]);
    for row in list(told, "chains") {
        let protocol = field(row, "protocol");
        let tone = if protocol == "closed" {
            Tone::Bad
        } else {
            Tone::Plain
        };
        table.row([
            or_dash(field(row, "address")),
            row["port"]
                .as_u64()
                .map_or("-".into(), |port| port.to_string().into()),
            or_dash(field(row, "host")),
            Cell::toned(tone, protocol),
            field(row, "name").into(),
        ]);
    }
    table
}

fn or_dash(text: &str) -> Cell {
    if text.is_empty() {
        "-".into()
    } else {
        text.into()
    }
}

fn routes(told: &Value) -> Table {
    let mut table = Table::new(&[
        "SERVICE",
        "ROUTE",
        "MATCH",
        "TO",
        "CONFIGURED",
        "MET",
        "TAKEN",
    ]);
    for chain in list(told, "chains") {
        let service = match (chain["host"].as_str(), chain["port"].as_u64()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => field(chain, "name").to_owned(),
        };
        for route in list(chain, "routes") {
            let head = || {
                [
                    service.as_str().into(),
                    or_dash(field(route, "name")),
                    or_dash(field(route, "asks")),
                ]
            };
            if field(route, "action") != "forward" {
                let does = format!("{} {}", field(route, "action"), number(&route["status"]));
                let rest = [
                    does.into(),
                    "-".into(),
                    "-".into(),
                    number(&route["taken"]).into(),
                ];
                table.row(head().into_iter().chain(rest));
                continue;
            }
            let all: u64 = list(route, "clusters")
                .filter_map(|one| one["taken"].as_u64())
                .sum();
            for one in list(route, "clusters") {
                let taken = one["taken"].as_u64().unwrap_or(0);
                let met = match all {
                    0 => "-".to_owned(),
                    all => format!("{:.1} %", taken as f64 * 100.0 / all as f64),
                };
                let [host, port, subset] = parts(field(one, "name"));
                let subset = if subset == "-" {
                    String::new()
                } else {
                    format!(" {subset}")
                };
                let exists = if one["exists"] == true {
                    Tone::Plain
                } else {
                    Tone::Bad
                };
                let rest = [
                    Cell::toned(exists, format!("{host}:{port}{subset}")),
                    format!("{:.1} %", one["percent"].as_f64().unwrap_or(0.0)).into(),
                    met.into(),
                    taken.to_string().into(),
                ];
                table.row(head().into_iter().chain(rest));
            }
        }
    }
    table
}

fn endpoints(told: &Value) -> Table {
    let mut table = Table::new(&[
        "ENDPOINT",
        "STATUS",
        "OUTLIER CHECK",
        "HEALTH CHECK",
        "PROTOCOL",
        "WORKLOAD",
        "CLUSTER",
    ]);
    for cluster in list(told, "clusters") {
        for row in list(cluster, "endpoints") {
            let healthy = row["healthy"] == true;
            let ejected = row["ejected"] == true;
            let checked = row["failsChecks"].as_bool();
            table.row([
                field(row, "address").into(),
                match healthy {
                    true => Cell::toned(Tone::Good, "HEALTHY"),
                    false => Cell::toned(Tone::Bad, "UNHEALTHY"),
                },
                match ejected {
                    false => Cell::toned(Tone::Good, "OK"),
                    true => Cell::toned(Tone::Bad, "FAILED"),
                },
                match checked {
                    None => "-".into(),
                    Some(false) => Cell::toned(Tone::Good, "OK"),
                    Some(true) => Cell::toned(Tone::Bad, "FAILED"),
                },
                if row["hbone"] == true { "HBONE" } else { "TCP" }.into(),
                or_dash(field(row, "workload")),
                field(cluster, "name").into(),
            ]);
        }
    }
    table
}

fn certs(told: &Value) -> Table {
    let mut table = Table::new(&[
        "TYPE",
        "NAME",
        "SERIAL NUMBER",
        "NOT BEFORE",
        "NOT AFTER",
        "DAYS LEFT",
    ]);
    if let Some(identity) = told["identity"].as_str() {
        let dashes = std::iter::repeat_n(Cell::from("-"), 4);
        table.row(
            ["None yet".into(), identity.into()]
                .into_iter()
                .chain(dashes),
        );
    }
    for held in list(told, "certificates") {
        for (kind, certificates) in [("Cert Chain", "cert_chain"), ("CA", "ca_cert")] {
            for one in list(held, certificates) {
                let names: Vec<&str> = list(one, "subject_alt_names")
                    .map(|name| field(name, "uri"))
                    .collect();
                let days = field(one, "days_until_expiration");
                table.row([
                    kind.into(),
                    or_dash(&names.join(",")),
                    field(one, "serial_number").into(),
                    field(one, "valid_from").into(),
                    field(one, "expiration_time").into(),
                    days.into(),
                ]);
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_name_has_parts() {
        assert_eq!(parts("inbound-vip|80|http/v1|a.b"), ["a.b", "80", "v1"]);
        assert_eq!(parts("inbound-vip|80|http|a.b"), ["a.b", "80", "-"]);
        assert_eq!(parts("encap"), ["encap", "-", "-"]);
    }

    #[test]
    fn shares_are_told_as_configured_and_as_met() {
        let told = json!({"chains": [{"host": "a", "port": 80, "routes": [
            {"name": "r", "asks": "x", "action": "forward", "taken": 4, "clusters": [
                {"name": "inbound-vip|80|http|b", "percent": 75.0, "taken": 3, "exists": true},
                {"name": "inbound-vip|80|http|c", "percent": 25.0, "taken": 1, "exists": true}]},
            {"name": "", "asks": "y", "action": "redirect", "status": 301, "taken": 2}]}]});
        let text = routes(&told).print(Colours::NONE);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1],
            ["a:80", "r", "x", "b:80", "75.0", "%", "75.0", "%", "3"]
        );
        assert_eq!(
            lines[3],
            ["a:80", "-", "y", "redirect", "301", "-", "-", "2"]
        );
    }
}
