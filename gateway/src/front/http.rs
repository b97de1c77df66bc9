//! The parts of HTTP that every route needs, without the state of the gateway: heads, bodies, errors, ids, log lines.

pub(crate) mod access_log;
pub(crate) mod audit_file;
pub(crate) mod audit_log;
pub(crate) mod body;
pub(crate) mod call_facts;
pub(crate) mod error;
pub(crate) mod head;
mod json_line;
pub mod origin_policy;
pub(crate) mod pieces;
pub(crate) mod request_id;
pub(crate) mod resource_metadata;
