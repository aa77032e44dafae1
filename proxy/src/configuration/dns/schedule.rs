//! When which name is looked up. Has no clock and asks nobody.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use waypoint_config::model::cluster::dns::{Answer, Question};

/// A cluster and a name in it.
type Key = (Arc<str>, Arc<str>);

#[derive(Default)]
pub(crate) struct Schedule {
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
    pub(crate) fn renew(&mut self, questions: Vec<Question>, now: Instant) {
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
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// A name that is due, to be looked up now.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Question> {
        let first = self.due.first().filter(|(due, _)| *due <= now)?.clone();
        self.due.remove(&first);
        let name = self.names.get_mut(&first.1)?;
        name.due = None;
        Some(name.question.clone())
    }

    /// A lookup has ended; `random` in 0..1. Names that are no longer there, or are looked up in another
    /// way by now, are none of its business.
    pub(crate) fn answered(
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use waypoint_config::model::cluster::dns::{DnsDiscovery, DnsKind, LookupFamily};

    use super::*;

    /// A question every five seconds.
    fn question(host: &str) -> Question {
        Question {
            cluster: "c".into(),
            host: host.into(),
            how: DnsDiscovery::from_proto(DnsKind::Strict, LookupFamily::Both, &Cluster::default())
                .unwrap(),
        }
    }

    fn answer() -> Answer {
        Answer::Addresses {
            addresses: Vec::new(),
            ttl: Duration::ZERO,
        }
    }

    #[test]
    fn a_name_is_due_at_once_and_then_after_each_pause() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let a = question("a");
        schedule.renew(vec![a.clone()], start);
        assert_eq!(schedule.take_due(start), Some(a.clone()));
        assert_eq!(schedule.take_due(start), None, "it is being looked up");
        schedule.answered(&a, &answer(), start, 0.0);
        let next = start + Duration::from_secs(5);
        assert_eq!(schedule.next(), Some(next));
        // What stays keeps its time.
        schedule.renew(vec![a.clone()], start + Duration::from_secs(1));
        assert_eq!(schedule.next(), Some(next));
        assert_eq!(schedule.take_due(next - Duration::from_millis(1)), None);
        assert_eq!(schedule.take_due(next), Some(a));
    }

    #[test]
    fn names_that_go_are_not_looked_up_again() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let (a, b) = (question("a"), question("b"));
        schedule.renew(vec![a.clone(), b.clone()], start);
        assert_eq!(schedule.take_due(start), Some(a.clone()));
        schedule.renew(Vec::new(), start);
        schedule.answered(&a, &answer(), start, 0.0);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn an_answer_to_another_question_doesnt_count() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let a = question("a");
        schedule.renew(vec![a.clone()], start);
        schedule.take_due(start).unwrap();
        let mut other = a.clone();
        other.how.family = LookupFamily::V4;
        schedule.renew(vec![other.clone()], start);
        assert_eq!(schedule.take_due(start), Some(other.clone()));
        schedule.answered(&a, &answer(), start, 0.0);
        assert_eq!(schedule.next(), None);
        schedule.answered(&other, &Answer::Failed, start, 0.0);
        assert!(schedule.next().is_some());
    }
}
