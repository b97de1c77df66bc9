//! Suspends a call whose server asks its client of 2026-07-28: the answer to the client is the requests, and the call
//! goes on meanwhile.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use portcullis_mcp::protocol::json::json_string;
use portcullis_mcp::upstream::{Mailbox, ServerMessage, ServerRequest};

use crate::auth::SubjectId;
use crate::front::mcp::caller::Caller;
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::{RpcReply, Work};
use crate::front::mcp::messages::request::SESSIONLESS_REVISION;
use crate::front::mcp::state::suspended_calls::{INPUT_LIFE, InputRequests, SuspendedCall};
use crate::front::request::app::App;
use crate::front::request::observe::{Recorder, record};
use crate::seal::{Inner, RequestState};

/// Suspends one call as often as its server asks.
pub(crate) struct Suspender {
    app: Arc<App>,
    id: String,
    server: String,
    subject: SubjectId,
    digest: [u8; 16],
    /// The number of requests until now.
    pub(crate) asked: usize,
    recorder: Recorder,
}

impl Suspender {
    /// For the request `id` of `caller`, to `server`, with this digest.
    pub(crate) fn new(caller: &Caller, id: &str, server: String, digest: [u8; 16]) -> Self {
        let (app, recorder) = (caller.app().clone(), caller.recorder.clone());
        Self { app, id: id.to_owned(), server, subject: caller.subject, digest, asked: 0, recorder }
    }

    /// Suspends the call with the first of its requests, and those that came with it; tells the client what is asked.
    pub(crate) fn suspend(mut self, work: Work, mailbox: Mailbox, first: ServerRequest) -> RpcReply {
        let mut requests = vec![(self.next_key(), first)];
        while let Some(message) = mailbox.take() {
            if let ServerMessage::Request(request) = message {
                requests.push((self.next_key(), request));
            }
        }
        self.suspend_with(work, mailbox, requests)
    }

    fn next_key(&mut self) -> String {
        self.asked += 1;
        format!("question-{}", self.asked)
    }

    /// Suspends it with these requests; tells the client what is asked.
    pub(crate) fn suspend_with(self, work: Work, mailbox: Mailbox, requests: InputRequests) -> RpcReply {
        const FULL: RpcProblem = RpcProblem::TooMany("too many calls wait for input: answer some, or try again later");
        let texts: Vec<String> = requests.iter().map(|(key, request)| request_text(key, request)).collect();
        let (id, subject, asked) = (self.id.clone(), self.subject, self.asked);
        let (recorder, since) = (self.recorder.clone(), Instant::now());
        let facts = Box::new(move || std::mem::take(&mut **record(&recorder)));
        let call = SuspendedCall { work, mailbox, id: id.clone(), requests, asked, subject, since, facts };
        let state = self.app.mcp.suspended_calls.suspend(call).and_then(|number| self.state(number));
        let Some(state) = state else { return RpcReply::error(Some(&id), &FULL, SESSIONLESS_REVISION) };
        self.recorder.end_with_answer();
        let texts = texts.join(",");
        let result =
            format!(r#"{{"resultType":"input_required","inputRequests":{{{texts}}},"requestState":"{state}"}}"#);
        RpcReply::result(&id, [result.into()])
    }

    fn state(&self, number: u64) -> Option<String> {
        let state = RequestState {
            server: self.server.clone(),
            subject: self.subject,
            digest: self.digest,
            expires: SystemTime::now() + INPUT_LIFE,
            inner: Inner::Suspended(number),
            owner: self.app.replica.clone(),
        };
        state.seal(&self.app.sealer).ok()
    }
}

fn request_text(key: &str, request: &ServerRequest) -> String {
    let raw = request.raw();
    let params = match raw.params.as_ref() {
        b"" => String::new(),
        params => format!(r#","params":{}"#, String::from_utf8_lossy(params)),
    };
    format!(r#"{}:{{"method":{}{params}}}"#, json_string(key), json_string(&raw.method))
}
