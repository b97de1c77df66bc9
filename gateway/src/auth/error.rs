//! Why a request is refused, in words that give nothing of the request away.
use http::{HeaderValue, StatusCode};

/// Why a request has no identity.
///
/// Its text is fixed and safe to show; [`AuthError::kind`] is fit for a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no token.
    #[error("a token is required: send the header 'Authorization: Bearer TOKEN'")]
    Missing,
    /// The Authorization header has another scheme than Bearer.
    #[error("the Authorization header must have the form 'Bearer TOKEN'")]
    Scheme,
    /// There is a token in the header and one in the query.
    #[error("send the token either in the Authorization header or in the query, not in both")]
    BothPlaces,
    /// There are several headers, several words after Bearer, or several `token` parameters.
    #[error("send exactly one token")]
    Several,
    /// The token is longer than [`super::MAX_TOKEN_BYTES`].
    #[error("the token is longer than 8192 bytes")]
    TooLarge,
    /// The token is not a signed JWT, or one of its claims has a type that it must not have.
    #[error("the token is not a well-formed JWT")]
    Malformed,
    /// The token's header demands an extension; none is understood here.
    #[error("the token's header asks for extensions that are not supported")]
    CriticalHeader,
    /// The token's `typ` says that it was made for something else, such as a refresh token.
    #[error("the token is of a type that is not accepted: use an access token")]
    Type,
    /// The token is signed with another algorithm than the configured ones.
    #[error("the token is signed with an algorithm that is not accepted")]
    Algorithm,
    /// No key here has the token's `kid`.
    #[error("the token is signed with a key that is not known here")]
    UnknownKey,
    /// The signature does not match.
    #[error("the token's signature is not valid")]
    Signature,
    /// The keys of the token's issuer have not been fetched yet.
    #[error("the keys of the token's issuer are not known yet: try again")]
    NoKeys,
    /// The cluster does not vouch for the token any more.
    #[error("the cluster no longer accepts the token, because its pod or service account is gone: get a new one")]
    Revoked,
    /// The cluster, which has to be asked about the token, does not answer.
    #[error("the cluster cannot be asked about the token at present: try again")]
    NoReview,
    /// The `iss` claim is absent, no text, or not that of an accepted issuer.
    #[error("the token's issuer (iss) is not accepted")]
    Issuer,
    /// The `aud` claim is absent, or names other services only.
    #[error("the token is not meant for this service (aud)")]
    Audience,
    /// The `scope` and `scp` claims lack a scope that is required.
    #[error("the token lacks a scope that is required here: get one with all of them")]
    Scope,
    /// The `exp` claim is absent, or is no time before the year 10000 in seconds since 1970.
    #[error("the token has no valid expiry time (exp, in seconds since 1970)")]
    NoExp,
    /// The token was good once.
    #[error("the token has expired: get a new one")]
    Expired,
    /// The token's `nbf` or `iat` lies in the future.
    #[error("the token is not valid yet (nbf, iat): check the clocks")]
    NotYetValid,
    /// The token is valid for longer than is allowed here.
    #[error("the token is valid for longer than is accepted here: get one that expires sooner")]
    Lifetime,
}

impl AuthError {
    /// Every reason, in the order in which a token is looked at.
    ///
    /// Of several issuers' reasons the last in this order is told: it came closest to a good token.
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

    /// 400 where the request contradicts itself, 403 where a token of the same caller could do more, 503 where the token may be good, 401 for everything else.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BothPlaces | Self::Several => StatusCode::BAD_REQUEST,
            Self::NoKeys | Self::NoReview => StatusCode::SERVICE_UNAVAILABLE,
            Self::Scope => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The `WWW-Authenticate` header that goes with the refusal (RFC 6750, section 3): it names all `scopes` that are
    /// required and where to learn who gives tokens (RFC 9728, section 5.1). `None` if another token changes nothing.
    pub(super) fn challenge(self, scopes: &[String], resource_metadata: Option<&str>) -> Option<HeaderValue> {
        let code = match self {
            // A caller who has shown no token is told no error.
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

    /// Where in [`AuthError::ALL`] this reason stands.
    pub(super) fn depth(self) -> usize {
        Self::ALL.iter().position(|other| *other == self).unwrap_or(0)
    }
}
