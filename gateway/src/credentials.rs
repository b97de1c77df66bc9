//! What a server is sent besides messages: values of Secrets, and tokens of the gateway itself.

use std::sync::Arc;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use portcullis_crds::{Reason, Server};
use thiserror::Error;

use crate::identity::{IdentityError, Tokens};
use crate::outbound::{Outbound, OutboundError};
use crate::secrets::{Resolved, SecretError, Secrets};

/// The sources of credentials.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// The source of Secrets.
    pub(crate) secrets: Secrets,
    /// The gateway's own tokens.
    pub(crate) tokens: Arc<Tokens>,
    /// What servers are shown of callers.
    pub(crate) outbound: Arc<Outbound>,
}

/// Why a server's credentials cannot be used. The texts name objects, origins and audiences, and never a value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum CredentialError {
    /// A Secret or ConfigMap.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The gateway's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What the server would be shown of callers.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
}

impl CredentialError {
    /// The reason for the status of an McpServer.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Secret(error) => error.reason(),
            Self::Identity(error) => error.reason(),
            Self::Outbound(error) => error.condition(),
        }
    }

    /// Whether a permission was revoked: then no formerly valid value stays in use.
    pub(crate) fn is_revocation(&self) -> bool {
        match self {
            Self::Secret(error) => error.is_revocation(),
            Self::Identity(error) => error.is_revocation(),
            Self::Outbound(error) => error.is_revocation(),
        }
    }
}

impl Credentials {
    /// Resolves the credentials of a server.
    ///
    /// # Errors
    /// A revocation if there is one, else the first unusable credential: the server must then not be contacted, for it
    /// would be without credentials.
    pub(crate) fn resolve(&self, server: &Server) -> Result<Resolved, CredentialError> {
        match (self.secrets.resolve(server), self.own(server)) {
            (Ok(mut resolved), Ok((audience, header))) => {
                if let Some(header) = header {
                    resolved.headers.all.insert(AUTHORIZATION, header);
                }
                resolved.audience = audience;
                Ok(resolved)
            }
            (Err(error), Err(graver)) if graver.is_revocation() && !error.is_revocation() => Err(graver),
            (Err(error), _) => Err(error.into()),
            (Ok(_), Err(error)) => Err(error),
        }
    }

    /// What the server gets of the gateway itself: a header, and the audience of a token of its service account.
    fn own(&self, server: &Server) -> Result<(Option<Arc<str>>, Option<HeaderValue>), CredentialError> {
        Ok(match self.tokens.of(server)? {
            Some((audience, header)) => {
                self.outbound.check(server)?;
                (Some(audience), Some(header))
            }
            None => (None, self.outbound.own_token(server)?),
        })
    }

    /// Whether a value in use must no longer be used.
    pub(crate) fn revoked(&self, used: &Resolved) -> Option<CredentialError> {
        let of_secrets = self.secrets.revoked(used).map(Into::into);
        of_secrets.or_else(|| Some(self.tokens.revoked(used.audience.as_deref()?)?.into()))
    }
}
