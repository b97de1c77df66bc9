//! The answers of the protocol itself: initialize, discover, ping, lists. Calls are in `call`.

use super::Mode;
use super::rpc::{self, Message, Params};
use super::state::State;
use super::tool::Tool;
use super::vice::{Behaviour, List, Reply};

/// The newest version with sessions.
const LEGACY: &str = "2025-11-25";
/// The version without sessions.
pub(super) const MODERN: &str = "2026-07-28";
const KNOWN: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY];

/// What modern results must hold beside their content.
const MODERN_EXTRAS: &str = r#","resultType":"complete","ttlMs":0,"cacheScope":"public""#;

/// The text of the answer to a request other than a call; `None` when it is never answered.
pub(super) fn answer(state: &State, message: &Message) -> Option<String> {
    let (id, params, behaviour) = (message.id()?, message.params(), state.behaviour());
    let modern = state.mode == Mode::Modern;
    if let Some(error) = uninitialized(state, message) {
        return Some(error);
    }
    let text = format!("\"{id}\"");
    let id = if behaviour.text_ids { &text } else { id };
    match message.method() {
        "initialize" if !modern => reply(id, behaviour.init.clone(), initialize(&params, &behaviour)),
        "server/discover" if modern => reply(id, behaviour.init.clone(), discover(&behaviour)),
        "ping" if !modern => reply(id, behaviour.ping, "{}".into()),
        "tools/list" => list(state, id, &params, behaviour.list),
        "resources/read" if let Some(text) = &behaviour.read => {
            let extras = if modern { MODERN_EXTRAS } else { "" };
            let uri = params.uri.map(serde_json::Value::from).unwrap_or_default();
            let text = serde_json::Value::from(text.as_str());
            Some(rpc::result(id, &format!(r#"{{"contents":[{{"uri":{uri},"text":{text}}}]{extras}}}"#)))
        }
        method => match other_list(&behaviour, method) {
            Some(list) => reply(id, list, String::new()),
            None => Some(rpc::error_of(id, -32601, "Method not found")),
        },
    }
}

/// What a server says that does not know its client any more, if it does not.
pub(super) fn uninitialized(state: &State, message: &Message) -> Option<String> {
    let error = state.behaviour().uninitialized?;
    match message.method() {
        "initialize" => state.behave(|it| it.uninitialized = None),
        "ping" if error.pings => {}
        _ => return Some(rpc::error_of(message.id()?, error.code, error.message)),
    }
    None
}

/// How a list of something else than tools is answered, if it has any.
fn other_list(behaviour: &Behaviour, method: &str) -> Option<Reply> {
    match method {
        "prompts/list" => behaviour.prompts.clone(),
        "resources/list" => behaviour.resources.clone(),
        "resources/templates/list" => behaviour.templates.clone(),
        _ => None,
    }
}

fn capabilities(behaviour: &Behaviour) -> String {
    let announced =
        |there: bool, name: &str| if there { format!(r#","{name}":{{"listChanged":true}}"#) } else { String::new() };
    let prompts = announced(behaviour.prompts.is_some(), "prompts");
    let resources = announced(behaviour.resources.is_some(), "resources");
    format!(r#""capabilities":{{"tools":{{"listChanged":true}}{prompts}{resources}}}"#)
}

/// Whether a method is one that a modern server knows.
pub(super) fn modern_knows(method: &str) -> bool {
    matches!(method, "server/discover" | "tools/list" | "tools/call" | "resources/read" | "subscriptions/listen")
        || method.ends_with("/list")
}

fn reply(id: &str, reply: Reply, honest: String) -> Option<String> {
    match reply {
        Reply::Honest => Some(rpc::result(id, &honest)),
        Reply::Never => None,
        Reply::Result(result) => Some(rpc::result(id, &result)),
        Reply::Error(error) => Some(rpc::error(id, &error)),
    }
}

fn initialize(params: &Params, behaviour: &Behaviour) -> String {
    let asked = params.version.as_deref().filter(|version| KNOWN.contains(version));
    let (version, info) = (asked.unwrap_or(LEGACY), info(behaviour));
    format!(r#"{{"protocolVersion":"{version}",{},{info}}}"#, capabilities(behaviour))
}

fn discover(behaviour: &Behaviour) -> String {
    let info = info(behaviour);
    format!(r#"{{"supportedVersions":["{MODERN}"],{},{info}{MODERN_EXTRAS}}}"#, capabilities(behaviour))
}

fn info(behaviour: &Behaviour) -> String {
    let name = serde_json::Value::from(behaviour.name.as_deref().unwrap_or("faulty"));
    format!(r#""serverInfo":{{"name":{name},"version":"1.0.0"}}"#)
}

fn list(state: &State, id: &str, params: &Params, list: List) -> Option<String> {
    let listed = |tools: &[Tool]| tools.iter().map(|tool| tool.listed.clone()).collect::<Vec<_>>();
    let page = params.cursor.as_deref().and_then(|cursor| cursor.parse::<usize>().ok()).unwrap_or(0);
    let (entries, cursor) = match list {
        List::Reply(Reply::Honest) | List::Honest => (listed(&state.tools()), None),
        List::Reply(other) => return reply(id, other, String::new()),
        List::Pages(size) => {
            let tools = state.tools();
            let end = (page + size.max(1)).min(tools.len());
            (listed(&tools[page.min(end)..end]), (end < tools.len()).then(|| end.to_string()))
        }
        List::EndlessPages => (vec![numbered(page)], Some((page + 1).to_string())),
        List::SameCursor => (listed(&state.tools()), Some("again".into())),
        List::Many(count) => ((0..count).map(numbered).collect(), None),
    };
    let cursor = cursor.map(|cursor| format!(r#","nextCursor":"{cursor}""#)).unwrap_or_default();
    let extras = if state.mode == Mode::Modern { MODERN_EXTRAS } else { "" };
    Some(rpc::result(id, &format!(r#"{{"tools":[{}]{cursor}{extras}}}"#, entries.join(","))))
}

fn numbered(number: usize) -> String {
    format!(r#"{{"name":"tool-{number}","inputSchema":{{"type":"object"}}}}"#)
}
