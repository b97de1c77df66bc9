//! The flags of a load run.

use std::path::PathBuf;

use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum LoadMode {
    /// POST {"method": TOOL, "args": {"message": …}}
    Rest,
    /// Streamable HTTP in a session: initialize, then tools/call
    Mcp,
    /// Stateless streamable HTTP of 2026-07-28: tools/call only
    Stateless,
    /// Legacy HTTP+SSE (2024-11-05): the URL is the SSE one
    Sse,
    /// tools/list in a session: all pages in turn
    List,
    /// Opens --concurrency sessions, holds them for --duration, calls nothing
    Idle,
    /// As idle, and each session has a GET /mcp on which it listens
    Listen,
    /// GET the URL, with {tool} filled in
    Get,
}

#[derive(clap::Args, Clone)]
pub(crate) struct LoadArgs {
    #[arg(long, default_value = "http://127.0.0.1:9000/mcp")]
    pub(crate) url: String,
    #[arg(long, value_enum, default_value_t = LoadMode::Mcp)]
    pub(crate) mode: LoadMode,
    /// Bearer token
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Tool to call; with commas, the calls take turns among them
    #[arg(long, default_value = "echo")]
    pub(crate) tool: String,
    /// Bytes of the message argument
    #[arg(long, default_value_t = 100)]
    pub(crate) payload: usize,
    /// Measured seconds
    #[arg(long, default_value_t = 5.0)]
    pub(crate) duration: f64,
    /// Seconds of load before measuring
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// Connections (and sessions)
    #[arg(long, default_value_t = 16)]
    pub(crate) concurrency: usize,
    /// Calls per second over all connections (open loop); 0: closed loop
    #[arg(long, default_value_t = 0.0)]
    pub(crate) rate: f64,
    /// Generator threads
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Process (tree) whose CPU and memory are the server's; may be repeated
    #[arg(long)]
    pub(crate) pid: Vec<i32>,
    /// Process (tree) of the backend, reported apart; may be repeated
    #[arg(long)]
    pub(crate) backend_pid: Vec<i32>,
    /// Protocol version for the session modes
    #[arg(long, default_value = "2025-06-18")]
    pub(crate) protocol: String,
    /// A further header, "Name: value"; may be repeated
    #[arg(long)]
    pub(crate) header: Vec<String>,
    /// Also send Mcp-Method and Mcp-Name in session mode
    #[arg(long)]
    pub(crate) mcp_headers: bool,
    /// "server" member of the REST body
    #[arg(long)]
    pub(crate) server: Option<String>,
    /// REST body instead of the built-in one, with {tool} and {message} filled in
    #[arg(long)]
    pub(crate) body: Option<String>,
    /// A 2xx answer must contain this text to count (default: the message)
    #[arg(long)]
    pub(crate) expect: Option<String>,
    /// Least length of a good answer's body, in bytes
    #[arg(long, default_value_t = 0)]
    pub(crate) least_bytes: usize,
    /// Folder in which `--mode list` saves the pages, as 0, 1, …
    #[arg(long)]
    pub(crate) save: Option<PathBuf>,
    /// Give up on a call after this many seconds
    #[arg(long, default_value_t = 10.0)]
    pub(crate) timeout: f64,
    /// Name for the output line
    #[arg(long, default_value = "")]
    pub(crate) label: String,
}
