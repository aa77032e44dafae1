//! `waypoint status`: how a running waypoint is, or whether a folder could be served, in a few lines.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use waypoint_config::standalone::StandaloneSource;

use crate::cli::asked::{Asked, AskedArgs, field, offline, page};
use crate::cli::failure::Failure;
use crate::cli::terminal::{Colours, Tone};
use crate::view;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    asked: AskedArgs,
}

/// The exit code is 1 where it isn't ready.
pub(crate) fn run(args: StatusArgs) -> Result<ExitCode, Failure> {
    let shown = args.asked.shown;
    let who = args.asked.who();
    let ready = std::cell::Cell::new(false);
    let ask = || {
        let told = match &who {
            Asked::Running(admin) => page(admin, "/view/status")?,
            Asked::Folder { paths, gateway } => {
                let source = StandaloneSource::new(paths.clone(), None);
                let waypoints = source.waypoints()?;
                let offline = offline(paths, gateway.as_ref())?;
                let resources = view::resources::resources(&offline.received, "manifests", &[]);
                json!({
                    "ready": offline.snapshot.load().is_some(),
                    "state": "MANIFESTS",
                    "identity": offline.identity.as_str(),
                    "waypoints": waypoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "clusters": offline.received.clusters().len(),
                    "chains": offline.snapshot.load().map_or(0, |now| now.main.chains.len()),
                    "refused": resources["refused"],
                    "problems": offline.problems.lock().len(),
                })
            }
        };
        ready.set(told["ready"] == true);
        Ok(told)
    };
    let colours = Colours::of_stdout();
    shown.print(ask, |told| lines(told, colours))?;
    Ok(match ready.get() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn lines(told: &Value, colours: Colours) -> String {
    let number = |name: &str| told[name].as_u64().unwrap_or(0);
    let ready = match told["ready"] == true {
        true => colours.paint(Tone::Good, field(told, "state")),
        false => {
            let state = colours.paint(Tone::Bad, field(told, "state"));
            format!("{state}: {}", field(told, "reason"))
        }
    };
    let counted = |name: &str, tone: Tone| {
        let tone = if number(name) == 0 { Tone::Plain } else { tone };
        colours.paint(tone, &number(name).to_string())
    };
    let mut lines = vec![
        ("State", ready),
        ("Identity", field(told, "identity").to_owned()),
    ];
    if told["uptimeSeconds"].is_number() {
        lines.push(("Up for", duration(number("uptimeSeconds"))));
        lines.push(("Configured by", field(told, "source").to_owned()));
        lines.push(("Takes tunnels on", field(told, "hbone").to_owned()));
        lines.push((
            "Certificate",
            match told["certificateSeconds"].as_u64() {
                None => colours.paint(Tone::Bad, "none"),
                Some(left) => {
                    let tone = if left < 3600 { Tone::Warn } else { Tone::Plain };
                    let left = colours.paint(tone, &format!("{} left", duration(left)));
                    format!("{left}, to {}", field(told, "certificateExpires"))
                }
            },
        ));
    }
    lines.push(("Filter chains", number("chains").to_string()));
    lines.push(("Clusters", number("clusters").to_string()));
    lines.push(("Refused", counted("refused", Tone::Bad)));
    lines.push(("Problems", counted("problems", Tone::Warn)));
    let line = |(name, value): &(&str, String)| format!("{name:<17} {value}\n");
    lines.iter().map(line).collect()
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_few_lines() {
        let told = json!({"ready": false, "state": "INITIALIZING", "reason": "no certificate", "identity": "spiffe://a",
            "uptimeSeconds": 7300, "source": "istiod at x", "hbone": "[::]:15008", "certificateSeconds": null,
            "chains": 2, "clusters": 3, "refused": 1, "problems": 0});
        let text = lines(&told, Colours::NONE);
        assert!(
            text.starts_with("State             INITIALIZING: no certificate\n"),
            "{text}"
        );
        assert!(
            text.contains("Up for            2 h\n") && text.contains("Refused           1\n"),
            "{text}"
        );
    }
}
