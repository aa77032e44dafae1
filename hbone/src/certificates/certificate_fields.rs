//! What a certificate says of itself, spelt as Envoy's access logs spell it, which is as OpenSSL does.
//!
//! Names are written as RFC 2253 has them: the last part first, everything that isn't plain ASCII escaped. Parsing costs some
//! microseconds, so it is done once, and only for whoever asks.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::certificates::x509::system_time;

/// A certificate, read.
#[derive(Debug)]
pub struct CertificateFields {
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal, as are the fingerprints.
    pub serial: String,
    pub sha256: String,
    pub sha1: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    names: Vec<(NameKind, String)>,
    der: CertificateDer<'static>,
}

/// Which subject alternative names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    Uri,
    Dns,
    Ip,
    Email,
    Other,
}

impl CertificateFields {
    /// `None`: it is none.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Option<CertificateFields> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(CertificateFields {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            serial: serial(certificate.raw_serial()),
            sha256: hex(digest::digest(&SHA256, der).as_ref()),
            sha1: hex(digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
            names: alternative_names(&certificate),
            der: der.clone().into_owned(),
        })
    }

    /// Its names of this kind.
    pub fn names(&self, kind: NameKind) -> impl Iterator<Item = &str> {
        let names = self.names.iter();
        names.filter_map(move |(of, name)| (*of == kind).then_some(name.as_str()))
    }

    /// All of its names.
    pub(crate) fn all_names(&self) -> impl Iterator<Item = (NameKind, &str)> {
        self.names.iter().map(|(kind, name)| (*kind, name.as_str()))
    }

    /// As PEM, with what a header or a query can't have escaped.
    pub fn url_encoded_pem(&self) -> String {
        let mut text = String::with_capacity(self.der.len() * 2);
        text.push_str("-----BEGIN%20CERTIFICATE-----%0A");
        // 64 characters a line.
        for line in self.der.chunks(48) {
            for group in line.chunks(3) {
                base64(group, &mut text);
            }
            text.push_str("%0A");
        }
        text.push_str("-----END%20CERTIFICATE-----%0A");
        text
    }
}

/// The certificate among `candidates` that `leaf` names as the one that it is signed by: by its subject, and by its key,
/// which tells two apart that have the same subject, as a mesh's roots may.
pub(crate) fn issuer_of<'a, 'b>(
    leaf: &CertificateDer<'_>,
    mut candidates: impl Iterator<Item = &'a CertificateDer<'b>>,
) -> Option<&'a CertificateDer<'b>>
where
    'b: 'a,
{
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let key = leaf.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(key) = extension.parsed_extension() else {
            return None;
        };
        key.key_identifier.as_ref().map(|key| key.0)
    });
    candidates.find(|candidate| {
        let Ok((_, candidate)) = X509Certificate::from_der(candidate) else {
            return false;
        };
        let own = candidate.extensions().iter();
        let own = own
            .filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
                _ => None,
            })
            .next();
        candidate.subject().as_raw() == leaf.issuer().as_raw()
            && key.is_none_or(|key| own.is_none_or(|own| own == key))
    })
}

/// Up to three bytes as four characters.
fn base64(group: &[u8], text: &mut String) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
    let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
    for at in 0..4 {
        let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
        match digit {
            _ if at > group.len() => text.push_str("%3D"),
            b'+' => text.push_str("%2B"),
            b'/' => text.push_str("%2F"),
            digit => text.push(char::from(digit)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Without the zeros that DER may need before it.
fn serial(raw: &[u8]) -> String {
    let start = raw.iter().position(|byte| *byte != 0);
    start.map_or("0".into(), |start| {
        hex(raw.get(start..).unwrap_or_default())
    })
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<(NameKind, String)> {
    let extensions = certificate.extensions().iter();
    let names = extensions.filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let names = names.flatten().filter_map(alternative_name);
    // They may have any character, and a log's line has one end.
    names
        .map(|(kind, name)| (kind, name.replace(char::is_control, "_")))
        .collect()
}

fn alternative_name(name: &GeneralName<'_>) -> Option<(NameKind, String)> {
    Some(match name {
        GeneralName::URI(uri) => (NameKind::Uri, (*uri).into()),
        GeneralName::DNSName(name) => (NameKind::Dns, (*name).into()),
        GeneralName::RFC822Name(address) => (NameKind::Email, (*address).into()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|v4| Ipv4Addr::from(v4).to_string());
            let v6 = <[u8; 16]>::try_from(*bytes).map(|v6| Ipv6Addr::from(v6).to_string());
            (NameKind::Ip, v4.or(v6).ok()?)
        }
        GeneralName::OtherName(_, value) => (NameKind::Other, other_name(value)?),
        _ => return None,
    })
}

/// The text in `[0] EXPLICIT`, where it is one.
fn other_name(value: &[u8]) -> Option<String> {
    const UTF8: u8 = 12;
    const PRINTABLE: u8 = 19;
    const IA5: u8 = 22;
    let [0xa0, _, tag, length, text @ ..] = value else {
        return None;
    };
    let is_text = matches!(*tag, UTF8 | PRINTABLE | IA5) && usize::from(*length) == text.len();
    is_text.then(|| String::from_utf8(text.to_vec()).ok())?
}

/// By their object identifiers in DER.
const ATTRIBUTES: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 13], "description"),
    (&[0x55, 4, 17], "postalCode"),
    (&[0x55, 4, 41], "name"),
    (&[0x55, 4, 42], "GN"),
    (&[0x55, 4, 43], "initials"),
    (&[0x55, 4, 44], "generationQualifier"),
    (&[0x55, 4, 46], "dnQualifier"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1],
        "UID",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
        "DC",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
        "emailAddress",
    ),
];

fn name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for part in parts.into_iter().rev() {
        let attributes: Vec<_> = part.iter().collect();
        for (index, attribute) in attributes.into_iter().rev().enumerate() {
            if index > 0 {
                text.push('+');
            } else if !text.is_empty() {
                text.push(',');
            }
            write_attribute(attribute, &mut text);
        }
    }
    text
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, text: &mut String) {
    let kind = attribute.attr_type();
    let known = ATTRIBUTES.iter().find(|(oid, _)| *oid == kind.as_bytes());
    match (known, attribute.as_str()) {
        (Some((_, name)), Ok(value)) => {
            let _ = write!(text, "{name}=");
            write_escaped(value, text);
        }
        (known, _) => {
            let _ = match known {
                Some((_, name)) => write!(text, "{name}=#"),
                None => write!(text, "{}=#", kind.to_id_string()),
            };
            write_der(attribute, text);
        }
    }
}

/// RFC 2253 §2.4.
fn write_escaped(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let special = match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => true,
            b' ' => at == 0 || at == last,
            b'#' => at == 0,
            _ => false,
        };
        let _ = match byte {
            _ if special => write!(text, "\\{}", char::from(byte)),
            0x20..=0x7e => write!(text, "{}", char::from(byte)),
            byte => write!(text, "\\{byte:02X}"),
        };
    }
}

/// A value of a kind that nobody here knows, as it stands.
fn write_der(attribute: &AttributeTypeAndValue<'_>, text: &mut String) {
    let (value, content) = (attribute.attr_value(), attribute.as_slice());
    let constructed = if value.header.is_constructed() {
        0x20
    } else {
        0
    };
    let _ = write!(text, "{:02X}", value.tag().0 & 0x1f | constructed);
    let length = content.len().to_be_bytes();
    let first = length.iter().position(|byte| *byte != 0);
    let length = length
        .get(first.unwrap_or(length.len() - 1)..)
        .unwrap_or_default();
    if content.len() > 0x7f {
        let _ = write!(text, "{:02X}", 0x80 | length.len());
    }
    for byte in length.iter().chain(content) {
        let _ = write!(text, "{byte:02X}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    fn read(change: impl FnOnce(&mut CertificateParams)) -> CertificateFields {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        CertificateFields::read(certificate.der()).unwrap()
    }

    #[test]
    fn a_subject_is_written_from_its_end_and_escaped() {
        let fields = read(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::CountryName, "DE");
            name.push(DnType::OrganizationName, " a, \"b\"+c ");
            name.push(DnType::CommonName, "#ü");
            name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "x");
        });
        assert_eq!(
            fields.subject,
            r#"1.2.3.4=#0C0178,CN=\#\C3\BC,O=\ a\, \"b\"\+c\ ,C=DE"#
        );
        assert_eq!(fields.issuer, fields.subject);
        assert_eq!(read(|_| ()).subject, "");
    }

    #[test]
    fn names_are_told_apart() {
        let ip = |text: &str| SanType::IpAddress(text.parse::<IpAddr>().unwrap());
        let fields = read(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName("a.example".try_into().unwrap()),
                ip("192.0.2.1"),
                SanType::Rfc822Name("a@b.example".try_into().unwrap()),
                SanType::OtherName((vec![1, 2, 3], "oth\ner".into())),
                ip("2001:db8::1"),
                SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()),
            ];
        });
        let of = |kind| fields.names(kind).collect::<Vec<_>>().join(",");
        assert_eq!(of(NameKind::Dns), "a.example");
        assert_eq!(of(NameKind::Ip), "192.0.2.1,2001:db8::1");
        assert_eq!(of(NameKind::Email), "a@b.example");
        assert_eq!(of(NameKind::Other), "oth_er");
        assert_eq!(of(NameKind::Uri), "spiffe://td/ns/a/sa/b");
    }

    #[test]
    fn the_pem_is_the_certificate() {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&[0x80, 1]));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let fields = CertificateFields::read(certificate.der()).unwrap();
        let mut pem = fields.url_encoded_pem();
        for (escape, text) in [
            ("%0A", "\n"),
            ("%20", " "),
            ("%2B", "+"),
            ("%2F", "/"),
            ("%3D", "="),
        ] {
            pem = pem.replace(escape, text);
        }
        assert_eq!(pem, certificate.pem().replace("\r\n", "\n"));
        assert_eq!(fields.serial, "8001");
        assert_eq!((fields.sha256.len(), fields.sha1.len()), (64, 40));
    }
}
