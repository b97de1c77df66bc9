//! The `McpServer` object: what people `kubectl apply`, and what is said back in its status.
//!
//! The doc comments are the reference that `kubectl explain` shows.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The revisions of MCP that a server can be spoken to in.
pub const PROTOCOL_VERSIONS: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];

/// One MCP server behind the gateway: where it is, how to reach it, which of its tools to offer.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpServer",
    doc = "One MCP server behind the gateway: where it is, how to reach it, which of its tools to offer.",
    plural = "mcpservers",
    shortname = "mcpsrv",
    category = "portcullis",
    namespaced,
    status = "McpServerStatus",
    derive = "PartialEq",
    selectable = ".spec.state",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label: use at most 63 of a-z, 0-9 and '-', not '-' at an end"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".spec.state"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".status.url"}"#,
    printcolumn = r#"{"name":"Transport","type":"string","jsonPath":".status.transport"}"#,
    printcolumn = r#"{"name":"Tools","type":"integer","jsonPath":".status.toolCount"}"#,
    printcolumn = r#"{"name":"Gateways","type":"integer","jsonPath":".status.gateways.applied","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.url) != has(self.service)").message("set exactly one of url and service"),
    validation = Rule::new("!has(self.tls) || (has(self.url) ? self.url.lowerAscii().startsWith('https://') : has(self.service) && self.service.scheme == 'https')")
        .message("tls is set but the URL is not https: use https or leave tls out"),
    validation = Rule::new("self.transport != 'sse' || !has(self.protocolVersion) || self.protocolVersion < '2026-07-28'")
        .message("protocolVersion 2026-07-28 does not exist over transport sse: use streamable-http")
)]
pub struct McpServerSpec {
    /// Absolute http or https URL of the MCP endpoint, without user information and fragment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(
        validation = Rule::new("isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != ''")
            .message("url must be absolute: write http://HOST/PATH or https://HOST/PATH"),
        validation = Rule::new("!self.matches('^[A-Za-z]+://[^/?#]*@')")
            .message("url holds a user name or password: send them with headers[].secretRef instead"),
        validation = Rule::new("!self.contains('#')").message("url has a fragment (#...): leave it out")
    )]
    pub url: Option<String>,
    /// A Service of the same namespace, instead of `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceRef>,
    /// How the server speaks MCP. `auto` tries streamable HTTP first, then legacy HTTP+SSE.
    #[serde(default)]
    pub transport: Transport,
    /// Speak only this protocol version, such as `2025-11-25`. Absent: negotiate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = PROTOCOL_VERSIONS))]
    pub protocol_version: Option<String>,
    /// Name for people, shown in `/servers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub display_name: Option<String>,
    /// What the server is for, shown in `/servers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// Share of the calls among servers of one priority that share a tool. 0: only when named.
    #[serde(default = "default_weight")]
    #[schemars(range(max = 1000))]
    pub weight: u16,
    /// Lower is tried first; the next level is used when no healthy server of this one is left.
    #[serde(default)]
    #[schemars(range(max = 9))]
    pub priority: u8,
    /// Whether the server is used.
    #[serde(default)]
    pub state: State,
    /// Headers sent with every request to the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(h, self.exists_one(o, o.name.lowerAscii() == h.name.lowerAscii()))")
            .message("headers holds a name twice (upper and lower case are the same): keep one of them"),
        // Characters, because the API server refuses rules that might take long; the operator counts bytes of JSON.
        validation = Rule::new("self.map(h, 50 + size(h.name) + (has(h.prefix) ? size(h.prefix) : 0) + (has(h.value) ? size(h.value) : 0) + (has(h.secretRef) ? size(h.secretRef.name) + size(h.secretRef.key) : 0)).sum() <= 12288")
            .message("headers take more than 12 KiB together: shorten or drop some")
    )]
    pub headers: Vec<Header>,
    /// Headers of the caller's request that are passed on, in lower case. `user-agent` takes the place of the
    /// gateway's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128), regex(pattern = r"^[a-z0-9!#$%&'*+.^_`|~-]+$")))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(h, !(h in ['authorization', 'cookie', 'proxy-authorization', 'host', 'accept', 'connection', 'content-length', 'content-type', 'mcp-protocol-version', 'mcp-session-id', 'te', 'transfer-encoding']))")
            .message("forwardHeaders holds a header that must not be passed on, such as authorization or cookie: leave it out")
    )]
    pub forward_headers: Vec<String>,
    /// TLS settings, for https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How long to wait for what.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How the server's health is watched.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// How much the server is given at once.
    #[serde(default)]
    pub limits: Limits,
    /// Name of a pool: servers of one namespace that name the same one offer tools of the same name and input schema as
    /// one tool, whatever else differs. Absent: tools are one where everything shown of them is the same and the servers
    /// call themselves the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub pool: Option<String>,
    /// Whether clients share one session with the server. `PerClient`: each has its own; for servers that keep state per
    /// session, or ask the client (elicitation, sampling, roots).
    #[serde(default)]
    pub session: SessionMode,
    /// Bounds for the sessions of `PerClient`.
    #[serde(default)]
    pub client_sessions: ClientSessions,
    /// Which tools are offered, and under which names.
    #[serde(default)]
    pub tools: ToolRules,
}

/// A Service of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("type(self.port) == int || self.port.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
    .message("service.port must be a number from 1 to 65535 or the name of a port"))]
pub struct ServiceRef {
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Port of the Service: its number, or its name there.
    pub port: ServicePort,
    /// `http` or `https`.
    #[serde(default)]
    pub scheme: Scheme,
    /// Path of the MCP endpoint. Absent: `/sse` for transport `sse`, else `/mcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r#"^/[!"$-~]*$"#))]
    pub path: Option<String>,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ServicePort {
    /// By number, 1 to 65535.
    Number(u16),
    /// By name.
    Name(String),
}

impl JsonSchema for ServicePort {
    fn schema_name() -> Cow<'static, str> {
        "ServicePort".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "minimum": 1, "maximum": 65535, "maxLength": 15})
    }
}

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
}

/// How a server speaks MCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Try streamable HTTP, then legacy HTTP+SSE.
    #[default]
    Auto,
    /// Legacy HTTP+SSE (revision 2024-11-05).
    Sse,
    /// Streamable HTTP (revision 2025-03-26 and later).
    StreamableHttp,
}

/// Whether a server is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// Connected and called.
    #[default]
    Enabled,
    /// Running calls finish, new ones go elsewhere.
    Draining,
    /// Not connected.
    Disabled,
}

/// One header sent to the server: exactly one of `value` and `secretRef`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.value) != has(self.secretRef)").message("set exactly one of value and secretRef"))]
pub struct Header {
    /// Name of the header.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['accept', 'connection', 'content-length', 'content-type', 'host', 'mcp-protocol-version', 'mcp-session-id', 'te', 'transfer-encoding']) && !self.lowerAscii().startsWith('mcp-param-')")
        .message("the gateway sets this header itself: leave it out"))]
    pub name: String,
    /// Put before the value, such as `Bearer ` with its space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[^\x00-\x08\x0a-\x1f\x7f]*$"))]
    pub prefix: Option<String>,
    /// The value, for everybody to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^[^\x00-\x08\x0a-\x1f\x7f]*$"))]
    pub value: Option<String>,
    /// The value lies in a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
}

/// One key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    pub key: String,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
pub struct SecretRef {
    /// Name of the Secret, of type `kubernetes.io/tls`: keys `tls.crt` and `tls.key`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    pub name: String,
}

/// Where a certificate authority lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
pub struct CaRef {
    /// `ConfigMap` or `Secret`.
    #[serde(default)]
    pub kind: CaKind,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    pub name: String,
    /// Key that holds the PEM certificates.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    pub key: String,
}

/// The kind of object that holds a certificate authority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CaKind {
    /// A ConfigMap.
    #[default]
    ConfigMap,
    /// A Secret.
    Secret,
}

/// TLS settings towards the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Certificate authorities that are trusted besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<CaRef>,
    /// Client certificate shown to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_ref: Option<SecretRef>,
    /// Name expected in the server's certificate, instead of the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub server_name: Option<String>,
    /// Accept any certificate. For trying out only: anybody on the way can read and change the calls.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// How long to wait for what, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For the connection, the TLS handshake and the MCP handshake, each. 1 to 60.
    #[serde(default = "default_connect_seconds")]
    #[schemars(range(min = 1, max = 60))]
    pub connect_seconds: u32,
    /// For one call; progress of the tool starts it anew, up to ten times as long in all. 1 to 3600.
    #[serde(default = "default_request_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub request_seconds: u32,
    /// For an unused connection before it is closed. 10 to 86400.
    #[serde(default = "default_idle_seconds")]
    #[schemars(range(min = 10, max = 86400))]
    pub idle_seconds: u32,
}

/// How a server's health is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked.
    #[serde(default)]
    pub mode: HealthMode,
    /// How often, in seconds, give or take a fifth. A call that succeeded meanwhile counts as a check.
    #[serde(default = "default_interval_seconds")]
    #[schemars(range(min = 5, max = 3600))]
    pub interval_seconds: u32,
    /// So many failed checks in a row, and the session is opened anew.
    #[serde(default = "default_unhealthy_threshold")]
    #[schemars(range(min = 1, max = 10))]
    pub unhealthy_threshold: u8,
    /// So many good checks in a row, and a degraded server is used again.
    #[serde(default = "default_healthy_threshold")]
    #[schemars(range(min = 1, max = 10))]
    pub healthy_threshold: u8,
}

/// What a health check asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HealthMode {
    /// An MCP ping (`server/discover` where the revision has no ping).
    #[default]
    Ping,
    /// The list of tools.
    ListTools,
    /// Nothing: only calls tell.
    Passive,
}

/// How much a server is given at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Calls at the same time from each gateway replica; over it callers wait for half of requestSeconds, then get 429.
    #[serde(default = "default_max_concurrent_requests")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_concurrent_requests: u32,
}

/// Whether clients share one session with a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SessionMode {
    /// All share one.
    #[default]
    Shared,
    /// Each client has its own.
    PerClient,
}

impl SessionMode {
    /// Whether all share one.
    pub fn is_shared(&self) -> bool {
        *self == Self::Shared
    }
}

/// Bounds for sessions that clients have for themselves, in each gateway replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientSessions {
    /// A session without calls is closed after so many seconds. 10 to 86400.
    #[serde(default = "default_client_idle_seconds")]
    #[schemars(range(min = 10, max = 86400))]
    pub idle_seconds: u32,
    /// So many at most; over it, calls that need another one get 429. 1 to 100000.
    #[serde(default = "default_max_client_sessions")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max: u32,
    /// So many at most of one caller (the subject of its token). 1 to 100000.
    #[serde(default = "default_max_per_caller")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_per_caller: u32,
}

impl ClientSessions {
    /// Whether nothing was said about them.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Which tools are offered, and under which names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(has(self.include) ? self.include.map(i, 1 + size(i)).sum() : 0) + (has(self.exclude) ? self.exclude.map(e, 1 + size(e)).sum() : 0) + (has(self.overrides) ? self.overrides.map(o, 40 + size(o.name) + (has(o.rename) ? size(o.rename) : 0) + (has(o.description) ? size(o.description) : 0) + (has(o.annotations) ? 110 : 0)).sum() : 0) <= 36864")
    .message("tools take more than 36 KiB together: shorten descriptions or drop entries"))]
pub struct ToolRules {
    /// Tools are offered as `PREFIX__NAME`. Absent or empty: under their own names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{0,32}$"))]
    pub prefix: Option<String>,
    /// Only tools whose own name matches one of these; `*` stands for any characters. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub include: Vec<String>,
    /// Not the tools whose own name matches one of these. Wins over `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub exclude: Vec<String>,
    /// Changes to single tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub overrides: Vec<ToolOverride>,
}

/// A change to one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ToolOverride {
    /// The tool's own name.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Offer it under this name; the prefix still goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{1,64}$"))]
    pub rename: Option<String>,
    /// Offer it with this description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// Hints to replace; what is absent stays as the server says.
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

/// What is known of the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpServerStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The URL that is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The transport that is spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// The protocol version that is spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// Its own name and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_info: Option<ServerInfo>,
    /// How many tools are offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_count: Option<u32>,
    /// How many gateway replicas know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateways: Option<GatewayCount>,
    /// The last failure, as a short text without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The installation that this status speaks of: its operator writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_by: Option<ServedBy>,
    /// Another installation, which asks whether that one is still there. It takes over if this is not taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contender: Option<String>,
    /// `Accepted`, `ResolvedRefs`, `Programmed` and `Ready`; `Pooled` too where `spec.pool` is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Whose gateway a status speaks of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct ServedBy {
    /// Namespace and name of the release, as `NAMESPACE/NAME`.
    pub installation: String,
    /// When it ended to serve this server. Absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// What a server says of itself in the handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ServerInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
}

/// Gateway replicas, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct GatewayCount {
    /// Those that have applied the newest generation.
    pub applied: u32,
    /// Those whose tools can be called.
    pub ready: u32,
    /// All that take traffic.
    pub total: u32,
}

// === defaults: research figures are in docs/decisions; each is also in the generated CRD ===

fn default_weight() -> u16 {
    100
}
fn default_ca_key() -> String {
    "ca.crt".into()
}
fn default_connect_seconds() -> u32 {
    5
}
fn default_request_seconds() -> u32 {
    60
}
fn default_idle_seconds() -> u32 {
    300
}
fn default_interval_seconds() -> u32 {
    15
}
fn default_unhealthy_threshold() -> u8 {
    3
}
fn default_healthy_threshold() -> u8 {
    1
}
fn default_max_concurrent_requests() -> u32 {
    64
}
fn default_client_idle_seconds() -> u32 {
    600
}
fn default_max_client_sessions() -> u32 {
    1000
}
fn default_max_per_caller() -> u32 {
    100
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_seconds: default_connect_seconds(),
            request_seconds: default_request_seconds(),
            idle_seconds: default_idle_seconds(),
        }
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            mode: HealthMode::default(),
            interval_seconds: default_interval_seconds(),
            unhealthy_threshold: default_unhealthy_threshold(),
            healthy_threshold: default_healthy_threshold(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_concurrent_requests: default_max_concurrent_requests() }
    }
}

impl Default for ClientSessions {
    fn default() -> Self {
        Self {
            idle_seconds: default_client_idle_seconds(),
            max: default_max_client_sessions(),
            max_per_caller: default_max_per_caller(),
        }
    }
}
