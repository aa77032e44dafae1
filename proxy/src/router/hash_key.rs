//! The key of a request where its cluster balances by hashes, and the cookies that carry it from then on.

use http::header;
use waypoint_config::model::balance::xx_hash::xx_hash;
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::route::forward::Forward;
use waypoint_config::model::route::hash_policy::HashKey;
use waypoint_filters::service::Response;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::stream_info::StreamInfo;

/// Nothing is looked at where nobody wants to know.
pub(crate) fn hash_key(
    forward: &Forward,
    cluster: &Cluster,
    request: &http::Request<Body>,
    stream: &StreamInfo,
) -> HashKey {
    match &forward.hash_policy {
        Some(policy) if cluster.balancing.policy.hashes() => {
            let source = stream.connection.source.ip();
            policy.key(request, source, || cookie_value(stream))
        }
        _ => HashKey::default(),
    }
}

/// One for all requests of a connection that come before the client has its cookie. Tunnels of many clients may share a source
/// (a gateway's): by that alone all would be led to one endpoint.
fn cookie_value(stream: &StreamInfo) -> String {
    let connection = &stream.connection;
    let seed = format!(
        "{}{}{}",
        connection.source,
        connection.destination,
        connection.id.get()
    );
    format!("{:016x}", xx_hash(seed.as_bytes()))
}

/// Gives the client the cookies that were issued for its request.
pub(crate) fn set_cookies(key: &HashKey, response: &mut Response) {
    for cookie in &key.cookies {
        response
            .headers_mut()
            .append(header::SET_COOKIE, cookie.clone());
    }
}
