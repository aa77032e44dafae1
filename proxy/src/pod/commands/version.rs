//! `version`: in the forms of `pilot-agent version`, for scripts that read it in the pod.
//!
//! The version is the Istio version that istiod is told; our own stands in the tag.

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::pod::environment::ISTIO_VERSION;

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// The version alone.
    #[arg(short, long)]
    short: bool,
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Json,
    Yaml,
}

/// What is printed.
pub(crate) fn version(args: &VersionArgs) -> String {
    let version = std::env::var("ISTIO_META_ISTIO_VERSION").ok();
    text(args, version.as_deref().unwrap_or(ISTIO_VERSION))
}

fn text(args: &VersionArgs, version: &str) -> String {
    let tag = concat!("waypoint-", env!("CARGO_PKG_VERSION"));
    let info = json!({"version": version, "revision": "unknown", "status": "Clean", "tag": tag});
    match args.output {
        Some(Output::Json) => format!("{:#}\n", json!({ "clientVersion": info })),
        Some(Output::Yaml) => {
            let lines = info.as_object().into_iter().flatten();
            let lines = lines
                .map(|(name, value)| format!("  {name}: {}\n", value.as_str().unwrap_or_default()));
            format!("clientVersion:\n{}", lines.collect::<String>())
        }
        None if args.short => format!("client version: {version}\n"),
        None => format!("client version: {version}-unknown-Clean ({tag})\n"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn all_forms_say_the_same_version() {
        let print = |short, output| text(&VersionArgs { short, output }, "1.31.0");
        assert_eq!(print(true, None), "client version: 1.31.0\n");
        assert!(print(false, None).starts_with("client version: 1.31.0-"));
        let json: Value = serde_json::from_str(&print(false, Some(Output::Json))).unwrap();
        assert_eq!(json["clientVersion"]["version"], "1.31.0");
        let yaml =
            waypoint_config::standalone::input::yaml::embedded(&print(false, Some(Output::Yaml)));
        assert_eq!(yaml.unwrap(), json);
    }
}
