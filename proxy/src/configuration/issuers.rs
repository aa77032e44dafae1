//! Asks issuers of tokens where their keys are (OpenID Connect Discovery), where manifests don't say, as an istiod does for its
//! waypoints: at once, again every 20 minutes, and after a failure at growing distances. What one said last stays in force.
//!
//! The keys themselves are fetched like all others; here it is only found out where.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use tokio::task::JoinSet;
use waypoint_config::standalone::IssuerQuestion;
use waypoint_config::standalone::kinds::istio::jwks::JwksUri;
use waypoint_config::standalone::state::issuers::{MAX_DOCUMENT, keys_address};
use waypoint_filters::callout::{Answer, Callout, CalloutLimits, Callouts, Content};

use crate::configuration::Configurator;

/// Issuers that are asked at a time.
const MAX_ASKED: usize = 16;
/// How long an answer is good for.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// From the first failure to the next attempt, doubled with each, and at most.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
const MOST_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Asks them.
pub(crate) struct Issuers {
    pub(crate) callouts: Arc<dyn Callouts>,
}

/// When which issuer is asked, by its address.
#[derive(Default)]
struct Schedule(BTreeMap<String, Due>);

struct Due {
    question: IssuerQuestion,
    /// `None`: it is being asked.
    at: Option<Instant>,
    failures: u32,
}

impl Issuers {
    /// Works for ever.
    pub(crate) async fn run(self, configurator: &RefCell<Configurator>) {
        let mut version = configurator.borrow().version();
        // What came before is looked at, too.
        version.mark_changed();
        let mut schedule = Schedule::default();
        let mut asked = JoinSet::new();
        loop {
            while asked.len() < MAX_ASKED
                && let Some(question) = schedule.take_due(Instant::now())
            {
                let cluster = configurator.borrow().callout_cluster(&question.cluster);
                let callout = Callout::new(cluster, self.callouts.clone());
                asked.spawn(async move {
                    let answer = ask(&question, &callout).await;
                    (question, answer)
                });
            }
            let next = schedule.next().filter(|_| asked.len() < MAX_ASKED);
            tokio::select! {
                Ok(()) = version.changed() => {
                    let questions = configurator.borrow().issuers().to_vec();
                    schedule.renew(questions, Instant::now());
                }
                Some(Ok((question, answer))) = asked.join_next() => {
                    schedule.answered(&question, answer.is_ok(), Instant::now());
                    configurator.borrow_mut().issuer_answered(&question, answer);
                }
                () = until(next) => {}
            }
        }
    }
}

/// What an issuer says; an error is why it says nothing.
async fn ask(question: &IssuerQuestion, callout: &Callout) -> Result<JwksUri, String> {
    let uri: Uri = question
        .address
        .text
        .parse()
        .map_err(|error| format!("{error}"))?;
    let mut request = Request::new(Content::default());
    *request.method_mut() = Method::GET;
    if let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::try_from(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    *request.uri_mut() = uri
        .path_and_query()
        .cloned()
        .map_or_else(|| Uri::from_static("/"), Uri::from);
    let limits = CalloutLimits {
        time: question.timeout,
        answer: Answer::Kept { most: MAX_DOCUMENT },
    };
    let answer = callout.call(request, limits).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("the answer is {}", answer.status()));
    }
    keys_address(&answer.into_body().data)
}

impl Schedule {
    /// Takes the questions that there are now; what is known of those from before stays.
    fn renew(&mut self, questions: Vec<IssuerQuestion>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for question in questions {
            let due = match before.remove(&question.address.text) {
                Some(due) => Due { question, ..due },
                None => Due {
                    question,
                    at: Some(now),
                    failures: 0,
                },
            };
            self.0.insert(due.question.address.text.clone(), due);
        }
    }

    fn take_due(&mut self, now: Instant) -> Option<IssuerQuestion> {
        let mut all = self.0.values_mut();
        let due = all.find(|due| due.at.is_some_and(|at| at <= now))?;
        due.at = None;
        Some(due.question.clone())
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|due| due.at).min()
    }

    fn answered(&mut self, question: &IssuerQuestion, well: bool, now: Instant) {
        let Some(due) = self.0.get_mut(&question.address.text) else {
            return;
        };
        due.at = Some(
            now + match well {
                true => REFRESH,
                false => AFTER_FAILURE
                    .saturating_mul(1 << due.failures.min(16))
                    .min(MOST_AFTER_FAILURE),
            },
        );
        due.failures = if well { 0 } else { due.failures + 1 };
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn question(name: &str) -> IssuerQuestion {
        IssuerQuestion {
            address: JwksUri::parse(&format!("https://{name}.test/")).unwrap(),
            cluster: name.to_owned(),
            timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn an_issuer_is_asked_again_later_the_more_often_it_failed() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.renew(vec![question("a")], start);
        assert_eq!(schedule.take_due(start), Some(question("a")));
        assert_eq!((schedule.take_due(start), schedule.next()), (None, None));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            schedule.answered(&question("a"), false, start);
            let next = start + Duration::from_secs(seconds);
            assert_eq!(schedule.next(), Some(next));
            assert_eq!(schedule.take_due(next), Some(question("a")));
        }
        schedule.answered(&question("a"), true, start);
        assert_eq!(schedule.next(), Some(start + REFRESH));
    }

    #[test]
    fn what_is_no_question_any_more_is_forgotten_and_what_stays_keeps_its_time() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.renew(vec![question("a"), question("b")], start);
        while schedule.take_due(start).is_some() {}
        schedule.answered(&question("a"), true, start);
        schedule.renew(vec![question("a")], start);
        assert_eq!(schedule.next(), Some(start + REFRESH));
        schedule.answered(&question("b"), false, start);
        assert_eq!(schedule.next(), Some(start + REFRESH));
    }
}
