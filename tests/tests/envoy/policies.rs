//! Generated policies, tokens and requests beside Envoy: the same verdict for each, with the same details, and the same
//! said by dry runs. `WAYPOINT_SEED` is the first round's seed, each later one's is one more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use http::Version;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::seeds::{chance, one, seed};
use waypoint_tests::some_policies::{authentication, some_policies, some_request};
use waypoint_tests::tokens::{Signer, key_set};
use waypoint_tests::wait::until;
use waypoint_tests::{App, ControlPlane, Mesh, Ztunnel};

const LOG: &str = "LOG %REQ(X-ID)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% \
    %DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_allow_shadow_effective_policy_id)% \
    %DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_allow_shadow_engine_result)% \
    %DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_effective_policy_id)% \
    %DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_engine_result)% \
    %DYNAMIC_METADATA(envoy.common:access_log_hint)%\n";
/// How long rounds are begun.
const TIME: Duration = Duration::from_secs(50);
const REQUESTS: usize = 250;

/// What became of a request: status and text, and what the backend saw.
type Outcome = (u16, String, Vec<String>);

/// One side's answers and lines, by the request's number.
struct Side {
    clients: Vec<Ztunnel>,
    outcomes: Vec<Outcome>,
}

impl Side {
    async fn of(mesh: &Mesh, address: std::net::SocketAddr) -> Side {
        let mut clients = Vec::new();
        for (namespace, account) in [("default", "curl"), ("other", "stranger")] {
            let certificate = mesh.certificate(namespace, account);
            clients.push(Ztunnel::connect(address, &certificate).await.unwrap());
        }
        Side {
            clients,
            outcomes: Vec::new(),
        }
    }
}

fn lines(log: &str) -> BTreeMap<String, String> {
    let lines = log.lines().filter_map(|line| line.strip_prefix("LOG "));
    let lines = lines.filter_map(|line| line.split_once(' '));
    lines
        .map(|(id, rest)| (id.to_owned(), rest.to_owned()))
        .collect()
}

/// Policies and requests of one seed: differences, and how many requests had which status.
async fn round(seed: u64, signer: &Signer, statuses: &mut BTreeMap<u16, usize>) -> Vec<String> {
    let mut rng = Rng::with_seed(seed);
    let mesh = Mesh::new();
    mesh.access_log_format(LOG);
    let normalization = one(
        &mut rng,
        &["BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"],
    );
    mesh.normalizes_paths(normalization);
    let (to, app) = mesh.http_service(1, "web").await;
    let policies = some_policies(&mut rng, "web");
    mesh.manifest("policies.yaml", &policies);
    mesh.manifest("tokens.yaml", &authentication("web", &key_set(&[signer])));
    let resources = mesh.resources();
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let waypoint = mesh.start_under(&istiod).await;
    assert_eq!(
        istiod.discovery.refusals(),
        Vec::<String>::new(),
        "{policies}"
    );
    let (envoy, beside) = Envoy::beside(&mesh, &resources).await;
    let mut sides = [
        Side::of(&mesh, waypoint.address()).await,
        Side::of(&mesh, beside).await,
    ];
    let mut asked = Vec::new();
    for _ in 0..2 {
        let who = rng.usize(..2);
        let http2 = chance(&mut rng, 50);
        let first = asked.len();
        for n in first..first + REQUESTS / 2 {
            asked.push((who, http2, some_request(&mut rng, signer, n)));
        }
        for side in &mut sides {
            run(side, to, &app, &asked[first..]).await;
        }
    }
    let count = asked.len();
    let answered = Instant::now();
    let [ours, theirs] = until("the logs", async || {
        let both = [lines(&waypoint.log()), lines(&envoy.log())];
        // A head that can't be read leaves no line with its number.
        let over = answered.elapsed() > Duration::from_secs(3);
        (over || both.iter().all(|log| log.len() >= count)).then_some(both)
    })
    .await;
    let mut differences = Vec::new();
    for (n, (_, _, request)) in asked.iter().enumerate() {
        let [a, b] = [&sides[0], &sides[1]].map(|side| &side.outcomes[n]);
        *statuses.entry(b.0).or_default() += 1;
        let id = format!("id-{n}");
        let (log, other) = (ours.get(&id), theirs.get(&id));
        if a != b || log != other {
            differences.push(format!(
                "WAYPOINT_SEED={seed} {normalization} {request:?}\n  waypoint {a:?} {log:?}\n  envoy    {b:?} {other:?}"
            ));
        }
    }
    if !differences.is_empty() {
        differences.push(policies);
    }
    differences
}

async fn run(
    side: &mut Side,
    to: std::net::SocketAddr,
    app: &App,
    asked: &[(
        usize,
        bool,
        http::Request<http_body_util::Full<bytes::Bytes>>,
    )],
) {
    let (who, http2, _) = &asked[0];
    let client = &side.clients[*who];
    let second = client.http2(to).await;
    let mut first = client.http1(to).await;
    for (_, _, request) in asked {
        // Whoever answers before he has read all ends the connection.
        if first.is_over().await {
            first = client.http1(to).await;
        }
        app.forget();
        let answer = match http2 {
            true => second.send(request.clone()).await,
            false => {
                let mut request = request.clone();
                *request.version_mut() = Version::HTTP_11;
                first.send(request).await
            }
        };
        let seen = app.seen();
        let seen = seen.iter().map(|seen| {
            let of = |name| seen.header(name);
            format!(
                "{} {} {} {}",
                seen.method,
                // Envoy merges a path of slashes alone to two (`docs/differences.md`).
                if seen.target == "//" {
                    "/"
                } else {
                    &seen.target
                },
                of("host"),
                of("x-team")
            )
        });
        let outcome = (answer.status.as_u16(), answer.text(), seen.collect());
        side.outcomes.push(outcome);
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn generated_policies_have_the_same_verdicts() {
    let (first, begun) = (seed(), Instant::now());
    let signer = Signer::new("ES256", "k1");
    let mut statuses = BTreeMap::new();
    let mut differences = Vec::new();
    let mut seed = first;
    while begun.elapsed() < TIME && differences.len() < 20 {
        differences.extend(round(seed, &signer, &mut statuses).await);
        seed += 1;
    }
    eprintln!("{} rounds, by status: {statuses:?}", seed - first);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    for status in [200, 401, 403] {
        assert!(statuses.contains_key(&status), "{statuses:?}");
    }
}
