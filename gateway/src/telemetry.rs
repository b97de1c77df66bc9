//! The measurements of the gateway.

pub mod metrics;
pub(crate) mod parted;
pub(crate) mod process;
pub(crate) mod tool_counts;
