//! Parts of an HTTPRoute that aren't honoured and are checked all the same: what the API server refuses is no route.

use serde::Deserialize;

use crate::standalone::kinds::gateway_api::backend_object::BackendObject;
use crate::standalone::kinds::refusal::Refusal;
use crate::standalone::kinds::refusal::refusal;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtensionRef {
    #[serde(rename = "group")]
    _group: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "name")]
    _name: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExternalAuth {
    protocol: AuthProtocol,
    backend_ref: BackendObject,
    grpc: Option<GrpcAuth>,
    http: Option<HttpAuth>,
    #[serde(rename = "forwardBody")]
    _forward_body: Option<ForwardBody>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum AuthProtocol {
    Http,
    Grpc,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GrpcAuth {
    #[serde(default, rename = "allowedHeaders")]
    _allowed_headers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HttpAuth {
    #[serde(rename = "path")]
    _path: Option<String>,
    #[serde(default, rename = "allowedHeaders")]
    _allowed_headers: Vec<String>,
    #[serde(default, rename = "allowedResponseHeaders")]
    _allowed_response_headers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ForwardBody {
    #[serde(rename = "maxSize")]
    _max_size: Option<i64>,
}

impl ExternalAuth {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let at = |(field, reason): Refusal| (format!("backendRef.{field}"), reason);
        self.backend_ref.check().map_err(at)?;
        for (name, given, wanted) in [
            ("grpc", self.grpc.is_some(), AuthProtocol::Grpc),
            ("http", self.http.is_some(), AuthProtocol::Http),
        ] {
            if given != (self.protocol == wanted) {
                let reason = "must be given with its own protocol, and only with that";
                return Err(refusal(name, reason));
            }
        }
        Ok(())
    }
}
