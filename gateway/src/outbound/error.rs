//! Why a server cannot be shown who calls. The texts hold nothing of tokens and claims.

use http::StatusCode;
use portcullis_crds::Reason;
use portcullis_runtime::setting_names::Setting;
use thiserror::Error;

use super::token_endpoint::TokenError;
use crate::identity::IdentityError;
use crate::secrets::SecretError;

/// Why a server cannot be shown who calls: the call must not be sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum OutboundError {
    /// There is no key.
    #[error("the gateway has no keys for assertions: set {}", Setting::AssertionKeys.name())]
    NoKeys,
    /// The gateway has no name.
    #[error("the gateway has no name for `iss` of assertions: set {}", Setting::AssertionIssuer.name())]
    NoIssuer,
    /// The server must not be shown tokens for this audience, or the gateway has none of its own.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The client secret is unusable.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The gateway must not send tokens to this endpoint.
    #[error(
        "the gateway sends no tokens to {url} for servers of namespace {namespace}: correct tokenUrl, or add it to {setting}",
        setting = Setting::TokenUrls.name()
    )]
    TokenUrl {
        /// The URL, without its query.
        url: String,
        /// The namespace of the server.
        namespace: String,
    },
    /// The token endpoint gave no token for the caller's.
    #[error("the token endpoint does not exchange the caller's token: {0}")]
    Exchange(TokenError),
    /// The token endpoint gave the gateway no token.
    #[error("the token endpoint gives the gateway no token: {0}")]
    NoToken(TokenError),
    /// Unknown: the token endpoint has not answered yet.
    #[error("the gateway waits for the answer of the token endpoint: wait")]
    Pending,
    /// The header is not that of this server.
    #[error(
        "forwardCallerToken.from must be {0} for this server: callers send a credential under the name of its server"
    )]
    Header(String),
    /// The server's name leaves no header for it alone.
    #[error("forwardCallerToken does not work for a server or namespace with -- in its name: choose another name")]
    NoHeader,
    /// The caller sends the header more than once, or with what is no value.
    #[error("the header {0} must be there once, with one credential: correct it")]
    Credential(String),
    /// The caller sends its token for the gateway as a credential for a server.
    #[error(
        "the header {0} holds the token for the gateway, which no server may have: send the server's own credential"
    )]
    GatewayToken(String),
    /// Too many servers have tokens of their own.
    #[error(
        "too many servers have tokens of the gateway's own: let some share a namespace's identity, or leave it out"
    )]
    TooManyTokens,
    /// Too many calls wait for tokens.
    #[error("too many calls wait for tokens: try again")]
    Busy,
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
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Credential(_) | Self::GatewayToken(_) => StatusCode::BAD_REQUEST,
            Self::NoSubject | Self::TooLong(_) => StatusCode::BAD_GATEWAY,
            Self::Exchange(error) | Self::NoToken(error) if error.is_answer() => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The reason for the status of an McpServer.
    pub(crate) fn condition(&self) -> Reason {
        match self {
            Self::Identity(error) => error.reason(),
            Self::Secret(error) => error.reason(),
            Self::TokenUrl { .. } => Reason::TokenUrlNotAllowed,
            Self::Exchange(_) | Self::NoToken(_) => Reason::ExchangeFailed,
            Self::Pending => Reason::Probing,
            _ => Reason::IdentityUnavailable,
        }
    }

    /// Whether a permission was revoked: then no token that was sent before stays in use.
    pub(crate) fn is_revocation(&self) -> bool {
        match self {
            Self::Identity(error) => error.is_revocation(),
            Self::Secret(error) => error.is_revocation(),
            Self::TokenUrl { .. } | Self::Header(_) | Self::NoHeader => true,
            _ => false,
        }
    }

    /// Whether it lies with the configuration or the token endpoint, so that other callers fail too.
    pub(crate) fn is_of_the_server(&self) -> bool {
        match self {
            Self::Exchange(error) => !error.is_about_the_token(),
            Self::Identity(_) | Self::Secret(_) | Self::TokenUrl { .. } => true,
            _ => false,
        }
    }

    /// A word for programs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Exchange(_) => "exchange_failed",
            _ => "identity",
        }
    }
}
