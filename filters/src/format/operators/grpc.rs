//! `%GRPC_STATUS(CAMEL_STRING|SNAKE_STRING|NUMBER)%`: of gRPC requests only.

use super::print::{number, text};
use crate::format::FormatContext;
use crate::xds::rejected::Refusal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::format) enum GrpcStatus {
    Camel,
    Snake,
    Number,
}

/// By number; gRPC's names in both spellings.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

impl GrpcStatus {
    pub(super) fn parse(name: &str, parameters: &str) -> Result<GrpcStatus, Refusal> {
        Ok(match (name, parameters) {
            ("GRPC_STATUS_NUMBER", _) | (_, "NUMBER") => GrpcStatus::Number,
            (_, "" | "CAMEL_STRING") => GrpcStatus::Camel,
            (_, "SNAKE_STRING") => GrpcStatus::Snake,
            _ => {
                let reason = format!(
                    "%GRPC_STATUS({parameters})% is neither CAMEL_STRING nor SNAKE_STRING nor NUMBER"
                );
                return Err(Refusal::new("format", reason));
            }
        })
    }

    pub(super) fn is_number(self) -> bool {
        self == GrpcStatus::Number
    }

    pub(super) fn write(self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let grpc = context.state.grpc.as_ref();
        let Some(status) = grpc.and_then(|grpc| grpc.status) else {
            return false;
        };
        let names = usize::try_from(status)
            .ok()
            .and_then(|status| NAMES.get(status));
        match (self, names) {
            (GrpcStatus::Camel, Some((camel, _))) => text(out, Some(camel)),
            (GrpcStatus::Snake, Some((_, snake))) => text(out, Some(snake)),
            _ => number(out, status.into()),
        }
    }
}
