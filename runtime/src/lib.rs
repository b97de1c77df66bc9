//! What both processes need once: logs, signals, supervised tasks, listeners and the admin port.
//!
//! | module | duty |
//! |---|---|
//! | [`flags`] | which flags a subcommand offers and takes |
//! | [`log`] | log lines that never make a request wait: levels, formats, the writer thread |
//! | [`shutdown`] | the one way to tell a task to stop |
//! | [`supervise`] | every task has a name and an owner; an unexpected end stops the process |
//! | [`workers`] | threads with a runtime each, for the work of connections |
//! | [`signal`] | SIGTERM, SIGINT and SIGHUP |
//! | [`ready`] | what is still missing before the process may get traffic |
//! | [`mod@serve`] | the accept loop of every listener, with its limits |
//! | [`memory`] | one account of the bytes that are held for others |
//! | [`admin`] | `/livez`, `/readyz` and `/metrics` |
//! | [`alive`] | what notices that the other end of a connection is gone |
//! | [`process`] | memory, CPU and open files of this process, as metrics |
//! | [`chain`] | an error with all its causes, in one line |
//!
//! Knows nothing of MCP, Kubernetes or the other rooms.

pub mod admin;
pub mod alive;
pub mod chain;
pub mod flags;
pub mod log;
pub mod memory;
pub mod process;
pub mod ready;
pub mod serve;
pub mod shutdown;
pub mod signal;
pub mod supervise;
pub mod workers;

pub use alive::keep_alive;
pub use chain::Chain;
pub use log::{LogGuard, LogSink};
pub use ready::{Latch, Readiness};
pub use serve::{Connections, Limits, serve};
pub use shutdown::{Shutdown, Stop};
pub use supervise::{Drain, Failure, Supervisor};
pub use workers::{WorkerThreads, Workers};
