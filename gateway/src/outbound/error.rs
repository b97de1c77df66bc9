//! Why a server cannot be shown who calls. The texts hold nothing of tokens and claims.

use http::StatusCode;
use portcullis_crds::Reason;
use portcullis_runtime::setting_names::Setting;
use thiserror::Error;

/// Why a server cannot be shown who calls: the call must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum OutboundError {
    /// There is no key.
    #[error("the gateway has no keys for assertions: set {}", Setting::AssertionKeys.name())]
    NoKeys,
    /// The gateway has no name.
    #[error("the gateway has no name for `iss` of assertions: set {}", Setting::AssertionIssuer.name())]
    NoIssuer,
    /// The server must not be shown tokens for this audience.
    #[error("the audience is not the origin of the server's URL: leave assertion.audience out")]
    Audience,
    /// The caller's token names nobody.
    #[error("the caller's token has no subject: use a token with the claim sub")]
    NoSubject,
    /// The claims that the server wants are too long for a header.
    #[error("the caller's claims in assertion.claims take more than {0} bytes: name fewer claims")]
    TooLong(usize),
    /// The caller's token is about to expire.
    #[error("the caller's token is about to expire: get a new one")]
    Expires,
    /// The system fails to sign.
    #[error("the assertion cannot be signed: try again")]
    Signature,
}

impl OutboundError {
    /// The HTTP status of a call that was not sent.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::NoSubject | Self::TooLong(_) => StatusCode::BAD_GATEWAY,
            Self::NoKeys | Self::NoIssuer | Self::Audience | Self::Expires | Self::Signature => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The reason for the status of an McpServer.
    pub(crate) fn condition(self) -> Reason {
        match self {
            Self::Audience => Reason::AudienceNotAllowed,
            _ => Reason::IdentityUnavailable,
        }
    }

    /// Whether a permission was revoked: then no token that was sent before stays in use.
    pub(crate) fn is_revocation(self) -> bool {
        matches!(self, Self::Audience)
    }

    /// A word for programs.
    pub(crate) fn reason(self) -> &'static str {
        "identity"
    }
}
