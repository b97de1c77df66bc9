//! Why the gateway has no token for a server. The texts name fields, audiences and origins, and never a token.

use portcullis_crds::Reason;
use thiserror::Error;

/// Why the gateway has no token for a server.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum IdentityError {
    /// This version of the gateway does not know the field's meaning.
    #[error("spec.{0} does not work in this version of the gateway: leave it out")]
    Unsupported(&'static str),
}

impl IdentityError {
    /// The reason for the status of an McpServer.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Unsupported(_) => Reason::IdentityUnavailable,
        }
    }

    /// Whether a permission was revoked: then no token that was sent before stays in use.
    pub(crate) fn is_revocation(&self) -> bool {
        match self {
            Self::Unsupported(_) => true,
        }
    }
}
