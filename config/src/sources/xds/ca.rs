//! The certificate service of istiod's CA: a CSR in, a chain and the mesh's roots out.
//!
//! istiod certifies whom the token speaks for, whatever the request says. The answer is a list of PEM
//! elements, leaf first; the last one is the root and may hold several certificates.

use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use tonic::Request;
use waypoint_hbone::certificates::certificate::{CertificateError, WorkloadCertificate};
use waypoint_hbone::certificates::certificate_request::{
    CertificateRequest, CertificateRequestError,
};
use waypoint_hbone::identity::Identity;

use crate::sources::xds::channel::{ChannelError, ControlPlane};

const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// For one certificate: connection, call and the whole of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// `istio.v1.auth.IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct CreateCertificate {
    #[prost(string, tag = "1")]
    csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

/// `istio.v1.auth.IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct CreatedCertificate {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// Why there is no certificate. Only a certificate that can't be used is the CA's fault for good.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Request(#[from] CertificateRequestError),
    #[error("the CA {address} answered: {status}")]
    Refused {
        address: String,
        status: Box<tonic::Status>,
    },
    #[error(
        "the CA {address} answered with {elements} PEM elements, at least leaf and root are needed"
    )]
    Incomplete { address: String, elements: usize },
    #[error("no certificate from the CA {address} within {TIMEOUT:?}")]
    Timeout { address: String },
    #[error("the CA {address} answered with what can't be used: {reason}")]
    Unusable {
        address: String,
        reason: UnusableCertificate,
    },
}

/// What is wrong with a certificate that the CA issued.
#[derive(Debug, thiserror::Error)]
pub enum UnusableCertificate {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("it is for {issued}, not for {wanted}")]
    Identity { issued: Identity, wanted: Identity },
    #[error("it has expired already")]
    Expired,
}

/// Gets a certificate for `identity`, asking for this validity.
pub async fn certify(
    plane: &ControlPlane,
    identity: &Identity,
    validity: Duration,
) -> Result<WorkloadCertificate, CaError> {
    match tokio::time::timeout(TIMEOUT, ask(plane, identity, validity)).await {
        Ok(result) => result,
        Err(_) => Err(CaError::Timeout {
            address: plane.address.clone(),
        }),
    }
}

async fn ask(
    plane: &ControlPlane,
    identity: &Identity,
    validity: Duration,
) -> Result<WorkloadCertificate, CaError> {
    let request = CertificateRequest::new(identity)?;
    let mut grpc = tonic::client::Grpc::new(plane.connect().await?);
    let refused = |status: tonic::Status| CaError::Refused {
        address: plane.address.clone(),
        status: Box::new(status),
    };
    grpc.ready()
        .await
        .map_err(|error| refused(tonic::Status::unavailable(error.to_string())))?;
    let mut call = Request::new(CreateCertificate {
        csr: request.csr_pem().to_owned(),
        validity_duration: i64::try_from(validity.as_secs()).unwrap_or(i64::MAX),
    });
    *call.metadata_mut() = plane.metadata().await;
    let codec = tonic_prost::ProstCodec::<CreateCertificate, CreatedCertificate>::default();
    let answer = grpc
        .unary(call, PathAndQuery::from_static(PATH), codec)
        .await
        .map_err(refused)?;
    let chain = answer.into_inner().cert_chain;
    let (Some(roots), 2..) = (chain.last(), chain.len()) else {
        return Err(CaError::Incomplete {
            address: plane.address.clone(),
            elements: chain.len(),
        });
    };
    let leaf_and_intermediates = chain[..chain.len() - 1].join("\n");
    WorkloadCertificate::from_pem(
        leaf_and_intermediates.as_bytes(),
        request.key_pem().as_bytes(),
        roots.as_bytes(),
    )
    .map_err(UnusableCertificate::from)
    .and_then(|certificate| check(certificate, identity, SystemTime::now()))
    .map_err(|reason| CaError::Unusable {
        address: plane.address.clone(),
        reason,
    })
}

/// A certificate that would make us somebody else, or nobody, is as good as none. One of another trust domain is taken:
/// that is how a mesh gets a new one while its pods run. So is one that isn't valid yet: our clock may be behind.
fn check(
    certificate: WorkloadCertificate,
    wanted: &Identity,
    now: SystemTime,
) -> Result<WorkloadCertificate, UnusableCertificate> {
    if certificate.identity().path() != wanted.path() {
        return Err(UnusableCertificate::Identity {
            issued: certificate.identity().clone(),
            wanted: wanted.clone(),
        });
    }
    if certificate.not_after() <= now {
        return Err(UnusableCertificate::Expired);
    }
    Ok(certificate)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use waypoint_hbone::certificates::dev_ca::DevCa;

    use super::*;

    #[test]
    fn a_certificate_of_another_or_of_the_past_is_none() {
        let identity = |name| Identity::istio("cluster.local", "default", name).unwrap();
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let issued = |from, until| {
            let ca = DevCa::ephemeral().unwrap();
            let minted = ca.mint_between(&identity("waypoint"), from, until);
            minted.unwrap().workload().unwrap()
        };
        let text = |result: Result<_, UnusableCertificate>| result.unwrap_err().to_string();
        let early = issued(now + hour, now + 2 * hour);
        check(early, &identity("waypoint"), now).unwrap();
        let other = check(issued(now, now + hour), &identity("other"), now);
        assert!(text(other).ends_with("not for spiffe://cluster.local/ns/default/sa/other"));
        let moved = Identity::istio("new.example", "default", "waypoint").unwrap();
        check(issued(now, now + hour), &moved, now).unwrap();
        let late = check(issued(now - hour, now), &identity("waypoint"), now);
        assert_eq!(text(late), "it has expired already");
    }
}
