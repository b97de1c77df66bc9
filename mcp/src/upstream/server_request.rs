//! A server's request to a client on its way: answered exactly once, whatever happens to it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::message::RawRequest;
use super::timing::{Held, Timing};
use crate::protocol::json::json_string;

/// The answer to a server's request that no client has answered.
const UNANSWERED: &str = r#"{"code":-32603,"message":"the client has not answered"}"#;

/// The answer to a server's request that exceeds the limit.
const TOO_MANY: &str =
    r#"{"code":-32603,"message":"too many requests to clients are open: ask again when some are answered"}"#;

/// The answer of a client: a result, or an error object, as JSON.
pub type Answer = Result<String, String>;

/// A server's request and the way back for its answer. Dropping it tells the server that the client has not answered.
pub struct ServerRequest {
    raw: RawRequest,
    way: Option<Way>,
    /// Stops the call's clock while its caller answers.
    held: Option<Held>,
}

/// The destination of an answer.
enum Way {
    /// To the server, under the id of its request.
    Server(mpsc::Sender<Bytes>),
    /// To the task that asks on behalf of a server.
    Here(oneshot::Sender<Answer>),
}

impl ServerRequest {
    /// A request of a server; `outbox` sends to it.
    pub(super) fn by_server(raw: RawRequest, outbox: mpsc::Sender<Bytes>) -> Self {
        Self { raw, way: Some(Way::Server(outbox)), held: None }
    }

    /// A request that the gateway itself sends to the client.
    pub fn by_us(method: &str, params: Bytes) -> (Self, oneshot::Receiver<Answer>) {
        let (way, answer) = oneshot::channel();
        let raw = RawRequest { id: String::new(), method: method.to_owned(), params };
        (Self { raw, way: Some(Way::Here(way)), held: None }, answer)
    }

    /// The request.
    pub fn raw(&self) -> &RawRequest {
        &self.raw
    }

    /// Stops a call's clock until the request is answered or dropped.
    pub(super) fn hold(&mut self, timing: &Arc<Timing>) {
        self.held = Some(timing.hold());
    }

    /// Sends the answer: a result or an error object, as JSON.
    pub fn answer(mut self, answer: Result<&str, &str>) {
        self.send(answer);
    }

    /// Answers that the client does not know the method.
    pub(super) fn refuse(mut self) {
        let message = json_string(&format!("this client does not offer {}", self.raw.method));
        self.send(Err(&format!(r#"{{"code":-32601,"message":{message}}}"#)));
    }

    /// Answers that the request exceeds the limit of open requests.
    pub fn refuse_as_too_many(mut self) {
        self.send(Err(TOO_MANY));
    }

    fn send(&mut self, answer: Result<&str, &str>) {
        match self.way.take() {
            Some(Way::Server(outbox)) => {
                let id = &self.raw.id;
                let text = match answer {
                    Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
                    Err(error) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#),
                };
                // If the outbox is full or closed, the session is over or hopelessly behind.
                let _ = outbox.try_send(text.into());
            }
            Some(Way::Here(way)) => {
                let _ = way.send(answer.map(str::to_owned).map_err(str::to_owned));
            }
            None => {}
        }
    }
}

impl Drop for ServerRequest {
    fn drop(&mut self) {
        if let Some(Way::Here(_)) = &self.way {
            return;
        }
        self.send(Err(UNANSWERED));
    }
}

impl std::fmt::Debug for ServerRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ServerRequest").field(&self.raw.method).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(outbox: mpsc::Sender<Bytes>) -> ServerRequest {
        let raw = RawRequest { id: "\"s1\"".into(), method: "roots/list".into(), params: Bytes::new() };
        ServerRequest::by_server(raw, outbox)
    }

    #[tokio::test]
    async fn a_server_gets_one_answer_under_its_own_id_whatever_happens() {
        let (outbox, mut sent) = mpsc::channel(8);
        request(outbox.clone()).answer(Ok(r#"{"roots": []}"#));
        request(outbox.clone()).answer(Err(r#"{"code":-1,"message":"no"}"#));
        drop(request(outbox.clone()));
        request(outbox.clone()).refuse();
        request(outbox).refuse_as_too_many();
        let mut all = Vec::new();
        while let Some(text) = sent.recv().await {
            all.push(String::from_utf8(text.to_vec()).unwrap());
        }
        let expected = [
            r#"{"jsonrpc":"2.0","id":"s1","result":{"roots": []}}"#,
            r#"{"jsonrpc":"2.0","id":"s1","error":{"code":-1,"message":"no"}}"#,
            r#"{"jsonrpc":"2.0","id":"s1","error":{"code":-32603,"message":"the client has not answered"}}"#,
            r#"{"jsonrpc":"2.0","id":"s1","error":{"code":-32601,"message":"this client does not offer roots/list"}}"#,
            r#"{"jsonrpc":"2.0","id":"s1","error":{"code":-32603,"message":"too many requests to clients are open: ask again when some are answered"}}"#,
        ];
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn whoever_asks_on_behalf_of_a_server_gets_the_answer() {
        let (request, answer) = ServerRequest::by_us("roots/list", Bytes::new());
        request.answer(Ok("{}"));
        assert_eq!(answer.await, Ok(Ok("{}".into())));
        let (request, answer) = ServerRequest::by_us("roots/list", Bytes::new());
        drop(request);
        assert!(answer.await.is_err());
    }
}
