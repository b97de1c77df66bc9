//! The project's own chores, as functions: what `cargo xtask` runs and the tests look up.

pub mod bench;
pub mod chart;
pub mod check;
pub mod cluster;
pub mod command;
pub mod count;
pub mod fuzz;
pub mod generate;
mod packages;
mod process;
mod processor;
pub mod real_servers;
mod second_look;
pub mod skip;
mod steps;
pub mod test;
mod tools;
