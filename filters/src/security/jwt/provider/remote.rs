//! `remote_jwks`: a key set that is fetched, at once and again before it is old.
//!
//! Envoy fetches when a request needs the keys, unless `async_fetch` is set; here it is always done in the background, once for
//! all chains that say the same. Keys that were fetched stay in force when a later fetch fails.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{HttpUri, RetryPolicy, http_uri::HttpUpstreamType};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::RemoteJwks;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::callout::{Answer, Callout, CalloutError, CalloutLimits, Content};
use crate::metrics::CounterFamily;
use crate::security::jwt::keys::key_set::{KeySet, KeySetError, MAX_BYTES};
use crate::security::jwt::token::verified::{Limits, Room};
use crate::security::jwt::trusted::TrustedKeys;
use crate::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use crate::xds::coverage::{Table, harmless, honoured, required};
use crate::xds::duration;
use crate::xds::rejected::Refusal;

pub(crate) static REMOTE_JWKS: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks",
    fields: &[
        honoured(1, "http_uri").of(&HTTP_URI),
        honoured(2, "cache_duration").of(&DURATION),
        honoured(3, "async_fetch").of(&ASYNC_FETCH),
        honoured(4, "retry_policy").of(&RETRY_POLICY),
    ],
    refused: "",
    required: &[required("http_uri", &[1])],
};

static HTTP_URI: Table = Table {
    name: "envoy.config.core.v3.HttpUri",
    fields: &[
        honoured(1, "uri"),
        honoured(2, "cluster"),
        honoured(3, "timeout").of(&DURATION),
    ],
    refused: "",
    required: &[
        required("uri", &[1]),
        required("http_upstream_type", &[2]),
        required("timeout", &[3]),
    ],
};

static ASYNC_FETCH: Table = Table {
    name: "envoy.extensions.filters.http.jwt_authn.v3.JwksAsyncFetch",
    fields: &[
        harmless(
            1,
            "fast_listener",
            "no listener waits for keys; requests that need them wait for the first fetch",
        ),
        honoured(2, "failed_refetch_duration").of(&DURATION),
    ],
    refused: "",
    required: &[],
};

static RETRY_POLICY: Table = Table {
    name: "envoy.config.core.v3.RetryPolicy",
    fields: &[
        honoured(1, "retry_back_off").of(&BACKOFF),
        honoured(2, "num_retries").of(&UINT32_VALUE),
    ],
    refused: "3 retry_on, 4 retry_priority, 5 retry_host_predicate, \
              6 host_selection_retry_max_attempts",
    required: &[],
};

static BACKOFF: Table = Table {
    name: "envoy.config.core.v3.BackoffStrategy",
    fields: &[
        honoured(1, "base_interval").of(&DURATION),
        honoured(2, "max_interval").of(&DURATION),
    ],
    refused: "",
    required: &[required("base_interval", &[1])],
};

/// How long keys are good for where the configuration doesn't say.
const CACHE: Duration = Duration::from_secs(600);
/// They are fetched again so long before.
const BEFORE: Duration = Duration::from_secs(5);
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Nothing is fetched more often.
const LEAST: Duration = Duration::from_millis(100);
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// Attempts of one fetch at most.
const MAX_RETRIES: u32 = 100;

/// Where keys are fetched, and when.
#[derive(Debug)]
pub struct Source {
    uri: Uri,
    cluster: Arc<str>,
    callout: Callout,
    timeout: Duration,
    refresh: Duration,
    after_failure: Duration,
    retries: u32,
    backoff: (Duration, Duration),
}

/// Keys that are fetched.
#[derive(Debug)]
pub struct RemoteKeys {
    source: Arc<Source>,
    limits: Limits,
    room: Arc<Room>,
    trusted: ArcSwapOption<TrustedKeys>,
    /// The key set in force, as it came.
    body: Mutex<Bytes>,
    /// Whether a first fetch has ended, well or not.
    tried: watch::Sender<bool>,
    /// Why the last fetch failed.
    failure: Mutex<Option<String>>,
    /// Goes with the last that uses the keys, and ends their fetching.
    _used: oneshot::Sender<()>,
}

/// What it takes to fetch keys as long as they are used.
pub(crate) struct Fetching {
    keys: Weak<RemoteKeys>,
    source: Arc<Source>,
    unused: oneshot::Receiver<()>,
}

/// Why there is no new key set.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Callout(CalloutError),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("{0}")]
    KeySet(KeySetError),
}

impl FetchError {
    /// For labels of metrics.
    fn name(&self) -> &'static str {
        match self {
            FetchError::Callout(error) => error.kind.name(),
            FetchError::Status(_) => "status",
            FetchError::KeySet(_) => "no_key_set",
        }
    }
}

impl RemoteKeys {
    pub(crate) fn from_proto(
        proto: &RemoteJwks,
        cluster: &dyn Fn(&str) -> Callout,
        limits: Limits,
        room: &Arc<Room>,
    ) -> Result<(Arc<RemoteKeys>, Fetching), Refusal> {
        let source = Arc::new(Source::from_proto(proto, cluster)?);
        let (used, unused) = oneshot::channel();
        let keys = Arc::new(RemoteKeys {
            source: source.clone(),
            limits,
            room: room.clone(),
            trusted: ArcSwapOption::empty(),
            body: Mutex::default(),
            tried: watch::Sender::new(false),
            failure: Mutex::default(),
            _used: used,
        });
        let fetching = Fetching {
            keys: Arc::downgrade(&keys),
            source,
            unused,
        };
        Ok((keys, fetching))
    }

    /// The keys in force; `None`: none were had yet. Not to be held over an await.
    pub fn trusted(&self) -> arc_swap::Guard<Option<Arc<TrustedKeys>>> {
        self.trusted.load()
    }

    /// Whether nobody can say yet if there will be keys.
    pub fn is_untried(&self) -> bool {
        !*self.tried.borrow()
    }

    /// Returns when a first fetch has ended, or should have.
    pub async fn tried(&self) {
        let mut tried = self.tried.subscribe();
        let _ = tokio::time::timeout(self.source.timeout, tried.wait_for(|tried| *tried)).await;
    }

    /// What of it isn't well.
    pub fn problem(&self) -> Option<String> {
        let reason = self.failure.lock().clone()?;
        let stays = match self.trusted.load().is_some() {
            true => "those before stay",
            false => "no token is accepted",
        };
        Some(format!(
            "its keys can't be fetched from {}: {reason}; {stays}",
            self.source.uri
        ))
    }

    /// Takes what came of a fetch; says when the next is due.
    fn take(&self, fetched: Result<(KeySet, Bytes), FetchError>) -> Duration {
        let due = match fetched {
            Ok((set, body)) => {
                self.put(set, body);
                if self.failure.lock().take().is_some() {
                    tracing::info!(uri = %self.source.uri, "keys of tokens are fetched again");
                }
                self.source.refresh
            }
            Err(error) => {
                let reason = error.to_string();
                if self.failure.lock().replace(reason.clone()).as_ref() != Some(&reason) {
                    tracing::warn!(
                        uri = %self.source.uri, cluster = %self.source.cluster, %error,
                        "keys of tokens can't be fetched"
                    );
                }
                self.source.after_failure
            }
        };
        self.tried.send_replace(true);
        due
    }

    /// A set that came before keeps what it has verified.
    fn put(&self, set: KeySet, body: Bytes) {
        let mut before = self.body.lock();
        if *before == body && self.trusted.load().is_some() {
            return;
        }
        for error in &set.left_out {
            tracing::warn!(uri = %self.source.uri, %error, "a key can't be used");
        }
        let trusted = TrustedKeys::new(set, self.limits, &self.room);
        self.trusted.store(Some(Arc::new(trusted)));
        *before = body;
    }
}

impl Fetching {
    /// Fetches until nobody uses the keys any more.
    pub(crate) async fn run(self, fetches: Arc<CounterFamily>) {
        let Fetching {
            keys,
            source,
            mut unused,
        } = self;
        let fetching = async {
            loop {
                let fetched = source.fetch(&fetches).await;
                let Some(keys) = keys.upgrade() else { return };
                let due = keys.take(fetched);
                drop(keys);
                tokio::time::sleep(due).await;
            }
        };
        tokio::select! {
            () = fetching => {}
            _ = &mut unused => {}
        }
    }

    pub(crate) fn is_used(&self) -> bool {
        self.keys.strong_count() > 0
    }
}

impl Source {
    fn from_proto(
        proto: &RemoteJwks,
        callout: &dyn Fn(&str) -> Callout,
    ) -> Result<Source, Refusal> {
        let http = proto
            .http_uri
            .as_ref()
            .ok_or_else(|| Refusal::missing("http_uri"))?;
        let (uri, cluster, timeout) = to(http).map_err(|e| e.within("http_uri"))?;
        let cache = duration::optional(&proto.cache_duration, "cache_duration")?.unwrap_or(CACHE);
        let fetch = proto.async_fetch.unwrap_or_default();
        let again = duration::optional(&fetch.failed_refetch_duration, "failed_refetch_duration")
            .map_err(|e| e.within("async_fetch"))?;
        let (retries, backoff) = match &proto.retry_policy {
            None => (0, (BACKOFF_BASE, BACKOFF_BASE)),
            Some(policy) => retries(policy).map_err(|e| e.within("retry_policy"))?,
        };
        Ok(Source {
            callout: callout(&cluster),
            cluster,
            uri,
            timeout,
            refresh: if cache > BEFORE {
                cache - BEFORE
            } else {
                cache
            }
            .max(LEAST),
            after_failure: again.unwrap_or(AFTER_FAILURE).max(LEAST),
            retries,
            backoff,
        })
    }

    async fn fetch(&self, fetches: &CounterFamily) -> Result<(KeySet, Bytes), FetchError> {
        let (base, most) = self.backoff;
        let mut retry = 0;
        loop {
            let fetched = self.attempt().await;
            let result = fetched
                .as_ref()
                .map_or_else(FetchError::name, |_| "success");
            let labels = [self.cluster.clone(), result.into()];
            fetches.with(&labels).add(1);
            if fetched.is_ok() || retry >= self.retries {
                return fetched;
            }
            let step = base.saturating_mul(1 << retry.min(16)).min(most);
            let jittered = step.as_secs_f64() * fastrand::f64();
            let pause = Duration::try_from_secs_f64(jittered).unwrap_or(step);
            tokio::time::sleep(pause.max(LEAST)).await;
            retry += 1;
        }
    }

    async fn attempt(&self) -> Result<(KeySet, Bytes), FetchError> {
        let mut request = Request::new(Content::default());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.target();
        if let Some(authority) = self.uri.authority()
            && let Ok(host) = HeaderValue::try_from(authority.as_str())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        let limits = CalloutLimits {
            time: self.timeout,
            answer: Answer::Kept { most: MAX_BYTES },
        };
        let answer = self.callout.call(request, limits).await;
        let answer = answer.map_err(FetchError::Callout)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let body = answer.into_body().data;
        let set = KeySet::parse(&body).map_err(FetchError::KeySet)?;
        Ok((set, body))
    }

    fn target(&self) -> Uri {
        let target = self.uri.path_and_query().cloned();
        target.map_or_else(|| Uri::from_static("/"), Uri::from)
    }
}

fn to(proto: &HttpUri) -> Result<(Uri, Arc<str>, Duration), Refusal> {
    let uri: Uri = proto
        .uri
        .parse()
        .map_err(|error| Refusal::new("uri", format!("{:?}: {error}", proto.uri)))?;
    if uri.authority().is_none() || uri.scheme().is_none() {
        let reason = format!("{:?} has no scheme or no host", proto.uri);
        return Err(Refusal::new("uri", reason));
    }
    let Some(HttpUpstreamType::Cluster(cluster)) = &proto.http_upstream_type else {
        return Err(Refusal::missing("http_upstream_type"));
    };
    let timeout = proto
        .timeout
        .as_ref()
        .ok_or_else(|| Refusal::missing("timeout"))?;
    Ok((
        uri,
        cluster.as_str().into(),
        duration::from_proto(timeout, "timeout")?,
    ))
}

/// How often a failed fetch is tried again at once, and the first and the longest time between.
fn retries(proto: &RetryPolicy) -> Result<(u32, (Duration, Duration)), Refusal> {
    let times = proto.num_retries.as_ref().map_or(1, |n| n.value);
    if times > MAX_RETRIES {
        let reason = format!("is more than {MAX_RETRIES}");
        return Err(Refusal::new("num_retries", reason));
    }
    let Some(backoff) = &proto.retry_back_off else {
        return Ok((times, (BACKOFF_BASE, BACKOFF_BASE * 10)));
    };
    let within = |e: Refusal| e.within("retry_back_off");
    let base = duration::optional(&backoff.base_interval, "base_interval").map_err(within)?;
    let base = base.ok_or_else(|| within(Refusal::missing("base_interval")))?;
    let most = duration::optional(&backoff.max_interval, "max_interval").map_err(within)?;
    Ok((times, (base, most.unwrap_or(base.saturating_mul(10)))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::BackoffStrategy;
    use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::JwksAsyncFetch;
    use envoy_types::pb::google::protobuf::{Duration as DurationProto, UInt32Value};
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::callout::{CalloutCluster, CalloutErrorKind, CalloutFuture, Callouts};
    use crate::metrics::MetricRegistry;
    use crate::security::jwt::keys::key::tests::{p256_jwk, rsa_jwk};

    const LIMITS: Limits = Limits {
        tokens: 10,
        token_bytes: 1000,
    };

    struct Keys;

    impl CalloutCluster for Keys {
        fn name(&self) -> &Arc<str> {
            static NAME: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "keys".into());
            &NAME
        }
    }

    /// Answers in turn with these, and with the last for ever; `None`: not at all.
    struct Server {
        answers: Mutex<Vec<Option<(u16, String)>>>,
        asked: Mutex<Vec<(Instant, String)>>,
    }

    impl Callouts for Server {
        fn call(
            &self,
            cluster: Arc<dyn CalloutCluster>,
            request: Request<Content>,
            _: CalloutLimits,
        ) -> CalloutFuture {
            let host = request.headers()[header::HOST].to_str().unwrap();
            let asked = format!("{} {} {host}", request.method(), request.uri());
            self.asked.lock().push((Instant::now(), asked));
            let mut answers = self.answers.lock();
            let answer = match answers.len() {
                1 => answers[0].clone(),
                _ => answers.remove(0),
            };
            let answer = answer.map(|(status, body)| {
                let content = Content {
                    data: body.into(),
                    trailers: None,
                };
                http::Response::builder()
                    .status(status)
                    .body(content)
                    .unwrap()
            });
            Box::pin(std::future::ready(answer.ok_or_else(|| CalloutError {
                kind: CalloutErrorKind::Connect,
                cluster: cluster.name().clone(),
                reason: None,
                unsent: true,
            })))
        }
    }

    fn seconds(seconds: i64) -> Option<DurationProto> {
        Some(DurationProto { seconds, nanos: 0 })
    }

    fn proto() -> RemoteJwks {
        RemoteJwks {
            http_uri: Some(HttpUri {
                uri: "https://issuer.test:8443/keys?a=b".into(),
                timeout: seconds(5),
                http_upstream_type: Some(HttpUpstreamType::Cluster("keys".into())),
            }),
            cache_duration: seconds(300),
            async_fetch: None,
            retry_policy: None,
        }
    }

    struct Scene {
        keys: Arc<RemoteKeys>,
        server: Arc<Server>,
        task: tokio::task::JoinHandle<()>,
        registry: MetricRegistry,
        start: Instant,
    }

    fn start(proto: &RemoteJwks, answers: Vec<Option<(u16, String)>>) -> Scene {
        let server = Arc::new(Server {
            answers: Mutex::new(answers),
            asked: Mutex::default(),
        });
        let callout = |_: &str| Callout::new(Arc::new(Keys), server.clone());
        let (keys, fetching) =
            RemoteKeys::from_proto(proto, &callout, LIMITS, &Arc::default()).unwrap();
        let registry = MetricRegistry::default();
        let fetches = registry.counters("fetches", "Fetches.", &["cluster", "result"]);
        let task = tokio::spawn(fetching.run(fetches));
        Scene {
            keys,
            server,
            task,
            registry,
            start: Instant::now(),
        }
    }

    impl Scene {
        /// When it was asked so far, in seconds.
        fn asked(&self) -> Vec<u64> {
            let asked = self.server.asked.lock();
            let at = |(at, _): &(Instant, String)| at.duration_since(self.start).as_secs();
            asked.iter().map(at).collect()
        }
    }

    fn good(key: serde_json::Value) -> Option<(u16, String)> {
        Some((200, json!({"keys": [key]}).to_string()))
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_again_before_they_are_old() {
        let scene = start(&proto(), vec![good(p256_jwk())]);
        assert!(scene.keys.is_untried() && scene.keys.trusted().is_none());
        scene.keys.tried().await;
        assert!(!scene.keys.is_untried());
        let first = scene.keys.trusted().clone().unwrap();
        tokio::time::sleep(Duration::from_secs(700)).await;
        assert_eq!(scene.asked(), [0, 295, 590]);
        assert_eq!(
            scene.server.asked.lock()[0].1,
            "GET /keys?a=b issuer.test:8443"
        );
        // The same keys remember what they have verified.
        let later = scene.keys.trusted().clone().unwrap();
        assert!(Arc::ptr_eq(&first, &later));
        assert_eq!(scene.keys.problem(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_keys_stay_and_failures_are_told_and_tried_again() {
        let answers = vec![
            None,
            Some((404, String::new())),
            good(p256_jwk()),
            Some((200, "[]".into())),
            None,
            good(rsa_jwk()),
        ];
        let proto = RemoteJwks {
            async_fetch: Some(JwksAsyncFetch {
                fast_listener: false,
                failed_refetch_duration: seconds(10),
            }),
            ..proto()
        };
        let scene = start(&proto, answers);
        scene.keys.tried().await;
        assert!(scene.keys.trusted().is_none());
        assert_eq!(
            scene.keys.problem().unwrap(),
            "its keys can't be fetched from https://issuer.test:8443/keys?a=b: callout to \"keys\": no connection; \
             no token is accepted"
        );
        tokio::time::sleep(Duration::from_secs(25)).await;
        let first = scene.keys.trusted().clone().unwrap();
        assert_eq!(scene.keys.problem(), None);
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(
            scene
                .keys
                .problem()
                .unwrap()
                .ends_with("; those before stay")
        );
        assert!(Arc::ptr_eq(&first, &scene.keys.trusted().clone().unwrap()));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(scene.asked(), [0, 10, 20, 315, 325, 335]);
        assert!(!Arc::ptr_eq(&first, &scene.keys.trusted().clone().unwrap()));
        let text = scene.registry.encode();
        for (result, times) in [
            ("connect", 2),
            ("status", 1),
            ("no_key_set", 1),
            ("success", 2),
        ] {
            let line = format!("fetches{{cluster=\"keys\",result=\"{result}\"}} {times}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_is_tried_as_often_as_its_policy_says() {
        let proto = RemoteJwks {
            retry_policy: Some(RetryPolicy {
                num_retries: Some(UInt32Value { value: 2 }),
                retry_back_off: Some(BackoffStrategy {
                    base_interval: seconds(1),
                    max_interval: seconds(1),
                }),
                ..RetryPolicy::default()
            }),
            async_fetch: Some(JwksAsyncFetch {
                fast_listener: false,
                failed_refetch_duration: seconds(1000),
            }),
            ..proto()
        };
        let scene = start(&proto, vec![None]);
        tokio::time::sleep(Duration::from_secs(900)).await;
        assert_eq!(scene.asked().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn fetching_ends_with_the_last_that_uses_the_keys() {
        let scene = start(&proto(), vec![good(p256_jwk())]);
        scene.keys.tried().await;
        let Scene {
            keys, task, server, ..
        } = scene;
        drop(keys);
        task.await.unwrap();
        assert_eq!(server.asked.lock().len(), 1);
    }

    #[test]
    fn what_cannot_be_fetched_is_refused() {
        let refused = |change: fn(&mut RemoteJwks)| {
            let mut proto = proto();
            change(&mut proto);
            let callout = |_: &str| -> Callout { unreachable!("nothing is asked") };
            Source::from_proto(&proto, &callout).err().unwrap().field
        };
        assert_eq!(refused(|p| p.http_uri = None), "http_uri");
        let no_host = refused(|p| p.http_uri.as_mut().unwrap().uri = "/keys".into());
        assert_eq!(no_host, "http_uri.uri");
        let no_uri = refused(|p| p.http_uri.as_mut().unwrap().uri = "http://a b".into());
        assert_eq!(no_uri, "http_uri.uri");
        let no_time = refused(|p| p.http_uri.as_mut().unwrap().timeout = None);
        assert_eq!(no_time, "http_uri.timeout");
        let no_cluster = refused(|p| p.http_uri.as_mut().unwrap().http_upstream_type = None);
        assert_eq!(no_cluster, "http_uri.http_upstream_type");
        assert_eq!(
            refused(|p| p.cache_duration = seconds(-1)),
            "cache_duration"
        );
        let often = refused(|p| {
            p.retry_policy = Some(RetryPolicy {
                num_retries: Some(UInt32Value { value: 101 }),
                ..RetryPolicy::default()
            });
        });
        assert_eq!(often, "retry_policy.num_retries");
    }
}
