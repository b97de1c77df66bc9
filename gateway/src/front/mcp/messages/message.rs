//! Reads the messages of clients: JSON-RPC, scanned once; params stay the bytes that they are.
//!
//! Pure.

use std::borrow::Cow;

use portcullis_mcp::protocol::json::{Inside, Members, NoObject, Raw, text};
use serde_json::value::RawValue;
use thiserror::Error;

/// Messages in one batch.
const MAX_BATCH: usize = 100;

/// An id is no longer, as JSON.
const MAX_ID: usize = 256;

/// Begins the method of every message that wants no answer.
const NOTIFICATION: &str = "notifications/";

/// The space that a message is read into and stays in: it is too large to be moved about.
#[derive(Debug, Default)]
pub(crate) struct Space<'a> {
    message: Members<'a>,
    /// The members of its params, and of their `_meta`: both are passed over anyway.
    pub(crate) inside: [Inside<'a>; 2],
}

/// One message of a client.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// Wants an answer.
    Request(RpcRequest<'a>),
    /// Wants none.
    Notification(Cow<'a, str>),
    /// The answer to a server request: its id as JSON, and `"result":…` or `"error":…`.
    Response(&'a str, ClientAnswer<'a>),
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct RpcRequest<'a> {
    /// Its id, as JSON.
    pub(crate) id: &'a str,
    /// Its method.
    pub(crate) method: Cow<'a, str>,
}

/// The response of a client to a request of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ClientAnswer<'a> {
    /// The `result`.
    Result(Raw<'a>),
    /// The `error`.
    Error(Raw<'a>),
}

/// A body that is no message, and the id it has all the same.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{why}")]
pub(crate) struct BadMessage {
    /// Whether it is no JSON at all.
    pub(crate) syntax: bool,
    /// The problem, and what to do about it.
    pub(crate) why: &'static str,
    /// Its id as JSON, where it has a valid one.
    pub(crate) id: Option<String>,
}

/// A body: one message, or several.
#[derive(Debug)]
pub(crate) enum MessageBody<'a> {
    /// As every revision has it.
    One(Result<Incoming<'a>, BadMessage>),
    /// As 2025-03-26 has it: the texts of its messages.
    Batch(Vec<&'a str>),
}

/// Reads a body; a single message into this space.
///
/// # Errors
/// It is neither a message nor a batch of them.
pub(crate) fn read<'a>(body: &'a str, space: &mut Space<'a>) -> Result<MessageBody<'a>, BadMessage> {
    let body = body.trim_ascii();
    if !body.starts_with('[') {
        return Ok(MessageBody::One(single(body, space)));
    }
    let batch: Vec<&RawValue> = serde_json::from_str(body).map_err(|_| syntax())?;
    match batch.len() {
        0 => Err(bad("the batch is empty: send at least one message", None)),
        1..=MAX_BATCH => Ok(MessageBody::Batch(batch.into_iter().map(RawValue::get).collect())),
        _ => Err(bad("the batch has more than 100 messages: send several", None)),
    }
}

/// Reads one message into this empty space.
///
/// # Errors
/// It is none.
pub(crate) fn single<'a>(body: &'a str, space: &mut Space<'a>) -> Result<Incoming<'a>, BadMessage> {
    match space.message.read_along(body, &["params", "_meta"], &mut space.inside) {
        Ok(()) => {}
        Err(NoObject::Syntax) => return Err(syntax()),
        Err(_) => return Err(bad("the body must be one JSON-RPC message: an object", None)),
    }
    let mut said = MessageMembers::default();
    for (key, value) in &space.message.0 {
        match &**key {
            // Null counts as absent, but for an id, without which a request has no answer, and for a result.
            "params" | "method" | "error" if value.is_null() => {}
            "jsonrpc" => {
                said.is_ours = value.get() == r#""2.0""# || text(*value).is_some_and(|version| version == "2.0")
            }
            "id" => said.id = Some(value.get()),
            "method" => said.method = Some(*value),
            "params" => said.params = Some(*value),
            "result" => said.result = Some(*value),
            "error" => said.error = Some(*value),
            _ => {}
        }
    }
    let id = said.id.filter(|id| is_id(id));
    if !said.is_ours {
        return Err(bad(r#"the message must have "jsonrpc":"2.0""#, id));
    }
    if said.params.is_some_and(|params| !params.get().starts_with('{')) {
        return Err(bad("\"params\" must be an object", id));
    }
    let method = said.method.map(|method| text(method).ok_or_else(|| bad("\"method\" must be a string", id)));
    match (method.transpose()?, said.id, id) {
        (Some(method), Some(_), Some(id)) => Ok(Incoming::Request(RpcRequest { id, method })),
        (Some(method), Some("null"), None) if method.starts_with(NOTIFICATION) => Ok(Incoming::Notification(method)),
        (_, Some(_), None) => Err(bad("\"id\" must be a string or a number", None)),
        (Some(method), None, _) => Ok(Incoming::Notification(method)),
        (None, Some(_), Some(id)) => match (said.result, said.error) {
            (Some(result), Some(error)) if result.is_null() => Ok(Incoming::Response(id, ClientAnswer::Error(error))),
            (Some(result), None) => Ok(Incoming::Response(id, ClientAnswer::Result(result))),
            (None, Some(error)) => Ok(Incoming::Response(id, ClientAnswer::Error(error))),
            _ => Err(bad("\"method\" is missing", Some(id))),
        },
        (None, None, _) => Err(bad("\"method\" is missing", None)),
    }
}

/// The members of a message that count.
#[derive(Default)]
struct MessageMembers<'a> {
    /// It says that it is JSON-RPC 2.0.
    is_ours: bool,
    id: Option<&'a str>,
    method: Option<Raw<'a>>,
    params: Option<Raw<'a>>,
    result: Option<Raw<'a>>,
    error: Option<Raw<'a>>,
}

fn is_id(text: &str) -> bool {
    text.len() <= MAX_ID && (text.starts_with('"') || text.starts_with(|c: char| c == '-' || c.is_ascii_digit()))
}

/// The body is no JSON, or no text at all.
pub(crate) fn syntax() -> BadMessage {
    BadMessage { syntax: true, why: "the body is not valid JSON", id: None }
}

fn bad(why: &'static str, id: Option<&str>) -> BadMessage {
    BadMessage { syntax: false, why, id: id.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(body: &str) -> Result<String, BadMessage> {
        fn show(body: &str) -> Result<String, BadMessage> {
            let mut space = Space::default();
            let message = single(body, &mut space)?;
            let params = space.message.get("params").map_or("-", Raw::get);
            Ok(match message {
                Incoming::Request(RpcRequest { id, method }) => format!("request {id} {method} {params}"),
                Incoming::Notification(method) => format!("notification {method} {params}"),
                Incoming::Response(id, ClientAnswer::Result(raw)) => format!("result {id} {raw:?}"),
                Incoming::Response(id, ClientAnswer::Error(raw)) => format!("error {id} {raw:?}"),
            })
        }
        match read(body, &mut Space::default())? {
            MessageBody::One(one) => one.and_then(|_| show(body.trim_ascii())),
            MessageBody::Batch(all) => Ok(all
                .into_iter()
                .map(|one| show(one).unwrap_or_else(|e| e.why.to_owned()))
                .collect::<Vec<_>>()
                .join(" | ")),
        }
    }

    #[test]
    fn every_kind_of_message_is_told_apart_and_ids_stay_as_they_are() {
        for (body, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "request 1 ping -"),
            (
                r#" {"params":{"a": [1]},"method":"m\u0031","id":"\u0061","jsonrpc":"2.0","x":1}"#,
                r#"request "\u0061" m1 {"a": [1]}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"m"}"#,
                "request 123456789012345678901234567890 m -",
            ),
            (r#"{"jsonrpc":"2.0","method":"n","params":{}}"#, "notification n {}"),
            (r#"{"jsonrpc":"2.0","id":"a","result":{"x":1}}"#, r#"result "a" {"x":1}"#),
            (r#"{"jsonrpc":"2.0","id":-7,"error":{"code":1}}"#, r#"error -7 {"code":1}"#),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":null}"#, "request 1 m null"),
            (
                r#"{"jsonrpc":"2.0","id":null,"method":"notifications/n","params":null}"#,
                "notification notifications/n null",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":null,"params":null,"result":{},"error":null}"#, "result 1 {}"),
            (r#"{"jsonrpc":"2.0","id":1,"method":null,"result":null,"error":{}}"#, "error 1 {}"),
            (r#"{"jsonrpc":"2.0","id":1,"result":null,"error":null}"#, "result 1 null"),
            (
                r#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b"},7]"#,
                "request 1 a - | notification b - | the body must be one JSON-RPC message: an object",
            ),
        ] {
            assert_eq!(shown(body).as_deref(), Ok(expected), "{body}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_its_id_where_it_has_one() {
        for (body, syntax, id) in [
            ("", true, None),
            ("{", true, None),
            ("<html>", true, None),
            ("7", false, None),
            ("[]", false, None),
            (r#"{"id":1,"method":"m"}"#, false, Some("1")),
            (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, false, Some("1")),
            (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, false, None),
            (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, false, None),
            (r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#, false, None),
            (r#"{"jsonrpc":"2.0","id":"a","method":7}"#, false, Some("\"a\"")),
            (r#"{"jsonrpc":"2.0","id":"a","method":"m","params":[]}"#, false, Some("\"a\"")),
            (r#"{"jsonrpc":"2.0","id":"a"}"#, false, Some("\"a\"")),
            (r#"{"jsonrpc":"2.0","id":"a","method":null}"#, false, Some("\"a\"")),
            (r#"{"jsonrpc":null,"id":"a","method":"m"}"#, false, Some("\"a\"")),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#, false, None),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, false, Some("1")),
        ] {
            let refused = shown(body).unwrap_err();
            assert_eq!((refused.syntax, refused.id.as_deref()), (syntax, id), "{body}: {refused}");
        }
        let many = vec![r#"{"jsonrpc":"2.0","method":"n"}"#; 101].join(",");
        assert!(read(&format!("[{many}]"), &mut Space::default()).is_err());
        assert!(shown(&format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#, "x".repeat(300))).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic(body in any::<String>()) {
            let _ = read(&body, &mut Space::default());
        }

        #[test]
        fn any_id_comes_back_as_it_came(id in "(-?[1-9][0-9]{0,40}|\"[a-z \\\\u00e9]{0,20}\")") {
            prop_assume!(serde_json::from_str::<&RawValue>(&id).is_ok());
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
            prop_assert_eq!(shown(&body), Ok(format!("request {id} m -")));
        }
    }
}
