//! The report of a gateway replica at `GET /status` of its admin port.
//!
//! The operator asks each replica and waits for the answer: `?instance=I&since=N&wait=SECONDS` is answered as soon as
//! something has changed after change `N` of instance `I`, with those servers alone; without them, or when the replica
//! does not know `I` or no longer remembers `N`, the answer holds everything.

use serde::{Deserialize, Serialize};

use crate::conditions::Reason;
use crate::names::ServerKey;

/// Path of the report on the admin port.
pub const PATH: &str = "/status";

/// The longest `wait`, in seconds.
pub const MAX_WAIT_SECONDS: u64 = 30;

/// The report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// A random name for each start of the process: changes are counted from zero.
    pub instance: String,
    /// The newest change that this answer includes.
    pub change: u64,
    /// Whether `servers` holds all servers, or only those that changed.
    pub complete: bool,
    /// The applied slots of the configuration.
    #[serde(default)]
    pub slots: Vec<SlotReport>,
    /// The servers, sorted by key.
    #[serde(default)]
    pub servers: Vec<ServerReport>,
    /// Servers that are gone, where `complete` is false.
    #[serde(default)]
    pub gone: Vec<ServerKey>,
    /// What policies in `Audit` mode have counted, as far as they have; always all of them. A count is no change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyReport>,
    /// The applied views, sorted by key; always all of them. A changed one is a change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<ViewReport>,
}

/// A view in this replica, for a caller who may use all that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ViewReport {
    /// Its namespace and name.
    pub key: ServerKey,
    /// [`crate::View::revision`] of what is applied.
    pub revision: String,
    /// Number of servers that it selects.
    #[serde(default)]
    pub servers: u32,
    /// Number of its tools.
    #[serde(default)]
    pub tools: u32,
    /// Number of tools that are not listed because the budget has no room for them.
    #[serde(default)]
    pub hidden: u32,
    /// Bytes of the list of tools.
    #[serde(default)]
    pub bytes: u64,
    /// Tokens of that list, as estimated.
    #[serde(default)]
    pub tokens: u64,
    /// Names and patterns that match nothing, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmatched: Vec<String>,
}

/// What a policy in `Audit` mode has counted in this replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// Its namespace and name.
    pub key: ServerKey,
    /// The revision of its text form.
    pub revision: String,
    /// Calls that it would have denied, since it came into force in this process.
    pub would_deny: u64,
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
    /// The source of the slot: `api` or `mounted`.
    #[serde(default)]
    pub origin: String,
    /// Why a newer content was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One server, as this replica sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerReport {
    /// The server.
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
    /// Transport: `sse` or `streamable-http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Revision of MCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// The server's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The server's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Names of the server's extensions of MCP, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// Number of offered tools.
    #[serde(default)]
    pub tools: u32,
    /// Tools that carry the server's name because another server has theirs.
    #[serde(default)]
    pub renamed: u32,
    /// Tools under a short form of their name, because some clients would refuse the whole name.
    #[serde(default)]
    pub shortened: u32,
    /// Tools left out because they are invalid, double or too many.
    #[serde(default)]
    pub left_out: u32,
    /// Problems of its lists: an entry is left out, or shown in part.
    #[serde(default)]
    pub list_problems: u32,
    /// The first problems, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_list_problems: Vec<String>,
    /// Number of offered prompts.
    #[serde(default)]
    pub prompts: u32,
    /// Number of offered resources.
    #[serde(default)]
    pub resources: u32,
    /// Number of offered resource templates.
    #[serde(default)]
    pub templates: u32,
    /// Resources and templates that are not listed because another server has the URI.
    #[serde(default)]
    pub hidden: u32,
    /// Tools and prompts on which an older server of its pool does not agree; the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disagreed: Vec<String>,
    /// The number of such tools and prompts.
    #[serde(default)]
    pub disagreements: u32,
}
