//! The kinds of real servers: how each is started, and how one sees that it answers.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::real_servers::{self, Source};

use crate::{http, skip, sse};

/// Bound for one greeting.
const GREETING_LIMIT: Duration = Duration::from_secs(2);

/// The `initialize` that a client of 2025-06-18 sends.
pub(crate) const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"portcullis-e2e","version":"0"}}}"#;

/// The transport of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestTransport {
    /// HTTP+SSE of 2024-11-05: a GET stream that names the address for POSTs.
    Sse,
    /// Streamable HTTP: POSTs to one address.
    StreamableHttp,
}

/// A real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealServerKind {
    /// server-everything (TypeScript SDK 1.x) over SSE: hangs POSTs with unknown sessions, bursts of list_changed.
    EverythingSse,
    /// server-everything over streamable HTTP: sessions, legacy era only.
    EverythingStreamable,
    /// server-everything over stdio behind supergateway, as SSE.
    SupergatewaySse,
    /// Our four tools on the official Python SDK over SSE: CRLF, comment pings, 421 for a foreign Host.
    PythonSse,
    /// Our four tools on the official Python SDK over streamable HTTP: both eras.
    PythonStreamable,
    /// Our four tools on FastMCP over SSE.
    FastmcpSse,
    /// Our four tools on FastMCP over streamable HTTP: both eras.
    FastmcpStreamable,
}

/// Whether a kind can be started on this machine; the error says why not. For [`require!`](crate::require).
pub fn available(kind: RealServerKind) -> Result<(), String> {
    installed(kind.source())
}

/// The same for a part of what is installed.
pub fn installed(source: Source) -> Result<(), String> {
    match skip::reason(source.name()) {
        Some(reason) => Err(reason),
        None => source.ready().map_err(|error| error.to_string()),
    }
}

impl RealServerKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::EverythingSse,
        Self::EverythingStreamable,
        Self::SupergatewaySse,
        Self::PythonSse,
        Self::PythonStreamable,
        Self::FastmcpSse,
        Self::FastmcpStreamable,
    ];

    /// The transport.
    pub fn transport(self) -> TestTransport {
        match self {
            Self::EverythingSse | Self::SupergatewaySse | Self::PythonSse | Self::FastmcpSse => TestTransport::Sse,
            Self::EverythingStreamable | Self::PythonStreamable | Self::FastmcpStreamable => {
                TestTransport::StreamableHttp
            }
        }
    }

    /// Whether it serves our own four tools (`echo`, `add`, `slow`, `counter`) rather than server-everything's.
    pub fn has_our_tools(self) -> bool {
        self.source() == Source::Python
    }

    fn source(self) -> Source {
        match self {
            Self::EverythingSse | Self::EverythingStreamable | Self::SupergatewaySse => Source::Node,
            Self::PythonSse | Self::PythonStreamable | Self::FastmcpSse | Self::FastmcpStreamable => Source::Python,
        }
    }

    pub(super) fn path(self) -> &'static str {
        match self.transport() {
            TestTransport::Sse => "/sse",
            TestTransport::StreamableHttp => "/mcp",
        }
    }

    pub(super) fn command(self, port: u16) -> Command {
        match self {
            Self::EverythingSse => everything("sse", port),
            Self::EverythingStreamable => everything("streamableHttp", port),
            Self::SupergatewaySse => supergateway(port),
            Self::PythonSse => python("python_mcp.py", "sse", port),
            Self::PythonStreamable => python("python_mcp.py", "streamable", port),
            Self::FastmcpSse => python("python_fastmcp.py", "sse", port),
            Self::FastmcpStreamable => python("python_fastmcp.py", "http", port),
        }
    }

    /// Looks whether it answers as its transport should; leaves no session open that it could close.
    pub(super) async fn greet(self, url: &str) -> Result<()> {
        match self.transport() {
            TestTransport::Sse => {
                let event = sse::open(http::get(url).limit(GREETING_LIMIT)).await?.next(GREETING_LIMIT).await?;
                ensure!(event.as_ref().is_some_and(|it| it.event == "endpoint"), "no endpoint event but {event:?}");
            }
            TestTransport::StreamableHttp => {
                let answer = http::post(url, INITIALIZE).limit(GREETING_LIMIT).send().await?;
                ensure!(answer.status == 200, "initialize was answered with {}", answer.status);
            }
        }
        Ok(())
    }
}

fn everything_script() -> PathBuf {
    real_servers::folder().join("node_modules/@modelcontextprotocol/server-everything/dist/index.js")
}

fn everything(mode: &str, port: u16) -> Command {
    let mut command = Command::new("node");
    command.arg(everything_script()).arg(mode).env("PORT", port.to_string());
    command
}

fn supergateway(port: u16) -> Command {
    let mut command = Command::new("node");
    command.arg(real_servers::folder().join("node_modules/supergateway/dist/index.js"));
    command.arg("--stdio").arg(format!("node '{}' stdio", everything_script().display()));
    command.args(["--outputTransport", "sse", "--ssePath", "/sse", "--messagePath", "/message"]);
    command.arg("--port").arg(port.to_string());
    command
}

fn python(script: &str, mode: &str, port: u16) -> Command {
    let mut command = Command::new(real_servers::folder().join("venv/bin/python"));
    command.arg(real_servers::sources().join(script)).arg(mode).arg(port.to_string());
    command.env("PYTHONUNBUFFERED", "1");
    command
}
