//! The clients that are programs: see `e2e/real/clients`.

use std::process::Command;
use std::time::Duration;

use portcullis_e2e::real::{self, ProcessGroup, Source};
use portcullis_e2e::wait::wait_for;
use xtask::real_servers;

use crate::story::{ClientReport, ClientTask};

/// Starting node or Python takes seconds on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A program that is a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientProgram {
    /// The Python SDK 1.x.
    Mcp1,
    /// The Python SDK 2.x.
    Mcp2,
    /// FastMCP.
    Fastmcp,
    /// The TypeScript SDK 1.x.
    Typescript1,
    /// The TypeScript SDK 2.x.
    Typescript2,
}

impl ClientProgram {
    /// Whether it can run on this machine; for [`portcullis_e2e::require!`].
    pub(crate) fn available() -> Result<(), String> {
        real::installed(Source::Python).and_then(|()| real::installed(Source::Clients))
    }

    fn command(self) -> Command {
        let (interpreter, script, first) = match self {
            Self::Mcp1 => ("clients/venv/bin/python", "mcp_1.py", None),
            Self::Mcp2 => ("venv/bin/python", "mcp_2.py", None),
            Self::Fastmcp => ("venv/bin/python", "fastmcp_4.py", None),
            Self::Typescript1 => ("clients/node_modules/.bin/node", "typescript.mjs", Some("1")),
            Self::Typescript2 => ("clients/node_modules/.bin/node", "typescript.mjs", Some("2")),
        };
        let folder = real_servers::folder();
        let mut command = Command::new(folder.join(interpreter));
        command
            .arg(real_servers::sources().join("clients").join(script))
            .args(first)
            .current_dir(folder.join("clients"));
        command
    }

    /// Runs it to its end; `change` brings the fresh tool, once the program listens. Panics with its output when it fails.
    pub(crate) async fn run(self, task: &ClientTask, change: impl AsyncFnOnce()) -> ClientReport {
        let mut command = self.command();
        command.arg(task.json().to_string());
        let process = ProcessGroup::start(command);
        wait_for(&format!("{self:?} to listen"), LIMIT, async || {
            let output = process.output();
            assert!(!process.ended(), "{self:?} ended early:\n{output}");
            if output.lines().any(|line| line == "listening") { Ok(()) } else { Err(output) }
        })
        .await;
        change().await;
        let status =
            wait_for(&format!("{self:?} to end"), LIMIT, async || process.status().ok_or(process.output())).await;
        let output = process.output();
        assert!(status.success(), "{self:?} failed:\n{output}");
        let seen = output.lines().find_map(|line| serde_json::from_str(line).ok());
        seen.unwrap_or_else(|| panic!("{self:?} does not say what it saw:\n{output}"))
    }
}
