//! When which name is looked up. Has no clock and asks nobody.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use waypoint_config::model::dns::{Answer, Question};

/// A cluster and a name in it.
type Key = (Arc<str>, Arc<str>);

#[derive(Default)]
pub(super) struct Schedule {
    names: HashMap<Key, Name>,
    due: BTreeSet<(Instant, Key)>,
}

struct Name {
    question: Question,
    /// `None`: it is being looked up.
    due: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

impl Schedule {
    /// The names that there are from now on. New ones, and those that are to be looked up in another way,
    /// are due at once.
    pub(super) fn renew(&mut self, questions: Vec<Question>, now: Instant) {
        let mut before = std::mem::take(&mut self.names);
        self.due.clear();
        for question in questions {
            let key = key(&question);
            let name = match before.remove(&key) {
                Some(name) if name.question == question => name,
                _ => Name {
                    question,
                    due: Some(now),
                    failures: 0,
                },
            };
            if let Some(due) = name.due {
                self.due.insert((due, key.clone()));
            }
            self.names.insert(key, name);
        }
    }

    /// When the next name is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// A name that is due, to be looked up now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Question> {
        let first = self.due.first().filter(|(due, _)| *due <= now)?.clone();
        self.due.remove(&first);
        let name = self.names.get_mut(&first.1)?;
        name.due = None;
        Some(name.question.clone())
    }

    /// A lookup has ended; `random` in 0..1. Names that are no longer there, or are looked up in another
    /// way by now, are none of its business.
    pub(super) fn answered(
        &mut self,
        question: &Question,
        answer: &Answer,
        now: Instant,
        random: f64,
    ) {
        let key = key(question);
        let Some(name) = self.names.get_mut(&key) else {
            return;
        };
        if name.due.is_some() || name.question != *question {
            return;
        }
        name.failures = match answer {
            Answer::Failed => name.failures.saturating_add(1),
            Answer::Addresses { .. } => 0,
        };
        let due = now + question.how.pause(answer, name.failures, random);
        name.due = Some(due);
        self.due.insert((due, key));
    }
}

fn key(question: &Question) -> Key {
    (question.cluster.clone(), question.host.clone())
}
