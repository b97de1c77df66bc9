//! A request while it is answered: its connection, its record, its caller, and what all requests share.

pub(crate) mod admit;
pub(crate) mod app;
pub(crate) mod caller_lists;
pub(crate) mod connection;
pub(crate) mod identify;
pub(crate) mod missing;
pub(crate) mod observe;
pub(crate) mod search_tools;
