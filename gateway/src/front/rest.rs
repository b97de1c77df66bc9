//! The REST routes.

pub(crate) mod call_body;
pub(crate) mod docs_page;
pub(crate) mod explain;
pub(crate) mod issuer;
pub mod openapi;
pub(crate) mod routes;
pub(crate) mod servers;
