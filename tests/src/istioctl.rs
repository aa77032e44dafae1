//! The real istioctl, against the API server that comes with the tests' istiod.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::istiod::Istiod;
use crate::mesh::Mesh;

/// How it is called.
pub struct Istioctl {
    folder: PathBuf,
    config: PathBuf,
}

/// What it printed.
#[derive(Clone, Debug)]
pub struct Printed {
    pub out: String,
    pub errors: String,
    pub ok: bool,
}

impl Istioctl {
    /// For a cluster that is this istiod's. `WAYPOINT_ISTIOCTL` names the program.
    #[must_use]
    pub fn new(mesh: &Mesh, istiod: &Istiod) -> Istioctl {
        let folder = mesh.folder().to_owned();
        let config = folder.join("kubeconfig");
        let server = format!("http://{}", istiod.kubernetes);
        let text = format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
             current-context: x\n"
        );
        fs::write(&config, text).unwrap();
        Istioctl { folder, config }
    }

    /// For dumps in files: there is no cluster.
    #[must_use]
    pub fn without_cluster(mesh: &Mesh) -> Istioctl {
        let folder = mesh.folder().to_owned();
        let config = folder.join("no-kubeconfig");
        Istioctl { folder, config }
    }

    /// Runs it with these words.
    ///
    /// # Panics
    /// There is no such program.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Printed {
        let program = std::env::var("WAYPOINT_ISTIOCTL").expect("WAYPOINT_ISTIOCTL names istioctl");
        let output = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", &self.config)
            .env("HOME", &self.folder)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Printed {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            ok: output.status.success(),
        }
    }

    /// The same, of which all is to go well: what it printed.
    ///
    /// # Panics
    /// It fails.
    #[must_use]
    pub fn says(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments);
        assert!(printed.ok, "istioctl {arguments:?}: {printed:?}");
        printed.out
    }
}

/// A table's rows as words.
#[must_use]
pub fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}
