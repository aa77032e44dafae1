//! Why a token proves nothing: Envoy's texts, which clients read, and its numbers, which go into metadata.

use http::StatusCode;

/// What is wrong with a token, or with the keys it is held against. The numbers below 1000 are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Failure {
    Missing = 1,
    NotYetValid = 2,
    Expired = 3,
    BadFormat = 4,
    HeaderBase64 = 5,
    HeaderJson = 6,
    NoAlgorithm = 7,
    UnknownAlgorithm = 8,
    KeyIdNotString = 9,
    PayloadBase64 = 10,
    PayloadJson = 11,
    IssuerNotString = 12,
    SubjectNotString = 13,
    IssuedAtNotInteger = 14,
    IssuedAtOutOfRange = 15,
    NotBeforeNotInteger = 16,
    NotBeforeOutOfRange = 17,
    ExpirationNotInteger = 18,
    ExpirationOutOfRange = 19,
    IdNotString = 20,
    AudienceNotString = 21,
    SignatureBase64 = 22,
    Ed25519SignatureLength = 23,
    UnknownIssuer = 24,
    AudienceNotAllowed = 25,
    NotVerified = 26,
    NoFittingKey = 32,
    /// No keys have been had yet from where they are to be fetched.
    NotFetched = 40,
    /// `crit`: something that must be understood, and Envoy doesn't look for (RFC 7515, section 4.1.11).
    Critical = 1000,
    /// More bytes than a token may have; Envoy takes any number.
    TooLarge = 1001,
}

impl Failure {
    /// Envoy's number, for metadata.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Who shows a good token to the wrong audience is known, and may not.
    pub fn status(self) -> StatusCode {
        match self {
            Failure::AudienceNotAllowed => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The body of the answer, and in metadata.
    pub fn text(self) -> &'static str {
        match self {
            Failure::Missing => "Jwt is missing",
            Failure::NotYetValid => "Jwt not yet valid",
            Failure::Expired => "Jwt is expired",
            Failure::BadFormat => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Failure::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Failure::HeaderJson => "Jwt header is an invalid JSON",
            Failure::NoAlgorithm => "Jwt header [alg] field is required and must be a string",
            Failure::UnknownAlgorithm => "Jwt header [alg] is not supported",
            Failure::KeyIdNotString => "Jwt header [kid] field is not a string",
            Failure::PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
            Failure::PayloadJson => "Jwt payload is an invalid JSON",
            Failure::IssuerNotString => "Jwt payload [iss] field is not a string",
            Failure::SubjectNotString => "Jwt payload [sub] field is not a string",
            Failure::IssuedAtNotInteger => "Jwt payload [iat] field is not an integer",
            Failure::IssuedAtOutOfRange => {
                "Jwt payload [iat] field is not a positive 64 bit integer"
            }
            Failure::NotBeforeNotInteger => "Jwt payload [nbf] field is not an integer",
            Failure::NotBeforeOutOfRange => {
                "Jwt payload [nbf] field is not a positive 64 bit integer"
            }
            Failure::ExpirationNotInteger => "Jwt payload [exp] field is not an integer",
            Failure::ExpirationOutOfRange => {
                "Jwt payload [exp] field is not a positive 64 bit integer"
            }
            Failure::IdNotString => "Jwt payload [jti] field is not a string",
            Failure::AudienceNotString => "Jwt payload [aud] field is not a string or string list",
            Failure::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Failure::Ed25519SignatureLength => "Jwt ED25519 signature is wrong length",
            Failure::UnknownIssuer => "Jwt issuer is not configured",
            Failure::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Failure::NotVerified => "Jwt verification fails",
            Failure::NoFittingKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Failure::NotFetched => "Jwks remote fetch is failed",
            Failure::Critical => "Jwt header [crit] is not supported",
            Failure::TooLarge => "Jwt is too large",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wrong_audience_is_forbidden() {
        assert_eq!(Failure::AudienceNotAllowed.status(), StatusCode::FORBIDDEN);
        assert_eq!(Failure::UnknownIssuer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(Failure::Missing.text(), "Jwt is missing");
        assert_eq!(Failure::Expired.code(), 3);
    }
}
