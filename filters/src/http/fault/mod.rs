//! `envoy.filters.http.fault`: holds requests back, or answers them in an upstream's place.
//!
//! istiod puts it on every chain, empty; a route's settings replace the filter's. A delay is a timer of the request's
//! own and ends with its client; the body is read meanwhile, up to a bound. A delayed request may be aborted after. A
//! fault is active until its answer has ended, and counts once for `max_active_faults`, which is the filter's in one
//! version of its chain.

mod settings;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Frame, SizeHint};

use crate::http::fault::settings::{Answer, Faults, HTTP_FAULT};
use crate::http::filter::{Config, PerRoute, Registration};
use crate::http::{FilterContext, HttpFilter};
use crate::metrics::Counter;
use crate::service::body::{Body, BodyError};
use crate::service::local_reply::{LocalReply, is_grpc};
use crate::service::read_ahead::reading_ahead;
use crate::service::{HttpCall, HttpRequest, HttpService, Response, ResponseFuture};
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::decode_any;
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &HTTP_FAULT,
        build: |config, context| build(Faults::from_proto(&decode_any(config)?), context),
    },
    per_route: Some(PerRoute {
        table: &HTTP_FAULT,
        build: |config| Ok(Arc::new(Faults::from_proto(&decode_any(config)?)?)),
    }),
};

fn build(
    faults: Result<Faults, Refusal>,
    context: &FilterContext<'_>,
) -> Result<HttpFilter, Refusal> {
    let injected = context.host.metrics().counters(
        "waypoint_faults_total",
        "Faults that requests met (delay, abort), and that they didn't meet because of max_active_faults (overflow).",
        &["kind"],
    );
    let own = Arc::new(faults?);
    let position = context.position;
    let meeting = Arc::new(Meeting {
        name: context.name.into(),
        delays: injected.with(&["delay".into()]),
        aborts: injected.with(&["abort".into()]),
        overflows: injected.with(&["overflow".into()]),
        active: Arc::new(AtomicU32::new(0)),
    });
    Ok(HttpFilter::layer(tower::layer::layer_fn(move |inner| {
        HttpService::new(Fault {
            own: own.clone(),
            position,
            meeting: meeting.clone(),
            inner,
        })
    })))
}

struct Fault {
    own: Arc<Faults>,
    position: usize,
    meeting: Arc<Meeting>,
    inner: HttpService,
}

/// What requests that meet a fault share.
struct Meeting {
    /// The filter's, in its chain.
    name: Box<str>,
    delays: Counter,
    aborts: Counter,
    overflows: Counter,
    active: Arc<AtomicU32>,
}

/// A fault that goes on.
struct Active(Arc<AtomicU32>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HttpCall for Fault {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        let of_route = request.per_route::<Faults>(self.position);
        let faults = of_route.as_ref().unwrap_or(&self.own);
        if faults.is_empty() || !faults.are_for(&request.http) {
            return self.inner.call(request);
        }
        if let Some(explanation) = request.stream.explanation() {
            explanation.note("faults may be injected: it may be delayed, or aborted".to_owned());
            return self.inner.call(request);
        }
        let delay = faults.delay(request.http.headers(), fastrand::u64(..));
        if let Some(delay) = delay
            && let Some(active) = self.meeting.begin(faults)
        {
            let call = Delayed {
                faults: faults.clone(),
                meeting: self.meeting.clone(),
                inner: self.inner.clone(),
                active,
            };
            return ResponseFuture::boxed(call.after(delay, request));
        }
        let begin = || self.meeting.begin(faults);
        match self.meeting.abort(faults, &request, begin) {
            Some(response) => ResponseFuture::ready(response),
            None => self.inner.call(request),
        }
    }
}

impl Meeting {
    /// `None`: as many as may be are going on. (As in Envoy, some that begin together may pass.)
    fn begin(&self, faults: &Faults) -> Option<Active> {
        let most = faults.most.unwrap_or(u32::MAX);
        if self.active.load(Ordering::Relaxed) >= most {
            self.overflows.add(1);
            return None;
        }
        self.active.fetch_add(1, Ordering::Relaxed);
        Some(Active(self.active.clone()))
    }

    /// The answer to a request that is aborted, if it is and `begin` lets it.
    fn abort<A>(
        &self,
        faults: &Faults,
        request: &HttpRequest,
        begin: impl FnOnce() -> Option<A>,
    ) -> Option<Response> {
        let headers = request.http.headers();
        let (answer, body) = faults.abort(headers, fastrand::u64(..))?;
        let _active = begin()?;
        self.aborts.add(1);
        self.note(faults, &request.stream);
        let status = match answer {
            Answer::Http(status) => status,
            Answer::Grpc(_) => StatusCode::OK,
        };
        let reply = LocalReply::new(status, body.to_owned(), "fault_filter_abort")
            .with_flags(ResponseFlags::FAULT_INJECTED);
        let mut response = reply.respond(&request.stream, headers);
        if let Answer::Grpc(status) = answer
            && is_grpc(headers)
        {
            response.headers_mut().insert("grpc-status", status.into());
        }
        Some(response)
    }

    fn note(&self, faults: &Faults, stream: &StreamInfo) {
        for (key, value) in &faults.metadata {
            let mut state = stream.state();
            state.metadata.set(&self.name, key, value.clone());
        }
    }
}

/// A request that is held back, and what comes after.
struct Delayed {
    faults: Arc<Faults>,
    meeting: Arc<Meeting>,
    inner: HttpService,
    active: Active,
}

impl Delayed {
    async fn after(self, delay: Duration, mut request: HttpRequest) -> Response {
        self.meeting.delays.add(1);
        self.meeting.note(&self.faults, &request.stream);
        let flag = ResponseFlags::DELAY_INJECTED;
        request.stream.state().flags.insert(flag);
        let over = pin!(tokio::time::sleep(delay));
        reading_ahead(request.http.body_mut(), over).await;
        let begun = || Some(());
        if let Some(response) = self.meeting.abort(&self.faults, &request, begun) {
            return response;
        }
        let Ok(response) = self.inner.call(request).await;
        response.map(|body| match http_body::Body::is_end_stream(&body) {
            true => body,
            false => Body::boxed(OfActive {
                body,
                _active: self.active,
            }),
        })
    }
}

/// The body of an answer that a fault came before.
struct OfActive {
    body: Body,
    _active: Active,
}

impl http_body::Body for OfActive {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
