//! Messages of MCP clients: read, checked and written. Pure.

pub(crate) mod classify;
pub(crate) mod headers;
pub(crate) mod message;
pub(crate) mod problem;
pub(crate) mod reply;
pub(crate) mod request;
