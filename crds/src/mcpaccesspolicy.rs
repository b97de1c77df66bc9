//! The `McpAccessPolicy` object: which callers may use what of the McpServers of its namespace.
//!
//! The doc comments are the reference that `kubectl explain` shows.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rules of one policy.
pub const MAX_RULES: usize = 64;

/// Sources of one rule.
pub const MAX_SOURCES: usize = 32;

/// Patterns of one rule, in all of its lists together.
pub const MAX_PATTERNS: usize = 256;

/// Bytes of the expression of one rule.
pub const MAX_EXPRESSION_BYTES: usize = 4096;

/// McpViews that one rule names.
pub const MAX_RULE_VIEWS: usize = 16;

/// Calls that a limit may allow in each period.
pub const MAX_CALLS: u32 = 1_000_000;

/// Which callers may use which tools, prompts and resources of the McpServers of this namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpAccessPolicy",
    doc = "Which callers may use which tools, prompts and resources of the McpServers of this namespace.",
    plural = "mcpaccesspolicies",
    shortname = "mcpap",
    category = "portcullis",
    namespaced,
    status = "McpAccessPolicyStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label: use at most 63 of a-z, 0-9 and '-', not '-' at an end"),
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Servers","type":"integer","jsonPath":".status.serverCount"}"#,
    printcolumn = r#"{"name":"WouldDeny","type":"integer","jsonPath":".status.wouldDeny"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct McpAccessPolicySpec {
    /// `Enforce`: servers that the policy selects are open only to what a rule of some policy allows. `Audit`: the policy
    /// denies and allows nothing; what it would deny is counted in its status and told in the audit log.
    #[serde(default)]
    pub mode: PolicyMode,
    /// McpServers of this namespace that the policy governs. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<ServerSelector>,
    /// What is allowed. Rules only allow, and add up with those of other policies. None: nothing is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<AccessRule>,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PolicyMode {
    /// Denies what no rule allows.
    #[default]
    Enforce,
    /// Denies and allows nothing.
    Audit,
}

/// Selects McpServers of the policy's namespace. A server must match all members that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.names) || has(self.selector)").message("set names or selector, or leave servers out to select all"))]
pub struct ServerSelector {
    /// Names of McpServers; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), regex(pattern = r"^[-a-z0-9*]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub names: Option<Vec<String>>,
    /// Labels of McpServers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Selects by labels, as elsewhere in Kubernetes. All requirements must hold; an empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements for single labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A requirement for one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0")
    .message("values belong to the operators In and NotIn, which need at least one"))]
pub struct LabelRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label is compared with `values`.
    pub operator: LabelOperator,
    /// Values for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// Allows some callers to use something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.from.map(s, has(s.claims) ? s.claims.map(c, size(c.values)).sum() : 0).sum() + self.allow.map(a, (has(a.tools) ? size(a.tools) : 0) + (has(a.prompts) ? size(a.prompts) : 0) + (has(a.resources) ? size(a.resources) : 0)).sum() <= 256")
    .message("the rule has more than 256 patterns: split it into several rules"))]
pub struct AccessRule {
    /// Name of the rule, which explanations and the audit log give.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Callers. One of these must match.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub from: Vec<AccessSource>,
    /// What they may use. One of these must match.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub allow: Vec<AllowedItems>,
    /// Allow only calls through one of these McpViews, each as `NAME` in the policy's namespace or as `NAMESPACE/NAME`.
    /// Absent: through any, and through none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 1, max = 127),
            regex(pattern = r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub views: Vec<String>,
    /// A condition in CEL, with the variables `caller`, `server`, `tool`, `args` and `now`. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub when: Option<String>,
    /// How often the rule allows calls. Absent: as often as callers like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<CallLimit>,
}

/// How often a rule allows calls, in all gateway replicas together. It limits what its own rule allows: what another rule
/// allows without a limit is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
pub struct CallLimit {
    /// Calls in each period. Who made none for a period may make all of them at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub calls: u32,
    /// The period.
    pub per: LimitPeriod,
    /// What is counted together.
    #[serde(default)]
    pub by: LimitScope,
}

/// The period of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LimitPeriod {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day of 24 hours.
    Day,
}

/// What a limit counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LimitScope {
    /// The calls of each caller, whatever it calls.
    #[default]
    Subject,
    /// The calls of each tool, prompt or resource, whoever calls it.
    Tool,
    /// The calls of each caller for each tool, prompt or resource.
    Both,
}

impl LimitPeriod {
    /// Its length.
    pub fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 60 * 60,
            Self::Day => 24 * 60 * 60,
        })
    }

    /// Its word in texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// Callers. A caller must match all members that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.serviceAccount) || has(self.subject) || has(self.claims) || has(self.authenticated) || has(self.issuer)")
        .message("set serviceAccount, issuer, subject, claims or authenticated"),
    validation = Rule::new("!has(self.serviceAccount) || !(has(self.issuer) || has(self.subject))")
        .message("serviceAccount already names issuer and subject: leave those out"),
    validation = Rule::new("!has(self.authenticated) || !(has(self.serviceAccount) || has(self.issuer) || has(self.subject) || has(self.claims))")
        .message("authenticated matches every caller: use it alone")
)]
pub struct AccessSource {
    /// A service account of the cluster. Matches only tokens of the cluster's own issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountSource>,
    /// The `iss` of the token, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,
    /// The `sub` of the token; `*` stands for any characters. Without `issuer`, it matches only where the gateway has a
    /// single source of keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub subject: Option<String>,
    /// Claims of the token, each of which must match. Without `issuer`, they match only where the gateway has a single
    /// source of keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub claims: Vec<ClaimSource>,
    /// `true`: every caller with a valid token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self").message("authenticated can only be true"))]
    pub authenticated: Option<bool>,
}

/// Service accounts of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ServiceAccountSource {
    /// Namespace; `*` stands for any characters.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[-a-z0-9*]+$"))]
    pub namespace: String,
    /// Name; `*` stands for any characters.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-a-z0-9.*]+$"))]
    pub name: String,
}

/// A claim and its accepted values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ClaimSource {
    /// Name of the claim; dots lead into objects and arrays, such as `realm_access.roles`.
    #[schemars(length(min = 1, max = 256))]
    pub path: String,
    /// Accepted values; `*` stands for any characters. A text, a number, a boolean or a member of an array must match one.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub values: Vec<String>,
}

/// Items of the governed servers, by the names that the servers themselves give them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.tools) || has(self.hints) ? 1 : 0) + (has(self.prompts) ? 1 : 0) + (has(self.resources) ? 1 : 0) == 1")
        .message("set exactly one of tools (with hints, if wanted), prompts and resources: write an entry for each")
)]
pub struct AllowedItems {
    /// Tools by the server's own names; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub tools: Option<Vec<String>>,
    /// Only tools that declare these hints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<RequiredHints>,
    /// Prompts by the server's own names; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub prompts: Option<Vec<String>>,
    /// Resources by the server's own URIs; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 2048)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub resources: Option<Vec<String>>,
}

/// Hints that a tool must declare, as MCP defines them. A server may declare what it likes: they are worth what the server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.readOnly) || has(self.destructive) || has(self.idempotent) || has(self.openWorld)")
    .message("hints is empty: set one, or leave hints out"))]
pub struct RequiredHints {
    /// `readOnlyHint`; a tool that declares none counts as false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// `destructiveHint`; a tool that declares none counts as true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destructive: Option<bool>,
    /// `idempotentHint`; a tool that declares none counts as false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// `openWorldHint`; a tool that declares none counts as true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_world: Option<bool>,
}

/// Observed state of the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpAccessPolicyStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of McpServers that the policy governs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_count: Option<u32>,
    /// In `Audit` mode: number of calls that would have been denied since this generation is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<i64>,
    /// `Accepted` and `Programmed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::kubernetes_schema::conditions")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::ReadPolicy;

    #[derive(serde::Deserialize)]
    struct Cases {
        good: Vec<Value>,
        bad: Vec<BadSpec>,
    }

    #[derive(serde::Deserialize)]
    struct BadSpec {
        spec: Value,
        rules: String,
    }

    fn problems(spec: &Value) -> Vec<String> {
        ReadPolicy::of(&json!({"metadata": {"namespace": "n", "name": "p"}, "spec": spec})).problems
    }

    fn cases() -> Cases {
        serde_yaml::from_str(include_str!("../testdata/policy-rules.yaml")).unwrap()
    }

    #[test]
    fn good_policies_have_no_problems() {
        for spec in cases().good {
            assert_eq!(problems(&spec), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn bad_policies_are_told_what_to_do() {
        for BadSpec { spec, rules } in cases().bad {
            let problems = problems(&spec);
            assert!(problems.len() == 1 && problems[0].contains(&rules), "{spec} gives {problems:?}");
        }
    }
}
