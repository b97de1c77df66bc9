//! The `McpServer` object: the spec that people apply, and its status.
//!
//! The doc comments are the reference that `kubectl explain` shows.

mod bounds;
mod identity;
mod status;
mod tools;

use std::borrow::Cow;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use bounds::{
    ClientSessions, HealthCheck, HealthMode, Instructions, InstructionsMode, ServerLimits, SessionMode, Timeouts,
};
pub use identity::{
    Assertion, ClientAuth, ClientCredentials, ForwardCallerToken, Identity, Listing, SecretMethod, ServiceAccountToken,
    TokenExchange,
};
pub use status::{GatewayCount, McpServerStatus, ServedBy, ServerIdentity};
pub use tools::{AllowedViews, OnInvalidSchema, ToolHints, ToolOverride, ToolRules};

/// The revisions of MCP that the gateway speaks to servers.
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
        .message("metadata.name must be a DNS label: use at most 63 of a-z, 0-9 and '-', and neither begin nor end with '-'"),
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
        .message("protocolVersion 2026-07-28 does not work over transport sse: use streamable-http"),
    validation = Rule::new("!has(self.identity) || !has(self.headers) || self.headers.all(h, h.name.lowerAscii() != 'authorization')")
        .message("identity sends authorization itself: leave identity out, or the header authorization"),
    validation = Rule::new("!has(self.identity) || !has(self.forwardCallerToken) || self.forwardCallerToken.to != 'authorization'")
        .message("identity sends authorization itself: leave identity out, or set forwardCallerToken.to to another header"),
    validation = Rule::new("!has(self.forwardCallerToken) || !has(self.headers) || self.headers.all(h, h.name.lowerAscii() != self.forwardCallerToken.to)")
        .message("headers holds the header of forwardCallerToken.to: keep one of them"),
    validation = Rule::new("!has(self.listing) || !has(self.listing.perCaller) || !self.listing.perCaller || has(self.forwardCallerToken) || (has(self.identity) && (has(self.identity.assertion) || has(self.identity.exchange)))")
        .message("listing.perCaller needs identity.assertion, identity.exchange or forwardCallerToken: set one, so that the server learns who lists")
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
    /// Transport of MCP. `auto` tries streamable HTTP first, then legacy HTTP+SSE.
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
    /// Description of the server, shown in `/servers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// Share of the calls among servers of the same priority that offer the same tool. 0: only calls that name the server.
    #[serde(default = "default_weight")]
    #[schemars(range(max = 1000))]
    pub weight: u16,
    /// Servers with a lower number are called first; the next number is used when no healthy server is left.
    #[serde(default)]
    #[schemars(range(max = 9))]
    pub priority: u8,
    /// Whether the server is used.
    #[serde(default)]
    pub state: ServingState,
    /// Headers sent with every request to the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(h, self.exists_one(o, o.name.lowerAscii() == h.name.lowerAscii()))")
            .message("headers has a duplicate name (names are case-insensitive): keep one of them"),
        // Characters, because the API server refuses rules that might take long; the operator counts bytes of JSON.
        validation = Rule::new("self.map(h, 50 + size(h.name) + (has(h.prefix) ? size(h.prefix) : 0) + (has(h.value) ? size(h.value) : 0) + (has(h.secretRef) ? size(h.secretRef.name) + size(h.secretRef.key) : 0)).sum() <= 12288")
            .message("headers exceed 12 KiB in total: shorten or remove some")
    )]
    pub headers: Vec<Header>,
    /// Headers of the caller's request that the gateway forwards, in lower case. `user-agent` replaces the gateway's
    /// own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128), regex(pattern = r"^[a-z0-9!#$%&'*+.^_`|~-]+$")))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(h, !(h in ['authorization', 'cookie', 'proxy-authorization', 'host', 'accept', 'connection', 'content-length', 'content-type', 'mcp-protocol-version', 'mcp-session-id', 'te', 'transfer-encoding']))")
            .message("forwardHeaders holds a header that the gateway must not forward, such as authorization or cookie: leave it out"),
        validation = Rule::new("self.all(h, !(h.startsWith('x-') && h.endsWith('-authorization')))")
            .message("forwardHeaders holds a credential for one server, such as x-search-authorization: use forwardCallerToken")
    )]
    pub forward_headers: Vec<String>,
    /// How the server learns who calls: a token of the gateway, or one for the caller. Absent: only `headers` are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// A credential for this server that callers bring in a header of their own. Absent: none is passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_caller_token: Option<ForwardCallerToken>,
    /// How the server is listed and checked.
    #[serde(default)]
    pub listing: Listing,
    /// TLS settings, for https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Timeouts towards the server.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Health checks of the server.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// Bounds for concurrent calls.
    #[serde(default)]
    pub limits: ServerLimits,
    /// Name of a pool. Servers of one namespace in the same pool offer tools of the same name and input schema as one
    /// tool, even if the rest of their definitions differs. Absent: servers share a tool only if its whole definition
    /// and the servers' own names are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub pool: Option<String>,
    /// Whether clients share one session with the server. `PerClient`: each client has its own, for servers that keep
    /// state per session or send requests to the client (elicitation, sampling, roots).
    #[serde(default)]
    pub session: SessionMode,
    /// Bounds for the sessions of `PerClient`.
    #[serde(default)]
    pub client_sessions: ClientSessions,
    /// What clients are told of the server as its `instructions`.
    #[serde(default)]
    pub instructions: Instructions,
    /// Selects and renames the server's tools.
    #[serde(default)]
    pub tools: ToolRules,
    /// McpViews of other namespaces that may select the server.
    #[serde(default, skip_serializing_if = "AllowedViews::is_default")]
    pub allowed_views: AllowedViews,
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

/// Transport of MCP to a server.
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
pub enum ServingState {
    /// The gateway connects to the server and calls it.
    #[default]
    Enabled,
    /// Running calls finish; new calls go to other servers.
    Draining,
    /// The gateway does not connect to the server.
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
    /// Text before the value, such as `Bearer ` with its space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[^\x00-\x08\x0a-\x1f\x7f]*$"))]
    pub prefix: Option<String>,
    /// The value in plain text: everybody who can read the object can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^[^\x00-\x08\x0a-\x1f\x7f]*$"))]
    pub value: Option<String>,
    /// Key of a Secret that holds the value.
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

/// Object that holds a certificate authority.
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
    /// Certificate authorities to trust in addition to the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<CaRef>,
    /// Client certificate shown to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_ref: Option<SecretRef>,
    /// Name expected in the server's certificate, instead of the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub server_name: Option<String>,
    /// Accept any certificate. For testing only: anybody on the network path can read and change the calls.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

fn default_weight() -> u16 {
    100
}

fn default_ca_key() -> String {
    "ca.crt".into()
}
