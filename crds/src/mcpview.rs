//! The `McpView` object: a short list of tools, prompts and resources for one kind of agent.
//!
//! The doc comments are the reference that `kubectl explain` shows.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mcpaccesspolicy::{LabelSelector, RequiredHints};

/// Entries of `select`, and of `exclude`.
pub const MAX_SELECTIONS: usize = 32;

/// Patterns of one view, in all of its lists together.
pub const MAX_VIEW_PATTERNS: usize = 256;

/// Bytes of the instructions of a view.
pub const MAX_INSTRUCTIONS_BYTES: usize = 8 * 1024;

/// Changes to single tools.
pub const MAX_VIEW_TOOLS: usize = 128;

/// Bytes that a budget may allow.
pub const MAX_BUDGET_BYTES: u32 = 8 * 1024 * 1024;

/// Tokens that a budget may allow.
pub const MAX_BUDGET_TOKENS: u32 = 2 * 1024 * 1024;

/// A selection of tools, prompts and resources that agents use at an address of its own. A view narrows what callers may use,
/// and never widens it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpView",
    doc = "A selection of tools, prompts and resources that agents use at an address of its own.",
    plural = "mcpviews",
    shortname = "mcpv",
    category = "portcullis",
    namespaced,
    status = "McpViewStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label: use at most 63 of a-z, 0-9 and '-', not '-' at an end"),
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name":"Tools","type":"integer","jsonPath":".status.toolCount"}"#,
    printcolumn = r#"{"name":"Hidden","type":"integer","jsonPath":".status.hiddenByBudget"}"#,
    printcolumn = r#"{"name":"Tokens","type":"integer","jsonPath":".status.listTokens"}"#,
    printcolumn = r#"{"name":"Bytes","type":"integer","jsonPath":".status.listBytes","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.select.map(s, (has(s.tools) ? size(s.tools) : 0) + (has(s.prompts) ? size(s.prompts) : 0) + (has(s.resources) ? size(s.resources) : 0)).sum() + (has(self.exclude) ? self.exclude.map(s, (has(s.tools) ? size(s.tools) : 0) + (has(s.prompts) ? size(s.prompts) : 0) + (has(s.resources) ? size(s.resources) : 0)).sum() : 0) <= 256")
        .message("the view has more than 256 patterns: use * or split it into several views"),
    validation = Rule::new("!has(self.exclude) || self.exclude.all(e, has(e.servers) || has(e.tools) || has(e.hints) || has(e.prompts) || has(e.resources))")
        .message("an entry of exclude would leave out everything: set servers, tools, hints, prompts or resources")
)]
pub struct McpViewSpec {
    /// What the view holds: everything that one of these entries selects. Where a budget leaves no room for all tools, those
    /// of earlier entries, and of earlier patterns within an entry, are listed first.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub select: Vec<ViewSelection>,
    /// What the view leaves out of that: members as in `select`, and without `servers` of all servers of the view.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub exclude: Vec<ViewSelection>,
    /// How single tools look in this view.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tools: Vec<ViewTool>,
    /// Whether agents search for tools that are not listed. `Auto`: where the tools do not fit the budget.
    #[serde(default)]
    pub search: ViewSearch,
    /// The size that the list of tools may have. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<ViewBudget>,
    /// What clients are told when they connect, instead of the instructions of the servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub instructions: Option<String>,
}

/// Selects items of servers. Without `tools`, `hints`, `prompts` and `resources` it selects everything that the servers offer;
/// with some of them it selects only what they say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ViewSelection {
    /// The servers. Absent: all McpServers of the view's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<ViewServers>,
    /// Tools by the servers' own names; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub tools: Option<Vec<String>>,
    /// Only tools that declare these hints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<RequiredHints>,
    /// Prompts by the servers' own names; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub prompts: Option<Vec<String>>,
    /// Resources by the servers' own URIs; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 2048)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub resources: Option<Vec<String>>,
}

/// McpServers of a view. A server must match all members that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.names) || has(self.selector) || has(self.namespaces)")
    .message("set names, selector or namespaces, or leave servers out to select all"))]
pub struct ViewServers {
    /// Names of McpServers; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), regex(pattern = r"^[-a-z0-9*]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub names: Option<Vec<String>>,
    /// Labels of McpServers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Their namespaces. Absent: the view's own. A server of another namespace must allow it with `spec.allowedViews`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Option<Vec<String>>,
}

/// How one tool looks in a view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.rename) || has(self.description)").message("set rename or description"))]
pub struct ViewTool {
    /// The McpServer; `NAMESPACE/NAME` for one of another namespace. Absent: every server of the view that has the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub server: Option<String>,
    /// The server's own name of the tool.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Offer the tool under this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{1,64}$"))]
    pub rename: Option<String>,
    /// Offer the tool with this description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
}

/// When a view offers `search_tools`, `describe_tool` and `call_tool`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ViewSearch {
    /// Never. Tools that do not fit the budget are not listed, and can be called by who knows their names.
    Never,
    /// Where the tools do not fit the budget.
    #[default]
    Auto,
    /// Always.
    Always,
}

/// The size that the list of a view's tools may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.bytes) != has(self.tokens)").message("set exactly one of bytes and tokens"))]
pub struct ViewBudget {
    /// Bytes of the list. With 0 only the tools for searching are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 8_388_608))]
    pub bytes: Option<u32>,
    /// Tokens of the list, as estimated. With 0 only the tools for searching are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 2_097_152))]
    pub tokens: Option<u32>,
}

/// What the operator and the gateway say of a view.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpViewStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of McpServers of the view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_count: Option<u32>,
    /// Number of tools of the view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_count: Option<u32>,
    /// Number of tools that are not listed because the budget has no room for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_by_budget: Option<u32>,
    /// Bytes of the list of tools, for a caller who may use all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_bytes: Option<i64>,
    /// Tokens of that list, as estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_tokens: Option<i64>,
    /// Names and patterns of the view that match nothing, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 2048)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub unmatched: Vec<String>,
    /// `Accepted` and `Programmed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::kubernetes_schema::conditions")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
