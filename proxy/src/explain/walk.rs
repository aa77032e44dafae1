//! The walk itself: tunnel, chain, head, filters, router; each is the data path's own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::FutureExt as _;
use http::{HeaderMap, Method, StatusCode, header};
use waypoint_config::model::http::connection_manager::HttpConnectionManager;
use waypoint_config::model::listener::CONNECT_TERMINATE;
use waypoint_config::model::listener::chain::{ChainSlot, FilterChain};
use waypoint_config::model::listener::filter_chain_matcher::{ApplicationProtocol, ChainChoice};
use waypoint_config::model::listener::snapshot::Snapshot;
use waypoint_config::model::listener::tcp_proxy::TcpChain;
use waypoint_filters::network::Verdict as NetworkVerdict;
use waypoint_filters::service::HttpRequest;
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::explanation::{Purpose, UpstreamStep};
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};
use waypoint_hbone::identity::Identity;

use crate::downstream::http::exchange::capture_request;
use crate::downstream::http::head::prepare::{EarlyAnswer, prepare};
use crate::downstream::tcp::decide;
use crate::downstream::tunnel::{choose, connect_head, inner_connection};
use crate::explain::destination;
use crate::explain::question::Question;
use crate::explain::report::{Outcome, Report, Verdict};
use crate::router::explained::cluster;

/// Where the tunnel would come in.
const HBONE: SocketAddr = SocketAddr::new(
    IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    waypoint_hbone::PORT,
);

/// Tells what would become of the request. `own` is the waypoint's identity.
pub(crate) fn explain(snapshot: &Snapshot, own: Option<Identity>, question: &Question) -> Report {
    let mut report = Report {
        from: question.from.to_string(),
        source: question.source.to_string(),
        ..Report::default()
    };
    // Nothing is asked of anybody, so that nothing is waited for.
    let verdict = way(snapshot, own, question, &mut report).now_or_never();
    match verdict {
        Some(Ok(verdict)) => report.verdict = verdict,
        Some(Err(reason)) => report.verdict.details = reason,
        None => report.verdict.details = "a filter waits for something outside".to_owned(),
    }
    report
}

/// The verdict; an error says why no chain serves it.
async fn way(
    snapshot: &Snapshot,
    own: Option<Identity>,
    question: &Question,
    report: &mut Report,
) -> Result<Verdict, String> {
    let namespace = question.from.namespace().unwrap_or("default");
    let (address, service) = destination::find(snapshot, &question.to, namespace)?;
    report.destination = Some(address.to_string());
    report.service = service;
    let (slot, mut info) = join(snapshot, own, question, address).await?;
    report.chain = Some(slot.name.to_string());
    info.server_name = question.server_name.clone();
    info.filter_chain = Some(slot.name.clone());
    let info = Arc::new(info);
    match &*slot.load() {
        FilterChain::Http(manager) => Ok(request(manager, info, question, report).await),
        FilterChain::Tcp(chain) => Ok(stream(chain, info, report).await),
        FilterChain::Closed(reason) => Err(format!(
            "the service is closed, for its configuration was refused: {reason}"
        )),
    }
}

/// The chain for a tunnel to this address, and the connection inside it.
async fn join(
    snapshot: &Snapshot,
    own: Option<Identity>,
    question: &Question,
    address: SocketAddr,
) -> Result<(Arc<ChainSlot>, Connection), String> {
    let start = Instant::now();
    let manager = &snapshot.connect_terminate.manager;
    let mut connection = Connection::new((question.source, 0).into(), HBONE, start);
    connection.peer = Some(question.from.clone());
    connection.local = own;
    connection.listener = Some(CONNECT_TERMINATE);
    let domains = &snapshot.connect_terminate.trust_domains;
    if !domains
        .iter()
        .any(|domain| domain == question.from.trust_domain())
    {
        let domains = domains.join(", ");
        return Err(format!(
            "mutual TLS fails: this waypoint takes identities of {domains} alone"
        ));
    }
    let connection = Arc::new(connection);
    let stream = StreamInfo::new(connection, Protocol::Http2, start, SystemTime::now());
    let head = connect_head(&Method::CONNECT, &HeaderMap::new(), &address.to_string());
    let head = HttpRequest::new(head, stream.clone(), manager.routes.clone());
    let Ok(response) = manager.filters.call(head).await;
    if !response.status().is_success() {
        return Err(format!("the CONNECT is answered {}", response.status()));
    }
    let none = || format!("no service or pod of this waypoint has the address {address}");
    let info = inner_connection(&stream).ok_or_else(none)?;
    let chosen = match choose(snapshot, &info, None) {
        ChainChoice::NeedsProtocol => choose(snapshot, &info, Some(ApplicationProtocol::Http11)),
        chosen => chosen,
    };
    match chosen {
        ChainChoice::Chain(slot) => Ok((slot, info)),
        _ => Err(none()),
    }
}

/// An HTTP request on the chain.
async fn request(
    manager: &Arc<HttpConnectionManager>,
    info: Arc<Connection>,
    question: &Question,
    report: &mut Report,
) -> Verdict {
    let stream = StreamInfo::new(info, Protocol::Http11, Instant::now(), SystemTime::now());
    stream.explain();
    let mut request = question.request();
    let prepared = prepare(&mut request, manager, &stream.connection);
    capture_request(&stream, &request, &manager.capture);
    let response = match prepared {
        Ok(()) => {
            let mut request = HttpRequest::new(request, stream.clone(), manager.routes.clone());
            stream.state().route = request.route().cloned();
            let Ok(response) = manager.filters.call(request).await;
            response
        }
        Err(EarlyAnswer::Reply(reply)) => reply.respond(&stream, request.headers()),
        Err(EarlyAnswer::Redirect(to)) => {
            return Verdict {
                outcome: Outcome::Answered,
                status: Some(StatusCode::TEMPORARY_REDIRECT.as_u16()),
                location: Some(to),
                details: "path_normalization_redirect".into(),
                ..Verdict::default()
            };
        }
    };
    if let Some(explanation) = stream.explanation() {
        report.steps = explanation.steps();
    }
    let denied = report
        .steps
        .rules
        .iter()
        .any(|step| step.purpose == Purpose::Decides && !step.allowed);
    let details = stream.state().response_code_details.clone();
    let (denied_by, dry_run_denied_by) = deniers(&stream);
    let status = response.status().as_u16();
    let location = response.headers().get(header::LOCATION);
    let location = location.and_then(|l| Some(l.to_str().ok()?.to_owned()));
    match (details, &report.steps.upstream) {
        (None, Some(_)) => Verdict {
            outcome: Outcome::Forwarded,
            dry_run_denied_by,
            ..Verdict::default()
        },
        (details, _) => Verdict {
            outcome: match denied || matches!(status, 401 | 403) && report.steps.routes.is_empty() {
                true => Outcome::Denied,
                false => Outcome::Answered,
            },
            status: Some(status),
            location,
            details: details.unwrap_or_default().into_owned(),
            denied_by,
            dry_run_denied_by,
        },
    }
}

/// The policies that denied it, and that would have, in words.
fn deniers(stream: &StreamInfo) -> (Option<String>, Option<String>) {
    let state = stream.state();
    let words = |by: &Option<Arc<str>>| by.as_deref().map(str::to_owned);
    (words(&state.denied_by), words(&state.dry_run_denied_by))
}

/// A TCP stream on the chain.
async fn stream(chain: &Arc<TcpChain>, info: Arc<Connection>, report: &mut Report) -> Verdict {
    let stream = StreamInfo::new(info, Protocol::Tcp, Instant::now(), SystemTime::now());
    stream.explain();
    let verdict = decide(chain.clone(), stream.clone()).await;
    let clusters = &chain.proxy.clusters;
    let total = clusters.total().max(1) as f64;
    let (denied_by, dry_run_denied_by) = deniers(&stream);
    if let Some(explanation) = stream.explanation() {
        explanation.note("this port carries TCP: nothing of HTTP counts".into());
        report.steps = explanation.steps();
    }
    match verdict {
        NetworkVerdict::Close(details) => Verdict {
            outcome: Outcome::Denied,
            details: details.into_owned(),
            denied_by,
            dry_run_denied_by,
            ..Verdict::default()
        },
        NetworkVerdict::Continue => {
            let clusters = clusters.weights();
            let share = |(weight, slot)| cluster(slot, 100.0 * weight as f64 / total);
            report.steps.upstream = Some(UpstreamStep {
                method: String::new(),
                target: String::new(),
                headers: Vec::new(),
                clusters: clusters.map(share).collect(),
                mirrors: Vec::new(),
            });
            Verdict {
                outcome: Outcome::Forwarded,
                dry_run_denied_by,
                ..Verdict::default()
            }
        }
    }
}
