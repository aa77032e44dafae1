//! Why a part of an object is refused: its field, from there down, and the reason.

pub(super) type Refusal = (String, String);

pub(super) fn refusal(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
    (field.into(), reason.into())
}

/// Puts the place of a part before the field of its refusal.
pub(super) fn below(place: &str) -> impl FnOnce(Refusal) -> Refusal {
    let place = place.to_owned();
    move |(field, reason)| match field.as_str() {
        "" => (place, reason),
        field => (format!("{place}.{field}"), reason),
    }
}
