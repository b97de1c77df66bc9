//! Compares two catalogs: which servers are new, gone, or have another place.

use std::sync::Arc;

use portcullis_crds::ServerKey;

use super::Merged;
use crate::server::handle::Handle;

/// The difference between two views.
#[derive(Default)]
pub(crate) struct Difference<'a> {
    /// Servers of the newer view that are new or have another place.
    pub(crate) servers: Vec<&'a Arc<Handle>>,
    /// Servers that only the older view has.
    pub(crate) gone: Vec<&'a ServerKey>,
}

impl Merged {
    pub(super) fn since<'a>(&'a self, older: &'a Self) -> Difference<'a> {
        let mut difference = Difference::default();
        let mut before = older.servers.iter().zip(&older.places).peekable();
        for (server, place) in self.servers.iter().zip(&self.places) {
            // Most servers are unchanged, and comparing names is slow.
            if let Some((_, was)) = before.next_if(|(old, _)| Arc::ptr_eq(old, server)) {
                if was != place {
                    difference.servers.push(server);
                }
                continue;
            }
            while let Some((gone, _)) = before.next_if(|(old, _)| old.key < server.key) {
                difference.gone.push(&gone.key);
            }
            let same = before.next_if(|(old, _)| old.key == server.key);
            if !same.is_some_and(|(old, was)| Arc::ptr_eq(old, server) && was == place) {
                difference.servers.push(server);
            }
        }
        difference.gone.extend(before.map(|(gone, _)| &gone.key));
        difference
    }
}
