//! Recorded responses of an istiod as a source: a `DiscoveryResponse` whose resources are the
//! `DeltaDiscoveryResponse`s of a session, one per type.

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use prost::Message;

use crate::resource::{Resource, ResourceType};

/// Why a recording can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    #[error("not a recording of discovery responses: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("resource {name:?} has type {type_url:?}, which no waypoint is sent")]
    UnknownType { name: String, type_url: String },
}

/// The resources of a recording.
pub fn read(bytes: &[u8]) -> Result<Vec<Resource>, RecordedError> {
    let recording = DiscoveryResponse::decode(bytes)?;
    let mut resources = Vec::new();
    for response in recording.resources {
        let response = DeltaDiscoveryResponse::decode(response.value.as_slice())?;
        for resource in response.resources {
            let any = resource.resource.unwrap_or_default();
            let Some(kind) = ResourceType::from_type_url(&any.type_url) else {
                return Err(RecordedError::UnknownType {
                    name: resource.name,
                    type_url: any.type_url,
                });
            };
            resources.push(Resource {
                kind,
                name: resource.name,
                body: any.value.into(),
            });
        }
    }
    Ok(resources)
}
