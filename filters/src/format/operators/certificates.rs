//! What TLS says of both ends: of the tunnel's connection downstream, and of the one that carries the stream upstream, where
//! that is HBONE.

use waypoint_hbone::certificates::certificate_fields::{CertificateFields, NameKind};
use waypoint_hbone::tls::tls_info::TlsInfo;

use super::print::text;
use crate::format::FormatContext;
use crate::format::time_format::TimeFormat;
use crate::stream::stream_info::Capture;
use crate::xds::rejected::Refusal;

/// One field.
#[derive(Clone, Debug)]
pub(in crate::format) struct TlsField {
    downstream: bool,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Version,
    Cipher,
    Group,
    OfPeer(Field),
    OfLocal(Field),
    /// Of all that the peer sent.
    OfChain(Field),
    /// Of the one that the peer's is signed by.
    OfIssuer(Field),
}

#[derive(Clone, Debug)]
enum Field {
    Subject,
    Issuer,
    Serial,
    Sha256,
    Sha1,
    Names(NameKind),
    Pem,
    ValidFrom(TimeFormat),
    ValidUntil(TimeFormat),
}

/// Where no format is given.
const VALIDITY: &str = "%Y-%m-%dT%H:%M:%S.%3fZ";

impl TlsField {
    /// `None`: the name is none of these.
    pub(super) fn parse(name: &str, parameters: &str) -> Result<Option<TlsField>, Refusal> {
        let (downstream, name) = match name.strip_prefix("DOWNSTREAM_") {
            Some(name) => (true, name),
            None => match name.strip_prefix("UPSTREAM_") {
                Some(name) => (false, name),
                None => return Ok(None),
            },
        };
        let validity = || {
            TimeFormat::parse(if parameters.is_empty() {
                VALIDITY
            } else {
                parameters
            })
        };
        let what = match name {
            "TLS_VERSION" => What::Version,
            "TLS_CIPHER" => What::Cipher,
            "TLS_GROUP" => What::Group,
            "PEER_SUBJECT" => What::OfPeer(Field::Subject),
            "PEER_ISSUER" => What::OfPeer(Field::Issuer),
            "PEER_CERT" => What::OfPeer(Field::Pem),
            "PEER_CERT_V_START" => What::OfPeer(Field::ValidFrom(validity()?)),
            "PEER_CERT_V_END" => What::OfPeer(Field::ValidUntil(validity()?)),
            "PEER_DNS_SAN" => What::OfPeer(Field::Names(NameKind::Dns)),
            "PEER_IP_SAN" => What::OfPeer(Field::Names(NameKind::Ip)),
            "LOCAL_DNS_SAN" => What::OfLocal(Field::Names(NameKind::Dns)),
            "LOCAL_IP_SAN" => What::OfLocal(Field::Names(NameKind::Ip)),
            name if downstream => match of_downstream(name) {
                Some(what) => what,
                None => return Ok(None),
            },
            "PEER_URI_SAN" => What::OfPeer(Field::Names(NameKind::Uri)),
            "LOCAL_URI_SAN" => What::OfLocal(Field::Names(NameKind::Uri)),
            _ => return Ok(None),
        };
        Ok(Some(TlsField { downstream, what }))
    }

    pub(super) fn capture(&self, capture: &mut Capture) {
        // These are known without a look into the connection.
        capture.tls |= !matches!(self.what, What::Version | What::OfLocal(_));
    }

    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let upstream = || context.state.upstream.as_ref()?.tls.as_ref();
        let tls = match self.downstream {
            true => context.stream.connection.tls.as_ref(),
            false => upstream(),
        };
        tls.is_some_and(|tls| self.what.write(tls, out))
    }
}

/// What Envoy has of the client's side alone.
fn of_downstream(name: &str) -> Option<What> {
    Some(match name {
        "PEER_SERIAL" => What::OfPeer(Field::Serial),
        "PEER_FINGERPRINT_256" => What::OfPeer(Field::Sha256),
        "PEER_FINGERPRINT_1" => What::OfPeer(Field::Sha1),
        "PEER_EMAIL_SAN" => What::OfPeer(Field::Names(NameKind::Email)),
        "PEER_OTHERNAME_SAN" => What::OfPeer(Field::Names(NameKind::Other)),
        "PEER_CHAIN_FINGERPRINTS_256" => What::OfChain(Field::Sha256),
        "PEER_CHAIN_FINGERPRINTS_1" => What::OfChain(Field::Sha1),
        "PEER_CHAIN_SERIALS" => What::OfChain(Field::Serial),
        "PEER_ISSUER_FINGERPRINT_256" => What::OfIssuer(Field::Sha256),
        "PEER_ISSUER_SERIAL" => What::OfIssuer(Field::Serial),
        "LOCAL_SUBJECT" => What::OfLocal(Field::Subject),
        "LOCAL_EMAIL_SAN" => What::OfLocal(Field::Names(NameKind::Email)),
        "LOCAL_OTHERNAME_SAN" => What::OfLocal(Field::Names(NameKind::Other)),
        _ => return None,
    })
}

impl What {
    fn write(&self, tls: &TlsInfo, out: &mut Vec<u8>) -> bool {
        let session = || tls.session();
        match self {
            What::Version => text(out, tls.version()),
            What::Cipher => text(out, session().map(|session| session.cipher)),
            What::Group => text(out, session().map(|session| session.group)),
            What::OfLocal(field) => tls.local().is_some_and(|own| field.write(own, out)),
            What::OfPeer(field) => {
                let peer = session().and_then(|session| session.chain.first());
                peer.is_some_and(|peer| field.write(peer, out))
            }
            What::OfIssuer(field) => {
                let issuer = session().and_then(|session| session.issuer.as_ref());
                issuer.is_some_and(|issuer| field.write(issuer, out))
            }
            What::OfChain(field) => {
                let start = out.len();
                for one in session().iter().flat_map(|session| &session.chain) {
                    if out.len() > start {
                        out.push(b',');
                    }
                    field.write(one, out);
                }
                out.len() > start
            }
        }
    }
}

impl Field {
    fn write(&self, of: &CertificateFields, out: &mut Vec<u8>) -> bool {
        let found = |value: &str, out: &mut Vec<u8>| !value.is_empty() && text(out, Some(value));
        match self {
            Field::Subject => found(&of.subject, out),
            Field::Issuer => found(&of.issuer, out),
            Field::Serial => found(&of.serial, out),
            Field::Sha256 => found(&of.sha256, out),
            Field::Sha1 => found(&of.sha1, out),
            Field::Pem => found(&of.url_encoded_pem(), out),
            Field::Names(kind) => {
                let names: Vec<_> = of.names(*kind).collect();
                found(&names.join(","), out)
            }
            Field::ValidFrom(format) => {
                format.write(of.not_before, out);
                true
            }
            Field::ValidUntil(format) => {
                format.write(of.not_after, out);
                true
            }
        }
    }
}
