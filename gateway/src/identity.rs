//! Who the gateway is towards servers: the tokens that `spec.identity` of an McpServer asks for.

mod error;

use portcullis_crds::Server;
use portcullis_crds::mcpserver::Identity;

pub(crate) use error::IdentityError;

/// Checks whether this version has what the server asks for.
///
/// # Errors
/// It has not: the server must not be contacted without it.
pub(crate) fn check(server: &Server) -> Result<(), IdentityError> {
    let unsupported = match &server.identity {
        Some(Identity { service_account_token: Some(_), .. }) => Some("identity.serviceAccountToken"),
        Some(Identity { assertion: Some(_), .. }) => None,
        Some(Identity { exchange: Some(_), .. }) => Some("identity.exchange"),
        Some(_) => Some("identity.clientCredentials"),
        None if server.forward_caller_token.is_some() => Some("forwardCallerToken"),
        None if !server.listing.headers.is_empty() => Some("listing.headers"),
        None => None,
    };
    unsupported.map_or(Ok(()), |field| Err(IdentityError::Unsupported(field)))
}
