//! Manifests that change: what of them is in force, and when.
//!
//! A file counts once it has been the same for a while, so that one that is being written is never taken for
//! what there is of it yet (half a YAML list is a YAML list). A folder counts as a whole as long as it comes
//! to rest, so that a checkout is one change. It needn't: after a while what is settled is taken without the
//! rest. A file that can't be used stands in force as it last could, and is named; a new one is left out, and
//! named. An object whose file is gone is gone; a file that can't be read isn't.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::standalone::input::files::{self, Place, Seen};
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::yaml::{self, Document};
use crate::standalone::kinds::istio::jwks::JwksUri;
use crate::standalone::source::{StandaloneSource, refuse};
use crate::standalone::translate::Translation;

/// How many files of one change may each hold a broken object before the change is refused as a whole: each
/// means to put the set together once more.
const MAX_BROKEN: usize = 16;

/// How long a watch waits.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A file that was the same for so long is settled.
    quiet: Duration,
    /// A settled file waits so long for others, from when its change was seen first.
    patience: Duration,
}

impl Pace {
    /// For one that looks four times in this time. With a second, what has been written for one is in force
    /// after two.
    pub fn of(quiet: Duration) -> Pace {
        Pace {
            quiet,
            patience: quiet.mul_f32(1.25),
        }
    }
}

/// Polls a source.
#[derive(Debug)]
pub struct Watch {
    source: StandaloneSource,
    pace: Pace,
    files: BTreeMap<Place, File>,
    /// Why the files can't be looked at, and since when.
    blind: Option<(LoadError, Instant)>,
    /// Why what was taken last can't be put together.
    refused: Vec<LoadError>,
    /// What was last told.
    told: Vec<LoadError>,
    /// An issuer has said something new since the last translation.
    issuer_told: bool,
}

/// Watches begin with a source.
impl StandaloneSource {
    /// As [`load`](StandaloneSource::load), and the watch that goes on from there.
    pub fn start(self, pace: Pace, now: Instant) -> Result<(Translation, Watch), LoadError> {
        let (translation, texts) = self.load_texts()?;
        Ok((translation, Watch::resume(self, pace, texts, now)))
    }

    /// A watch that has seen nothing yet: once the files are settled it gives the first translation.
    pub fn watch(self, pace: Pace) -> Watch {
        Watch::new(self, pace)
    }
}

/// What a poll found new.
#[derive(Debug)]
pub struct Polled {
    /// What is to be in force from now on, if that has changed.
    pub translation: Option<Translation>,
    /// All that isn't used now as it stands on the disk.
    pub not_in_use: Vec<LoadError>,
}

/// What was seen at a file's place. `None`: nothing.
type Sight = Option<Result<Seen, LoadError>>;

/// One file's story.
#[derive(Debug)]
struct File {
    sight: Sight,
    since: Instant,
    /// What it was when it was last taken. `None`: it never was.
    taken: Option<Sight>,
    /// When it was first seen to be something else than what was taken.
    changed: Option<Instant>,
    /// Why what was taken can't be read as a text.
    unreadable: Option<LoadError>,
    /// Its text as it was taken.
    text: Option<Arc<str>>,
    /// Its text as it was last part of what is in force.
    good: Option<Arc<str>>,
}

impl File {
    fn new(sight: Sight, now: Instant) -> File {
        File {
            sight,
            since: now,
            taken: None,
            changed: Some(now),
            unreadable: None,
            text: None,
            good: None,
        }
    }

    fn look(&mut self, sight: Sight, now: Instant) {
        if self.sight != sight {
            self.sight = sight;
            self.since = now;
            self.changed.get_or_insert(now);
        }
        if !self.is_new() {
            // It was away, and is back.
            self.changed = None;
        }
    }

    /// Seen twice, and the same for long enough.
    fn is_settled(&self, pace: Pace, now: Instant) -> bool {
        now > self.since && now.saturating_duration_since(self.since) >= pace.quiet
    }

    fn is_new(&self) -> bool {
        self.taken.as_ref() != Some(&self.sight)
    }

    /// Reads what is settled. A file that changes meanwhile isn't.
    fn take(&mut self, path: &Path, now: Instant) {
        match &self.sight {
            // What can't be read takes nothing back.
            Some(Err(_)) => self.text.clone_from(&self.good),
            None => self.text = None,
            Some(Ok(seen)) => match files::read(path, seen) {
                Some(Ok(text)) => {
                    self.text = Some(text.into());
                    self.unreadable = None;
                }
                Some(Err(error)) => {
                    self.text.clone_from(&self.good);
                    self.unreadable = Some(error);
                }
                None => {
                    self.since = now;
                    return;
                }
            },
        }
        self.taken = Some(self.sight.clone());
        self.changed = None;
    }

    /// Why it isn't used as it stands on the disk, as far as that can be told of the file alone.
    fn complaint(&self, path: &Path, pace: Pace, now: Instant) -> Option<LoadError> {
        let waits = |changed: &Instant| now.saturating_duration_since(*changed) > pace.patience;
        match (&self.taken, &self.changed) {
            (_, Some(changed)) if waits(changed) => Some(LoadError::file(
                path,
                "keeps changing; it is used once it comes to rest",
            )),
            (Some(Some(Err(error))), _) => Some(error.clone()),
            (Some(Some(Ok(_))), _) => self.unreadable.clone(),
            _ => None,
        }
    }
}

fn parsed(place: &Place, text: &Option<Arc<str>>) -> Result<Vec<Document>, LoadError> {
    match text {
        Some(text) => yaml::documents(&place.path, text),
        None => Ok(Vec::new()),
    }
}

impl Watch {
    /// Goes on from what a process started with. All of it is read once more: some of it may have been half
    /// written.
    fn resume(
        source: StandaloneSource,
        pace: Pace,
        read: BTreeMap<Place, (Seen, String)>,
        now: Instant,
    ) -> Watch {
        let resumed = |(place, (seen, text)): (Place, (Seen, String))| {
            let text: Arc<str> = text.into();
            let file = File {
                text: Some(text.clone()),
                good: Some(text),
                ..File::new(Some(Ok(seen)), now)
            };
            (place, file)
        };
        Watch {
            files: read.into_iter().map(resumed).collect(),
            ..Watch::new(source, pace)
        }
    }

    fn new(source: StandaloneSource, pace: Pace) -> Watch {
        Watch {
            source,
            pace,
            files: BTreeMap::new(),
            blind: None,
            refused: Vec::new(),
            told: Vec::new(),
            issuer_told: false,
        }
    }

    /// Takes what an issuer of tokens says of its keys; the next poll gives what comes of it.
    pub fn tell_issuer(&mut self, asked: &JwksUri, keys: JwksUri) {
        self.issuer_told |= self.source.issuers.tell(asked, keys);
    }

    /// Looks once; blocks on the disk. `None`: nothing new.
    pub fn poll(&mut self, now: Instant) -> Option<Polled> {
        let translation = match files::scan(&self.source.paths) {
            Ok(scan) => {
                self.blind = None;
                self.look(scan, now);
                if self.issuer_told || self.is_due(now) {
                    self.take(now)
                } else {
                    None
                }
            }
            Err(error) => {
                match &mut self.blind {
                    Some((known, _)) if *known == error => {}
                    blind => *blind = Some((error, now)),
                }
                None
            }
        };
        let not_in_use = self.complaints(now);
        if translation.is_none() && not_in_use == self.told {
            return None;
        }
        self.told.clone_from(&not_in_use);
        Some(Polled {
            translation,
            not_in_use,
        })
    }

    fn look(&mut self, mut scan: files::Scan, now: Instant) {
        for (place, file) in &mut self.files {
            file.look(scan.remove(place), now);
        }
        for (place, seen) in scan {
            self.files.insert(place, File::new(Some(seen), now));
        }
    }

    /// Whether something is settled that need not wait for the rest any more.
    fn is_due(&self, now: Instant) -> bool {
        let settled = |file: &&File| file.is_settled(self.pace, now);
        let mut ready = self.files.values().filter(settled).filter(|f| f.is_new());
        let waited =
            |changed: Instant| now.saturating_duration_since(changed) >= self.pace.patience;
        let all = self.files.values().all(|file| settled(&file));
        // The first translation is of all files: without one there is nothing to hold on to.
        let first = self.files.values().all(|file| file.good.is_none());
        ready.any(|file| all || (!first && file.changed.is_some_and(waited)))
    }

    fn take(&mut self, now: Instant) -> Option<Translation> {
        for (place, file) in &mut self.files {
            if file.is_new() && file.is_settled(self.pace, now) {
                file.take(&place.path, now);
            }
        }
        let is_in_force = |file: &File| file.text == file.good;
        self.refused.clear();
        let told = std::mem::take(&mut self.issuer_told);
        let result = if !told && self.files.values().all(is_in_force) {
            None
        } else {
            self.put_together()
        };
        let gone = |file: &File| matches!(file.taken, Some(None)) && file.good.is_none();
        self.files.retain(|_, file| file.is_new() || !gone(file));
        result
    }

    /// What the taken files make together. A file with a broken object gives what it was before.
    fn put_together(&mut self) -> Option<Translation> {
        let mut used: BTreeMap<&Place, (Option<Arc<str>>, Vec<Document>)> = BTreeMap::new();
        for (place, file) in &self.files {
            let part = match parsed(place, &file.text) {
                Ok(documents) => (file.text.clone(), documents),
                Err(error) => {
                    self.refused.push(error);
                    let before = parsed(place, &file.good).unwrap_or_default();
                    (file.good.clone(), before)
                }
            };
            used.insert(place, part);
        }
        for _ in 0..MAX_BROKEN {
            let all = used.values().flat_map(|(_, documents)| documents).cloned();
            let error = match self.source.translate(all.collect()) {
                Ok(translation) => match refuse(translation.refuses_update()) {
                    Ok(()) => {
                        let texts: Vec<_> = used.into_values().map(|(text, _)| text).collect();
                        for (file, text) in self.files.values_mut().zip(texts) {
                            file.good = text;
                        }
                        return Some(translation);
                    }
                    // A guard whose target isn't known: nothing changes.
                    Err(error) => {
                        self.refused.push(error);
                        return None;
                    }
                },
                Err(error) => error,
            };
            let broken = self
                .files
                .iter()
                .find(|(place, _)| place.path == error.file);
            self.refused.push(error);
            let (place, file) = broken?;
            let part = used.get_mut(place)?;
            if part.0 == file.good {
                return None;
            }
            let before = parsed(place, &file.good).unwrap_or_default();
            *part = (file.good.clone(), before);
        }
        None
    }

    fn complaints(&self, now: Instant) -> Vec<LoadError> {
        if let Some((error, since)) = &self.blind {
            let settled = now > *since && now.saturating_duration_since(*since) >= self.pace.quiet;
            return if settled {
                vec![error.clone()]
            } else {
                self.told.clone()
            };
        }
        let of_files = self
            .files
            .iter()
            .filter_map(|(place, file)| file.complaint(&place.path, self.pace, now));
        of_files.chain(self.refused.iter().cloned()).collect()
    }
}
