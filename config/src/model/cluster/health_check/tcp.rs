//! `TcpHealthCheck`: an endpoint takes a connection, and answers what is sent with what is expected.

use envoy_types::pb::envoy::config::core::v3::health_check::payload::Payload as PayloadKind;
use envoy_types::pb::envoy::config::core::v3::health_check::{Payload, TcpHealthCheck};
use waypoint_filters::xds::coverage::{Table, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

/// What is said, and what is waited for: nothing but the connection, if that is empty.
#[derive(Debug, PartialEq, Eq)]
pub struct TcpCheck {
    pub send: Box<[u8]>,
    receive: Box<[Box<[u8]>]>,
}

pub(crate) static TCP_HEALTH_CHECK: Table = Table {
    name: "envoy.config.core.v3.HealthCheck.TcpHealthCheck",
    fields: &[
        honoured(1, "send").of(&PAYLOAD),
        honoured(2, "receive").list().of(&PAYLOAD),
    ],
    refused: "3 proxy_protocol_config",
    required: &[],
};

static PAYLOAD: Table = Table {
    name: "envoy.config.core.v3.HealthCheck.Payload",
    fields: &[
        honoured(1, "text").only("hexadecimal"),
        honoured(2, "binary"),
    ],
    refused: "",
    required: &[required("payload", &[1, 2])],
};

impl TcpCheck {
    pub(crate) fn from_proto(proto: &TcpHealthCheck) -> Result<TcpCheck, Refusal> {
        let send = proto.send.as_ref().map(bytes).transpose();
        let receive = proto.receive.iter().enumerate();
        let receive = receive.map(|(i, payload)| {
            let block = bytes(payload);
            block.map_err(|e| e.within(format!("receive[{i}]")))
        });
        Ok(TcpCheck {
            send: send.map_err(|e| e.within("send"))?.unwrap_or_default(),
            receive: receive.collect::<Result<_, _>>()?,
        })
    }

    /// Whether a connection is all that it takes.
    pub fn only_connects(&self) -> bool {
        self.receive.is_empty()
    }

    /// Whether what came has all that is expected, one after the other, whatever is between.
    pub fn is_answered_by(&self, received: &[u8]) -> bool {
        let mut rest = received;
        self.receive.iter().all(|block| {
            let mut windows = rest.windows(block.len().max(1));
            let found = windows.position(|window| window == &**block);
            let after = found.and_then(|at| rest.get(at + block.len()..));
            rest = after.unwrap_or_default();
            after.is_some()
        })
    }
}

fn bytes(payload: &Payload) -> Result<Box<[u8]>, Refusal> {
    match &payload.payload {
        Some(PayloadKind::Binary(bytes)) if !bytes.is_empty() => Ok(bytes.as_slice().into()),
        Some(PayloadKind::Binary(_)) => Err(Refusal::new("binary", "is empty")),
        Some(PayloadKind::Text(text)) => {
            from_hex(text).ok_or_else(|| Refusal::new("text", "is not hexadecimal"))
        }
        None => Err(Refusal::missing("payload")),
    }
}

fn from_hex(text: &str) -> Option<Box<[u8]>> {
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| match pair {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    });
    bytes.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(text: &str) -> Payload {
        Payload {
            payload: Some(PayloadKind::Text(text.to_owned())),
        }
    }

    #[test]
    fn blocks_come_one_after_the_other() {
        let check = TcpCheck::from_proto(&TcpHealthCheck {
            send: Some(text("50494E47")),
            receive: vec![text("0102"), text("03")],
            ..TcpHealthCheck::default()
        });
        let check = check.unwrap();
        assert_eq!(&*check.send, b"PING");
        for (received, answered) in [
            (&[1, 2, 3][..], true),
            (&[9, 1, 2, 9, 9, 3, 9], true),
            (&[3, 1, 2], false),
            (&[1, 2], false),
            (&[], false),
        ] {
            assert_eq!(check.is_answered_by(received), answered, "{received:?}");
        }
        assert!(!check.only_connects());
    }

    #[test]
    fn what_is_no_text_of_bytes_is_refused() {
        for wrong in ["", "0", "0g", "é"] {
            let refusal = TcpCheck::from_proto(&TcpHealthCheck {
                receive: vec![text("00"), text(wrong)],
                ..TcpHealthCheck::default()
            });
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.field.to_string(), "receive[1].text");
        }
    }
}
