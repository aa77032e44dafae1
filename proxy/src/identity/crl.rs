//! The file of revoked certificates: read at the start, and again when it changes.
//!
//! A changed file counts when two looks in a row saw the same one. One that can't be read, or isn't there any more, leaves
//! the lists that are in use: revocations end by a file that says so, not by a missing one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use waypoint_filters::metrics::{CounterFamily, MetricRegistry};
use waypoint_hbone::certificates::revocation::{RevocationError, Revocations};
use waypoint_hbone::tls::Tls;

use crate::identity::seconds_until;

/// A file larger than this is no list of a mesh's CAs.
const MAX_BYTES: u64 = 64 << 20;

/// Where the CRLs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlFile {
    pub path: PathBuf,
    /// It may not be there, and may come later.
    pub optional: bool,
}

/// Why the CRLs can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: larger than {MAX_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{}: {source}", path.display())]
    Parse {
        path: PathBuf,
        source: RevocationError,
    },
}

/// Keeps the lists in `tls` current.
pub(crate) struct CrlKeeper {
    file: CrlFile,
    tls: Tls,
    loads: Arc<CounterFamily>,
    /// The file when it was last loaded or refused, and when it was last looked at.
    judged: Option<Seen>,
    seen: Option<Seen>,
    told_overdue: bool,
}

/// Size, inode, seconds and nanoseconds of the last change.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen(u64, u64, i64, i64);

impl CrlKeeper {
    /// Reads the file for the first time.
    pub(crate) fn start(
        file: CrlFile,
        tls: Tls,
        metrics: &MetricRegistry,
    ) -> Result<CrlKeeper, CrlError> {
        let source = tls.clone();
        seconds_until::register(
            metrics,
            "waypoint_crl_next_update_seconds",
            "Seconds until the first CRL is due to be replaced; negative when it is overdue.",
            &[],
            move || source.revocations().next_update(),
        );
        let loads = metrics.counters(
            "waypoint_crl_loads_total",
            "Files of CRLs that were read, by result.",
            &["result"],
        );
        for result in ["loaded", "failed"] {
            loads.with(&[result.into()]);
        }
        let mut keeper = CrlKeeper {
            file,
            tls,
            loads,
            judged: None,
            seen: None,
            told_overdue: false,
        };
        keeper.seen = Seen::at(&keeper.file.path);
        keeper.judged = keeper.seen;
        if keeper.seen.is_some() || !keeper.file.optional {
            keeper.load()?;
        }
        Ok(keeper)
    }

    /// Looks whether the file has changed; to be called every second or so, blocks on the disk.
    pub(crate) fn poll(&mut self, now: SystemTime) {
        let seen = Seen::at(&self.file.path);
        let settled = self.seen == seen;
        self.seen = seen;
        if settled && self.judged != seen {
            self.judged = seen;
            if let Err(error) = self.load() {
                self.loads.with(&["failed".into()]).add(1);
                tracing::error!(%error, "the CRLs can't be used; those in use stay");
            }
        }
        let overdue = self
            .tls
            .revocations()
            .next_update()
            .is_some_and(|next| next < now);
        if overdue && !self.told_overdue {
            tracing::error!(file = %self.file.path.display(), "a CRL is overdue: what it revokes stays revoked, what was revoked since isn't known");
        }
        self.told_overdue = overdue;
    }

    fn load(&self) -> Result<(), CrlError> {
        let path = &self.file.path;
        let read = |source| CrlError::Read {
            path: path.clone(),
            source,
        };
        if fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
            return Err(CrlError::TooLarge(path.clone()));
        }
        let pem = fs::read(path).map_err(read)?;
        let lists = Revocations::from_pem(&pem).map_err(|source| CrlError::Parse {
            path: path.clone(),
            source,
        })?;
        self.loads.with(&["loaded".into()]).add(1);
        tracing::info!(file = %path.display(), lists = lists.count(), revoked = lists.revoked(), "CRLs loaded");
        self.tls.set_revocations(lists);
        Ok(())
    }
}

impl Seen {
    fn at(path: &Path) -> Option<Seen> {
        let file = fs::metadata(path).ok()?;
        Some(Seen(
            file.len(),
            file.ino(),
            file.ctime(),
            file.ctime_nsec(),
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use waypoint_hbone::certificates::dev_ca::DevCa;
    use waypoint_hbone::tls::TrustDomains;

    use super::*;

    struct Scene {
        path: PathBuf,
        ca: DevCa,
        tls: Tls,
        metrics: MetricRegistry,
    }

    impl Scene {
        fn new(name: &str) -> Scene {
            let path =
                std::env::temp_dir().join(format!("waypoint-crl-{name}-{}", std::process::id()));
            let _ = fs::remove_file(&path);
            Scene {
                path,
                ca: DevCa::ephemeral().unwrap(),
                tls: Tls::new(None, TrustDomains::default()),
                metrics: MetricRegistry::default(),
            }
        }

        fn start(&self, optional: bool) -> Result<CrlKeeper, CrlError> {
            let file = CrlFile {
                path: self.path.clone(),
                optional,
            };
            CrlKeeper::start(file, self.tls.clone(), &self.metrics)
        }

        fn write(&self, serials: &[&str]) {
            let now = SystemTime::now();
            let next = now + Duration::from_secs(60);
            fs::write(&self.path, self.ca.revoke(serials, now, next).unwrap()).unwrap();
        }

        fn revoked(&self) -> usize {
            self.tls.revocations().revoked()
        }

        fn metric(&self, part: &str) -> bool {
            self.metrics
                .encode()
                .lines()
                .any(|line| line.contains(part))
        }
    }

    #[test]
    fn a_changed_file_is_read_and_a_broken_or_missing_one_leaves_what_was() {
        let scene = Scene::new("changes");
        let mut keeper = scene.start(true).unwrap();
        let now = SystemTime::now();
        scene.write(&["01"]);
        keeper.poll(now);
        assert_eq!(scene.revoked(), 0, "one look is not enough");
        keeper.poll(now);
        assert_eq!(scene.revoked(), 1);
        scene.write(&["01", "02"]);
        keeper.poll(now);
        keeper.poll(now);
        assert_eq!(scene.revoked(), 2);
        fs::write(&scene.path, "no list").unwrap();
        for _ in 0..4 {
            keeper.poll(now);
        }
        fs::remove_file(&scene.path).unwrap();
        for _ in 0..4 {
            keeper.poll(now);
        }
        assert_eq!(scene.revoked(), 2);
        assert!(scene.metric(r#"waypoint_crl_loads_total{result="failed"} 2"#));
        assert!(scene.metric(r#"waypoint_crl_loads_total{result="loaded"} 2"#));
        fs::write(&scene.path, "\n").unwrap();
        keeper.poll(now);
        keeper.poll(now);
        assert_eq!(scene.revoked(), 0, "a file that says so ends revocations");
    }

    #[test]
    fn a_start_without_usable_lists_is_none() {
        let scene = Scene::new("start");
        assert!(matches!(scene.start(false), Err(CrlError::Read { .. })));
        fs::write(&scene.path, "no list").unwrap();
        for optional in [false, true] {
            let error = scene.start(optional).err().unwrap();
            assert!(matches!(error, CrlError::Parse { .. }), "{error}");
        }
        scene.write(&["01"]);
        scene.start(false).unwrap();
        assert_eq!(scene.revoked(), 1);
        assert!(scene.metric("waypoint_crl_next_update_seconds 5"));
        fs::remove_file(&scene.path).unwrap();
    }
}
