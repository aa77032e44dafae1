//! In which form policy, routes and upstreams see a request's path.

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager as HttpConnectionManagerProto,
    http_connection_manager::PathWithEscapedSlashesAction,
};
use waypoint_filters::xds::rejected::Refusal;

/// `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathNormalization {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

impl PathNormalization {
    pub(crate) fn from_proto(
        proto: &HttpConnectionManagerProto,
    ) -> Result<PathNormalization, Refusal> {
        use PathWithEscapedSlashesAction as Action;
        let escaped_slashes = match Action::try_from(proto.path_with_escaped_slashes_action) {
            Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => {
                EscapedSlashes::Keep
            }
            Ok(Action::RejectRequest) => EscapedSlashes::Reject,
            Ok(Action::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
            Ok(Action::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
            Err(_) => {
                return Err(Refusal::new(
                    "path_with_escaped_slashes_action",
                    "unknown value",
                ));
            }
        };
        Ok(PathNormalization {
            normalize: proto.normalize_path.as_ref().is_some_and(|n| n.value),
            merge_slashes: proto.merge_slashes,
            escaped_slashes,
        })
    }
}
