//! Tracks which configuration of a server is in force: the one that all parts use, and that is reported as applied.
//!
//! Parts that read the configuration with each call adopt a change at once. The catalog and the open sessions follow a
//! moment later; until all have, the previous configuration is reported.

use std::sync::Arc;

use parking_lot::MutexGuard;
use portcullis_crds::Server;

use super::Handle;

/// The configuration that each part has adopted.
pub(super) struct InForce {
    /// The published catalog.
    catalog: Arc<Server>,
    /// The shared session.
    session: Arc<Server>,
    /// The client sessions.
    clients: Arc<Server>,
    /// The last one that all of them had, and its revision, computed on demand.
    told: (Arc<Server>, Option<String>),
}

impl InForce {
    /// For a newly configured server: no part has another configuration.
    pub(super) fn new(spec: &Arc<Server>) -> Self {
        let of = || Arc::clone(spec);
        Self { catalog: of(), session: of(), clients: of(), told: (of(), None) }
    }
}

impl Handle {
    /// Records that the catalog shows the offer under this configuration.
    pub(crate) fn note_published(&self, spec: &Arc<Server>) {
        self.note(|in_force| &mut in_force.catalog, spec);
    }

    /// Records that the session sends what this configuration says.
    pub(crate) fn note_sent(&self, spec: &Arc<Server>) {
        self.note(|in_force| &mut in_force.session, spec);
    }

    /// Records the same for the client sessions.
    pub(crate) fn note_sent_for_clients(&self, spec: &Arc<Server>) {
        self.note(|in_force| &mut in_force.clients, spec);
    }

    /// The revision of the configuration in force.
    pub(crate) fn revision(&self) -> String {
        let mut in_force = self.in_force();
        self.settle(&mut in_force);
        let (spec, revision) = &mut in_force.told;
        revision.get_or_insert_with(|| spec.revision()).clone()
    }

    fn note(&self, part: impl FnOnce(&mut InForce) -> &mut Arc<Server>, spec: &Arc<Server>) {
        let mut in_force = self.in_force();
        let part = part(&mut in_force);
        if Arc::ptr_eq(part, spec) {
            return;
        }
        part.clone_from(spec);
        self.settle(&mut in_force);
        drop(in_force);
        self.touch();
    }

    /// Records the newest configuration as in force, if no part has an older one.
    fn settle(&self, in_force: &mut InForce) {
        let spec = self.spec();
        let has = |part: &Arc<Server>| Arc::ptr_eq(part, &spec);
        let sends = self.live.load().is_none() || has(&in_force.session);
        let clients = self.clients.is_none() || has(&in_force.clients);
        if has(&in_force.catalog) && sends && clients && !has(&in_force.told.0) {
            in_force.told = (spec, None);
        }
    }

    fn in_force(&self) -> MutexGuard<'_, InForce> {
        self.in_force.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn a_changed_configuration_is_told_once_nothing_of_the_older_one_is_left() {
        let handle = Handle::new(Server::from_url("a", "http://a/mcp"), &Metrics::new());
        let (first, before) = (handle.spec(), handle.revision());
        let second = Arc::new(Server { weight: 7, ..(*first).clone() });
        handle.set_spec(second.clone());
        assert_eq!(handle.revision(), before, "the catalog was not published yet");
        handle.note_published(&second);
        assert_eq!(handle.revision(), second.revision());

        let third = Arc::new(Server { weight: 8, ..(*first).clone() });
        handle.set_spec(third.clone());
        handle.note_published(&second);
        assert_eq!(handle.revision(), second.revision(), "that was the one of before");
        handle.note_published(&third);
        assert_eq!(handle.revision(), third.revision());
    }
}
