//! The rules that select and rename the tools of an `McpServer`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::glob;

/// Selects and renames the server's tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.include) ? self.include.map(i, 1 + size(i)).sum() : 0) + (has(self.exclude) ? self.exclude.map(e, 1 + size(e)).sum() : 0) + (has(self.overrides) ? self.overrides.map(o, 40 + size(o.name) + (has(o.rename) ? size(o.rename) : 0) + (has(o.description) ? size(o.description) : 0) + (has(o.annotations) ? 110 : 0)).sum() : 0) <= 36864")
    .message("tools exceed 36 KiB in total: shorten descriptions or remove entries"))]
pub struct ToolRules {
    /// Tools are offered as `PREFIX__NAME`. Absent or empty: under their own names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{0,32}$"))]
    pub prefix: Option<String>,
    /// Offer only tools whose own name matches one of these patterns; `*` stands for any characters. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub include: Vec<String>,
    /// Leave out tools whose own name matches one of these patterns. Overrides `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub exclude: Vec<String>,
    /// What happens to a tool whose `inputSchema` cannot be repaired. Absent: `LeaveOut`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_invalid_schema: OnInvalidSchema,
    /// Changes to single tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub overrides: Vec<ToolOverride>,
}

/// McpViews of other namespaces that may select a server. Those of its own namespace always may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct AllowedViews {
    /// Namespaces of the views; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = r"^[-a-z0-9*]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Vec<String>,
}

impl AllowedViews {
    /// Whether views of a namespace may select the server.
    pub fn allow(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|pattern| glob::matches(pattern, namespace))
    }

    /// Whether it allows no view of another namespace.
    pub fn is_default(&self) -> bool {
        self.namespaces.is_empty()
    }
}

fn is_default(chosen: &OnInvalidSchema) -> bool {
    *chosen == OnInvalidSchema::default()
}

/// What happens to a tool whose `inputSchema` cannot be repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnInvalidSchema {
    /// The tool is left out.
    #[default]
    LeaveOut,
    /// The tool is offered with a schema that allows any arguments: the server alone checks them.
    Offer,
}

/// A change to one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ToolOverride {
    /// The tool's own name.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Offer the tool under this name; the prefix still precedes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{1,64}$"))]
    pub rename: Option<String>,
    /// Offer the tool with this description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// Hints to replace; absent hints stay as the server declares them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<ToolHints>,
}

/// Hints about what a tool does, as MCP defines them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolHints {
    /// The tool changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_hint: Option<bool>,
    /// The tool may destroy something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destructive_hint: Option<bool>,
    /// A second call with the same arguments changes nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent_hint: Option<bool>,
    /// The tool touches the world outside the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_world_hint: Option<bool>,
}
