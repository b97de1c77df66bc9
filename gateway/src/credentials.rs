//! What a server is sent besides messages: values of Secrets, and tokens of the gateway itself.

use std::sync::Arc;

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
        let token = self.tokens.of(server).map_err(CredentialError::from);
        let token = token.and_then(|token| {
            self.outbound.check(server)?;
            Ok(token)
        });
        match (self.secrets.resolve(server), token) {
            (Ok(resolved), Ok(None)) => Ok(resolved),
            (Ok(mut resolved), Ok(Some((audience, header)))) => {
                resolved.headers.all.insert(AUTHORIZATION, header);
                resolved.audience = Some(audience);
                Ok(resolved)
            }
            (Err(error), Err(graver)) if graver.is_revocation() && !error.is_revocation() => Err(graver),
            (Err(error), _) => Err(error.into()),
            (Ok(_), Err(error)) => Err(error),
        }
    }

    /// Whether a value in use must no longer be used.
    pub(crate) fn revoked(&self, used: &Resolved) -> Option<CredentialError> {
        let of_secrets = self.secrets.revoked(used).map(Into::into);
        of_secrets.or_else(|| Some(self.tokens.revoked(used.audience.as_deref()?)?.into()))
    }
}

#[cfg(test)]
mod tests {
    use portcullis_crds::McpServerSpec;

    use super::*;

    #[test]
    fn what_does_not_work_yet_is_refused_so_that_no_server_is_contacted_without_it() {
        let credentials =
            Credentials { secrets: Secrets::Folder(None), tokens: Arc::default(), outbound: Arc::default() };
        for (spec, field) in [
            ("{identity: {exchange: {tokenUrl: 'https://l/t'}}}", "identity.exchange"),
            (
                "{identity: {clientCredentials: {tokenUrl: 'https://l/t', clientAuth: {serviceAccountToken: {}}}}}",
                "identity.clientCredentials",
            ),
            ("{forwardCallerToken: {from: x-a}}", "forwardCallerToken"),
        ] {
            let spec: McpServerSpec = serde_yaml::from_str(spec).unwrap();
            let server = Server {
                identity: spec.identity,
                forward_caller_token: spec.forward_caller_token,
                listing: spec.listing,
                ..Server::from_url("a", "https://a/")
            };
            let error = credentials.resolve(&server).err().unwrap();
            assert_eq!(error, CredentialError::Identity(IdentityError::Unsupported(field)));
            assert_eq!((error.reason(), error.is_revocation()), (Reason::IdentityUnavailable, true));
        }
    }
}
