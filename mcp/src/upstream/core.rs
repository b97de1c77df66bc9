//! The common part of both transports' sessions: ids, the outbox, requests, and notices to the owner.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::call::{CallError, refusal};
use super::doubts::{Doubts, Heard};
use super::event_stream::{Event, Parser};
use super::mailbox::{Mailbox, ServerMessage};
use super::message::{self, List, Message, RawRequest, Reply, RpcError};
use super::refusal::Denial;
use super::send::later;
use super::server_request::ServerRequest;
use crate::http1::{Exchange, HttpPool, Media};

/// Queued messages of the gateway for which no task waits (cancellations, answers to pings).
const OUTBOX: usize = 256;

/// The limit for the echoed part of a server's request: answers to it wait in memory.
const MAX_ECHO: usize = 1024;

/// Ids are below 2^31: some servers keep them in 32 bits. No id is 0, which some treat as absent.
const IDS: u64 = (1 << 31) - 1;

/// The limit for the body of an HTTP failure, which may contain a JSON-RPC error.
pub(super) const MAX_ERROR_BODY: usize = 64 * 1024;

/// The reason a session has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The server closed its stream, or the connection broke.
    Closed,
    /// The server has forgotten the session.
    Expired,
    /// The server sent something from which its stream cannot recover.
    Broken(&'static str),
}

/// Receives a server's messages that belong to no call.
pub trait Unsolicited: Send + Sync {
    /// Takes a message.
    ///
    /// # Errors
    /// There is no recipient: returns the message.
    fn take(&self, message: ServerMessage) -> Result<(), ServerMessage>;
}

impl<T: Unsolicited> Unsolicited for Arc<T> {
    fn take(&self, message: ServerMessage) -> Result<(), ServerMessage> {
        T::take(self, message)
    }
}

/// Notices of a session to its owner.
#[derive(Default)]
pub struct Notices {
    /// The list of tools has changed.
    pub tools_changed: Notify,
    /// The list of prompts has changed.
    pub prompts_changed: Notify,
    /// The list of resources or that of resource templates has changed.
    pub resources_changed: Notify,
    /// Takes the URIs of changed resources; false if it cannot.
    pub updated: OnceLock<Box<dyn Fn(String) -> bool + Send + Sync>>,
    /// Takes the `params` of `notifications/tasks`; false if it cannot.
    pub tasks: OnceLock<Box<dyn Fn(Bytes) -> bool + Send + Sync>>,
    /// Takes messages that belong to no call, if the session belongs to one client. Without it, the server's requests
    /// have no recipient.
    pub unsolicited: Option<Box<dyn Unsolicited>>,
    /// Something went wrong: check whether the server is still alive.
    pub suspect: Notify,
    /// Messages that answered no request, were not JSON-RPC, or did not fit the outbox.
    pub dropped: AtomicU64,
}

/// The state that both transports share.
pub(super) struct Core {
    pub(super) pool: Arc<HttpPool>,
    pub(super) notices: Arc<Notices>,
    pub(super) max_message: usize,
    /// Whether the server still knows the session.
    pub(super) doubts: Doubts,
    ids: AtomicU64,
    outbox: mpsc::Sender<Bytes>,
}

// === impl Notices ===

impl Notices {
    /// Announcements may have been missed.
    pub(super) fn lists_may_have_changed(&self) {
        for changed in [&self.tools_changed, &self.prompts_changed, &self.resources_changed] {
            changed.notify_one();
        }
    }
}

// === impl Call ===

// === impl Core ===

impl Core {
    pub(super) fn new(pool: Arc<HttpPool>, notices: Arc<Notices>, max_message: usize) -> (Self, mpsc::Receiver<Bytes>) {
        let (outbox, queue) = mpsc::channel(OUTBOX);
        // A server must not be able to guess an id of another server's session.
        let mut seed = [0; 4];
        let _ = aws_lc_rs::rand::fill(&mut seed);
        let ids = AtomicU64::new(u32::from_le_bytes(seed).into());
        (Self { pool, notices, max_message, doubts: Doubts::default(), ids, outbox }, queue)
    }

    pub(super) fn next_id(&self) -> u64 {
        1 + self.ids.fetch_add(1, Ordering::Relaxed) % IDS
    }

    /// Interprets an HTTP failure in answer to a request. A JSON-RPC error in it is the server's answer, whatever the
    /// status; but a request without access, or one to be retried later, counts as refused whatever error comes with
    /// it.
    pub(super) async fn refused(&self, exchange: Exchange, id: u64, method: &str, has_session: bool) -> Heard {
        let status = exchange.head.status.as_u16();
        let refused = later(&exchange.head).unwrap_or_else(|| refusal(status));
        if exchange.head.status.is_redirection() {
            return refused.into();
        }
        let body = failure_text(exchange).await;
        let (error, is_answer) = message::error_in(&body, id).unzip();
        let is_answer = is_answer == Some(true);
        let said = Denial::of_status(
            status,
            error.as_ref(),
            &String::from_utf8_lossy(&body),
            method,
            (has_session, is_answer),
        );
        let answer = match (status, error) {
            (429, _) if !is_answer || matches!(refused, CallError::Later { .. }) => Err(refused),
            (_, None) => Err(refused),
            (401 | 403, Some(_)) if !is_answer => Err(refused),
            (_, Some(_)) if said.is_by_the_book() => Err(refused),
            (status, Some(error)) => Ok(Reply::Error(RpcError { status: Some(status), ..error })),
        };
        Heard { answer, refusal: Some(Box::new(said)) }
    }

    /// Queues a message for which no task waits; a full queue drops it and counts it.
    pub(super) fn post_later(&self, message: String) {
        if self.outbox.try_send(Bytes::from(message)).is_err() {
            self.drop_one();
        }
    }

    /// Tells the server that its answer is no longer needed.
    pub(super) fn cancel_later(&self, id: u64) {
        self.post_later(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"the caller went away or the deadline passed"}}}}"#
        ));
    }

    /// Handles a message that is not an awaited answer. `of_call`: the mailbox of the call to which it surely belongs.
    pub(super) fn handle(&self, message: Message, of_call: Option<&Mailbox>) {
        match message {
            Message::ListChanged(List::Tools) => self.notices.tools_changed.notify_one(),
            Message::ListChanged(List::Prompts) => self.notices.prompts_changed.notify_one(),
            Message::ListChanged(List::Resources) => self.notices.resources_changed.notify_one(),
            Message::Updated(uri) => {
                if self.notices.updated.get().is_some_and(|updated| !updated(uri)) {
                    self.drop_one();
                }
            }
            Message::Task(params) => {
                if self.notices.tasks.get().is_some_and(|changed| !changed(params)) {
                    self.drop_one();
                }
            }
            Message::Request(request) => self.ask(request, of_call),
            Message::Log(params) => match (of_call, &self.notices.unsolicited) {
                (None, Some(unsolicited)) => drop(unsolicited.take(ServerMessage::Log(params))),
                _ => self.put(of_call, ServerMessage::Log(params)),
            },
            Message::Nonsense
            | Message::Unusable(_)
            | Message::TooLarge(_)
            | Message::Reply(..)
            | Message::Complaint(_) => self.drop_one(),
            Message::Notification | Message::Progress(..) => {}
        }
    }

    /// Delivers a message that precedes an answer, if there is a recipient.
    pub(super) fn put(&self, mailbox: Option<&Mailbox>, message: ServerMessage) {
        if mailbox.is_some_and(|mailbox| mailbox.put(message).is_err()) {
            self.drop_one();
        }
    }

    /// Forwards a server's request to the client, if the client supports it.
    fn ask(&self, request: RawRequest, of_call: Option<&Mailbox>) {
        if request.id.len() + request.method.len() > MAX_ECHO {
            return self.drop_one();
        }
        if request.method == "ping" {
            return self.post_later(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id));
        }
        let message = ServerMessage::Request(ServerRequest::by_server(request, self.outbox.clone()));
        let Some(unsolicited) = &self.notices.unsolicited else { return refuse(message) };
        let left = match of_call {
            Some(mailbox) => mailbox.put(message),
            None => Err(message),
        };
        if let Err(message) = left.or_else(|message| unsolicited.take(message)) {
            refuse(message);
        }
    }

    fn drop_one(&self) {
        self.notices.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// No client has declared this capability, so the method does not exist here.
fn refuse(message: ServerMessage) {
    if let ServerMessage::Request(request) = message {
        request.refuse();
    }
}

/// The text of an HTTP failure: its body, or of a stream the data of the event with a JSON-RPC error, else of the last.
/// The caller sets the deadline.
pub(super) async fn failure_text(mut exchange: Exchange) -> Bytes {
    if !matches!(exchange.head.media, Media::EventStream) {
        return exchange.whole(MAX_ERROR_BODY).await.unwrap_or_default();
    }
    let (mut answer, mut left) = (StreamAnswer::new(), MAX_ERROR_BODY);
    loop {
        match exchange.chunk().await {
            Ok(Some(piece)) if piece.len() <= left => {
                left -= piece.len();
                // The server may keep the stream open after its answer.
                if answer.is_complete_with(&piece) {
                    return answer.last;
                }
            }
            // The end of the stream also ends its last event.
            Ok(None) => {
                answer.is_complete_with(b"\n\n");
                return answer.last;
            }
            Ok(Some(_)) | Err(_) => return Bytes::new(),
        }
    }
}

/// Finds the answer in a stream that carries one.
struct StreamAnswer {
    parser: Parser,
    /// The data of the last event.
    last: Bytes,
}

impl StreamAnswer {
    fn new() -> Self {
        Self { parser: Parser::new(MAX_ERROR_BODY), last: Bytes::new() }
    }

    /// Takes the next piece. Returns whether the last event is a JSON-RPC error.
    fn is_complete_with(&mut self, piece: &[u8]) -> bool {
        self.parser.push(piece);
        while let Ok(Some(event)) = self.parser.next_event() {
            if let Event::Message { data, .. } = event {
                self.last = data;
                if message::error_in(&self.last, 0).is_some() {
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_data_of_a_stream_is_found_in_every_spelling() {
        for (stream, expected) in [
            ("", ""),
            (": nothing\n\nevent: x\n\n", ""),
            ("data: 1\n\ndata: 2\n\n", "2"),
            ("data: 1\n\nevent: message\ndata:2\nid: 7\n\n: end\n\n", "2"),
            ("data: 1\r\n\r\ndata: {\r\ndata: }\r\n\r\n", "{\n}"),
            ("data: 1\r\rdata: 2\r\r", "2"),
            ("\u{feff}data: 1", "1"),
            ("data: 1\n\ndata: 2\n", "2"),
            ("data: 1\n\ndata: 2\r", "2"),
            ("data: 1\n\ndata:\n\n", ""),
        ] {
            let mut answer = StreamAnswer::new();
            assert!(!answer.is_complete_with(stream.as_bytes()) && !answer.is_complete_with(b"\n\n"), "{stream:?}");
            assert_eq!(answer.last, expected, "{stream:?}");
        }
    }
}
