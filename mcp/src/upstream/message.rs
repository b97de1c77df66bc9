//! Parses JSON-RPC messages from servers once, and keeps them as bytes.
//!
//! Pure. Results are never decoded: they are forwarded byte for byte.

use std::borrow::Cow;

use bytes::Bytes;
use portcullis_runtime::memory::account;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::result::{RpcResult, Says};
use crate::protocol::json;
use crate::protocol::json::{Inside, Members, NoObject};

/// A server's answer to a request of the gateway.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The `result`, byte for byte.
    Result(RpcResult),
    /// The `error`.
    Error(RpcError),
}

/// A JSON-RPC error of the server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RpcError {
    /// Its code.
    pub code: i64,
    /// Its message, verbatim.
    #[serde(default)]
    pub message: String,
    /// Its data, as JSON.
    #[serde(default, deserialize_with = "as_written")]
    pub data: Option<String>,
    /// The HTTP status of the answer, if it means failure.
    #[serde(skip)]
    pub status: Option<u16>,
}

impl RpcError {
    /// Whether the server does not support the method.
    pub(crate) fn is_no_such_method(&self) -> bool {
        self.code == -32601
    }
}

fn as_written<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let data = Option::<Box<RawValue>>::deserialize(deserializer)?;
    Ok(data.map(|data| data.get().to_owned()))
}

/// One message of a server.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    /// An answer to the request with this id.
    Reply(u64, Reply),
    /// An error for an unknown request: its id is null or absent.
    Complaint(RpcError),
    /// An invalid answer to the request with this id: both or neither of `result` and `error`, or an invalid error.
    Unusable(u64),
    /// The server sends a request.
    Request(RawRequest),
    /// The tool makes progress: the progress token is the id of the request; with the `params` as received.
    Progress(u64, Bytes),
    /// `notifications/message`: the `params` as received.
    Log(Bytes),
    /// A list has changed.
    ListChanged(List),
    /// The resource with this URI has changed.
    Updated(String),
    /// A task has changed: the `params` as received.
    Task(Bytes),
    /// Any other notification.
    Notification,
    /// An answer to the request with this id that exceeds the limit and was skipped.
    TooLarge(u64),
    /// Not a message, or an answer to no request of the gateway.
    Nonsense,
}

/// A server's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRequest {
    /// Its id, as written.
    pub(crate) id: String,
    /// Its method.
    pub method: String,
    /// Its `params` as received; empty if there are none.
    pub params: Bytes,
}

/// A list of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// Its tools.
    Tools,
    /// Its prompts.
    Prompts,
    /// Its resources and their templates.
    Resources,
}

/// The relevant members of a message; `null` counts as absent.
#[derive(Debug, Default, PartialEq)]
struct Envelope<'a> {
    id: Option<&'a str>,
    method: Option<Cow<'a, str>>,
    params: Option<&'a str>,
    result: Option<&'a str>,
    error: Option<&'a str>,
    /// The flags of the result, if it was parsed on the way.
    says: Option<Says>,
}

/// The same, for unusual forms.
#[derive(Deserialize)]
struct Unusual<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ProgressParams<'a> {
    #[serde(rename = "progressToken", borrow)]
    token: &'a RawValue,
}

#[derive(Deserialize)]
struct UpdatedParams {
    uri: String,
}

/// Calls `take` with every message in `text`: one, or a batch as revision 2025-03-26 allows.
pub(crate) fn read(text: &Bytes, mut take: impl FnMut(Message)) {
    if text.first() == Some(&b'[') {
        match serde_json::from_slice::<Vec<&RawValue>>(text) {
            Ok(batch) => batch.into_iter().for_each(|one| take(single(text, one.get().as_bytes()))),
            Err(_) => take(Message::Nonsense),
        }
    } else {
        take(single(text, text));
    }
}

impl<'a> Envelope<'a> {
    /// `None` if the text is not a message.
    fn read(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (mut members, mut result) = <(Members<'_>, [Inside<'_>; 1])>::default();
        match members.read_along(text, &["result"], &mut result) {
            Ok(()) => {
                let says = Says::of(result[0].get().and_then(Result::ok));
                Some(Self { says: Some(says), ..Self::of(&members)? })
            }
            Err(NoObject::Syntax) => None,
            // Irrelevant members may be duplicated, and in any number.
            Err(NoObject::Kind | NoObject::Twice | NoObject::TooMany) => Self::unusual(text),
        }
    }

    fn of(members: &Members<'a>) -> Option<Self> {
        let mut envelope = Self::default();
        for (key, raw) in &members.0 {
            let value = Some(raw.get()).filter(|value| *value != "null");
            match &**key {
                "id" => envelope.id = value,
                "params" => envelope.params = value,
                "result" => envelope.result = value,
                "error" => envelope.error = value,
                "method" if value.is_some() => envelope.method = Some(json::text(*raw)?),
                _ => {}
            }
        }
        Some(envelope)
    }

    fn unusual(text: &'a str) -> Option<Self> {
        let Unusual { id, method, params, result, error } = serde_json::from_str(text).ok()?;
        let [id, params, result, error] = [id, params, result, error].map(|value| value.map(RawValue::get));
        Some(Self { id, method, params, result, error, says: None })
    }
}

fn single(whole: &Bytes, text: &[u8]) -> Message {
    let Some(envelope) = Envelope::read(text) else { return Message::Nonsense };
    match (envelope.method, envelope.id) {
        (Some(method), Some(id)) => {
            let params = envelope.params.map(|params| whole.slice_ref(params.as_bytes())).unwrap_or_default();
            Message::Request(RawRequest { id: id.to_owned(), method: method.into_owned(), params })
        }
        (Some(method), None) => notification(whole, &method, envelope.params),
        (None, id) => answer(whole, id, (envelope.result, envelope.says), envelope.error),
    }
}

fn notification(whole: &Bytes, method: &str, params: Option<&str>) -> Message {
    let raw = |params: &str| whole.slice_ref(params.as_bytes());
    let found = match method {
        "notifications/progress" => params.and_then(|params| {
            let read: ProgressParams<'_> = serde_json::from_str(params).ok()?;
            Some(Message::Progress(number(read.token.get())?, raw(params)))
        }),
        "notifications/message" => params.map(|params| Message::Log(raw(params))),
        "notifications/tools/list_changed" => Some(Message::ListChanged(List::Tools)),
        "notifications/prompts/list_changed" => Some(Message::ListChanged(List::Prompts)),
        "notifications/resources/list_changed" => Some(Message::ListChanged(List::Resources)),
        "notifications/tasks" => params.map(|params| Message::Task(raw(params))),
        "notifications/resources/updated" => params.and_then(|params| {
            let read: UpdatedParams = serde_json::from_str(params).ok()?;
            Some(Message::Updated(read.uri))
        }),
        _ => None,
    };
    found.unwrap_or(Message::Notification)
}

fn answer(
    whole: &Bytes,
    id: Option<&str>,
    (result, says): (Option<&str>, Option<Says>),
    error: Option<&str>,
) -> Message {
    let read = |text: &str| {
        let text = whole.slice_ref(text.as_bytes());
        match says {
            Some(says) => RpcResult { text: account().kept(text), says },
            None => RpcResult::of(text),
        }
    };
    let reply = match (result, error) {
        (Some(result), None) => Some(Reply::Result(read(result))),
        (None, Some(error)) => serde_json::from_str(error).ok().map(Reply::Error),
        _ => None,
    };
    match (id.map(number), reply) {
        (None, Some(Reply::Error(error))) => Message::Complaint(error),
        (Some(Some(id)), Some(reply)) => Message::Reply(id, reply),
        (Some(Some(id)), None) => Message::Unusable(id),
        _ => Message::Nonsense,
    }
}

/// An id of the gateway as a server echoes it: some write the number as a string, others as a floating-point number.
pub(super) fn number(id: &str) -> Option<u64> {
    let digits = id.strip_prefix('"').and_then(|id| id.strip_suffix('"')).unwrap_or(id);
    let digits = digits.strip_suffix(".0").unwrap_or(digits);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

/// The JSON-RPC error in the body of an HTTP failure, whatever its id, and whether that is the id of this request.
pub(crate) fn error_in(text: &[u8], id: u64) -> Option<(RpcError, bool)> {
    let envelope = Envelope::read(text)?;
    let error = serde_json::from_str(envelope.error?).ok()?;
    Some((error, envelope.id.and_then(number) == Some(id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages(text: &str) -> Vec<Message> {
        let mut all = Vec::new();
        read(&Bytes::copy_from_slice(text.as_bytes()), |message| all.push(message));
        all
    }

    fn result(id: u64, text: &'static str) -> Message {
        Message::Reply(id, Reply::Result(RpcResult::of(Bytes::from_static(text.as_bytes()))))
    }

    #[test]
    fn every_kind_of_message_is_told_apart() {
        let cases: Vec<(&str, Vec<Message>)> = vec![
            (r#"{"jsonrpc":"2.0","id":7,"result":{"b":1,"a":[]}}"#, vec![result(7, r#"{"b":1,"a":[]}"#)]),
            (r#"{"result": {} ,"id":7,"jsonrpc":"2.0"}"#, vec![result(7, "{}")]),
            (
                r#"{"id":7,"error":{"code":-32602,"message":"no","data":{}}}"#,
                vec![Message::Reply(
                    7,
                    Reply::Error(RpcError {
                        code: -32602,
                        message: "no".into(),
                        data: Some("{}".into()),
                        status: None,
                    }),
                )],
            ),
            (
                r#"{"id":"a","method":"roots/list"}"#,
                vec![Message::Request(RawRequest {
                    id: "\"a\"".into(),
                    method: "roots/list".into(),
                    params: Bytes::new(),
                })],
            ),
            (r#"{"method":"notifications/tools/list_changed"}"#, vec![Message::ListChanged(List::Tools)]),
            (r#"{"method":"notifications/prompts/list_changed"}"#, vec![Message::ListChanged(List::Prompts)]),
            (r#"{"method":"notifications/resources/list_changed"}"#, vec![Message::ListChanged(List::Resources)]),
            (
                r#"{"method":"notifications/resources/updated","params":{"uri":"a:b"}}"#,
                vec![Message::Updated("a:b".into())],
            ),
            (r#"{"method":"notifications/resources/updated","params":{}}"#, vec![Message::Notification]),
            (
                r#"{"method":"notifications/message","params":{"level":"info","data":1}}"#,
                vec![Message::Log(Bytes::from_static(br#"{"level":"info","data":1}"#))],
            ),
            (
                r#"{"method":"notifications/progress","params":{"progressToken":9,"progress":1}}"#,
                vec![Message::Progress(9, Bytes::from_static(br#"{"progressToken":9,"progress":1}"#))],
            ),
            (
                r#"{"method":"notifications/progress","params":{"progressToken":"9"}}"#,
                vec![Message::Progress(9, Bytes::from_static(br#"{"progressToken":"9"}"#))],
            ),
            (r#"{"method":"notifications/progress","params":{"progressToken":"x"}}"#, vec![Message::Notification]),
            (r#"{"method":"notifications/message"}"#, vec![Message::Notification]),
            (r#"[{"id":1,"result":{}},{"id":2,"result":{}}]"#, vec![result(1, "{}"), result(2, "{}")]),
            (r#"{"id":"7","result":{}}"#, vec![result(7, "{}")]),
            (r#"{"id":7.0,"result":{}}"#, vec![result(7, "{}")]),
            (r#"{"id":"7.0"}"#, vec![Message::Unusable(7)]),
            (r#"{"id":"seven","result":{}}"#, vec![Message::Nonsense]),
            (r#"{"id":"+7","result":{}}"#, vec![Message::Nonsense]),
            (r#"{"id":"","result":{}}"#, vec![Message::Nonsense]),
            (r#"{"id":"18446744073709551616","result":{}}"#, vec![Message::Nonsense]),
            (r#"{"id":-7,"result":{}}"#, vec![Message::Nonsense]),
            (r#"{"id":7}"#, vec![Message::Unusable(7)]),
            (r#"{"id":7,"result":{},"error":{"code":1}}"#, vec![Message::Unusable(7)]),
            (r#"{"id":7,"id":8,"result":{}}"#, vec![Message::Nonsense]),
            (r#"{"id":7,"error":"x"}"#, vec![Message::Unusable(7)]),
            (r#"{"id":null,"result":{}}"#, vec![Message::Nonsense]),
            (
                r#"{"id":null,"error":{"code":-32001,"message":"no"}}"#,
                vec![Message::Complaint(RpcError { code: -32001, message: "no".into(), data: None, status: None })],
            ),
            (
                r#"{"id":"7","error":{"code":1,"message":""}}"#,
                vec![Message::Reply(
                    7,
                    Reply::Error(RpcError { code: 1, message: String::new(), data: None, status: None }),
                )],
            ),
            ("", vec![Message::Nonsense]),
            ("<html>", vec![Message::Nonsense]),
            ("[1,", vec![Message::Nonsense]),
        ];
        for (text, expected) in cases {
            assert_eq!(messages(text), expected, "{text}");
        }
    }

    #[test]
    fn a_result_keeps_its_very_bytes() {
        let raw = r#"{ "n":12345678901234567890123, "x":1.10,"s":"\ud800","k":1,"k":2}"#;
        let text = format!(r#"{{"jsonrpc":"2.0","result":{raw},"id":3}}"#);
        let mut all = Vec::new();
        read(&Bytes::from(text), |message| all.push(message));
        assert_eq!(all, vec![Message::Reply(3, Reply::Result(RpcResult::of(Bytes::from(raw.to_owned()))))]);
    }

    proptest! {
        #[test]
        fn the_usual_way_to_read_a_message_agrees_with_the_unusual_one(
            members in prop::collection::vec("(\"(id|method|params|result|error|jsonrpc|x|\\\\u0069d)\" ?: ?([0-9]{1,20}|-1|1\\.0|null|\"a\"|\"\\\\ud800\"|\\{\\}|\\[1 ,2\\]|\\{\"a\":nul\\}))", 0..5),
            end in "( |x|)",
        ) {
            let text = format!("{{{}}}{end}", members.join(" ,"));
            let read = Envelope::read(text.as_bytes()).map(|read| Envelope { says: None, ..read });
            prop_assert_eq!(read, Envelope::unusual(&text));
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            read(&Bytes::from(text), |_| {});
        }

        #[test]
        fn any_result_comes_out_as_it_went_in(id in any::<u64>(), value in "(\\{\"a\": ?[1-9][0-9]{0,30}\\}|\\[ ?1 ?\\]|\"[a-z]*\")") {
            let mut all = Vec::new();
            read(&Bytes::from(format!(r#"{{"id":{id},"result":{value}}}"#)), |message| all.push(message));
            prop_assert_eq!(all, vec![Message::Reply(id, Reply::Result(RpcResult::of(Bytes::from(value))))]);
        }
    }
}
