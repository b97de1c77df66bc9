//! Real MCP servers as child processes: started, watched, stopped and started again on the same port.

mod kind;
mod process;

use std::time::Duration;

pub use kind::{RealServerKind, TestTransport, available, installed};
pub use process::ProcessGroup;
pub use xtask::real_servers::Source;

use crate::port::{self, HeldPort};
use crate::wait::wait_for;

/// Bound for the start of a server; node and Python need seconds on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct RealServer {
    /// The URL, for example `http://127.0.0.1:40123/sse`.
    pub url: String,
    /// The transport at the URL.
    pub transport: TestTransport,
    kind: RealServerKind,
    port: HeldPort,
    process: Option<ProcessGroup>,
}

impl RealServer {
    /// Starts a server on a free port and waits until it answers. Panics with its output when it ends or stays silent
    /// for 60 s; ask [`available`] before.
    pub async fn start(kind: RealServerKind) -> Self {
        let port = port::hold();
        let url = format!("{}{}", port.origin(), kind.path());
        let mut server = Self { url, transport: kind.transport(), kind, port, process: None };
        server.restart_on_same_port().await;
        server
    }

    /// Kills it (SIGKILL to the whole group); its port then refuses connections. Nothing happens if it is stopped.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Kills the server if it runs, restarts it on the same port, and waits until it answers. Its sessions are gone.
    pub async fn restart_on_same_port(&mut self) {
        self.stop();
        self.process = Some(ProcessGroup::start(self.kind.command(self.port.port())));
        wait_for(&format!("{:?} to answer", self.kind), START_LIMIT, async || self.look().await).await;
    }

    /// The last 64 KiB of what it wrote to stdout and stderr since its last start.
    pub fn output(&self) -> String {
        self.process.as_ref().map(ProcessGroup::output).unwrap_or_default()
    }

    async fn look(&self) -> Result<(), String> {
        let process = self.process.as_ref().expect("it was started");
        assert!(!process.ended(), "{:?} ended by itself:\n{}", self.kind, process.output());
        self.kind.greet(&self.url).await.map_err(|error| format!("{error:#}; its output:\n{}", process.output()))
    }
}
