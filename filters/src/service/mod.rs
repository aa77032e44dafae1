//! The shape of an HTTP filter: a `tower::Layer` over [`HttpService`].
//!
//! A chain is folded once, when its configuration is compiled, and shared by all its requests.
//! Services are always ready and never fail: a failure is a response. A filter that doesn't wait
//! returns the future of its inner call as it is, so a chain allocates one box a request (the router's),
//! however long it is.

pub mod body;
pub mod cookie;
pub mod header_changes;
pub mod local_reply;
pub mod read_ahead;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::service::body::Body;
use crate::stream::explanation::RouteStep;
use crate::stream::route::SelectedRoute;
use crate::stream::stream_info::StreamInfo;

/// A response as filters see it.
pub type Response = http::Response<Body>;

/// In a request's extensions: the scheme that its target had, where that is another than `http`.
#[derive(Clone, Debug)]
pub struct SaidScheme(pub http::uri::Scheme);

/// In a request's extensions: the router adds no `x-envoy-*` to it, and none to its answer.
#[derive(Clone, Copy, Debug)]
pub struct WithoutEnvoyHeaders;

/// In a request's extensions: who the client is, where a header doesn't decide.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub IpAddr);

/// Chooses the route of a request: the route configuration of the chain.
pub trait RouteResolver: Send + Sync {
    fn resolve(
        &self,
        request: &http::Request<Body>,
        stream: &StreamInfo,
    ) -> Option<Arc<dyn SelectedRoute>>;

    /// Whether any route has configuration for the filter at `position`: lets a filter that has
    /// nothing to do here skip resolving the route.
    fn has_per_filter(&self, position: usize) -> bool;

    /// How each route fared, up to the one that was chosen.
    fn explain(&self, request: &http::Request<Body>, stream: &StreamInfo) -> Vec<RouteStep>;
}

/// A request on its way through the filters, with what is known about its stream.
pub struct HttpRequest {
    pub http: http::Request<Body>,
    pub stream: Arc<StreamInfo>,
    routes: Arc<dyn RouteResolver>,
    route: Option<Option<Arc<dyn SelectedRoute>>>,
}

impl HttpRequest {
    pub fn new(
        http: http::Request<Body>,
        stream: Arc<StreamInfo>,
        routes: Arc<dyn RouteResolver>,
    ) -> HttpRequest {
        HttpRequest {
            http,
            stream,
            routes,
            route: None,
        }
    }

    /// The route of this request, resolved when first asked for. `None`: no route matches (404).
    pub fn route(&mut self) -> Option<&Arc<dyn SelectedRoute>> {
        if self.route.is_none() {
            self.route = Some(if self.stream.wants_upstream_times() {
                self.resolve_timed()
            } else {
                self.routes.resolve(&self.http, &self.stream)
            });
        }
        self.route.as_ref().and_then(Option::as_ref)
    }

    fn resolve_timed(&self) -> Option<Arc<dyn SelectedRoute>> {
        let start = Instant::now();
        let route = self.routes.resolve(&self.http, &self.stream);
        if let Some(mut times) = self.stream.upstream_times() {
            times.route_resolution += start.elapsed();
        }
        route
    }

    /// Writes down how each route fares, where somebody asks why.
    pub fn explain_routes(&self) {
        if let Some(explanation) = self.stream.explanation() {
            explanation.routes(self.routes.explain(&self.http, &self.stream));
        }
    }

    /// Forgets the route, so that it is resolved again with the request as it is then.
    pub fn clear_route(&mut self) {
        self.route = None;
    }

    /// The per-route configuration of the filter at `position`, if the route has one.
    pub fn per_route<T: Send + Sync + 'static>(&mut self, position: usize) -> Option<Arc<T>> {
        if !self.routes.has_per_filter(position) {
            return None;
        }
        let config = self.route()?.info().per_filter.get(position)?.clone()?;
        config.downcast::<T>().ok()
    }
}

/// What an HTTP filter, and at the end of the chain the router, does with a request.
pub trait HttpCall: Send + Sync + 'static {
    fn call(&self, request: HttpRequest) -> ResponseFuture;
}

/// A link of the chain: a filter with everything behind it.
#[derive(Clone)]
pub struct HttpService(Arc<dyn HttpCall>);

impl fmt::Debug for HttpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpService")
    }
}

impl HttpService {
    pub fn new(call: impl HttpCall) -> HttpService {
        HttpService(Arc::new(call))
    }

    /// Calls the chain; it is always ready.
    pub fn call(&self, request: HttpRequest) -> ResponseFuture {
        self.0.call(request)
    }
}

impl tower::Service<HttpRequest> for HttpService {
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> ResponseFuture {
        HttpService::call(self, request)
    }
}

/// A filter as the registry gives it: folded over the service behind it.
pub type HttpLayer = Box<dyn tower::Layer<HttpService, Service = HttpService> + Send + Sync>;

/// A response now, or later.
pub enum ResponseFuture {
    Ready(Option<Response>),
    Boxed(Pin<Box<dyn Future<Output = Response> + Send>>),
}

impl ResponseFuture {
    pub fn ready(response: Response) -> ResponseFuture {
        ResponseFuture::Ready(Some(response))
    }

    pub fn boxed(future: impl Future<Output = Response> + Send + 'static) -> ResponseFuture {
        ResponseFuture::Boxed(Box::pin(future))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            ResponseFuture::Ready(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // Polled after completion, which no caller does; never resolves rather than panics.
                None => Poll::Pending,
            },
            ResponseFuture::Boxed(future) => future.as_mut().poll(cx).map(Ok),
        }
    }
}
