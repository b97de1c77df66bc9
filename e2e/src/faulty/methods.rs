//! Answers requests of the protocol itself: initialize, discover, ping, lists. `call` answers calls.

use super::FaultyMode;
use super::fault::{Behaviour, ListFault, ProtocolFault};
use super::rpc::{self, RpcMessage, RpcParams};
use super::state::FaultyState;
use super::tool::Tool;

/// The newest version with sessions.
const LEGACY: &str = "2025-11-25";
/// The version without sessions.
pub(super) const MODERN: &str = "2026-07-28";
const KNOWN: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY];

/// Members that modern results require beside their content.
const MODERN_EXTRAS: &str = r#","resultType":"complete","ttlMs":0,"cacheScope":"public""#;

/// The text of the answer to a request other than a call; `None` when it is never answered.
pub(super) fn answer(state: &FaultyState, message: &RpcMessage) -> Option<String> {
    let (id, params, behaviour) = (message.id()?, message.params(), state.behaviour());
    let modern = state.mode == FaultyMode::Modern;
    if let Some(error) = uninitialized(state, message) {
        return Some(error);
    }
    let text = format!("\"{id}\"");
    let id = if behaviour.text_ids { &text } else { id };
    match message.method() {
        "initialize" if !modern => reply(id, behaviour.init.clone(), initialize(&params, &behaviour)),
        "server/discover" if modern => reply(id, behaviour.init.clone(), discover(&behaviour)),
        "ping" if !modern => reply(id, behaviour.ping, "{}".into()),
        "tools/list" => {
            let of_caller = behaviour.callers.get(&message.caller).cloned();
            list(state, id, &params, of_caller.unwrap_or(behaviour.list))
        }
        "resources/read" if let Some(text) = &behaviour.read => {
            let extras = if modern { MODERN_EXTRAS } else { "" };
            let uri = params.uri.map(serde_json::Value::from).unwrap_or_default();
            let text = serde_json::Value::from(text.as_str());
            Some(rpc::result(id, &format!(r#"{{"contents":[{{"uri":{uri},"text":{text}}}]{extras}}}"#)))
        }
        method if let Some(result) = behaviour.others.get(method) => Some(rpc::result(id, result)),
        method => match other_list(&behaviour, method) {
            Some(list) => reply(id, list, String::new()),
            None => Some(rpc::error_of(id, -32601, "Method not found")),
        },
    }
}

/// The error of a server that has forgotten its client, if it has.
pub(super) fn uninitialized(state: &FaultyState, message: &RpcMessage) -> Option<String> {
    let error = state.behaviour().uninitialized?;
    match message.method() {
        "initialize" => state.behave(|it| it.uninitialized = None),
        "ping" if error.pings => {}
        _ => return Some(rpc::error_of(message.id()?, error.code, error.message)),
    }
    None
}

/// The answer to a list of prompts, resources or templates, if the server has any.
fn other_list(behaviour: &Behaviour, method: &str) -> Option<ProtocolFault> {
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
    let extensions = behaviour.extensions.as_ref().map(|them| format!(r#","extensions":{them}"#)).unwrap_or_default();
    format!(r#""capabilities":{{"tools":{{"listChanged":true}}{prompts}{resources}{extensions}}}"#)
}

/// Whether a method is one that a modern server knows.
pub(super) fn modern_knows(method: &str) -> bool {
    matches!(method, "server/discover" | "tools/list" | "tools/call" | "resources/read" | "subscriptions/listen")
        || method.ends_with("/list")
        || ["tasks/", "skills/", "example/"].iter().any(|prefix| method.starts_with(prefix))
}

fn reply(id: &str, reply: ProtocolFault, honest: String) -> Option<String> {
    match reply {
        ProtocolFault::Honest => Some(rpc::result(id, &honest)),
        ProtocolFault::Never => None,
        ProtocolFault::Result(result) => Some(rpc::result(id, &result)),
        ProtocolFault::Error(error) => Some(rpc::error(id, &error)),
    }
}

fn initialize(params: &RpcParams, behaviour: &Behaviour) -> String {
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

fn list(state: &FaultyState, id: &str, params: &RpcParams, list: ListFault) -> Option<String> {
    let listed = |tools: &[Tool]| tools.iter().map(|tool| tool.listed.clone()).collect::<Vec<_>>();
    let page = params.cursor.as_deref().and_then(|cursor| cursor.parse::<usize>().ok()).unwrap_or(0);
    let (entries, cursor) = match list {
        ListFault::Reply(ProtocolFault::Honest) | ListFault::Honest => (listed(&state.tools()), None),
        ListFault::Reply(other) => return reply(id, other, String::new()),
        ListFault::Pages(size) => {
            let tools = state.tools();
            let end = (page + size.max(1)).min(tools.len());
            (listed(&tools[page.min(end)..end]), (end < tools.len()).then(|| end.to_string()))
        }
        ListFault::EndlessPages => (vec![numbered(page)], Some((page + 1).to_string())),
        ListFault::SameCursor => (listed(&state.tools()), Some("again".into())),
        ListFault::Many(count) => ((0..count).map(numbered).collect(), None),
    };
    let cursor = cursor.map(|cursor| format!(r#","nextCursor":"{cursor}""#)).unwrap_or_default();
    let extras = if state.mode == FaultyMode::Modern { MODERN_EXTRAS } else { "" };
    Some(rpc::result(id, &format!(r#"{{"tools":[{}]{cursor}{extras}}}"#, entries.join(","))))
}

fn numbered(number: usize) -> String {
    format!(r#"{{"name":"tool-{number}","inputSchema":{{"type":"object"}}}}"#)
}
