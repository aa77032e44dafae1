//! The standalone source: manifests on disk, read whole for the start of a process. [`crate::standalone::watch`] reads
//! them again as they change.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::resource::{Resource, Update};
use crate::standalone::input::files::first;
use crate::standalone::input::files::{self, Place, Scan, Seen};
use crate::standalone::input::manifest::{Object, ObjectName};
use crate::standalone::input::problem::{LoadError, Problem};
use crate::standalone::input::yaml::{self, Document};
use crate::standalone::kinds::gateway_api::gateway::WAYPOINT_CLASS;
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::issuers::Issuers;
use crate::standalone::state::ownership::{self, NoWaypoint};
use crate::standalone::translate::{IpFamilies, Translation, translate_by};

/// How often reading is tried again when files change meanwhile.
const ATTEMPTS: usize = 5;

/// Manifests on disk, and the Gateway that they are read for.
#[derive(Clone, Debug)]
pub struct StandaloneSource {
    /// Files and folders; of two objects of one name the later stands.
    pub paths: Vec<PathBuf>,
    /// `None`: the only Gateway of class `istio-waypoint`.
    pub gateway: Option<ObjectName>,
    /// `None`: the families that the manifests use.
    pub families: Option<IpFamilies>,
    /// What issuers of tokens say of their keys.
    pub issuers: Issuers,
}

impl StandaloneSource {
    pub fn new(paths: Vec<PathBuf>, gateway: Option<ObjectName>) -> StandaloneSource {
        StandaloneSource {
            paths,
            gateway,
            families: None,
            issuers: Issuers::default(),
        }
    }

    /// Reads for the start of a process: refuses what a process must not start with. Blocks on the disk.
    pub fn load(&self) -> Result<Translation, LoadError> {
        Ok(self.load_texts()?.0)
    }

    pub(super) fn load_texts(&self) -> Result<(Translation, Texts), LoadError> {
        let mut before = files::scan(&self.paths)?;
        for _ in 0..ATTEMPTS {
            let read = texts(&before).and_then(|texts| {
                let translation = self.translate(documents(&texts)?)?;
                Ok((translation, texts))
            });
            let after = files::scan(&self.paths)?;
            if after == before {
                let (translation, texts) = read?;
                refuse(translation.refuses_start())?;
                return Ok((translation, texts));
            }
            before = after;
        }
        let reason = "the files keep changing while they are read";
        Err(LoadError::file(first(&self.paths), reason))
    }

    /// As [`StandaloneSource::load`], also where a process must not start with what there is. Blocks on the disk.
    pub fn examine(&self) -> Result<Translation, LoadError> {
        self.translate(documents(&texts(&files::scan(&self.paths)?)?)?)
    }

    /// As [`StandaloneSource::examine`], for each waypoint where no Gateway is wanted, and without the objects that refuse all:
    /// those are told. Blocks on the disk.
    pub fn examine_sound(&self) -> Result<Examined, LoadError> {
        let mut refused = Vec::new();
        let mut found = Vec::new();
        for (place, (_, text)) in &texts(&files::scan(&self.paths)?)? {
            match yaml::documents(&place.path, text) {
                Ok(documents) => found.extend(documents),
                Err(error) => refused.push(error),
            }
        }
        let (state, broken) = ClusterState::read_sound(found);
        refused.extend(broken);
        let wanted = match &self.gateway {
            Some(gateway) => vec![gateway.clone()],
            None => waypoints(&state),
        };
        let translated = wanted.into_iter().map(|name| {
            let translation = self.translate_state(&state, Some(&name))?;
            Ok((name, translation))
        });
        let translations: Result<Vec<_>, LoadError> = translated.collect();
        match translations {
            Ok(translations) if translations.is_empty() && refused.is_empty() => {
                Err(LoadError::file(first(&self.paths), NoWaypoint::None))
            }
            // The Gateway may be one of those.
            Err(_) if !refused.is_empty() => Ok(Examined {
                refused,
                translations: Vec::new(),
            }),
            translations => Ok(Examined {
                refused,
                translations: translations?,
            }),
        }
    }

    /// All Gateways that are waypoints. Blocks on the disk.
    pub fn waypoints(&self) -> Result<Vec<ObjectName>, LoadError> {
        let names = waypoints(&self.cluster_state()?);
        match names.is_empty() {
            true => Err(LoadError::file(first(&self.paths), NoWaypoint::None)),
            false => Ok(names),
        }
    }

    /// The objects themselves, for those who play the rest of the cluster. Blocks on the disk.
    pub fn cluster_state(&self) -> Result<ClusterState, LoadError> {
        ClusterState::read(documents(&texts(&files::scan(&self.paths)?)?)?)
    }

    pub(super) fn translate(&self, documents: Vec<Document>) -> Result<Translation, LoadError> {
        self.translate_state(&ClusterState::read(documents)?, self.gateway.as_ref())
    }

    fn translate_state(
        &self,
        state: &ClusterState,
        gateway: Option<&ObjectName>,
    ) -> Result<Translation, LoadError> {
        let first = first(&self.paths);
        let gateway =
            ownership::choose(state, gateway).map_err(|error| LoadError::file(first, error))?;
        translate_by(state, gateway, self.families, &self.issuers)
            .map_err(|reason| LoadError::file(first, reason))
    }
}

/// What is found where all that is sound is looked at.
#[derive(Debug)]
pub struct Examined {
    /// Why a process would not start with the manifests, or not follow them.
    pub refused: Vec<LoadError>,
    /// By the waypoints' names.
    pub translations: Vec<(ObjectName, Translation)>,
}

fn waypoints(state: &ClusterState) -> Vec<ObjectName> {
    let gateways = state.gateways.values();
    let waypoints = gateways.filter(|gateway| gateway.spec.class == WAYPOINT_CLASS);
    waypoints.map(Object::name).collect()
}

/// What was read of each file, and what it was seen as.
pub(super) type Texts = BTreeMap<Place, (Seen, String)>;

fn texts(scan: &Scan) -> Result<Texts, LoadError> {
    let read = |(place, seen): (&Place, &Result<Seen, LoadError>)| {
        let seen = seen.clone()?;
        let text = files::read(&place.path, &seen)
            .unwrap_or_else(|| Err(LoadError::file(&place.path, "changes while it is read")))?;
        Ok((place.clone(), (seen, text)))
    };
    scan.iter().map(read).collect()
}

/// All documents of all files, in order.
fn documents(texts: &Texts) -> Result<Vec<Document>, LoadError> {
    let mut found = Vec::new();
    for (place, (_, text)) in texts {
        found.extend(yaml::documents(&place.path, text)?);
    }
    Ok(found)
}

/// Turns the problem that forbids a translation's use into an error.
pub(super) fn refuse(problem: Option<&Problem>) -> Result<(), LoadError> {
    match problem {
        None => Ok(()),
        Some(problem) => Err(LoadError {
            resource: Some(problem.resource.clone()),
            field: Some(problem.field.clone()),
            ..LoadError::document(&problem.origin, &problem.reason)
        }),
    }
}

/// What leads from one set of resources to another; both are ordered by type and name.
pub fn difference(old: &[Resource], new: &[Resource]) -> Update {
    let find = |resources: &[Resource], wanted: &Resource| {
        let key = (wanted.kind, wanted.name.as_str());
        resources
            .binary_search_by(|resource| (resource.kind, resource.name.as_str()).cmp(&key))
            .ok()
    };
    let unchanged = |resource: &&Resource| {
        find(old, resource)
            .and_then(|index| old.get(index))
            .is_some_and(|before| before == *resource)
    };
    let removed = old.iter().filter(|resource| find(new, resource).is_none());
    Update {
        added: new
            .iter()
            .filter(|resource| !unchanged(resource))
            .cloned()
            .collect(),
        removed: removed
            .map(|resource| (resource.kind, resource.name.clone()))
            .collect(),
        version: String::new(),
    }
}
