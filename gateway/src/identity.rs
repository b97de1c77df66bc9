//! Who the gateway is towards servers: the tokens that `spec.identity` of an McpServer asks for.
//!
//! A token is for one audience, which is the origin of the server or one that the operator of the gateway has allowed,
//! so that nobody gets a token that is good elsewhere. No token is in a log, a metric, a status or an error.

mod account;
mod audience;
mod error;
mod issue;
mod renew;
mod tokens;

pub(crate) use account::{Account, ServiceAccount, mounted};
pub(crate) use audience::AudienceRules;
pub(crate) use error::IdentityError;
pub(crate) use issue::Issuer;
pub(crate) use renew::run;
pub(crate) use tokens::Tokens;
