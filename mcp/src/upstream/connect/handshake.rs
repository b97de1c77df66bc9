//! Parses a server's answer to the handshake.
//!
//! Pure.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::{ConnectError, RpcRefusal, VersionProblem};
use super::{MODERN_ERRORS, Target};
use crate::protocol::extensions::Extensions;
use crate::upstream::message::{Reply, RpcError};

/// The limit for the revisions that are shown of a server's offer.
const MAX_OFFERS: usize = 8;

/// The capabilities that a server declares in the handshake. Those it omits are `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCapabilities {
    /// It has tools.
    pub tools: bool,
    /// It has prompts.
    pub prompts: bool,
    /// It has resources or resource templates.
    pub resources: bool,
    /// It reports updates of single resources to subscribers.
    pub resources_subscribe: bool,
    /// It completes arguments.
    pub completions: bool,
    /// It sends log messages to callers.
    pub logging: bool,
    /// It announces changes of its tools.
    pub announces_tools: bool,
    /// It announces changes of its prompts.
    pub announces_prompts: bool,
    /// It announces changes of its resources or resource templates.
    pub announces_resources: bool,
    /// It has the experimental tasks of 2025-11-25 for calls of tools.
    pub legacy_tasks: Option<LegacyTasks>,
}

/// What a server does with the experimental tasks of 2025-11-25.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegacyTasks {
    /// It lists them.
    pub list: bool,
    /// It cancels them.
    pub cancel: bool,
}

impl LegacyTasks {
    /// The JSON of `capabilities.tasks`.
    pub fn to_json(self) -> String {
        let [list, cancel] = [(self.list, r#""list":{},"#), (self.cancel, r#""cancel":{},"#)]
            .map(|(has, text)| if has { text } else { "" });
        format!(r#"{{{list}{cancel}"requests":{{"tools":{{"call":{{}}}}}}}}"#)
    }
}

/// Bytes of a server's instructions.
const MAX_INSTRUCTIONS: usize = 16 * 1024;

/// The answer to `initialize` or `server/discover`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Handshake {
    #[serde(default)]
    pub(super) protocol_version: String,
    #[serde(default)]
    pub(super) supported_versions: Vec<String>,
    #[serde(default)]
    pub(super) capabilities: Capabilities,
    server_info: Option<ServerInfo>,
    /// Any value: one of another form must not cost the session.
    instructions: Option<Value>,
    #[serde(rename = "_meta")]
    meta: Option<Meta>,
}

/// The members are parsed leniently: one of an unknown form must not cost the others.
#[derive(Default, Deserialize)]
pub(super) struct Capabilities {
    tools: Option<Value>,
    prompts: Option<Value>,
    resources: Option<Value>,
    completions: Option<Value>,
    logging: Option<Value>,
    extensions: Option<Box<RawValue>>,
    tasks: Option<Value>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<ServerInfo>,
}

#[derive(Deserialize)]
struct ServerInfo {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
}

impl Handshake {
    /// Parses the answer to a handshake that requested the revision `asked`.
    pub(super) fn read(target: &Target, asked: &str, reply: Reply) -> Result<Self, ConnectError> {
        match reply {
            Reply::Result(result) => serde_json::from_slice(&result)
                .map_err(|_| ConnectError::NotMcp("the answer to the handshake is malformed")),
            Reply::Error(error) => Err(refused(target, asked, None, &error)),
        }
    }

    /// The revision that both sides use after `initialize`.
    pub(super) fn agreed(&self, target: &Target, asked: &str, known: &[&str]) -> Result<String, ConnectError> {
        let version = self.protocol_version.as_str();
        let allowed = match target.pinned.as_deref() {
            Some(pinned) => pinned == version,
            None => known.contains(&version),
        };
        if allowed { Ok(version.to_owned()) } else { Err(self.no_version(target, asked)) }
    }

    /// The error if the gateway supports none of the server's revisions.
    pub(super) fn no_version(&self, target: &Target, asked: &str) -> ConnectError {
        let offers = self.supported_versions.iter().chain([&self.protocol_version]).map(String::as_str);
        let (offers, is_pinned) = (shown_versions(offers, asked), target.pinned.is_some());
        ConnectError::Version(VersionProblem { asked: asked.to_owned(), is_pinned, offers, refusal: None })
    }

    /// What the server says to those who use it, cut at [`MAX_INSTRUCTIONS`] bytes.
    pub(super) fn instructions(&self) -> Option<Arc<str>> {
        let text = self.instructions.as_ref()?.as_str()?.trim();
        let end = (0..=MAX_INSTRUCTIONS.min(text.len())).rev().find(|at| text.is_char_boundary(*at))?;
        text.get(..end).filter(|text| !text.is_empty()).map(Into::into)
    }

    /// The extensions that it declares.
    pub(super) fn extensions(&self) -> Extensions {
        let raw = self.capabilities.extensions.as_deref();
        raw.map(|raw| Extensions::from_json(raw.get())).unwrap_or_default()
    }

    /// The server's name and version, for users.
    pub(super) fn server_info(self) -> Option<(String, String)> {
        let info = self.server_info.or(self.meta.and_then(|meta| meta.server_info))?;
        Some((clipped(info.name), clipped(info.version)))
    }
}

/// The meaning of an error in answer to a handshake that requested the revision `asked`.
pub(super) fn refused(target: &Target, asked: &str, status: Option<u16>, error: &RpcError) -> ConnectError {
    let offers = offers(error, asked);
    let refusal = RpcRefusal { status, code: error.code };
    let message = error.message.to_ascii_lowercase();
    let is_about_versions = error.code == MODERN_ERRORS[2]
        || !offers.is_empty()
        || message.contains("protocol version")
        || message.contains("protocolversion");
    if !is_about_versions {
        return ConnectError::Refused(refusal);
    }
    let is_pinned = target.pinned.is_some();
    ConnectError::Version(VersionProblem { asked: asked.to_owned(), is_pinned, offers, refusal: Some(refusal) })
}

impl VersionProblem {
    /// The newest of these revisions that the server offers.
    pub(super) fn offered<'a>(&self, known: &[&'a str]) -> Option<&'a str> {
        known.iter().rev().find(|known| self.offers.iter().any(|offer| offer == *known)).copied()
    }
}

/// The revisions that an error names besides the requested one: in its data, or else in its text.
fn offers(error: &RpcError, asked: &str) -> Vec<String> {
    let data = error.data.as_deref().and_then(|data| serde_json::from_str::<Value>(data).ok()).unwrap_or_default();
    let lists = ["supported", "supportedVersions", "supported_versions"].map(|name| data.get(name));
    let listed = lists.into_iter().flatten().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
    let listed = shown_versions(listed, asked);
    if !listed.is_empty() {
        return listed;
    }
    let is_part = |c: char| c.is_ascii_digit() || c == '-';
    shown_versions(error.message.split(|c| !is_part(c)).map(|word| word.trim_matches('-')), asked)
}

fn shown_versions<'a>(all: impl Iterator<Item = &'a str>, asked: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for version in all.filter(|version| is_revision(version) && *version != asked) {
        if found.len() < MAX_OFFERS && !found.iter().any(|known| known == version) {
            found.push(version.to_owned());
        }
    }
    found
}

fn is_revision(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() };
    text.len() == 10 && text.bytes().enumerate().all(fits)
}

/// Prepares a server's description of itself for users: short, and without control characters.
fn clipped(text: String) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

impl ServerCapabilities {
    /// Whether it announces changes of any list.
    pub(crate) fn announces_any(self) -> bool {
        self.announces_tools || self.announces_prompts || self.announces_resources
    }

    /// The lists for `subscriptions/listen`, as JSON without braces.
    pub(crate) fn announced_lists(self) -> String {
        let lists = [
            (self.announces_tools, r#""toolsListChanged":true"#),
            (self.announces_prompts, r#""promptsListChanged":true"#),
            (self.announces_resources, r#""resourcesListChanged":true"#),
        ];
        lists.into_iter().filter_map(|(announced, list)| announced.then_some(list)).collect::<Vec<_>>().join(",")
    }
}

impl Capabilities {
    pub(super) fn read(&self) -> ServerCapabilities {
        let says = |capability: &Option<Value>, what: &str| {
            capability.as_ref().is_some_and(|capability| capability.get(what) == Some(&Value::Bool(true)))
        };
        let tasks = self.tasks.as_ref().filter(|tasks| tasks.pointer("/requests/tools/call").is_some());
        let legacy_tasks = tasks.map(|tasks| {
            let has = |what: &str| tasks.get(what).is_some_and(Value::is_object);
            LegacyTasks { list: has("list"), cancel: has("cancel") }
        });
        ServerCapabilities {
            legacy_tasks,
            tools: self.tools.is_some(),
            prompts: self.prompts.is_some(),
            resources: self.resources.is_some(),
            resources_subscribe: says(&self.resources, "subscribe"),
            completions: self.completions.is_some(),
            logging: self.logging.is_some(),
            announces_tools: says(&self.tools, "listChanged"),
            announces_prompts: says(&self.prompts, "listChanged"),
            announces_resources: says(&self.resources, "listChanged"),
        }
    }
}
