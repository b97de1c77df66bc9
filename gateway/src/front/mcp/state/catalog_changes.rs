//! The catalog that open streams tell of, and how often it has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::catalog::Catalog;

/// The catalog that streams tell of: the newest, or one that is a quarter of a second old at most.
#[derive(Default)]
pub(crate) struct CatalogChanges {
    number: AtomicU64,
    catalog: ArcSwap<Catalog>,
}

impl CatalogChanges {
    /// Counts them.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// The catalog of this number, or of a later one.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// From now on this one is told of.
    pub(crate) fn take(&self, catalog: Arc<Catalog>) {
        self.catalog.store(catalog);
        self.number.fetch_add(1, Ordering::AcqRel);
    }
}
