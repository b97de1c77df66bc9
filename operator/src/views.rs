//! Reads the McpViews that the API server has.
//!
//! Pure. The inventory knows which of them are served.

use kube::core::DynamicObject;
use portcullis_crds::ReadView;
use portcullis_crds::mcpview::McpViewStatus;

use crate::entries::{Entries, Entry};
use crate::publish::version;

/// All McpViews.
pub(crate) type ViewEntries = Entries<McpViewStatus, ()>;

/// One McpView.
pub(crate) type ViewEntry = Entry<McpViewStatus, ()>;

/// Reads an object; one with any problem is not served. `home` is the namespace whose views go by their bare names.
pub(crate) fn read(object: &DynamicObject, home: &str) -> (ReadView, ViewEntry) {
    let value = serde_json::to_value(object).unwrap_or_default();
    let read = ReadView::of(&value, home);
    let entry = ViewEntry {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: read.generation,
        version: version(&object.metadata).unwrap_or(0),
        status: serde_json::from_value(value["status"].clone()).unwrap_or_default(),
        facts: (),
        later: None,
    };
    (read, entry)
}
