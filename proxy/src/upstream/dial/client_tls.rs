//! What TLS to endpoints is made with: keys and roots as their files, the mesh's CA, or whoever configures have them now.
//!
//! Files are looked at when a connection is made, at most once a second: who makes none needs no news. A file that can't be used leaves
//! what was read before. Connections that stand keep what they were made with, as Envoy's do. A secret that has just been asked for
//! is waited for, within the time that a connection may take.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use waypoint_config::model::cluster::secret::{KeySource, RevocationsSource, RootsSource};
use waypoint_config::model::cluster::upstream_tls::UpstreamTls;
use waypoint_filters::metrics::{CounterFamily, MetricRegistry};
use waypoint_hbone::tls::Tls;
use waypoint_hbone::tls::credentials::{ClientKey, OriginationError, ServerRoots};
use waypoint_hbone::tls::origination::{
    OriginatedStream, Origination, OriginationSettings, ServerToReach,
};
use waypoint_hbone::tls::origination_failure::handshake_reason;
use waypoint_hbone::tls::tls_info::TlsInfo;

/// How long files are taken to be as they were.
const FRESH: Duration = Duration::from_secs(1);
/// A file larger than this holds neither keys nor roots.
const MAX_BYTES: u64 = 8 << 20;
/// Where systems have their roots, as Istio's agent looks for them.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Makes TLS connections to endpoints; one for the process.
pub(crate) struct ClientTls {
    own: Tls,
    /// The system's roots.
    system: Option<PathBuf>,
    handshakes: Arc<CounterFamily>,
}

/// Of one cluster's settings.
#[derive(Default)]
struct Live {
    made: ArcSwapOption<Made>,
    /// Who makes it anew; the others wait.
    turn: Mutex<()>,
}

struct Made {
    with: Result<Origination, String>,
    made_of: MadeOf,
    files: Vec<Option<Seen>>,
    looked: Instant,
}

/// Versions of what isn't in files: the own certificate, and secrets that were delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MadeOf {
    own: u64,
    key: u64,
    roots: u64,
}

/// Size, inode, seconds and nanoseconds of the last change.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen(u64, u64, i64, i64);

/// Why a connection has no TLS.
#[derive(Debug, thiserror::Error)]
enum SecretError {
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: larger than {MAX_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("the workload has no certificate yet")]
    NoOwn,
    #[error("the system has no file of roots")]
    NoSystemRoots,
    #[error("secret {0:?} is not supplied")]
    NotDelivered(Arc<str>),
    #[error(transparent)]
    Unusable(#[from] OriginationError),
}

impl ClientTls {
    /// `system` is the file of the system's roots, where it isn't one of the usual.
    pub(crate) fn new(own: Tls, system: Option<PathBuf>, metrics: &MetricRegistry) -> ClientTls {
        let usual = || {
            SYSTEM_ROOTS
                .iter()
                .map(PathBuf::from)
                .find(|path| path.exists())
        };
        let handshakes = metrics.counters(
            "waypoint_upstream_tls_handshakes_total",
            "TLS handshakes with endpoints that TLS is configured for (not HBONE's), by result.",
            &["result"],
        );
        for result in ["done", "failed", "no_secret"] {
            handshakes.with(&[result.into()]);
        }
        ClientTls {
            own,
            system: system.or_else(usual),
            handshakes,
        }
    }

    /// The handshake with an endpoint. An error is why there was none, as logs tell it.
    pub(crate) async fn connect<T>(
        &self,
        settings: &Arc<UpstreamTls>,
        io: T,
        endpoint: SocketAddr,
        server: ServerToReach<'_>,
    ) -> Result<(OriginatedStream<T>, TlsInfo), String>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let count = |result: &'static str| self.handshakes.with(&[result.into()]).add(1);
        settled(settings).await;
        let made = self.made(settings).await;
        let with = made.with.as_ref().map_err(|reason| {
            count("no_secret");
            match is_delivered(settings) {
                true => format!("TLS_error:{reason}:TLS_error_end"),
                // Envoy's words.
                false => "TLS error: Secret is not supplied by SDS".to_owned(),
            }
        })?;
        match with.connect(io, endpoint.ip(), server).await {
            Ok(stream) => {
                count("done");
                let info = with.info(&stream);
                Ok((stream, info))
            }
            Err(error) => {
                count("failed");
                Err(handshake_reason(&error))
            }
        }
    }

    async fn made(&self, settings: &Arc<UpstreamTls>) -> Arc<Made> {
        let live = settings.live.get_or_init(|| Box::<Live>::default());
        let unkept = Live::default();
        // Nobody else fills the cell.
        let live: &Live = live.downcast_ref().unwrap_or(&unkept);
        let made_of = MadeOf::now(settings, &self.own);
        let is_fresh = |made: &Made| {
            made.made_of == made_of && (made.files.is_empty() || made.looked.elapsed() < FRESH)
        };
        if let Some(made) = live.made.load_full().filter(|made| is_fresh(made)) {
            return made;
        }
        let _turn = live.turn.lock().await;
        let before = live.made.load_full();
        if let Some(made) = before.clone().filter(|made| is_fresh(made)) {
            return made;
        }
        let work = Work {
            settings: settings.clone(),
            own: self.own.clone(),
            system: self.system.clone(),
            made_of,
            before,
        };
        let made = match tokio::task::spawn_blocking(move || work.done()).await {
            Ok(made) => Arc::new(made),
            Err(_) => Arc::new(Made {
                with: Err("keys and roots couldn't be read".to_owned()),
                made_of,
                files: Vec::new(),
                looked: Instant::now(),
            }),
        };
        live.made.store(Some(made.clone()));
        made
    }
}

/// What makes it, where the disk may be waited for.
struct Work {
    settings: Arc<UpstreamTls>,
    own: Tls,
    system: Option<PathBuf>,
    made_of: MadeOf,
    before: Option<Arc<Made>>,
}

impl Work {
    fn done(self) -> Made {
        let paths = self.paths();
        let files: Vec<_> = paths.iter().map(|path| Seen::at(path)).collect();
        let before = self.before.as_deref();
        let same = before.filter(|made| made.made_of == self.made_of && made.files == files);
        let with = match same {
            Some(made) => made.with.clone(),
            None => self.make().map_err(|error| error.to_string()),
        };
        let with = match (with, before) {
            (Err(error), Some(Made { with: Ok(good), .. })) => {
                tracing::error!(%error, "keys or roots of TLS to endpoints can't be used; those in use stay");
                Ok(good.clone())
            }
            (Err(error), _) => {
                if same.is_none() {
                    tracing::error!(%error, "TLS to endpoints can't be made");
                }
                Err(error)
            }
            (with, _) => with,
        };
        Made {
            with,
            made_of: self.made_of,
            files,
            looked: Instant::now(),
        }
    }

    fn paths(&self) -> Vec<&Path> {
        let mut paths: Vec<&Path> = Vec::new();
        if let Some(KeySource::Files { chain, key }) = &self.settings.key {
            paths.extend([chain.as_path(), key.as_path()]);
        }
        match &self.settings.roots {
            Some(RootsSource::File(path)) => paths.push(path),
            Some(RootsSource::System) => paths.extend(self.system.as_deref()),
            Some(RootsSource::Mesh | RootsSource::Inline(_) | RootsSource::Delivered(_)) | None => {
            }
        }
        if let Some(RevocationsSource::File(path)) = &self.settings.revocations {
            paths.push(path);
        }
        paths
    }

    fn make(&self) -> Result<Origination, SecretError> {
        let settings = &self.settings;
        let own = || self.own.certificate().ok_or(SecretError::NoOwn);
        let key = match &settings.key {
            None => None,
            Some(KeySource::Own) => Some(ClientKey::of_workload(&*own()?)),
            Some(KeySource::Inline(key)) => Some(key.clone()),
            Some(KeySource::Files { chain, key }) => {
                Some(ClientKey::from_pem(&read(chain)?, &read(key)?)?)
            }
            Some(KeySource::Delivered(slot)) => {
                let key = slot.load();
                let key = key.ok_or_else(|| SecretError::NotDelivered(slot.name.clone()))?;
                Some((*key).clone())
            }
        };
        let roots = match &settings.roots {
            None => None,
            Some(RootsSource::Mesh) => Some(ServerRoots::of_workload(&*own()?)),
            Some(RootsSource::Inline(roots)) => Some(roots.clone()),
            Some(RootsSource::File(path)) => Some(ServerRoots::from_pem(&read(path)?)?),
            Some(RootsSource::System) => {
                let path = self.system.as_ref().ok_or(SecretError::NoSystemRoots)?;
                Some(ServerRoots::from_pem(&read(path)?)?)
            }
            Some(RootsSource::Delivered(slot)) => {
                let roots = slot.load();
                let roots = roots.ok_or_else(|| SecretError::NotDelivered(slot.name.clone()))?;
                Some((*roots).clone())
            }
        };
        let roots = match (roots, &settings.revocations) {
            (Some(roots), Some(lists)) if !roots.has_revocations() => Some(match lists {
                RevocationsSource::File(path) => roots.with_revocations(&read(path)?)?,
                RevocationsSource::Inline(pem) => roots.with_revocations(pem)?,
            }),
            (roots, _) => roots,
        };
        let names = settings.names.clone();
        let made = Origination::new(OriginationSettings {
            versions: settings.versions,
            choice: settings.choice.clone(),
            alpn: settings.alpn.clone(),
            key,
            roots,
            names: match names.is_empty() {
                true => None,
                false => Some(Arc::new(move |kind, name: &str| names.allow(kind, name))),
            },
        });
        Ok(made?)
    }
}

impl MadeOf {
    fn now(settings: &UpstreamTls, own: &Tls) -> MadeOf {
        MadeOf {
            own: own.generation(),
            key: match &settings.key {
                Some(KeySource::Delivered(slot)) => slot.version(),
                _ => 0,
            },
            roots: match &settings.roots {
                Some(RootsSource::Delivered(slot)) => slot.version(),
                _ => 0,
            },
        }
    }
}

/// Waits for secrets that have just been asked for.
pub(crate) async fn settled(settings: &UpstreamTls) {
    if let Some(KeySource::Delivered(slot)) = &settings.key {
        slot.settled().await;
    }
    if let Some(RootsSource::Delivered(slot)) = &settings.roots {
        slot.settled().await;
    }
}

/// Whether all secrets that are delivered have been.
fn is_delivered(settings: &UpstreamTls) -> bool {
    let key = match &settings.key {
        Some(KeySource::Delivered(slot)) => slot.load().is_some(),
        _ => true,
    };
    let roots = match &settings.roots {
        Some(RootsSource::Delivered(slot)) => slot.load().is_some(),
        _ => true,
    };
    key && roots
}

fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    let failed = |source| SecretError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(SecretError::TooLarge(path.to_owned()));
    }
    std::fs::read(path).map_err(failed)
}

impl Seen {
    fn at(path: &Path) -> Option<Seen> {
        let file = std::fs::metadata(path).ok()?;
        Some(Seen(
            file.len(),
            file.ino(),
            file.ctime(),
            file.ctime_nsec(),
        ))
    }
}
