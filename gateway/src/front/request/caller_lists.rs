//! Completes the catalog of a caller with what servers list for it alone.

use std::sync::Arc;

use crate::auth::Identity;
use crate::call::caller_lists::ListingCaller;
use crate::catalog::{Catalog, Scope};
use crate::front::request::observe::Recorder;

/// The catalog with what servers of a scope list for this caller alone; these are asked, unless they were lately. Servers of
/// which the caller may use nothing are not asked.
pub(crate) async fn completed(
    recorder: &Recorder,
    identity: &Arc<Identity>,
    catalog: &Arc<Catalog>,
    scope: Scope<'_>,
) -> Arc<Catalog> {
    let servers = catalog.seen_by(identity).servers_per_caller(scope);
    if servers.is_empty() {
        return catalog.clone();
    }
    let head = recorder.head();
    let (fields, query) = (head.fields.clone(), head.query().map(str::to_owned));
    let caller = ListingCaller { identity: identity.clone(), fields, query };
    Arc::new(catalog.with_caller_lists(recorder.app().caller_lists.of(servers, &caller).await))
}
