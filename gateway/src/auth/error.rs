//! The reasons a request is refused, in texts that reveal nothing of the request.
use http::{HeaderValue, StatusCode};

/// The reason a request has no identity.
///
/// Its text is fixed and safe to show; [`AuthError::kind`] is a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no token.
    #[error("a token is required: send the header 'Authorization: Bearer TOKEN'")]
    Missing,
    /// The Authorization header has a scheme other than Bearer.
    #[error("the Authorization header must have the form 'Bearer TOKEN'")]
    Scheme,
    /// Both the header and the query contain a token.
    #[error("send the token either in the Authorization header or in the query, not in both")]
    BothPlaces,
    /// There are several headers, several words after Bearer, or several `token` parameters.
    #[error("send exactly one token")]
    Several,
    /// The token is longer than `MAX_TOKEN_BYTES`.
    #[error("the token is longer than 8192 bytes")]
    TooLarge,
    /// The token is not a signed JWT, or one of its claims has an invalid type.
    #[error("the token is not a well-formed JWT")]
    Malformed,
    /// The token's header requires an extension; none is supported.
    #[error("the token's header requires extensions that the gateway does not support")]
    CriticalHeader,
    /// The token's `typ` marks it for another purpose, such as a refresh token.
    #[error("the token is of a type that is not accepted: use an access token")]
    Type,
    /// The token's algorithm is not a configured one.
    #[error("the token is signed with an algorithm that is not accepted")]
    Algorithm,
    /// The gateway has no key with the token's `kid`.
    #[error("the token is signed with a key that the gateway does not know")]
    UnknownKey,
    /// The signature does not match.
    #[error("the token's signature is not valid")]
    Signature,
    /// The keys of the token's issuer have not been fetched yet.
    #[error("the keys of the token's issuer are not known yet: try again")]
    NoKeys,
    /// The cluster no longer accepts the token.
    #[error("the cluster no longer accepts the token, because its pod or service account is gone: get a new one")]
    Revoked,
    /// The cluster, which must review the token, does not answer.
    #[error("the cluster cannot check the token at the moment: try again")]
    NoReview,
    /// The `iss` claim is absent, not a text, or not that of an accepted issuer.
    #[error("the token's issuer (iss) is not accepted")]
    Issuer,
    /// The `aud` claim is absent, or names only other services.
    #[error("the token is not meant for this service (aud)")]
    Audience,
    /// The `scope` and `scp` claims lack a required scope.
    #[error("the token lacks a required scope: get one with all required scopes")]
    Scope,
    /// The `exp` claim is absent, or is not a time before the year 10000 in seconds since 1970.
    #[error("the token has no valid expiry time (exp, in seconds since 1970)")]
    NoExp,
    /// The token has expired.
    #[error("the token has expired: get a new one")]
    Expired,
    /// The token's `nbf` or `iat` is in the future.
    #[error("the token is not valid yet (nbf, iat): check the clocks")]
    NotYetValid,
    /// The token's lifetime exceeds the limit.
    #[error("the token is valid for longer than the gateway accepts: get one that expires sooner")]
    Lifetime,
}

impl AuthError {
    /// Every reason, in the order in which a token is checked.
    ///
    /// Of several issuers' reasons, the last in this order is reported: it came closest to acceptance.
    pub const ALL: [Self; 21] = [
        Self::Missing,
        Self::Scheme,
        Self::BothPlaces,
        Self::Several,
        Self::TooLarge,
        Self::Malformed,
        Self::CriticalHeader,
        Self::Type,
        Self::Issuer,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::NoKeys,
        Self::NoExp,
        Self::Expired,
        Self::NotYetValid,
        Self::Lifetime,
        Self::Audience,
        Self::Scope,
        Self::Revoked,
        Self::NoReview,
    ];

    /// The label of this reason in metrics and logs: one of a closed set.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Scheme => "scheme",
            Self::BothPlaces => "both_places",
            Self::Several => "several",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::CriticalHeader => "critical_header",
            Self::Type => "type",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::NoKeys => "no_keys",
            Self::Revoked => "revoked",
            Self::NoReview => "no_review",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Scope => "scope",
            Self::NoExp => "no_exp",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Lifetime => "lifetime",
        }
    }

    /// 400 if the request contradicts itself, 403 if another token of the caller could have the right, 503 if the token
    /// may be valid, 401 otherwise.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::BothPlaces | Self::Several => StatusCode::BAD_REQUEST,
            Self::NoKeys | Self::NoReview => StatusCode::SERVICE_UNAVAILABLE,
            Self::Scope => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The `WWW-Authenticate` header of the refusal (RFC 6750, section 3): it names all required `scopes` and where to
    /// find the issuers (RFC 9728, section 5.1). `None` if another token would change nothing.
    pub(super) fn challenge(self, scopes: &[String], resource_metadata: Option<&str>) -> Option<HeaderValue> {
        let code = match self {
            // A request without a token gets no error code.
            Self::Missing | Self::Scheme => None,
            Self::Scope => Some("insufficient_scope"),
            _ if self.status() == StatusCode::UNAUTHORIZED => Some("invalid_token"),
            _ => return None,
        };
        let mut parts = Vec::new();
        parts.extend(resource_metadata.map(|address| format!("resource_metadata=\"{address}\"")));
        if !scopes.is_empty() {
            parts.push(format!("scope=\"{}\"", scopes.join(" ")));
        }
        parts.extend(code.map(|code| format!("error=\"{code}\", error_description=\"{self}\"")));
        HeaderValue::try_from(format!("Bearer {}", parts.join(", ")).trim_end()).ok()
    }

    /// The position of this reason in [`AuthError::ALL`].
    pub(super) fn depth(self) -> usize {
        Self::ALL.iter().position(|other| *other == self).unwrap_or(0)
    }
}
