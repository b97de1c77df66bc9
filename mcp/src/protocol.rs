//! The rules of MCP that need no connection: revisions, capabilities, JSON, URI templates. Pure.

pub mod client_capabilities;
pub mod extensions;
pub mod json;
pub mod param_headers;
pub mod revision;
pub mod uri_template;
