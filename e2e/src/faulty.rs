//! In-process MCP servers that are honest by default; `fault` lists their faults, one line each.

mod balance;
mod call;
mod fault;
mod frame;
mod legacy;
mod methods;
mod modern;
mod pipe;
mod rpc;
mod seen;
mod service;
mod state;
mod streamable;
mod tool;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::sleep;

pub use fault::{
    AnswerForm, Behaviour, CallFault, Coding, ConnectionFault, EndpointFault, EventFraming, FixedAnswer, InName,
    ListFault, Listen, LostSessionAnswer, ProtocolFault, RequestFault, Uninitialized, garbage,
};
pub use seen::{SeenRequest, SeenTraffic};
pub use tool::{MESSAGE_SCHEMA, Tool, ToolHandler, invalid_tools};

use crate::port::{self, HeldPort};
use pipe::BodyPipe;
use state::FaultyState;

/// The transport and revision of a faulty server when it is honest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultyMode {
    /// HTTP+SSE of 2024-11-05, on `/sse` and `/message?sessionId=`.
    Sse,
    /// Streamable HTTP with sessions, 2025-03-26 to 2025-11-25, on `/mcp`.
    Streamable,
    /// Stateless streamable HTTP of 2026-07-28, on `/mcp`.
    Modern,
}

/// The end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// With the proper end of its body.
    Clean,
    /// With a closed connection in the middle of the body.
    Cut,
}

/// A running server and the handle to steer it. It lives on the runtime of the test and ends with this value.
#[derive(Debug)]
pub struct Faulty {
    state: Arc<FaultyState>,
    port: HeldPort,
    listener: JoinSet<()>,
}

impl Faulty {
    /// Starts an honest server on a free port, with one tool: `echo`.
    pub async fn start(mode: FaultyMode) -> Self {
        Self::with_tools(mode, vec![Tool::echo("echo")]).await
    }

    /// Starts an honest server on a free port, with these tools.
    pub async fn with_tools(mode: FaultyMode, tools: Vec<Tool>) -> Self {
        let port = port::hold();
        let state = Arc::new(FaultyState::new(mode, port.address(), tools));
        let mut server = Self { state, port, listener: JoinSet::new() };
        server.restart().await;
        server
    }

    /// The URL, for example `http://127.0.0.1:40123/sse`.
    pub fn url(&self) -> String {
        let path = if self.state.mode == FaultyMode::Sse { "/sse" } else { "/mcp" };
        format!("{}{path}", self.port.origin())
    }

    /// Its address, on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Changes its behaviour, from the next connection, request or event on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        self.state.behave(change);
    }

    /// Makes it honest again.
    pub fn reform(&self) {
        self.behave(|behaviour| *behaviour = Behaviour::default());
    }

    /// The traffic until now.
    pub fn seen(&self) -> SeenTraffic {
        self.state.seen().clone()
    }

    /// Number of calls in flight.
    pub fn running(&self) -> usize {
        self.state.running()
    }

    /// Number of open event streams of sessions or subscriptions.
    pub fn open_streams(&self) -> usize {
        self.state.pipes().len() + self.state.listens().len()
    }

    /// Replaces its tools without a word; see [`Faulty::announce`].
    pub fn set_tools(&self, tools: Vec<Tool>) {
        *self.state.tools() = tools;
    }

    /// Replaces its tools and says so.
    pub async fn change_tools(&self, tools: Vec<Tool>) {
        self.set_tools(tools);
        self.announce().await;
    }

    /// Sends `notifications/tools/list_changed` on every open stream.
    pub async fn announce(&self) {
        announce(&self.state, "tools").await;
    }

    /// Sends `notifications/WHAT/list_changed` on every open stream: of `tools`, `prompts` or `resources`.
    pub async fn announce_list(&self, what: &str) {
        announce(&self.state, what).await;
    }

    /// Adds and removes a tool, `churn`, this often, saying so each time; until the server is killed.
    pub fn churn(&self, every: Duration) {
        let state = Arc::clone(&self.state);
        self.state.spawn(async move {
            loop {
                sleep(every).await;
                toggle(&state);
                announce(&state, "tools").await;
            }
        });
    }

    /// Sends a raw message on every open stream: a request of the server, an answer nobody asked for, garbage.
    pub async fn push(&self, message: &str) {
        push(&self.state, message).await;
    }

    /// Writes raw bytes, without any framing, to every open stream.
    pub async fn push_bytes(&self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        for pipe in self.pipes() {
            pipe.write(bytes.clone(), &EventFraming::default()).await;
        }
    }

    /// Ends every open stream.
    pub async fn end_streams(&self, end: StreamEnd) {
        for pipe in self.pipes() {
            match end {
                StreamEnd::Clean => pipe.end().await,
                StreamEnd::Cut => pipe.cut().await,
            }
        }
    }

    /// Makes every open stream silent for good, with its connection left open; new streams work.
    pub fn freeze_streams(&self) {
        self.pipes().iter().for_each(BodyPipe::freeze);
    }

    /// Forgets every session; their streams stay open. [`LostSessionAnswer`] is the answer to their callers.
    pub fn forget_sessions(&self) {
        self.state.forget_sessions();
    }

    /// Dies as by SIGKILL: every connection closes, sessions are gone, the port refuses callers. Keeps its tools,
    /// behaviour and what it has seen.
    pub async fn kill(&mut self) {
        self.listener.shutdown().await;
        self.state.take_work().shutdown().await;
    }

    /// Kills it if it runs, and listens again on the same port.
    pub async fn restart(&mut self) {
        self.kill().await;
        let listener = self.port.listen().await;
        self.listener.spawn(service::accept(Arc::clone(&self.state), listener));
    }

    /// Dies, and another server takes its place on the same port and with the same tools: honest, and of this mode.
    pub async fn replace(&mut self, mode: FaultyMode) {
        self.kill().await;
        let tools = self.state.tools().clone();
        self.state = Arc::new(FaultyState::new(mode, self.port.address(), tools));
        self.restart().await;
    }

    fn pipes(&self) -> Vec<BodyPipe> {
        let listens = self.state.listens().into_iter().map(|(_, pipe)| pipe);
        self.state.pipes().into_iter().chain(listens).collect()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.listener.abort_all();
        // The tasks own the state and the state owns the tasks; this cuts the ring.
        drop(self.state.take_work());
    }
}

async fn push(state: &Arc<FaultyState>, message: &str) {
    let out = |pipe| call::Out { pipe, events: true };
    for pipe in state.pipes() {
        out(pipe).message(state, message).await;
    }
    for (_, pipe) in state.listens() {
        out(pipe).message(state, message).await;
    }
}

async fn announce(state: &Arc<FaultyState>, what: &str) {
    let changed = format!("notifications/{what}/list_changed");
    for pipe in state.pipes() {
        let note = format!(r#"{{"jsonrpc":"2.0","method":"{changed}"}}"#);
        call::Out { pipe, events: true }.message(state, &note).await;
    }
    for (id, pipe) in state.listens() {
        call::Out { pipe, events: true }.message(state, &modern::note(&changed, &id, "")).await;
    }
}

fn toggle(state: &FaultyState) {
    const NAME: &str = "churn";
    let mut tools = state.tools();
    let before = tools.len();
    tools.retain(|tool| tool.name != NAME);
    if tools.len() == before {
        tools.push(Tool::text(NAME, NAME));
    }
}
