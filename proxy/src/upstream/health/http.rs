//! Checks by HTTP/1.1 or HTTP/2: the whole answer has to come, and its head says what it is worth.

use http_body_util::BodyExt;
use waypoint_config::model::cluster::health_check::http::HttpCheck;
use waypoint_filters::service::body::Body;

use crate::upstream::error::UpstreamError;
use crate::upstream::health::check::Check;
use crate::upstream::health::client::{Answered, Client, HttpClient, exchange};
use crate::upstream::health::request::Asked;

pub(super) async fn ask(
    check: &Check<'_>,
    what: &HttpCheck,
    client: Option<HttpClient>,
) -> Answered {
    let request = || {
        check.request(Asked {
            method: what.method.clone(),
            path: what.path.clone(),
            name: what.host.as_deref(),
            http2: what.http2,
            body: Body::empty(),
            changes: &what.headers,
        })
    };
    let name = check.name(what.host.as_deref());
    let (mut client, response) = exchange(check, name, what.http2, client, request).await?;
    let (parts, mut body) = response.into_parts();
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| UpstreamError::of(&*error))?;
    }
    let stays = client.stays_open(&parts.headers).await;
    if what.whose.is_some() && what.is_expected(parts.status) {
        check.slot.checks.verified();
    }
    let outcome = what.judge(parts.status, &parts.headers);
    Ok((outcome, stays.then_some(Client::Http(client))))
}
