//! Why a part of an object is refused: its field, from there down, and the reason.

pub(super) type Refusal = (String, String);

pub(super) fn refusal(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
    (field.into(), reason.into())
}
