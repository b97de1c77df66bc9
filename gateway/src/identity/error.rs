//! Why the gateway has no token for a server. The texts name audiences, origins and namespaces, and never a token.

use portcullis_crds::Reason;
use portcullis_runtime::setting_names::{Setting, way_to_tokens};
use thiserror::Error;

use super::ServiceAccount;

/// Why the gateway has no token for a server.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum IdentityError {
    /// The gateway has no service account, or is not told so.
    #[error("the gateway has no token for the server, because {way}", way = way_to_tokens())]
    NoAccount,
    /// The audience is not that of the server.
    #[error(
        "the audience {audience} is not the origin of the server's URL, {origin}: leave the audience out, or add it for \
         namespace {namespace} to {setting}",
        setting = Setting::AllowedAudiences.name()
    )]
    OtherAudience {
        /// The audience.
        audience: String,
        /// The origin of the server's URL.
        origin: String,
        /// The namespace of the server.
        namespace: String,
    },
    /// The server is a Service of another namespace, which may trust the gateway.
    #[error(
        "the server's URL names a Service of namespace {other}: move the McpServer there, or add {audience} for \
         namespace {namespace} to {setting}",
        setting = Setting::AllowedAudiences.name()
    )]
    OtherNamespace {
        /// The audience.
        audience: String,
        /// The namespace of the Service.
        other: String,
        /// The namespace of the server.
        namespace: String,
    },
    /// With such a token, the server could act as the gateway in the cluster.
    #[error("the API server accepts tokens for the audience {0}, so no server may have one: use another audience")]
    OfApiServer(String),
    /// With such a token, the server could call this gateway as the gateway.
    #[error("this gateway accepts tokens for the audience {0}, so no server may have one: use another audience")]
    OfGateway(String),
    /// Too many audiences.
    #[error("the servers of namespace {namespace} ask for more than {limit} audiences: let some servers share one")]
    TooManyInNamespace {
        /// The namespace.
        namespace: String,
        /// The limit.
        limit: usize,
    },
    /// Too many audiences.
    #[error("all servers together ask for more than {0} audiences: let some servers share one")]
    TooMany(usize),
    /// Unknown: the API server has not answered yet.
    #[error("the gateway waits for the API server's answer to its request for a token: wait")]
    Pending,
    /// The API server denies the gateway tokens.
    #[error(
        "the API server denies tokens of service account {0} to the gateway: give it `create` on serviceaccounts/token \
         for this name, as identity.serviceAccountTokens of the chart does"
    )]
    Denied(ServiceAccount),
    /// The service account does not exist.
    #[error("the API server does not know service account {0}: correct the name that the gateway is given")]
    NoSuchAccount(ServiceAccount),
    /// The API server refuses this request.
    #[error("the API server refuses a token for the audience {audience} with status {status}: use another audience")]
    Refused {
        /// The audience.
        audience: String,
        /// The HTTP status.
        status: u16,
    },
    /// There is no token, and none to be had at the moment.
    #[error("the API server issues no token for the audience {audience}: {problem}; the gateway tries again")]
    Unavailable {
        /// The audience.
        audience: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The last token has ended.
    #[error(
        "the token for the audience {0} has expired, and the API server has issued no other; the gateway tries again"
    )]
    Ended(String),
}

impl IdentityError {
    /// The reason for the status of an McpServer.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Pending => Reason::Probing,
            Self::OtherAudience { .. } | Self::OtherNamespace { .. } | Self::OfApiServer(_) | Self::OfGateway(_) => {
                Reason::AudienceNotAllowed
            }
            Self::Denied(_) | Self::NoSuchAccount(_) | Self::Refused { .. } => Reason::TokenRequestDenied,
            Self::NoAccount
            | Self::TooManyInNamespace { .. }
            | Self::TooMany(_)
            | Self::Unavailable { .. }
            | Self::Ended(_) => Reason::IdentityUnavailable,
        }
    }

    /// Whether no token that was sent before may stay in use.
    pub(crate) fn is_revocation(&self) -> bool {
        match self {
            Self::NoAccount
            | Self::OtherAudience { .. }
            | Self::OtherNamespace { .. }
            | Self::OfApiServer(_)
            | Self::OfGateway(_)
            | Self::Ended(_) => true,
            Self::TooManyInNamespace { .. }
            | Self::TooMany(_)
            | Self::Pending
            | Self::Denied(_)
            | Self::NoSuchAccount(_)
            | Self::Refused { .. }
            | Self::Unavailable { .. } => false,
        }
    }
}
