//! Classifies messages by their form, their method, and the way in which they say their revision.
//!
//! Pure.

use std::borrow::Cow;

use portcullis_mcp::protocol::revision::Revision;

use crate::catalog::Kind;
use crate::front::mcp::messages::message::{BadMessage, ClientAnswer, Incoming, MessageBody, RpcRequest, Space};
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::request::{Params, RequestMeta};

/// The kind of a message: each has an answer of its own.
#[derive(Debug)]
pub(crate) enum MessageKind<'a> {
    /// Several messages, as 2025-03-26 has them: their texts.
    Batch(Vec<&'a str>),
    /// The answer to a request of a server, and the id of that, as JSON.
    Response(&'a str, ClientAnswer<'a>),
    /// A notification of a client that may have a session: its method.
    Notification(Cow<'a, str>),
    /// A notification since 2026-07-28: there is no session that it could be for.
    SessionlessNotification,
    /// A request before 2026-07-28.
    Legacy(RpcRequest<'a>, LegacyMethod),
    /// A request since 2026-07-28.
    Modern(RpcRequest<'a>, ModernMethod),
}

/// The methods of requests before 2026-07-28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LegacyMethod {
    /// A server answers: `tools/call` and the like.
    Call(&'static str),
    /// `initialize`.
    Initialize,
    /// `ping`.
    Ping,
    /// A list.
    List(Kind),
    /// `skills/list`.
    Skills,
    /// `logging/setLevel`.
    SetLevel,
    /// `resources/subscribe`.
    Subscribe,
    /// `resources/unsubscribe`.
    Unsubscribe,
    /// None of these.
    Unknown,
}

/// The methods of requests since 2026-07-28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModernMethod {
    /// A server answers: `tools/call` and the like.
    Call(&'static str),
    /// The server that has a task answers.
    Task(&'static str),
    /// `server/discover`.
    Discover,
    /// A list.
    List(Kind),
    /// `skills/list`.
    Skills,
    /// `subscriptions/listen`.
    Listen,
    /// None of these.
    Unknown,
}

/// Why a body is no message that can be answered, and the id that it has all the same, as JSON.
pub(crate) type Unreadable = (Option<String>, RpcProblem);

/// The kind of a body that was read into this space, and its params. `version`: its header.
///
/// # Errors
/// It is no message, or its params are not of their form.
#[inline]
pub(crate) fn classify<'m, 'a>(
    read: Result<MessageBody<'a>, BadMessage>,
    space: &'m Space<'a>,
    version: Option<&[u8]>,
) -> Result<(MessageKind<'a>, Params<'m, 'a>), Unreadable> {
    let unreadable = |bad: BadMessage| (bad.id.clone(), RpcProblem::Message(bad));
    let one = match read.map_err(unreadable)? {
        MessageBody::One(one) => one.map_err(unreadable)?,
        MessageBody::Batch(all) => return Ok((MessageKind::Batch(all), Params::default())),
    };
    match one {
        Incoming::Request(request) => {
            let params = Params::of(space).map_err(|problem| (Some(request.id.to_owned()), problem))?;
            let kind = if is_modern(&request.method, &params.meta, version) {
                let method = ModernMethod::of(&request.method);
                MessageKind::Modern(request, method)
            } else {
                let method = LegacyMethod::of(&request.method);
                MessageKind::Legacy(request, method)
            };
            Ok((kind, params))
        }
        Incoming::Notification(method) => {
            // It has no answer that could say what is wrong with them.
            let params = Params::of(space).unwrap_or_default();
            if is_modern(&method, &params.meta, version) {
                return Ok((MessageKind::SessionlessNotification, params));
            }
            Ok((MessageKind::Notification(method), params))
        }
        Incoming::Response(id, answer) => Ok((MessageKind::Response(id, answer), Params::default())),
    }
}

impl LegacyMethod {
    /// The method of this name.
    pub(crate) fn of(name: &str) -> Self {
        if let Some(method) = method_of(name) {
            return Self::Call(method);
        }
        match name {
            "initialize" => Self::Initialize,
            "ping" => Self::Ping,
            "skills/list" => Self::Skills,
            "logging/setLevel" => Self::SetLevel,
            "resources/subscribe" => Self::Subscribe,
            "resources/unsubscribe" => Self::Unsubscribe,
            name => listed_by(name).map_or(Self::Unknown, Self::List),
        }
    }

    /// Whether the owner of the session has to remember its effect.
    pub(crate) fn is_for_owner(self) -> bool {
        matches!(self, Self::SetLevel | Self::Subscribe | Self::Unsubscribe)
    }
}

impl ModernMethod {
    /// The method of this name.
    pub(crate) fn of(name: &str) -> Self {
        if let Some(method) = method_of(name) {
            return Self::Call(method);
        }
        if let Some(method) = TASK_METHODS.into_iter().find(|known| *known == name) {
            return Self::Task(method);
        }
        match name {
            "server/discover" => Self::Discover,
            "subscriptions/listen" => Self::Listen,
            "skills/list" => Self::Skills,
            name => listed_by(name).map_or(Self::Unknown, Self::List),
        }
    }
}

/// The requests about a task.
const TASK_METHODS: [&str; 3] = ["tasks/get", "tasks/update", "tasks/cancel"];

/// The methods that servers answer.
pub(crate) fn method_of(method: &str) -> Option<&'static str> {
    const METHODS: [&str; 6] = ["tools/call", "prompts/get", "resources/read", "completion/complete", SKILL, DIRECTORY];
    METHODS.into_iter().find(|known| *known == method)
}

/// The entry of one skill.
pub(crate) const SKILL: &str = "skills/get";

/// The children of a directory of files, which a server with skills may have.
pub(crate) const DIRECTORY: &str = "resources/directory/read";

/// Whether a request is one of 2026-07-28 or later: by its body, or by the header that says the revision.
pub(crate) fn is_modern(method: &str, meta: &RequestMeta<'_>, header: Option<&[u8]>) -> bool {
    if method == "initialize" && meta.version.is_none() {
        return false;
    }
    // Revisions are dates, so that the later one is the greater text.
    meta.version.is_some() || header.is_some_and(|version| version >= Revision::V2026_07_28.as_str().as_bytes())
}

/// The kind that a method lists.
fn listed_by(method: &str) -> Option<Kind> {
    Some(match method {
        "tools/list" => Kind::Tools,
        "prompts/list" => Kind::Prompts,
        "resources/list" => Kind::Resources,
        "resources/templates/list" => Kind::Templates,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::mcp::messages::message;

    fn classified(body: &str, version: Option<&str>) -> String {
        let mut space = Space::default();
        let read = message::read(body, &mut space);
        match classify(read, &space, version.map(str::as_bytes)) {
            Ok((MessageKind::Batch(all), _)) => format!("batch of {}", all.len()),
            Ok((MessageKind::Response(id, ClientAnswer::Result(_)), _)) => format!("result {id}"),
            Ok((MessageKind::Response(id, ClientAnswer::Error(_)), _)) => format!("error {id}"),
            Ok((MessageKind::Notification(method), _)) => format!("notification {method}"),
            Ok((MessageKind::SessionlessNotification, _)) => "sessionless notification".into(),
            Ok((MessageKind::Legacy(request, method), _)) => format!("legacy {} {method:?}", request.id),
            Ok((MessageKind::Modern(request, method), _)) => format!("modern {} {method:?}", request.id),
            Err((id, problem)) => format!("unreadable {id:?}: {problem}"),
        }
    }

    #[test]
    fn a_message_is_classified_by_its_form_its_method_and_how_it_says_its_revision() {
        const META: &str = r#""params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
        let request = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
        let with_meta = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}",{META}}}"#);
        let notification = |more: &str| format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled"{more}}}"#);
        let (old, new) = (Some("2025-11-25"), Some("2026-07-28"));
        for (body, version, expected) in [
            (request("tools/call"), None, r#"legacy 1 Call("tools/call")"#),
            (request("completion/complete"), old, r#"legacy 1 Call("completion/complete")"#),
            (request("tools/call"), new, r#"modern 1 Call("tools/call")"#),
            (with_meta("prompts/get"), None, r#"modern 1 Call("prompts/get")"#),
            (with_meta("resources/read"), old, r#"modern 1 Call("resources/read")"#),
            (request("initialize"), None, "legacy 1 Initialize"),
            (request("initialize"), new, "legacy 1 Initialize"),
            (with_meta("initialize"), new, "modern 1 Unknown"),
            (request("ping"), old, "legacy 1 Ping"),
            (request("ping"), new, "modern 1 Unknown"),
            (request("tools/list"), old, "legacy 1 List(Tools)"),
            (request("resources/templates/list"), new, "modern 1 List(Templates)"),
            (request("logging/setLevel"), None, "legacy 1 SetLevel"),
            (request("resources/subscribe"), None, "legacy 1 Subscribe"),
            (request("resources/unsubscribe"), None, "legacy 1 Unsubscribe"),
            (request("resources/subscribe"), new, "modern 1 Unknown"),
            (request("server/discover"), new, "modern 1 Discover"),
            (request("server/discover"), None, "legacy 1 Unknown"),
            (request("subscriptions/listen"), new, "modern 1 Listen"),
            (request("tasks/get"), new, r#"modern 1 Task("tasks/get")"#),
            (request("tasks/get"), old, "legacy 1 Unknown"),
            (request("tasks/list"), new, "modern 1 Unknown"),
            (request("Tools/Call"), None, "legacy 1 Unknown"),
            (notification(""), None, "notification notifications/cancelled"),
            (notification(r#","params":{"a":1,"a":2}"#), None, "notification notifications/cancelled"),
            (notification(""), new, "sessionless notification"),
            (notification(&format!(",{META}")), old, "sessionless notification"),
            (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#.into(), new, "result 7"),
            (r#"{"jsonrpc":"2.0","id":"a","error":{}}"#.into(), None, r#"error "a""#),
            (format!("[{}]", request("ping")), None, "batch of 1"),
            (
                r#"{"jsonrpc":"2.0","id":5,"method":"ping","params":{"a":1,"a":2}}"#.into(),
                None,
                r#"unreadable Some("5"): "params" must be an object of at most 64 members, each of them once"#,
            ),
            ("{".into(), new, "unreadable None: the body is not valid JSON"),
            ("[]".into(), None, "unreadable None: the batch is empty: send at least one message"),
        ] {
            assert_eq!(classified(&body, version), expected, "{body} {version:?}");
        }
    }
}
