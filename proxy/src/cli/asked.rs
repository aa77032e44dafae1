//! Who is asked: a running waypoint, by its admin port, or a folder of manifests.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::terminal::{Progress, watched};
use crate::configuration::source::ConfigSource;
use crate::pod::commands::local_http::exchange;
use crate::run::offline::Offline;

/// How long a running waypoint may take for each step of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is watched is looked at so often.
const EVERY: Duration = Duration::from_secs(2);

/// The admin port where none is named: a pod's own, or the end of a port-forward to one.
pub(crate) const ADMIN: &str = "127.0.0.1:15000";

#[derive(Debug, Args)]
pub(crate) struct AskedArgs {
    /// The admin port of a running waypoint [default: 127.0.0.1:15000, unless -f is given].
    #[arg(long, value_name = "ADDR", conflicts_with = "manifests")]
    admin: Option<String>,
    /// Manifests instead: files and folders, YAML or JSON.
    #[arg(short = 'f', long = "filename", value_name = "PATH", num_args = 1..)]
    manifests: Vec<PathBuf>,
    /// The Gateway that is asked of several in the manifests.
    #[arg(long, value_name = "NS/NAME", requires = "manifests")]
    gateway: Option<String>,
    #[command(flatten)]
    pub(crate) shown: ShownArgs,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ShownArgs {
    /// JSON, for machines.
    #[arg(long)]
    pub(crate) json: bool,
    /// Show it again every two seconds.
    #[arg(short = 'w', long)]
    pub(crate) watch: bool,
}

/// Who is asked.
pub(crate) enum Asked {
    Running(String),
    Folder {
        paths: Vec<PathBuf>,
        gateway: Option<String>,
    },
}

impl AskedArgs {
    pub(crate) fn who(self) -> Asked {
        match self.manifests.is_empty() {
            true => Asked::Running(self.admin.unwrap_or_else(|| ADMIN.to_owned())),
            false => Asked::Folder {
                paths: self.manifests,
                gateway: self.gateway,
            },
        }
    }
}

impl ShownArgs {
    /// Prints what is asked for, as JSON or as `table` makes it for people, once or again and again.
    pub(crate) fn print(
        self,
        ask: impl Fn() -> Result<Value, Failure>,
        table: impl Fn(&Value) -> String,
    ) -> Result<(), Failure> {
        watched(self.watch.then_some(EVERY), || {
            let told = ask()?;
            Ok(match self.json {
                true => format!("{told:#}\n"),
                false => table(&told),
            })
        })
    }
}

/// A page of a running waypoint, as JSON.
pub(crate) fn page(admin: &str, target: &str) -> Result<Value, Failure> {
    let body = text(admin, "GET", target)?;
    Ok(serde_json::from_str(&body)?)
}

/// A page of a running waypoint, as text.
pub(crate) fn text(admin: &str, method: &str, target: &str) -> Result<String, Failure> {
    let failed = |error| format!("no waypoint answers at {admin}: {error}");
    let answer = exchange(admin, method, target, "", PATIENCE).map_err(failed)?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    match answer.status {
        200 => Ok(body),
        status => Err(format!("{admin} answers {status}: {}", body.trim()).into()),
    }
}

/// What a process with these manifests would serve by.
pub(crate) fn offline(paths: &[PathBuf], gateway: Option<&String>) -> Result<Offline, Failure> {
    let _progress = Progress::of("reading the manifests");
    let source = ConfigSource::Manifests {
        paths: paths.to_vec(),
        gateway: gateway.cloned(),
    };
    Ok(Offline::read(source)?)
}

/// A field's text; empty where there is none.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A list's elements; none where there is no list.
pub(crate) fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

/// What a view left out, told below a table.
pub(crate) fn left_out(value: &Value) -> String {
    match value["leftOut"].as_u64() {
        None | Some(0) => String::new(),
        Some(more) => format!("and {more} more\n"),
    }
}
