//! Tool calls: the handler's work, its progress, and the many ways of answering.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::time::{Instant, sleep, sleep_until};

use super::fault::{CallFault, EventFraming};
use super::frame;
use super::pipe::{BodyPipe, Payload, whole};
use super::rpc::{self, RpcMessage};
use super::service::respond;
use super::state::FaultyState;
use super::tool::{Tool, ToolHandler, text_result};
use super::{FaultyMode, methods, rpc::RpcParams};

/// The size of the pieces that huge and endless answers are made of.
const BLOCK_BYTES: usize = 64 * 1024;

/// The destination of messages: an event stream or a plain body.
#[derive(Clone, Debug)]
pub(super) struct Out {
    pub(super) pipe: BodyPipe,
    pub(super) events: bool,
}

/// One call.
#[derive(Debug)]
pub(super) struct FaultyCall {
    session: String,
    id: String,
    arguments: String,
    token: Option<String>,
    pub(super) tool: Option<Tool>,
    pub(super) answer: CallFault,
    /// The error that replaces the answer of a server that has forgotten its client.
    refused: Option<String>,
}

impl FaultyCall {
    pub(super) fn new(state: &FaultyState, session: &str, message: &RpcMessage) -> Self {
        let params: RpcParams = message.params();
        let name = params.name.unwrap_or_default();
        let tool = state.tools().iter().find(|tool| tool.name == name).cloned();
        let answer = tool.as_ref().and_then(|tool| tool.answer.clone()).unwrap_or_else(|| state.behaviour().answer);
        Self {
            session: session.into(),
            id: message.id().unwrap_or("null").into(),
            arguments: params.arguments.map(|raw| raw.get().to_owned()).unwrap_or_default(),
            token: params.meta.get("progressToken").map(|raw| raw.get().to_owned()),
            tool,
            answer,
            refused: methods::uninitialized(state, message),
        }
    }

    /// Carries it out and answers its POST, if that is its way.
    pub(super) fn http(&self, state: &FaultyState) -> Option<Response<Payload>> {
        let CallFault::Http(status, body) = &self.answer else { return None };
        state.seen().begin(&self.arguments);
        let kind = if body.starts_with('{') { "application/json" } else { "text/plain" };
        Some(respond(*status, &[("content-type", kind)], whole(body.replace("ID", &self.id))))
    }

    /// Whether its answer is a JSON-RPC error.
    pub(super) fn fails(&self, state: &FaultyState) -> bool {
        rpc::is_error(&self.text(&self.id, state.mode == FaultyMode::Modern))
    }

    /// Whether it will report progress.
    pub(super) fn reports(&self) -> bool {
        self.token.is_some() && self.tool.as_ref().is_some_and(|tool| tool.progress.is_some())
    }

    /// Works and answers, until done, cancelled, or nobody reads any more.
    pub(super) async fn run(self, state: Arc<FaultyState>, out: Out) {
        if self.refused.is_none() {
            state.seen().begin(&self.arguments);
        }
        let running = state.run(&self.session, &self.id);
        let stop = Arc::clone(&running.stop);
        tokio::select! {
            () = stop.notified() => running.settle(),
            () = out.pipe.closed() => {}
            () = self.perform(&state, &out) => running.settle(),
        }
    }

    async fn perform(&self, state: &FaultyState, out: &Out) {
        self.work(state, out).await;
        self.deliver(state, out).await;
    }

    /// Takes the tool's time, with progress on the way.
    async fn work(&self, state: &FaultyState, out: &Out) {
        let Some(tool) = self.tool.as_ref().filter(|tool| !tool.delay.is_zero()) else { return };
        let end = Instant::now() + tool.delay;
        let every = tool.progress.filter(|_| out.events).unwrap_or(Duration::MAX);
        let Some(token) = self.token.as_ref().filter(|_| every < tool.delay) else {
            return sleep_until(end).await;
        };
        for progress in 1.. {
            sleep(every).await;
            if Instant::now() >= end {
                return;
            }
            let params = format!(r#"{{"progressToken":{token},"progress":{progress}}}"#);
            let note = format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#);
            out.message(state, &note).await;
        }
    }

    fn text(&self, id: &str, modern: bool) -> String {
        match self.tool.as_ref().map(|tool| &tool.handler) {
            Some(ToolHandler::Echo) => {
                let more = if modern { r#","resultType":"complete""# } else { "" };
                rpc::result(id, &text_result(&self.arguments, more))
            }
            Some(ToolHandler::Result(result)) => rpc::result(id, result),
            Some(ToolHandler::Error(error)) => rpc::error(id, error),
            None => rpc::error_of(id, -32602, "Unknown tool"),
        }
    }

    async fn deliver(&self, state: &FaultyState, out: &Out) {
        let text = |id: &str| match &self.refused {
            Some(error) => error.clone(),
            None => self.text(id, state.mode == FaultyMode::Modern),
        };
        let honest = text(&self.id);
        match &self.answer {
            CallFault::Honest => out.message(state, &honest).await,
            CallFault::Never => pending().await,
            CallFault::CutBeforeAccepting | CallFault::CutAfterAccepting => out.pipe.cut().await,
            CallFault::CutMidAnswer => {
                let bytes = out.bytes(&state.behaviour().framing, &honest);
                out.raw(bytes[..bytes.len() / 2].to_vec()).await;
                out.pipe.cut().await;
            }
            CallFault::EndWithout => out.pipe.end().await,
            CallFault::Twice => {
                out.message(state, &honest).await;
                out.message(state, &honest).await;
            }
            CallFault::Id(id) => out.message(state, &text(id)).await,
            CallFault::StringId => out.message(state, &text(&format!("\"{}\"", self.id.trim_matches('"')))).await,
            CallFault::OthersId => {
                let other = state.other_id(&self.id).unwrap_or_else(|| "999999999".into());
                out.message(state, &text(&other)).await;
            }
            CallFault::NoId => out.message(state, &honest.replacen(&format!(r#""id":{},"#, self.id), "", 1)).await,
            CallFault::Instead(bytes) => out.data(bytes).await,
            CallFault::After(bytes) => {
                out.data(bytes).await;
                out.message(state, &honest).await;
            }
            CallFault::AfterRaw(bytes) => {
                out.raw(bytes.clone()).await;
                out.message(state, &honest).await;
            }
            CallFault::Huge(size) => self.huge(out, *size, &rpc::result(&self.id, &text_result("", ""))).await,
            CallFault::HugeIdLast(size) => {
                let result = text_result("", "");
                self.huge(out, *size, &format!(r#"{{"jsonrpc":"2.0","result":{result},"id":{}}}"#, self.id)).await;
            }
            CallFault::Http(..) => {}
            CallFault::EndlessLine => out.endless("data: ", "x").await,
            CallFault::EndlessLines => {
                out.endless("", "data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n").await
            }
        }
    }

    /// A valid answer whose text block has `size` bytes, never held in memory as a whole.
    async fn huge(&self, out: &Out, size: u64, empty: &str) {
        const TEXT: &str = r#""text":""#;
        let at = empty.find(TEXT).expect("the answer has a text") + TEXT.len();
        let (before, after) = empty.split_at(at);
        let (open, close) = if out.events { ("event: message\ndata: ", "\n\n") } else { ("", "") };
        let block = u64::try_from(BLOCK_BYTES).expect("64 KiB");
        let rest = usize::try_from(size % block).expect("below 64 KiB");
        out.raw(format!("{open}{before}")).await;
        out.pipe.repeat(vec![b'x'; BLOCK_BYTES], size / block, &EventFraming::default()).await;
        out.raw(format!("{}{after}{close}", "x".repeat(rest))).await;
    }
}

impl Out {
    /// Writes a message as the framing of this moment wants it. A plain body holds answers only.
    pub(super) async fn message(&self, state: &FaultyState, text: &str) {
        let framing = state.behaviour().framing;
        self.pipe.write(self.bytes(&framing, text), &framing).await;
    }

    fn bytes(&self, framing: &EventFraming, text: &str) -> Vec<u8> {
        if self.events { frame::event(framing, "message", text, self.pipe.first()) } else { text.as_bytes().to_vec() }
    }

    /// Writes bytes, as they are, as the data of an event or as a body.
    async fn data(&self, bytes: &Bytes) {
        let (open, close) =
            if self.events { (&b"event: message\ndata: "[..], &b"\n\n"[..]) } else { (&b""[..], &b""[..]) };
        self.raw([open, bytes, close].concat()).await;
    }

    async fn raw(&self, bytes: impl Into<Bytes>) {
        self.pipe.write(bytes, &EventFraming::default()).await;
    }

    async fn endless(&self, open: &str, again: &str) {
        if self.events {
            self.raw(open.to_owned()).await;
        }
        self.pipe.repeat(again.repeat(BLOCK_BYTES / again.len()), u64::MAX, &EventFraming::default()).await;
        pending().await
    }
}
