//! The project's own chores, as functions: what `cargo xtask` runs and the tests look up.

pub mod bench;
pub mod chart;
pub mod cluster;
pub mod count;
pub mod generate;
mod processor;
pub mod real_servers;
pub mod tests;
