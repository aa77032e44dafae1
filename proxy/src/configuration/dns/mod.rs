//! Looks up the names that clusters' endpoints have, and hands the addresses to the configurator.
//!
//! One task keeps the times, on the control thread: traffic never waits for a name.

mod schedule;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use waypoint_config::model::cluster::dns::{Answer, Question};
use waypoint_filters::metrics::{CounterFamily, MetricRegistry};

use crate::configuration::Configurator;
use crate::configuration::dns::schedule::Schedule;
use crate::names::resolver::{LookupError, NameServers};

/// How long a lookup may take, with all search domains and tries.
const LOOKUP: Duration = Duration::from_secs(15);
/// Lookups at a time; more names wait for their turn.
const MAX_LOOKUPS: usize = 64;

/// Keeps the addresses of names up to date.
pub(crate) struct Dns {
    servers: Vec<SocketAddr>,
    lookups: Arc<CounterFamily>,
}

impl Dns {
    /// `servers` in place of the system's, unless there are none.
    pub(crate) fn new(servers: &[SocketAddr], metrics: &MetricRegistry) -> Dns {
        let lookups = metrics.counters(
            "waypoint_dns_lookups_total",
            "Lookups of clusters' names: answered, with addresses; empty, there are none; failed.",
            &["result"],
        );
        for result in ["answered", "empty", "failed"] {
            lookups.with(&[result.into()]);
        }
        Dns {
            servers: servers.to_vec(),
            lookups,
        }
    }

    /// Works for ever.
    pub(crate) async fn run(self, configurator: &RefCell<Configurator>) {
        let mut version = configurator.borrow().version();
        // What came before is looked at, too.
        version.mark_changed();
        let servers = Arc::new(NameServers::new(&self.servers));
        let mut schedule = Schedule::default();
        let mut lookups = JoinSet::new();
        loop {
            while lookups.len() < MAX_LOOKUPS
                && let Some(question) = schedule.take_due(Instant::now())
            {
                let servers = servers.clone();
                lookups.spawn(async move {
                    let Question { host, how, .. } = &question;
                    let found = servers.look_up(host, how.family, LOOKUP).await;
                    let answer = found.map(|found| Answer::Addresses {
                        addresses: found.addresses,
                        ttl: found.ttl,
                    });
                    (question, answer)
                });
            }
            let next = schedule.next().filter(|_| lookups.len() < MAX_LOOKUPS);
            tokio::select! {
                Ok(()) = version.changed() => {
                    let questions = configurator.borrow().questions();
                    schedule.renew(questions, Instant::now());
                }
                Some(Ok((question, answer))) = lookups.join_next() => {
                    let answer = self.count(&question, answer);
                    configurator.borrow_mut().answer(&question, &answer);
                    schedule.answered(&question, &answer, Instant::now(), fastrand::f64());
                }
                () = until(next) => {}
            }
        }
    }

    fn count(&self, question: &Question, answer: Result<Answer, LookupError>) -> Answer {
        let (result, answer) = match answer {
            Ok(answer) => match &answer {
                Answer::Addresses { addresses, .. } if addresses.is_empty() => ("empty", answer),
                _ => ("answered", answer),
            },
            Err(error) => {
                let Question { cluster, host, .. } = question;
                tracing::warn!(%cluster, %host, %error, "name can't be looked up; addresses stay");
                ("failed", Answer::Failed)
            }
        };
        self.lookups.with(&[result.into()]).add(1);
        answer
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next.into()).await,
        None => std::future::pending().await,
    }
}
