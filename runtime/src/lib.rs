//! The common base of both processes: logs, signals, supervised tasks, listeners and the admin port.
//!
//! | module | duty |
//! |---|---|
//! | [`flags`] | the flags that a subcommand offers and accepts |
//! | [`log`] | log lines that never make a request wait: levels, formats, the writer thread |
//! | [`shutdown`] | the single way to stop a task |
//! | [`supervise`] | every task has a name and an owner; an unexpected end stops the process |
//! | [`workers`] | threads with a runtime each, for the work of connections |
//! | [`signal`] | SIGTERM, SIGINT and SIGHUP |
//! | [`ready`] | the conditions before the process may receive traffic |
//! | [`mod@serve`] | the accept loop of every listener, with its limits |
//! | [`memory`] | one account of the bytes that are held for others |
//! | [`admin`] | `/livez`, `/readyz` and `/metrics` |
//! | [`metrics`] | creates metrics, and records their definitions |
//! | [`alive`] | detects that the peer of a connection is gone |
//! | [`mod@print`] | prints what a command answers |
//! | [`process`] | memory, CPU and open files of this process, as metrics |
//! | [`chunked`] | finds the end of a chunked body, and rejects malformed chunks |
//! | [`settings`] | parses settings that are given as text |
//! | [`setting_names`] | the names of settings where this process runs |
//! | [`chain`] | an error with all its causes, in one line |
//!
//! Knows nothing of MCP, Kubernetes or the other rooms.

pub mod admin;
pub mod alive;
pub mod chain;
pub mod chunked;
pub mod flags;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod print;
pub mod process;
pub mod ready;
pub mod serve;
pub mod setting_names;
pub mod settings;
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
