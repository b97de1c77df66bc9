//! Detects servers that lead back to this gateway, for sessions.

use http::HeaderValue;

/// Finds servers that lead back to this gateway.
pub trait LoopGuard: Send + Sync {
    /// The token that is sent with requests to servers.
    fn hop(&self) -> HeaderValue;

    /// Whether a server that reports these gateways leads back to this one.
    fn leads_back(&self, told: &HeaderValue) -> bool;
}

/// Knows of no gateway, for tests.
#[cfg(test)]
pub(crate) struct NoGateways;

#[cfg(test)]
impl LoopGuard for NoGateways {
    fn hop(&self) -> HeaderValue {
        HeaderValue::from_static("hop")
    }

    fn leads_back(&self, _: &HeaderValue) -> bool {
        false
    }
}
