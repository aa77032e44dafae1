//! The life of a TCP stream in a tunnel: network filters, an endpoint, and bytes both ways.
//!
//! A change of the chain's configuration is looked at while the stream is open: its filters decide
//! again, and a stream that is denied now is closed. A chain that was replaced by one of another kind,
//! or that is closed now, ends the stream. At the process's end a stream has the last time, and is then cut off at both ends.

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::listener::chain::{ChainSlot, FilterChain};
use waypoint_config::model::listener::tcp_proxy::{TcpChain, TcpProxy};
use waypoint_config::model::route::hash_policy::of_address;
use waypoint_filters::http::dynamic_forward_proxy::cache::DYNAMIC_PORT;
use waypoint_filters::network::{Decision, Verdict};
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::direction::Direction;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};
use waypoint_hbone::tunnel::copy::{Copied, CopyError, Socket, copy};
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::downstream::data_path::DataPath;
use crate::lifecycle::drain::Watch;
use crate::overload;
use crate::upstream::body::ActiveRequest;
use crate::upstream::dial::Dialled;
use crate::upstream::dial::carrier::Carrier;
use crate::upstream::dial::upstream_io::{Kind, UpstreamIo};
use crate::upstream::dynamic::NotFound;
use crate::upstream::dynamic::host::DynamicHost;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::reach::{AttemptClock, ToCluster};

/// An endpoint that was tried is avoided for so many choices.
const CHOICES: u32 = 5;

/// Serves the stream to its end.
pub(crate) async fn serve(
    path: &DataPath,
    slot: Arc<ChainSlot>,
    info: Arc<Connection>,
    mut downstream: TunnelStream,
    drain: &Watch,
) {
    let loaded = slot.load();
    let FilterChain::Tcp(chain) = &*loaded else {
        return;
    };
    let stream = StreamInfo::new(info, Protocol::Tcp, Instant::now(), SystemTime::now());
    let record = TcpRecord::open(chain.clone(), stream.clone());
    let deciding = decide(chain.clone(), stream.clone());
    match while_wanted(&mut downstream, &stream, drain, deciding).await {
        Verdict::Continue => {}
        Verdict::Close(details) => {
            close(&stream, details);
            return;
        }
    }
    match connect(path, &chain.proxy, &stream).await {
        Ok((upstream, active)) => {
            let _active = active;
            carry(path, &slot, &record, downstream, upstream, drain).await;
        }
        Err(error) => {
            let mut state = stream.state();
            state.flags.insert(error.kind.flag());
            state.upstream_transport_failure_reason = error.reason.map(Into::into);
        }
    }
}

/// Writes the stream down when it is dropped.
struct TcpRecord {
    chain: Arc<TcpChain>,
    stream: Arc<StreamInfo>,
}

impl TcpRecord {
    fn open(chain: Arc<TcpChain>, stream: Arc<StreamInfo>) -> TcpRecord {
        stream.ask(&chain.capture);
        for recorder in &chain.recorders {
            recorder.opened(&stream);
        }
        TcpRecord { chain, stream }
    }

    fn began_with(&self, chain: &FilterChain) -> bool {
        matches!(chain, FilterChain::Tcp(chain) if Arc::ptr_eq(chain, &self.chain))
    }

    /// Brings the stream's counters up to what has been copied.
    fn count(&self, copied: &Copied) {
        let received = copied.forward.load(Ordering::Relaxed);
        let sent = copied.backward.load(Ordering::Relaxed);
        let new_received = received.saturating_sub(self.stream.bytes_received());
        let new_sent = sent.saturating_sub(self.stream.bytes_sent());
        self.stream.count(Direction::Request, new_received as usize);
        self.stream.count(Direction::Response, new_sent as usize);
    }

    fn progress(&self) {
        for recorder in &self.chain.recorders {
            recorder.progress(&self.stream);
        }
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        let end = Instant::now();
        for recorder in &self.chain.recorders {
            recorder.record(&self.stream, end);
        }
    }
}

/// One filter after the other. Owns what it looks at: it may have to ask somebody, and the stream goes on meanwhile.
pub(crate) async fn decide(chain: Arc<TcpChain>, stream: Arc<StreamInfo>) -> Verdict {
    for filter in &chain.filters {
        let verdict = match filter.on_connection(&stream) {
            Decision::Made(verdict) => verdict,
            Decision::Awaited(asking) => asking.await,
        };
        if verdict != Verdict::Continue {
            return verdict;
        }
    }
    Verdict::Continue
}

/// The verdict, unless the client leaves, or is to, before there is one.
async fn while_wanted(
    downstream: &mut TunnelStream,
    stream: &StreamInfo,
    drain: &Watch,
    deciding: impl Future<Output = Verdict>,
) -> Verdict {
    tokio::select! {
        biased;
        verdict = deciding => verdict,
        _ = std::future::poll_fn(|cx| downstream.poll_reset(cx)) => {
            let gone = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
            stream.state().flags.insert(gone);
            Verdict::Close("downstream_remote_disconnect".into())
        }
        () = stream.connection.evicted() => {
            stream.state().flags.insert(ResponseFlags::OVERLOAD_MANAGER);
            Verdict::Close(overload::DETAILS.into())
        }
        () = drain.over() => Verdict::Close("waypoint_ended".into()),
    }
}

fn close(stream: &StreamInfo, details: Cow<'static, str>) {
    let mut state = stream.state();
    state.connection_termination_details = Some(details).filter(|details| !details.is_empty());
    let details = &mut state.response_code_details;
    details.get_or_insert("connection_termination".into());
}

async fn connect(
    path: &DataPath,
    proxy: &TcpProxy,
    stream: &Arc<StreamInfo>,
) -> Result<(Dialled, ActiveRequest), UpstreamError> {
    let slot = proxy.clusters.take(fastrand::u64(..));
    stream.state().cluster = Some(slot.name.clone());
    let Some(cluster) = slot.cluster() else {
        stream.state().flags.insert(ResponseFlags::NO_CLUSTER);
        return Err(UpstreamError::new(UpstreamErrorKind::NoHealthyUpstream));
    };
    stream.state().service = cluster.service.clone();
    let source = || of_address(stream.connection.source.ip());
    let hash = (proxy.hash_source_ip && cluster.balancing.policy.hashes()).then(source);
    let clock = AttemptClock::default();
    let host = named_server(path, slot, &cluster, stream).await?;
    let way = ToCluster::new(&path.reach, stream, slot, cluster, clock)
        .by_hash(hash)
        .for_host(host);
    let mut tried = Vec::new();
    let mut last = UpstreamError::new(UpstreamErrorKind::NoHealthyUpstream);
    for _ in 0..proxy.max_connect_attempts.max(1) {
        let Some(chosen) = way.choose(&tried, CHOICES) else {
            break;
        };
        tried.push(chosen.endpoint.address);
        stream.state().attempts += 1;
        if let Some(mut times) = stream.upstream_times() {
            times.attempt(false);
        }
        let counted = way.count_connection()?;
        match way.tcp(&chosen, counted).await {
            Ok(dialled) => return Ok((dialled, chosen.active)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The server that the client asks for by name, where the cluster leads to such.
async fn named_server(
    path: &DataPath,
    slot: &Arc<ClusterSlot>,
    cluster: &Cluster,
    stream: &StreamInfo,
) -> Result<Option<Arc<DynamicHost>>, UpstreamError> {
    let port = {
        let state = stream.state();
        let port = state.filter_state.string(DYNAMIC_PORT);
        port.and_then(|port| port.parse().ok())
    };
    let named = stream.connection.server_name.known();
    let found = path.reach.dynamic.find(slot, cluster, named, port).await;
    found.map_err(|error| {
        tracing::debug!(cluster = %slot.name, host = named, reason = error.reason(), "no such server");
        let failed = UpstreamError::new(UpstreamErrorKind::NoHealthyUpstream);
        match error {
            NotFound::NotAdmitted => failed.because(error.reason()),
            _ => failed,
        }
    })
}

/// Carries bytes until both directions have ended, the stream failed, or its chain no longer allows it.
async fn carry(
    path: &DataPath,
    slot: &ChainSlot,
    record: &TcpRecord,
    mut downstream: TunnelStream,
    upstream: Dialled,
    drain: &Watch,
) {
    let copied = Copied::default();
    let idle = record.chain.proxy.idle_timeout;
    // The stream counts until it has ended.
    let UpstreamIo {
        kind,
        place: _place,
        open: _open,
        ..
    } = upstream.io;
    let ended = match kind {
        Kind::Tcp(tcp) => {
            let mut upstream = Socket::new(tcp);
            let copying = copy(&mut downstream, &mut upstream, &copied, idle);
            let ended = watch_over(path, slot, record, &copied, copying, drain).await;
            if !matches!(ended, Ended::Done) {
                reset(upstream.get_ref());
            }
            ended
        }
        Kind::Tls(mut tls) => {
            if let Carrier::Tunnel(tunnel) = tls.get_mut()
                && let Some(holder) = &record.stream.connection.holder
            {
                tunnel.carry_for(Some(holder));
            }
            let mut upstream = Socket::new(tls);
            let copying = copy(&mut downstream, &mut upstream, &copied, idle);
            let ended = watch_over(path, slot, record, &copied, copying, drain).await;
            if let (false, Carrier::Tcp(tcp)) = (
                matches!(ended, Ended::Done),
                upstream.into_inner().get_mut(),
            ) {
                reset(tcp.get_mut());
            }
            ended
        }
        Kind::Tunnel(mut upstream) => {
            if let Some(holder) = &record.stream.connection.holder {
                upstream.carry_for(Some(holder));
            }
            let copying = copy(&mut downstream, &mut *upstream, &copied, idle);
            watch_over(path, slot, record, &copied, copying, drain).await
        }
    };
    record.count(&copied);
    match ended {
        Ended::Done => {}
        Ended::Denied(details) => close(&record.stream, details),
        Ended::Evicted => {
            let flags = ResponseFlags::OVERLOAD_MANAGER;
            record.stream.state().flags.insert(flags);
            close(&record.stream, overload::DETAILS.into());
        }
        Ended::Failed(CopyError::Idle(_)) => close(&record.stream, "tcp_proxy_idle_timeout".into()),
        Ended::Failed(error) => {
            tracing::debug!(chain = %slot.name, source = %record.stream.connection.source, %error, "TCP stream ended");
        }
    }
}

/// What was cut off must not look finished: the connection ends with a reset, not with an end of data.
fn reset(tcp: &TcpStream) {
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// How a stream came to its end.
enum Ended {
    Done,
    Failed(CopyError),
    Denied(Cow<'static, str>),
    /// Its memory was needed.
    Evicted,
}

async fn watch_over(
    path: &DataPath,
    slot: &ChainSlot,
    record: &TcpRecord,
    copied: &Copied,
    copying: impl Future<Output = Result<(), CopyError>>,
    drain: &Watch,
) -> Ended {
    let mut copying = pin!(copying);
    let mut over = pin!(drain.over());
    let mut version = path.snapshot.version();
    let interval = record.chain.reporting_interval;
    let mut report = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    let mut current = slot.load();
    let mut deciding: Option<Pin<Box<dyn Future<Output = Verdict> + Send>>> = None;
    // What changed between the first decision and now is looked at, too.
    version.mark_changed();
    loop {
        tokio::select! {
            result = &mut copying => return match result {
                Ok(()) => Ended::Done,
                Err(error) => Ended::Failed(error),
            },
            () = &mut over => return Ended::Denied("waypoint_ended".into()),
            () = record.stream.connection.evicted() => return Ended::Evicted,
            _ = report.tick() => {
                record.count(copied);
                record.progress();
            }
            verdict = async { deciding.as_mut()?.await.into() }, if deciding.is_some() => {
                deciding = None;
                if let Some(Verdict::Close(details)) = verdict {
                    return Ended::Denied(details);
                }
            }
            Ok(()) = version.changed() => {
                let latest = slot.load();
                if Arc::ptr_eq(&latest, &current) && record.began_with(&latest) {
                    continue;
                }
                match &*latest {
                    FilterChain::Tcp(chain) => {
                        deciding = Some(Box::pin(decide(chain.clone(), record.stream.clone())));
                    }
                    FilterChain::Http(_) => {
                        return Ended::Denied("the_service's_protocol_has_changed".into());
                    }
                    FilterChain::Closed(_) => return Ended::Denied("configuration_refused".into()),
                }
                current = latest;
            }
        }
    }
}
