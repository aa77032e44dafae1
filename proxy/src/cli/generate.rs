//! `waypoint generate` and `waypoint enroll`: the Gateway of a waypoint, and the label with which a namespace uses it, as
//! `istioctl waypoint generate` and `apply --enroll-namespace` make them.
//!
//! Nothing is sent to a cluster: what is printed is for `kubectl apply`, or for a folder of manifests.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use waypoint_config::standalone::StandaloneSource;

use crate::cli::failure::Failure;

const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// The waypoint's namespace [default: none is written].
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct GatewayArgs {
    /// The waypoint's name.
    #[arg(long, default_value = "waypoint")]
    name: String,
    /// What it takes [default: what the control plane does, services].
    #[arg(long = "for", value_enum)]
    traffic: Option<Traffic>,
    /// The revision of the control plane that it belongs to.
    #[arg(short, long)]
    revision: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Traffic {
    Service,
    Workload,
    All,
    None,
}

#[derive(Debug, Args)]
pub(crate) struct EnrollArgs {
    /// The namespace that is to use the waypoint, and that the waypoint is in.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Manifests that have the namespace: its other labels stay, and one that names another waypoint is told.
    #[arg(short = 'f', long = "filename", value_name = "PATH", num_args = 1..)]
    manifests: Vec<PathBuf>,
    /// Also where the namespace uses a waypoint already.
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn generate(args: &GenerateArgs) -> Result<ExitCode, Failure> {
    let text = gateway(&args.gateway, args.namespace.as_deref())?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn enroll(args: &EnrollArgs) -> Result<ExitCode, Failure> {
    let (mut out, mut told) = (std::io::stdout(), std::io::stderr());
    let mut labels = match args.manifests.is_empty() {
        true => BTreeMap::new(),
        false => {
            let source = StandaloneSource::new(args.manifests.clone(), None);
            let state = source.cluster_state()?;
            let namespace = state.namespaces.get(&args.namespace);
            namespace
                .map(|meta| meta.labels.clone())
                .unwrap_or_default()
        }
    };
    if labels.contains_key(USE_WAYPOINT) && !args.overwrite {
        writeln!(
            told,
            "⚠️ Warning: namespace ({}) already has an enrolled Waypoint. Consider adding the `--overwrite` flag.",
            args.namespace
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.manifests.is_empty()
        && labels.get(DATAPLANE_MODE).map(String::as_str) != Some("ambient")
    {
        writeln!(
            told,
            "⚠️ Warning: namespace is not enrolled in ambient. Consider running\t`kubectl label namespace {} {DATAPLANE_MODE}=ambient`",
            args.namespace
        )?;
    }
    // The API server's own.
    labels.remove(NAMESPACE_NAME);
    labels.insert(USE_WAYPOINT.to_owned(), name(&args.gateway)?.to_owned());
    let gateway = gateway(&args.gateway, Some(&args.namespace))?;
    let labels: String = labels
        .iter()
        .map(|(name, value)| format!("    {}: {}\n", scalar(name), scalar(value)))
        .collect();
    write!(
        out,
        "{gateway}---\napiVersion: v1\nkind: Namespace\nmetadata:\n  labels:\n{labels}  name: {}\n",
        scalar(&args.namespace)
    )?;
    Ok(ExitCode::SUCCESS)
}

/// As istioctl: an empty name is the usual one, and `none` means that there is none.
fn name(args: &GatewayArgs) -> Result<&str, Failure> {
    match args.name.as_str() {
        "" => Ok("waypoint"),
        "none" => Err("invalid name provided for waypoint, 'none' is a reserved value".into()),
        name => Ok(name),
    }
}

fn gateway(args: &GatewayArgs, namespace: Option<&str>) -> Result<String, Failure> {
    let mut labels = String::new();
    if let Some(revision) = args
        .revision
        .as_deref()
        .filter(|revision| !revision.is_empty())
    {
        labels.push_str(&format!("    istio.io/rev: {}\n", scalar(revision)));
    }
    if let Some(traffic) = args.traffic.and_then(|traffic| traffic.to_possible_value()) {
        labels.push_str(&format!(
            "    istio.io/waypoint-for: {}\n",
            traffic.get_name()
        ));
    }
    if !labels.is_empty() {
        labels.insert_str(0, "  labels:\n");
    }
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let namespace = namespace.map_or(String::new(), |namespace| {
        format!("  namespace: {}\n", scalar(namespace))
    });
    Ok(format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n{labels}  name: {}\n{namespace}\
         spec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  - name: mesh\n    port: 15008\n    protocol: HBONE\n",
        scalar(name(args)?)
    ))
}

/// A name as YAML has it: with quotes where it would be something else than a text without them.
fn scalar(text: &str) -> String {
    let plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/' | '_'))
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "null"
        );
    // A number begins with a digit; so do names that are none, like 1-20.
    let is_number = text.parse::<f64>().is_ok() || text.starts_with("0x");
    let digits = text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
    match plain || (digits && !is_number && !is_date(text)) {
        true => text.to_owned(),
        false => format!("{text:?}"),
    }
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let digits = |part: &&str| part.chars().all(|c| c.is_ascii_digit());
    parts.len() == 3 && parts.iter().all(digits) && parts.first().is_some_and(|y| y.len() == 4)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_numbers_or_words_of_yaml_stand_in_quotes() {
        for plain in ["waypoint", "1-20-3", "a.b", "1a"] {
            assert_eq!(scalar(plain), plain);
        }
        for quoted in ["123", "1.20", "true", "no", "1e3", "2001-01-02", ""] {
            assert_eq!(scalar(quoted), format!("{quoted:?}"));
        }
    }

    #[test]
    fn labels_stand_where_they_are_asked_for() {
        let args = |traffic, revision: Option<&str>| GatewayArgs {
            name: "waypoint".into(),
            traffic,
            revision: revision.map(Into::into),
        };
        let bare = gateway(&args(None, None), None).unwrap();
        assert!(
            !bare.contains("labels") && !bare.contains("namespace"),
            "{bare}"
        );
        let full = gateway(&args(Some(Traffic::All), Some("canary")), Some("shop")).unwrap();
        assert!(full.contains("  labels:\n    istio.io/rev: canary\n    istio.io/waypoint-for: all\n  name: waypoint\n  namespace: shop\n"), "{full}");
        let none = GatewayArgs {
            name: "none".into(),
            ..args(None, None)
        };
        assert!(gateway(&none, None).is_err());
    }
}
