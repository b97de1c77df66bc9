//! The reported status of servers, and when it changed.

pub(crate) mod feed;
pub(crate) mod report;
pub(crate) mod route;
