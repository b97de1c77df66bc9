//! Detects servers that support 2026-07-28 in name only: they name the revision, but then require a session.

use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;

use super::call::{Call, CallError};
use super::message::Reply;
use super::session::Session;
use super::timing::Timing;

/// A server that does not answer in this time is believed.
const LIMIT: Duration = Duration::from_secs(2);

/// JSON-RPC codes for a missing session. Servers of 2026-07-28 have no use for them.
const NO_SESSION: [i64; 4] = [-32000, -32001, -32002, -32600];

impl Session {
    /// Sends, without a session, a request that is harmless in every revision: `ping`, which 2026-07-28 does not have.
    pub async fn wants_a_session(&self) -> bool {
        let Self::Streamable(session) = self else { return false };
        if !session.is_modern() {
            return false;
        }
        let none = HeaderMap::new();
        let ping = Call::of_our_own("ping", &[], &none);
        match session.call(&ping, &Arc::new(Timing::new(LIMIT))).await {
            Ok(Reply::Error(error)) => NO_SESSION.contains(&error.code),
            Err(CallError::SessionExpired | CallError::Refused(400)) => true,
            Ok(Reply::Result(_)) | Err(_) => false,
        }
    }
}
