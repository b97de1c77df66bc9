//! What a gateway replica tells of itself at `GET /status` of its admin port.
//!
//! The operator asks each replica and waits for the answer: `?instance=I&since=N&wait=SECONDS` is answered as soon as
//! something has changed after change `N` of instance `I`, with those servers alone; without them, or when the replica
//! does not know `I` or no longer remembers `N`, the answer holds everything.

use serde::{Deserialize, Serialize};

use crate::conditions::Reason;
use crate::names::ServerKey;

/// Path on the admin port.
pub const PATH: &str = "/status";

/// The longest `wait`, in seconds.
pub const MAX_WAIT_SECONDS: u64 = 30;

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Made up at each start of the process: changes are counted anew.
    pub instance: String,
    /// The newest change that this answer includes.
    pub change: u64,
    /// Whether `servers` holds all servers, or only those that changed.
    pub complete: bool,
    /// The slots of the configuration that are applied.
    #[serde(default)]
    pub slots: Vec<SlotReport>,
    /// The servers, sorted by key.
    #[serde(default)]
    pub servers: Vec<ServerReport>,
    /// Servers that are no longer known, where `complete` is false.
    #[serde(default)]
    pub gone: Vec<ServerKey>,
}

/// A slot of the configuration, as applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotReport {
    /// Name of its ConfigMap.
    pub name: String,
    /// Its revision: SHA-256 of its content, in hexadecimal. Empty while none has been applied.
    #[serde(default)]
    pub revision: String,
    /// Where it was read: `api` or `mounted`.
    #[serde(default)]
    pub origin: String,
    /// Why a newer content was refused, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One server, as this replica sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerReport {
    /// Which one.
    pub key: ServerKey,
    /// [`crate::Server::revision`] of what is applied.
    pub revision: String,
    /// Whether its tools can be called here.
    pub ready: bool,
    /// [`Reason::Ready`], or why not; it belongs to `Ready` or to `ResolvedRefs`.
    pub reason: Reason,
    /// One sentence for people, without secrets.
    #[serde(default)]
    pub message: String,
    /// How it speaks: `sse` or `streamable-http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// The revision of MCP it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// Its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Its own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Tools offered.
    #[serde(default)]
    pub tools: u32,
    /// Of these, offered with the server's name in theirs because another server has the name.
    #[serde(default)]
    pub renamed: u32,
    /// Of these, offered under a short form of their name because some clients would refuse it.
    #[serde(default)]
    pub shortened: u32,
    /// Tools left out because they are invalid, double or too many.
    #[serde(default)]
    pub left_out: u32,
    /// What is wrong with what it lists: left out, or shown without something.
    #[serde(default)]
    pub list_problems: u32,
    /// The first of these, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_list_problems: Vec<String>,
    /// Prompts offered.
    #[serde(default)]
    pub prompts: u32,
    /// Resources offered.
    #[serde(default)]
    pub resources: u32,
    /// Resource templates offered.
    #[serde(default)]
    pub templates: u32,
    /// Resources and templates that are not listed because another server has the URI.
    #[serde(default)]
    pub hidden: u32,
    /// Tools and prompts on which an older server of its pool does not agree; the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disagreed: Vec<String>,
    /// How many there are.
    #[serde(default)]
    pub disagreements: u32,
}
