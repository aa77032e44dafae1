//! Whom the HTTP filter asks: a service over gRPC, or one over HTTP.

pub(crate) mod http_service;

use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;

use crate::callout::Callout;
use crate::callout::grpc_service::GrpcService;
use crate::security::ext_authz::header_names::HeaderNames;
use crate::security::ext_authz::service::http_service::{HttpService, TOLD};
use crate::security::ext_authz::told_headers::ToldHeaders;
use crate::xds::rejected::Refusal;

#[derive(Debug)]
pub(crate) enum Service {
    Grpc(GrpcService),
    Http(HttpService),
}

impl Service {
    pub(crate) fn from_proto(
        proto: &ExtAuthz,
        cluster: &dyn Fn(&str) -> Callout,
    ) -> Result<Service, Refusal> {
        match &proto.services {
            None => Err(Refusal::missing("services")),
            Some(Services::GrpcService(grpc)) => GrpcService::from_proto(grpc, cluster)
                .map(Service::Grpc)
                .map_err(|e| e.within("grpc_service")),
            Some(Services::HttpService(http)) => HttpService::from_proto(http, cluster)
                .map(Service::Http)
                .map_err(|e| e.within("http_service")),
        }
    }

    pub(crate) fn cluster(&self) -> &str {
        match self {
            Service::Grpc(grpc) => &grpc.cluster,
            Service::Http(http) => &http.cluster,
        }
    }

    /// gRPC services are told all headers where nothing is said, HTTP services few.
    pub(crate) fn told_headers(&self, proto: &ExtAuthz) -> Result<ToldHeaders, Refusal> {
        let listed = HeaderNames::optional(proto.allowed_headers.as_ref(), "allowed_headers")?;
        let allowed = match (self, &proto.services) {
            (Service::Http(_), Some(Services::HttpService(http))) => {
                let request = http.authorization_request.as_ref();
                let older = request.and_then(|request| request.allowed_headers.as_ref());
                if older.is_some() && listed.is_some() {
                    return Err(Refusal::new(
                        "allowed_headers",
                        "is set in http_service.authorization_request, too",
                    ));
                }
                let older = HeaderNames::optional(older, "allowed_headers")
                    .map_err(|e| e.within("http_service.authorization_request"))?;
                Some(listed.or(older).unwrap_or_default().and(&TOLD))
            }
            _ => listed,
        };
        let disallowed = proto.disallowed_headers.as_ref();
        Ok(ToldHeaders {
            allowed,
            disallowed: HeaderNames::optional(disallowed, "disallowed_headers")?,
            raw: proto.encode_raw_headers,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::config::core::v3::{
        GrpcService as GrpcServiceProto, HttpUri, grpc_service, http_uri,
    };
    use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
        AuthorizationRequest, HttpService as HttpServiceProto,
    };
    use envoy_types::pb::google::protobuf::Duration;
    use http::Request;

    use super::*;
    use crate::callout::{CalloutCluster, CalloutFuture, CalloutLimits, Callouts, Content};
    use crate::security::ext_authz::header_names::tests::names;

    struct Nowhere(Arc<str>);

    impl CalloutCluster for Nowhere {
        fn name(&self) -> &Arc<str> {
            &self.0
        }
    }

    impl Callouts for Nowhere {
        fn call(
            &self,
            _: Arc<dyn CalloutCluster>,
            _: Request<Content>,
            _: CalloutLimits,
        ) -> CalloutFuture {
            unreachable!("nobody is asked here")
        }
    }

    fn cluster(name: &str) -> Callout {
        let nowhere = || Arc::new(Nowhere(name.into()));
        Callout::new(nowhere(), nowhere())
    }

    fn http() -> HttpServiceProto {
        HttpServiceProto {
            server_uri: Some(HttpUri {
                uri: "http://authz".into(),
                timeout: Some(Duration {
                    seconds: 1,
                    nanos: 0,
                }),
                http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster("authz".into())),
            }),
            ..HttpServiceProto::default()
        }
    }

    fn proto(services: Services) -> ExtAuthz {
        ExtAuthz {
            services: Some(services),
            ..ExtAuthz::default()
        }
    }

    fn refused(services: Services) -> String {
        let refusal = Service::from_proto(&proto(services), &cluster);
        refusal.unwrap_err().to_string()
    }

    #[test]
    fn grpc_is_told_everything_and_http_what_is_listed() {
        let grpc = GrpcServiceProto {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
                grpc_service::EnvoyGrpc {
                    cluster_name: "authz".into(),
                    ..grpc_service::EnvoyGrpc::default()
                },
            )),
            ..GrpcServiceProto::default()
        };
        let told = |proto: &ExtAuthz| {
            let service = Service::from_proto(proto, &cluster).unwrap();
            assert_eq!(service.cluster(), "authz");
            service.told_headers(proto)
        };
        let grpc = told(&proto(Services::GrpcService(grpc))).unwrap();
        assert!(grpc.allowed.is_none());
        let mut listed = proto(Services::HttpService(http()));
        let allowed = told(&listed).unwrap().allowed.unwrap();
        assert!(allowed.has("authorization") && allowed.has(":path") && !allowed.has("x-user"));
        listed.allowed_headers = Some(names(&["x-user"]));
        assert!(told(&listed).unwrap().allowed.unwrap().has("x-user"));
        // The older list, and both.
        let mut older = http();
        older.authorization_request = Some(AuthorizationRequest {
            allowed_headers: Some(names(&["x-old"])),
            ..AuthorizationRequest::default()
        });
        listed.services = Some(Services::HttpService(older));
        assert_eq!(told(&listed).unwrap_err().field, "allowed_headers");
        listed.allowed_headers = None;
        assert!(told(&listed).unwrap().allowed.unwrap().has("x-old"));
    }

    #[test]
    fn what_nobody_could_be_asked_by_is_refused() {
        let grpc = Services::GrpcService(GrpcServiceProto::default());
        assert!(refused(grpc).starts_with("grpc_service.google_grpc"));
        let with = |change: fn(&mut HttpServiceProto)| {
            let mut http = http();
            change(&mut http);
            refused(Services::HttpService(http))
        };
        let slash = with(|http| http.path_prefix = "check".into());
        assert!(slash.starts_with("http_service.path_prefix"), "{slash}");
        let both = with(|http| {
            http.path_prefix = "/a".into();
            http.path_override = "/b".into();
        });
        assert!(both.starts_with("http_service.path_override"), "{both}");
        let time = with(|http| {
            if let Some(uri) = &mut http.server_uri {
                uri.timeout = Some(Duration::default());
            }
        });
        assert!(
            time.starts_with("http_service.server_uri.timeout"),
            "{time}"
        );
    }
}
