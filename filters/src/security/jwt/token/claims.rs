//! The claims that decide about a token (RFC 7519, section 4.1), read as Envoy reads them.
//!
//! Numbers may have a fraction, which is cut off; `exp: 0` is none at all; `nbf` and `exp` are seconds since 1970.

use serde_json::{Map, Value};

use crate::security::jwt::failure::Failure;

/// 2^64, the first number that is no time.
const TOO_LATE: f64 = 18_446_744_073_709_551_616.0;

/// The registered claims of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Empty: it has none.
    pub issuer: Box<str>,
    /// Empty: it has none.
    pub subject: Box<str>,
    pub audiences: Box<[Box<str>]>,
    pub not_before: u64,
    /// `None`: it never expires.
    pub expiration: Option<u64>,
}

impl Claims {
    /// # Errors
    /// A claim is of another type than it must be; the first in Envoy's order.
    pub fn of(payload: &Map<String, Value>) -> Result<Claims, Failure> {
        let issuer = text(payload, "iss").ok_or(Failure::IssuerNotString)?;
        let subject = text(payload, "sub").ok_or(Failure::SubjectNotString)?;
        number(
            payload,
            "iat",
            Failure::IssuedAtNotInteger,
            Failure::IssuedAtOutOfRange,
        )?;
        let not_before = number(
            payload,
            "nbf",
            Failure::NotBeforeNotInteger,
            Failure::NotBeforeOutOfRange,
        )?;
        let expiration = number(
            payload,
            "exp",
            Failure::ExpirationNotInteger,
            Failure::ExpirationOutOfRange,
        )?;
        text(payload, "jti").ok_or(Failure::IdNotString)?;
        Ok(Claims {
            issuer: issuer.into(),
            subject: subject.into(),
            audiences: audiences(payload).ok_or(Failure::AudienceNotString)?,
            not_before,
            expiration: Some(expiration).filter(|seconds| *seconds != 0),
        })
    }

    /// Whether the token is good at `now`, in seconds since 1970, by a clock that may be wrong by `skew` seconds.
    ///
    /// # Errors
    /// It isn't good yet, or not any more.
    pub fn check_time(&self, now: u64, skew: u64) -> Result<(), Failure> {
        if now.saturating_add(skew) < self.not_before {
            return Err(Failure::NotYetValid);
        }
        match self.expiration {
            Some(expiration) if now > expiration.saturating_add(skew) => Err(Failure::Expired),
            _ => Ok(()),
        }
    }
}

/// A claim that is text, if it is there; `None`: it is something else.
fn text<'a>(payload: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    match payload.get(name) {
        None => Some(""),
        Some(Value::String(text)) => Some(text),
        Some(_) => None,
    }
}

/// A time; 0: there is none.
fn number(
    payload: &Map<String, Value>,
    name: &str,
    no_number: Failure,
    out_of_range: Failure,
) -> Result<u64, Failure> {
    let number = match payload.get(name) {
        None => return Ok(0),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(no_number),
    };
    if let Some(whole) = number.as_u64() {
        return Ok(whole);
    }
    match number.as_f64() {
        // The range was looked at; the fraction is cut off.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(seconds) if (0.0..TOO_LATE).contains(&seconds) => Ok(seconds as u64),
        _ => Err(out_of_range),
    }
}

/// One audience, or a list of them.
fn audiences(payload: &Map<String, Value>) -> Option<Box<[Box<str>]>> {
    match payload.get("aud") {
        None => Some(Box::default()),
        Some(Value::String(one)) => Some(Box::new([one.as_str().into()])),
        Some(Value::Array(all)) => all.iter().map(|one| Some(one.as_str()?.into())).collect(),
        Some(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(payload: &Value) -> Result<Claims, Failure> {
        Claims::of(payload.as_object().unwrap())
    }

    #[test]
    fn claims_have_their_types() {
        for (payload, failure) in [
            (json!({"iss": 1}), Failure::IssuerNotString),
            (json!({"sub": null}), Failure::SubjectNotString),
            (json!({"iat": "1"}), Failure::IssuedAtNotInteger),
            (json!({"iat": -1}), Failure::IssuedAtOutOfRange),
            (json!({"nbf": true}), Failure::NotBeforeNotInteger),
            (json!({"nbf": -0.5}), Failure::NotBeforeOutOfRange),
            (json!({"exp": "soon"}), Failure::ExpirationNotInteger),
            (json!({"exp": 1e20}), Failure::ExpirationOutOfRange),
            (json!({"jti": 7}), Failure::IdNotString),
            (json!({"aud": 7}), Failure::AudienceNotString),
            (json!({"aud": ["a", 7]}), Failure::AudienceNotString),
        ] {
            assert_eq!(claims(&payload), Err(failure), "{payload}");
        }
        let all = claims(&json!({
            "iss": "me", "sub": "you", "aud": ["a", "b"], "nbf": 1.9, "exp": 10, "jti": "x", "iat": 0,
        }))
        .unwrap();
        assert_eq!((&*all.issuer, &*all.subject), ("me", "you"));
        assert_eq!(all.audiences.len(), 2);
        assert_eq!((all.not_before, all.expiration), (1, Some(10)));
    }

    #[test]
    fn times_are_judged_with_the_clocks_error() {
        let at = |payload: Value, now| claims(&payload).unwrap().check_time(now, 60);
        assert_eq!(at(json!({"nbf": 161}), 100), Err(Failure::NotYetValid));
        assert_eq!(at(json!({"nbf": 160}), 100), Ok(()));
        assert_eq!(at(json!({"exp": 39}), 100), Err(Failure::Expired));
        assert_eq!(at(json!({"exp": 40}), 100), Ok(()));
        assert_eq!(at(json!({"exp": 0}), u64::MAX), Ok(()));
        assert_eq!(at(json!({"exp": u64::MAX}), u64::MAX), Ok(()));
        assert_eq!(at(json!({}), 100), Ok(()));
    }
}
