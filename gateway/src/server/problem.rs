//! The problems of a server, as shown to users and in the status of its McpServer.

use portcullis_crds::Reason;
use thiserror::Error;

use crate::credentials::CredentialError;
use crate::offer::listing::ListError;
use portcullis_mcp::http1::stream::TlsError;
use portcullis_mcp::upstream::{CallError, ConnectError};

/// A problem of a server. The texts are safe to show.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ServerProblem {
    /// The URL describes no connection.
    #[error("its URL is invalid")]
    Url,
    /// Its credentials cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No session can be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// One of its lists cannot be read.
    #[error(transparent)]
    List(#[from] ListError),
    /// The stream broke meanwhile.
    #[error("cannot list its tools: {0}")]
    ListBroken(&'static str),
    /// The session ended meanwhile.
    #[error("the session ended while its tools were listed")]
    ListEnded,
    /// A health check failed.
    #[error(transparent)]
    Check(CallError),
    /// Too many health checks failed, so the session was closed.
    #[error("the health checks failed")]
    Unhealthy,
    /// The session is over.
    #[error("the server closed the connection")]
    Closed,
    /// The session is over.
    #[error("the server has forgotten the session")]
    Forgotten,
    /// The session is over.
    #[error("{0}")]
    Broken(&'static str),
}

impl ServerProblem {
    /// The reason for the status.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Credential(error) => error.reason(),
            Self::Tls(TlsError::Ca(_)) => Reason::CaInvalid,
            Self::Tls(TlsError::Client(_)) => Reason::SecretInvalid,
            Self::Connect(error) => of_connection(error),
            Self::List(_) | Self::ListBroken(_) | Self::ListEnded => Reason::ListFailed,
            Self::Check(CallError::Blocked(_)) => Reason::BlockedAddress,
            Self::Check(CallError::Refused(401 | 403)) => Reason::Unauthorized,
            Self::Check(_) | Self::Unhealthy => Reason::Unhealthy,
            Self::Closed | Self::Forgotten | Self::Broken(_) => Reason::BackendUnreachable,
            Self::Url | Self::Tls(TlsError::Name) => Reason::HandshakeFailed,
        }
    }

    /// Whether a permission was revoked.
    pub(crate) fn is_revocation(&self) -> bool {
        matches!(self, Self::Credential(error) if error.is_revocation())
    }
}

fn of_connection(error: &ConnectError) -> Reason {
    match error {
        ConnectError::Unreachable(_) | ConnectError::HungUp(_) | ConnectError::Silent(_) => Reason::BackendUnreachable,
        ConnectError::Blocked(_) => Reason::BlockedAddress,
        ConnectError::Unauthorized(..) => Reason::Unauthorized,
        ConnectError::Loop => Reason::Loop,
        ConnectError::Status(_)
        | ConnectError::Redirected(_)
        | ConnectError::NotMcp(_)
        | ConnectError::BadEndpoint(_)
        | ConnectError::Refused(_)
        | ConnectError::Version(_) => Reason::HandshakeFailed,
    }
}
