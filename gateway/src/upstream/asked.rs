//! A question of a server on its way to who can answer it: answered exactly once, whatever happens on the way.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::message::{Question, json_string};
use super::timing::{Held, Timing};

/// What a server is told whose question nobody has answered.
const UNANSWERED: &str = r#"{"code":-32603,"message":"the client has not answered"}"#;

/// What a server is told whose question would be one too many.
const TOO_MANY: &str =
    r#"{"code":-32603,"message":"as many questions to clients are open as may be: ask again when some are answered"}"#;

/// What somebody answered: a result, or an error object, as JSON.
pub type Answer = Result<String, String>;

/// A question, and the way back for its answer. Dropping it tells the server that nobody has answered.
pub struct Asked {
    question: Question,
    way: Option<Way>,
    /// The call does not run out of time while its caller thinks.
    held: Option<Held>,
}

/// Where an answer goes.
enum Way {
    /// To the server, which asked with an id of its own.
    Server(mpsc::Sender<Bytes>),
    /// To whoever asks on behalf of a server.
    Here(oneshot::Sender<Answer>),
}

impl Asked {
    /// A request of a server; `outbox` sends to it.
    pub(super) fn by_server(question: Question, outbox: mpsc::Sender<Bytes>) -> Self {
        Self { question, way: Some(Way::Server(outbox)), held: None }
    }

    /// A question that has no request of a server behind it.
    pub fn by_us(method: &str, params: Bytes) -> (Self, oneshot::Receiver<Answer>) {
        let (way, answer) = oneshot::channel();
        let question = Question { id: String::new(), method: method.to_owned(), params };
        (Self { question, way: Some(Way::Here(way)), held: None }, answer)
    }

    /// What is asked.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// Holds the time of a call until this is answered or dropped.
    pub(super) fn hold(&mut self, timing: &Arc<Timing>) {
        self.held = Some(timing.hold());
    }

    /// Answers it: with a result or an error object, as JSON.
    pub fn answer(mut self, answer: Result<&str, &str>) {
        self.send(answer);
    }

    /// Says that the client knows no such method.
    pub(super) fn refuse(mut self) {
        let message = json_string(&format!("this client does not offer {}", self.question.method));
        self.send(Err(&format!(r#"{{"code":-32601,"message":{message}}}"#)));
    }

    /// Says that it cannot be asked now, because too much is open.
    pub fn refuse_as_too_many(mut self) {
        self.send(Err(TOO_MANY));
    }

    fn send(&mut self, answer: Result<&str, &str>) {
        match self.way.take() {
            Some(Way::Server(outbox)) => {
                let id = &self.question.id;
                let text = match answer {
                    Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
                    Err(error) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#),
                };
                // If nothing more can be sent, the session is over or hopelessly behind.
                let _ = outbox.try_send(text.into());
            }
            Some(Way::Here(way)) => {
                let _ = way.send(answer.map(str::to_owned).map_err(str::to_owned));
            }
            None => {}
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(Way::Here(_)) = &self.way {
            return;
        }
        self.send(Err(UNANSWERED));
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Asked").field(&self.question.method).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(outbox: mpsc::Sender<Bytes>) -> Asked {
        let question = Question { id: "\"s1\"".into(), method: "roots/list".into(), params: Bytes::new() };
        Asked::by_server(question, outbox)
    }

    #[tokio::test]
    async fn a_server_gets_one_answer_under_its_own_id_whatever_happens() {
        let (outbox, mut sent) = mpsc::channel(8);
        asked(outbox.clone()).answer(Ok(r#"{"roots": []}"#));
        asked(outbox.clone()).answer(Err(r#"{"code":-1,"message":"no"}"#));
        drop(asked(outbox.clone()));
        asked(outbox.clone()).refuse();
        asked(outbox).refuse_as_too_many();
        let mut all = Vec::new();
        while let Some(text) = sent.recv().await {
            all.push(String::from_utf8(text.to_vec()).unwrap());
        }
        let expected = [
            r#"{"jsonrpc":"2.0","id":"s1","result":{"roots": []}}"#,
            r#"{"jsonrpc":"2.0","id":"s1","error":{"code":-1,"message":"no"}}"#,
            r#"{"jsonrpc":"2.0","id":"s1","error":{"code":-32603,"message":"the client has not answered"}}"#,
            r#"{"jsonrpc":"2.0","id":"s1","error":{"code":-32601,"message":"this client does not offer roots/list"}}"#,
            r#"{"jsonrpc":"2.0","id":"s1","error":{"code":-32603,"message":"as many questions to clients are open as may be: ask again when some are answered"}}"#,
        ];
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn whoever_asks_on_behalf_of_a_server_gets_the_answer() {
        let (asked, answer) = Asked::by_us("roots/list", Bytes::new());
        asked.answer(Ok("{}"));
        assert_eq!(answer.await, Ok(Ok("{}".into())));
        let (asked, answer) = Asked::by_us("roots/list", Bytes::new());
        drop(asked);
        assert!(answer.await.is_err());
    }
}
