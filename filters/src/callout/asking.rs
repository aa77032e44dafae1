//! A callout for a check: once more where the service can't have seen it, within the same time.
//!
//! A connection that is kept may end just when a check is sent on it, as when the service is rolled out anew. Nobody is to be
//! refused for that.

use std::time::Instant;

use http::{Request, Response};

use crate::callout::{Callout, CalloutError, CalloutErrorKind, CalloutLimits, Content};

/// Asks, and asks again if the connection was to blame. `request` makes what is sent, each time.
pub(crate) async fn ask(
    callout: &Callout,
    request: impl Fn() -> Request<Content>,
    limits: CalloutLimits,
) -> Result<Response<Content>, CalloutError> {
    let begun = Instant::now();
    let error = match callout.call(request(), limits).await {
        Err(error) if is_the_connections(&error) => error,
        outcome => return outcome,
    };
    let Some(time) = limits.time.checked_sub(begun.elapsed()) else {
        return Err(error);
    };
    let again = CalloutLimits { time, ..limits };
    callout.call(request(), again).await
}

fn is_the_connections(error: &CalloutError) -> bool {
    let of_connection = matches!(
        error.kind,
        CalloutErrorKind::Refused | CalloutErrorKind::BrokenOff
    );
    of_connection && error.is_safe_to_retry()
}

/// The same request; its bytes are shared.
pub(crate) fn copy(request: &Request<Content>) -> Request<Content> {
    let mut copy = Request::new(request.body().clone());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::callout::{Answer, CalloutCluster, CalloutFuture, Callouts};

    struct Slot(Arc<str>);

    impl CalloutCluster for Slot {
        fn name(&self) -> &Arc<str> {
            &self.0
        }
    }

    /// Fails as it is told, and then answers.
    struct Failing(Mutex<Vec<(CalloutErrorKind, bool)>>);

    impl Callouts for Failing {
        fn call(
            &self,
            cluster: Arc<dyn CalloutCluster>,
            request: Request<Content>,
            _: CalloutLimits,
        ) -> CalloutFuture {
            let answer = match self.0.lock().pop() {
                None => Ok(Response::new(request.into_body())),
                Some((kind, unsent)) => Err(CalloutError {
                    kind,
                    cluster: cluster.name().clone(),
                    reason: None,
                    unsent,
                }),
            };
            Box::pin(std::future::ready(answer))
        }
    }

    #[tokio::test]
    async fn a_check_is_sent_again_once_if_nobody_saw_it() {
        use CalloutErrorKind::{BrokenOff, Connect, Refused};
        for (failures, answered) in [
            (vec![], true),
            (vec![(BrokenOff, true)], true),
            (vec![(Refused, false)], true),
            (vec![(BrokenOff, false)], false),
            (vec![(Connect, true)], false),
            (vec![(BrokenOff, true), (BrokenOff, true)], false),
        ] {
            let failing = Failing(Mutex::new(failures.clone()));
            let callout = Callout::new(Arc::new(Slot("authz".into())), Arc::new(failing));
            let limits = CalloutLimits {
                time: Duration::from_secs(1),
                answer: Answer::Kept { most: 10 },
            };
            let content = Content {
                data: "may they?".into(),
                trailers: None,
            };
            let answer = ask(&callout, || Request::new(content.clone()), limits).await;
            let answer = answer.ok().map(Response::into_body);
            assert_eq!(answer, answered.then_some(content), "{failures:?}");
        }
    }
}
