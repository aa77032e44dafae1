//! The life of a TCP stream in a tunnel: network filters, an endpoint, and bytes both ways.
//!
//! A change of the chain's configuration is looked at while the stream is open: its filters decide
//! again, and a stream that is denied now is closed. A chain that was replaced by one of another kind,
//! or that is closed now, ends the stream. At the process's end a stream has the last time, and is then cut off at both ends.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use waypoint_config::model::listener::chain::{ChainSlot, FilterChain};
use waypoint_config::model::listener::tcp_proxy::{TcpChain, TcpProxy};
use waypoint_filters::network::Verdict;
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
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::io::{Kind, UpstreamIo};
use crate::upstream::reach::{AttemptClock, ToCluster};

/// An endpoint that was tried is avoided for so many choices.
const CHOICES: u32 = 5;

/// Serves the stream to its end.
pub(crate) async fn serve(
    path: &DataPath,
    slot: Arc<ChainSlot>,
    info: Arc<Connection>,
    downstream: TunnelStream,
    drain: &Watch,
) {
    let loaded = slot.load();
    let FilterChain::Tcp(chain) = &*loaded else {
        return;
    };
    let stream = StreamInfo::new(info, Protocol::Tcp, Instant::now(), SystemTime::now());
    let record = TcpRecord::open(chain.clone(), stream.clone());
    if let Verdict::Close(details) = decide(chain, &stream) {
        close(&stream, details);
        return;
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

fn decide(chain: &TcpChain, stream: &StreamInfo) -> Verdict {
    for filter in &chain.filters {
        match filter.on_connection(stream) {
            Verdict::Continue => {}
            close => return close,
        }
    }
    Verdict::Continue
}

fn close(stream: &StreamInfo, details: Cow<'static, str>) {
    let mut state = stream.state();
    state.connection_termination_details = Some(details);
    state.response_code_details = Some("connection_termination".into());
}

async fn connect(
    path: &DataPath,
    proxy: &TcpProxy,
    stream: &Arc<StreamInfo>,
) -> Result<(Dialled, ActiveRequest), UpstreamError> {
    let slot = proxy.clusters.choose(fastrand::u64(..));
    stream.state().cluster = Some(slot.name.clone());
    let Some(cluster) = slot.cluster() else {
        stream.state().flags.insert(ResponseFlags::NO_CLUSTER);
        return Err(UpstreamError::new(UpstreamErrorKind::NoHealthyUpstream));
    };
    stream.state().service = cluster.service.clone();
    let way = ToCluster::new(&path.reach, stream, slot, cluster, AttemptClock::default());
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
        Kind::Tunnel(mut upstream) => {
            if let Some(holder) = &record.stream.connection.holder {
                upstream.send_for(holder);
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
            Ok(()) = version.changed() => {
                let latest = slot.load();
                if Arc::ptr_eq(&latest, &current) && record.began_with(&latest) {
                    continue;
                }
                match &*latest {
                    FilterChain::Tcp(chain) => {
                        if let Verdict::Close(details) = decide(chain, &record.stream) {
                            return Ended::Denied(details);
                        }
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
