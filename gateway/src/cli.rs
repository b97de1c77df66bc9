//! The command line and each of its subcommands.

pub mod check;
pub mod command;
pub mod demo;
pub mod explain;
pub mod run;
pub mod token;
