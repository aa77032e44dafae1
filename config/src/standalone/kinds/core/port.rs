//! Ports as the core API knows them: transport, `targetPort`, and the rules of their names.
//!
//! A port is known by number and transport: 53/UDP and 53/TCP are two. The API server reads a `targetPort` of
//! `0` or `""` as the port itself, and a string always as a name, so that `"8080"` is a bad name and no number.

use serde::Deserialize;
use serde_json::Value;

pub(crate) use crate::standalone::input::labels::is_dns_label;

/// What carries a port. Waypoints carry TCP only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
            Transport::Sctp => "SCTP",
        }
    }
}

/// A port that has a name, of a container or of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    pub name: String,
    pub number: u16,
    pub transport: Transport,
}

/// Port on the pod, by number or by the name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

impl TargetPort {
    /// `targetPort` of a service's port with this number.
    pub fn read(written: Option<&Value>, port: u16) -> Result<TargetPort, String> {
        match written {
            None => Ok(TargetPort::Number(port)),
            Some(Value::String(name)) if name.is_empty() => Ok(TargetPort::Number(port)),
            Some(Value::String(name)) => {
                check_port_name(name).map_err(|reason| {
                    let meant = if name.parse::<u16>().is_ok() {
                        "; a number is written without quotes"
                    } else {
                        ""
                    };
                    format!("{reason}{meant}")
                })?;
                Ok(TargetPort::Name(name.clone()))
            }
            Some(Value::Number(number)) => match number.as_u64().map(u16::try_from) {
                Some(Ok(0)) => Ok(TargetPort::Number(port)),
                Some(Ok(number)) => Ok(TargetPort::Number(number)),
                _ => Err(format!("{number} is no port, must be between 1 and 65535")),
            },
            Some(other) => Err(format!("must be a number or a name, found {other}")),
        }
    }
}

/// The name of a container's port (RFC 6335, in lower case).
pub fn check_port_name(name: &str) -> Result<(), String> {
    let reason = if name.len() > 15 {
        "has more than 15 characters"
    } else if !name
        .bytes()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    {
        "may hold only a-z, 0-9 and -"
    } else if !name.bytes().any(|c| c.is_ascii_lowercase()) {
        "must contain at least one letter"
    } else if name.contains("--") || name.starts_with('-') || name.ends_with('-') {
        "may not begin or end with -, nor have two in a row"
    } else {
        return Ok(());
    };
    Err(format!("{name:?} is no name of a port: {reason}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn target_ports_as_the_api_server_reads_them() {
        let number = |number| Ok(TargetPort::Number(number));
        for (written, expected) in [
            (json!(8080), number(8080)),
            (json!(0), number(80)),
            (json!(""), number(80)),
            (json!("web"), Ok(TargetPort::Name("web".to_owned()))),
            (json!("8080x"), Ok(TargetPort::Name("8080x".to_owned()))),
        ] {
            assert_eq!(TargetPort::read(Some(&written), 80), expected, "{written}");
        }
        assert_eq!(TargetPort::read(None, 80), number(80));
        for (written, reason) in [
            (
                json!("8080"),
                "must contain at least one letter; a number is written without quotes",
            ),
            (json!("Web"), "may hold only a-z, 0-9 and -"),
            (json!("a--b"), "nor have two in a row"),
            (json!("web-"), "may not begin or end with -"),
            (
                json!("a-name-too-long-for-a-port"),
                "more than 15 characters",
            ),
            (json!(65536), "must be between 1 and 65535"),
            (json!(-1), "must be between 1 and 65535"),
            (json!(80.5), "must be between 1 and 65535"),
            (json!(true), "must be a number or a name"),
        ] {
            let error = TargetPort::read(Some(&written), 80)
                .err()
                .unwrap_or_default();
            assert!(error.contains(reason), "{written}: {error}");
        }
    }
}
