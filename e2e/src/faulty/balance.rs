//! Simulates a firewall, a compressing proxy, or a balancer with two replicas before a server.

use http::{HeaderValue, Request, Response};

use super::fault::{Behaviour, Coding};
use super::pipe::{Payload, whole};
use super::service::{header, respond};
use super::state::FaultyState;

/// The replica that a request is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BalancedReplica(pub(super) u64);

/// The replica that a balancer chooses for a request.
pub(super) fn replica(state: &FaultyState, request: &Request<()>) -> BalancedReplica {
    let cookies = header(request, "cookie").split(';').filter_map(|pair| pair.trim().split_once('='));
    let named = cookies.filter(|(name, _)| *name == "replica").find_map(|(_, number)| number.parse().ok());
    BalancedReplica(named.unwrap_or_else(|| state.number() % 2))
}

/// The session that a request is of.
pub(super) fn session(request: &Request<()>) -> &str {
    let query = request.uri().query().unwrap_or_default();
    let legacy = query.split('&').find_map(|pair| pair.strip_prefix("sessionId="));
    legacy.unwrap_or_else(|| header(request, "mcp-session-id"))
}

/// The page of a firewall.
pub(super) fn forbidden() -> Response<Payload> {
    respond(403, &[("content-type", "text/html")], whole("<html><body>Forbidden</body></html>"))
}

/// The answer as the client receives it.
pub(super) fn passed(behaviour: &Behaviour, request: &Request<()>, mut answer: Response<Payload>) -> Response<Payload> {
    let headers = answer.headers_mut();
    if let Some(BalancedReplica(number)) = request.extensions().get() {
        let cookie = format!("replica={number}; Path=/; HttpOnly");
        headers.insert("set-cookie", HeaderValue::from_str(&cookie).expect("letters and digits"));
    }
    let accepts = header(request, "accept-encoding");
    if behaviour.coding == Coding::Always || (behaviour.coding == Coding::UnlessRuledOut && accepts != "identity") {
        headers.insert("content-encoding", HeaderValue::from_static("gzip"));
    }
    answer
}
