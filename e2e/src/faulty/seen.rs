//! Records the traffic of a faulty server: counters, and the last requests unchanged.

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Number of kept requests.
const MAX_KEPT_REQUESTS: usize = 4096;

/// A copy of what was seen until now.
#[derive(Clone, Debug, Default)]
pub struct SeenTraffic {
    /// TCP connections accepted.
    pub connections: u64,
    /// GET streams opened.
    pub streams: u64,
    /// `initialize` requests.
    pub initializes: u64,
    /// `notifications/initialized`.
    pub initialized: u64,
    /// `server/discover` requests.
    pub discovers: u64,
    /// `tools/list` requests.
    pub lists: u64,
    /// `tools/call` requests.
    pub calls: u64,
    /// `ping` requests.
    pub pings: u64,
    /// Sessions ended by a DELETE.
    pub deleted: u64,
    /// Requests with an unknown or forgotten session.
    pub lost: u64,
    /// Requests that a modern server refused for their headers, version or `_meta`.
    pub refused: u64,
    /// Raw `requestId`s of `notifications/cancelled`.
    pub cancelled: Vec<String>,
    /// Calls whose connection the caller closed before the answer was whole.
    pub abandoned: u64,
    /// Answers of the caller to requests of the server, raw.
    pub answers: Vec<String>,
    /// Raw arguments of the last 4,096 calls that were begun: refused ones, as for a forgotten session, are not among
    /// them.
    pub begun: VecDeque<String>,
    /// The last 4,096 HTTP requests.
    pub requests: VecDeque<SeenRequest>,
}

/// One HTTP request.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// GET, POST or DELETE.
    pub http_method: String,
    /// Path and query.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The JSON-RPC method, if there is one.
    pub method: Option<String>,
    /// The raw JSON-RPC id, if there is one.
    pub id: Option<String>,
}

impl SeenTraffic {
    /// The requests with this JSON-RPC method, oldest first.
    pub fn of(&self, method: &str) -> Vec<&SeenRequest> {
        self.requests.iter().filter(|request| request.method.as_deref() == Some(method)).collect()
    }

    /// The raw ids of the requests with this JSON-RPC method, oldest first.
    pub fn ids(&self, method: &str) -> Vec<String> {
        self.of(method).into_iter().filter_map(|request| request.id.clone()).collect()
    }

    /// The raw `params.arguments` of the last call; "" when it had none.
    pub fn last_arguments(&self) -> Option<String> {
        self.of("tools/call").last().map(|request| request.param("arguments").unwrap_or_default())
    }

    pub(super) fn begin(&mut self, arguments: &str) {
        if self.begun.len() == MAX_KEPT_REQUESTS {
            self.begun.pop_front();
        }
        self.begun.push_back(arguments.to_owned());
    }

    pub(super) fn record(&mut self, request: SeenRequest) {
        let counter = match request.method.as_deref() {
            Some("initialize") => Some(&mut self.initializes),
            Some("notifications/initialized") => Some(&mut self.initialized),
            Some("server/discover") => Some(&mut self.discovers),
            Some("tools/list") => Some(&mut self.lists),
            Some("tools/call") => Some(&mut self.calls),
            Some("ping") => Some(&mut self.pings),
            _ => None,
        };
        if let Some(counter) = counter {
            *counter += 1;
        }
        if self.requests.len() == MAX_KEPT_REQUESTS {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
    }
}

impl SeenRequest {
    /// A header as text, or "" when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// A raw member of `params`.
    pub fn param(&self, name: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct SeenMessage {
            params: std::collections::HashMap<String, Box<RawValue>>,
        }
        let mut message: SeenMessage = serde_json::from_slice(&self.body).ok()?;
        message.params.remove(name).map(|raw| raw.get().to_owned())
    }
}
