//! Requests whose cluster leads to the host that they name: where that is, before the first attempt.
//!
//! Where the chain has the filter for it, hosts are looked up before the route changes anything of the request, and one that
//! isn't found is the filter's answer. A route that rewrites the host has the new one looked up; that is then the router's
//! answer, as it is where there is no such filter.

use std::sync::Arc;

use http::{StatusCode, header};
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_filters::http::dynamic_forward_proxy::cache::LooksUpFirst;
use waypoint_filters::service::body::Body;
use waypoint_filters::service::local_reply::LocalReply;
use waypoint_filters::stream::response_flags::ResponseFlags;

use crate::upstream::dynamic::host::DynamicHost;
use crate::upstream::dynamic::{DynamicHosts, NotFound};

/// Finds the hosts of one request.
pub(super) struct Finding<'a> {
    pub(super) hosts: &'a DynamicHosts,
    pub(super) slot: &'a Arc<ClusterSlot>,
    pub(super) cluster: &'a Cluster,
}

/// A host that was found before the route changed the request.
pub(super) struct FoundFirst {
    named: String,
    host: Option<Arc<DynamicHost>>,
}

impl Finding<'_> {
    /// As the filter, if there is one. The future doesn't hold the request, whose body is nobody else's.
    pub(super) fn first(
        &self,
        request: &http::Request<Body>,
    ) -> impl Future<Output = Result<Option<FoundFirst>, LocalReply>> {
        let looks_up = request.extensions().get::<LooksUpFirst>().is_some();
        let named = named(request);
        async move {
            if !looks_up || self.cluster.dynamic().is_none() {
                return Ok(None);
            }
            let host = self.find(named).await.map_err(|e| filters_reply(&e))?;
            Ok(Some(FoundFirst {
                named: named.unwrap_or_default().to_owned(),
                host,
            }))
        }
    }

    /// As the router, when nothing of the request changes any more.
    pub(super) fn last(
        &self,
        request: &http::Request<Body>,
        first: Option<FoundFirst>,
    ) -> impl Future<Output = Result<Option<Arc<DynamicHost>>, LocalReply>> {
        let named = named(request);
        async move {
            match first {
                Some(first) if Some(&*first.named) == named => Ok(first.host),
                _ => self.find(named).await.map_err(|e| routers_reply(&e)),
            }
        }
    }

    async fn find(&self, named: Option<&str>) -> Result<Option<Arc<DynamicHost>>, NotFound> {
        self.hosts.find(self.slot, self.cluster, named, None).await
    }
}

/// The host that a request is for.
fn named<B>(request: &http::Request<B>) -> Option<&str> {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    host.or_else(|| {
        request
            .uri()
            .authority()
            .map(|authority| authority.as_str())
    })
}

fn filters_reply(error: &NotFound) -> LocalReply {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let reason = error.reason().to_owned();
    match error {
        NotFound::TooManyHosts => LocalReply::new(unavailable, "DNS cache overflow", reason),
        NotFound::TooManyWait => LocalReply::new(
            unavailable,
            "Dynamic forward proxy pending request overflow",
            reason,
        ),
        NotFound::NoName | NotFound::NotAdmitted | NotFound::Nowhere(_) => {
            let details = format!("dns_resolution_failure{{{reason}}}");
            LocalReply::new(unavailable, "DNS resolution failure", details)
                .with_flags(ResponseFlags::DNS_RESOLUTION_FAILED)
        }
    }
}

fn routers_reply(error: &NotFound) -> LocalReply {
    let details = format!("dns_resolution_failure{{{}}}", error.reason());
    LocalReply::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no healthy upstream",
        details,
    )
    .with_flags(ResponseFlags::NO_HEALTHY_UPSTREAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_not_found_is_told_as_envoy_tells_it() {
        let nowhere = NotFound::Nowhere("cares_norecords:Domain_name_not_found".into());
        let reply = filters_reply(&nowhere);
        assert_eq!(
            (reply.status.as_u16(), &*reply.body),
            (503, "DNS resolution failure")
        );
        let details = "dns_resolution_failure{cares_norecords:Domain_name_not_found}";
        assert_eq!(reply.details, details);
        assert_eq!(reply.flags.to_string(), "DF");
        let reply = routers_reply(&nowhere);
        assert_eq!(&*reply.body, "no healthy upstream");
        assert_eq!(
            (&*reply.details, &*reply.flags.to_string()),
            (details, "UH")
        );
        let reply = filters_reply(&NotFound::TooManyHosts);
        assert_eq!(
            (&*reply.body, &*reply.details),
            ("DNS cache overflow", "dns_cache_overflow")
        );
        assert!(reply.flags.is_empty());
    }
}
