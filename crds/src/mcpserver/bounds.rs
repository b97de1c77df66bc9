//! Timeouts, health checks and bounds of an `McpServer`, with their defaults.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Timeouts towards the server, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Seconds for each of the connection, the TLS handshake and the MCP handshake. 1 to 60.
    #[serde(default = "default_connect_seconds")]
    #[schemars(range(min = 1, max = 60))]
    pub connect_seconds: u32,
    /// Seconds for one call. A progress notification restarts the timeout, up to ten times its length in total. 1 to 3600.
    #[serde(default = "default_request_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub request_seconds: u32,
    /// Seconds before an unused connection is closed. 10 to 86400.
    #[serde(default = "default_idle_seconds")]
    #[schemars(range(min = 10, max = 86400))]
    pub idle_seconds: u32,
}

/// Health checks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Request that checks the server.
    #[serde(default)]
    pub mode: HealthMode,
    /// Seconds between two checks, varied by up to a fifth. A successful call counts as a check.
    #[serde(default = "default_interval_seconds")]
    #[schemars(range(min = 5, max = 3600))]
    pub interval_seconds: u32,
    /// Failed checks in a row after which the gateway opens a new session.
    #[serde(default = "default_unhealthy_threshold")]
    #[schemars(range(min = 1, max = 10))]
    pub unhealthy_threshold: u8,
    /// Successful checks in a row after which a degraded server is used again.
    #[serde(default = "default_healthy_threshold")]
    #[schemars(range(min = 1, max = 10))]
    pub healthy_threshold: u8,
}

/// Request of a health check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HealthMode {
    /// An MCP ping (`server/discover` where the revision has no ping).
    #[default]
    Ping,
    /// The list of tools.
    ListTools,
    /// No request: only the outcome of calls counts.
    Passive,
}

/// Bounds for concurrent calls to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerLimits {
    /// Concurrent calls from each gateway replica. Further callers wait for half of requestSeconds, then get 429.
    #[serde(default = "default_max_concurrent_requests")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_concurrent_requests: u32,
}

/// Whether clients share one session with a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SessionMode {
    /// All clients share one session.
    #[default]
    Shared,
    /// Each client has its own session.
    PerClient,
}

impl SessionMode {
    /// Whether all clients share one session.
    pub fn is_shared(&self) -> bool {
        *self == Self::Shared
    }
}

/// What clients are told of a server in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(has(self.mode) && self.mode == 'Replace') == has(self.text)")
    .message("instructions.text belongs to the mode Replace, which needs it"))]
pub struct Instructions {
    /// `Pass`: as the server says. `Omit`: nothing. `Replace`: the text below.
    #[serde(default)]
    pub mode: InstructionsMode,
    /// Text for clients, instead of the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub text: Option<String>,
}

/// Which instructions clients get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InstructionsMode {
    /// Those of the server.
    #[default]
    Pass,
    /// None.
    Omit,
    /// Another text.
    Replace,
}

impl Instructions {
    /// Whether the server's own are passed.
    pub fn are_passed(&self) -> bool {
        self.mode == InstructionsMode::Pass
    }
}

/// Bounds for the clients' own sessions, in each gateway replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientSessions {
    /// Seconds after which a session without calls is closed. 10 to 86400.
    #[serde(default = "default_client_idle_seconds")]
    #[schemars(range(min = 10, max = 86400))]
    pub idle_seconds: u32,
    /// Largest number of sessions; calls that need one more get 429. 1 to 100000.
    #[serde(default = "default_max_client_sessions")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max: u32,
    /// Largest number of sessions of one caller (the subject of its token). 1 to 100000.
    #[serde(default = "default_max_per_caller")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_per_caller: u32,
}

impl ClientSessions {
    /// Whether all bounds have their defaults.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

// The decisions in docs/decisions give the reasons for these figures.

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

impl Default for ServerLimits {
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
