//! Holds new servers back for a moment, so that a policy that is written next to one is never later than the server.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use portcullis_crds::{Server, ServerKey};
use tokio::time::Instant;

/// As long as the operator waits.
const HELD: Duration = Duration::from_millis(500);

/// New servers, and since when.
#[derive(Default)]
pub(super) struct Newcomers(HashMap<ServerKey, Instant>);

impl Newcomers {
    /// Takes out servers that no policy governs and that are too new. `known` were in force before.
    pub(super) fn hold(
        &mut self,
        servers: &mut BTreeMap<ServerKey, Server>,
        known: &BTreeMap<ServerKey, Server>,
        now: Instant,
    ) {
        self.0.retain(|key, _| servers.contains_key(key));
        servers.retain(|key, server| {
            if known.contains_key(key) || !server.governed_by.is_empty() {
                self.0.remove(key);
                return true;
            }
            let since = *self.0.entry(key.clone()).or_insert(now);
            let is_over = since + HELD <= now;
            if is_over {
                self.0.remove(key);
            }
            is_over
        });
    }

    /// When the next one is to be served.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().min().map(|since| *since + HELD)
    }
}
