//! The catalog of one caller: what everybody sees, and beside it what servers list for this caller alone.
//!
//! What everybody sees comes first: nothing that one caller is listed takes a name from it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::combined::CombinedItems;
use super::family::Family;
use super::naming::Naming;
use super::pages::{PageRow, Pages};
use super::rest_listing::write_listing;
use super::seen::Narrowed;
use super::{BadCursor, Catalog, Entry, Kind, Merged, Scope, ServerCatalog, ServerRules, ServerSummary};
use crate::auth::Identity;
use crate::server::handle::{Handle, Offer};

/// What a server lists for one caller.
#[derive(Clone)]
pub(crate) struct CallerListing {
    /// Its items.
    pub(crate) offer: Arc<Offer>,
    /// The number of items that are left out as invalid, duplicate or too many.
    pub(crate) left_out: usize,
}

/// What the lists of a server for one caller lack.
pub(crate) enum Lacking {
    /// They could not be read: why.
    All(String),
    /// So many items.
    Some(usize),
}

/// What servers list for one caller alone.
pub(super) struct CallerPart {
    merged: Arc<Merged>,
    lacking: Arc<Vec<(Arc<Handle>, Lacking)>>,
}

impl Catalog {
    /// Whether some server has lists of its own for each caller.
    pub(crate) fn has_caller_lists(&self) -> bool {
        self.merged.has_caller_lists
    }

    /// The servers of a scope that have.
    pub(crate) fn servers_per_caller(&self, scope: Scope<'_>) -> Vec<Arc<Handle>> {
        if !self.has_caller_lists() {
            return Vec::new();
        }
        self.servers_in(scope).iter().filter(|server| server.spec().listing.per_caller).cloned().collect()
    }

    /// This catalog with what these servers list for one caller, or why their lists could not be read.
    pub(crate) fn with_caller_lists(&self, lists: Vec<(Arc<Handle>, Result<CallerListing, String>)>) -> Self {
        let (mut listed, mut lacking) = (Vec::new(), Vec::new());
        for (server, list) in lists {
            match list {
                Ok(list) => {
                    if list.left_out > 0 {
                        lacking.push((server.clone(), Lacking::Some(list.left_out)));
                    }
                    listed.push((server, list.offer));
                }
                Err(why) => lacking.push((server, Lacking::All(why))),
            }
        }
        let merged = Arc::new(Merged::beside(&self.merged, listed));
        let of_caller = Some(CallerPart { merged, lacking: Arc::new(lacking) });
        Self { merged: self.merged.clone(), governed: self.governed.clone(), of_caller, views: self.views.clone() }
    }

    /// What the lists of this server for the caller lack, if they lack anything.
    pub(crate) fn lacking(&self, server: &Handle) -> Option<&Lacking> {
        let lacking = &self.of_caller.as_ref()?.lacking;
        lacking.iter().find(|(one, _)| one.key == server.key).map(|(_, lacking)| lacking)
    }

    /// Whether lists for the caller could not be read, so that what it names may be there.
    pub(crate) fn lacks_lists(&self, scope: Scope<'_>) -> bool {
        let is_lacking = |server: &Arc<Handle>| matches!(self.lacking(server), Some(Lacking::All(_)));
        self.of_caller.is_some() && self.servers_in(scope).iter().any(is_lacking)
    }

    fn part(&self) -> Option<&Arc<Merged>> {
        self.of_caller.as_ref().map(|part| &part.merged)
    }

    /// The item of this name. A tool with a shortened name is also found by its full name. Nothing is found in what a class
    /// of callers sees: see [`Catalog::find_for`].
    pub(crate) fn find(&self, kind: Kind, scope: Scope<'_>, name: &str) -> Option<Cow<'_, Arc<Entry>>> {
        let of_all = self.merged.find(kind, scope, name);
        // Owned: what is decided about it is not kept for others.
        of_all.or_else(|| Some(Cow::Owned(self.part()?.find(kind, scope, name)?.into_owned())))
    }

    /// The servers that read a resource: see [`Merged::reader`].
    pub(crate) fn reader(&self, scope: Scope<'_>, uri: &str) -> Option<Arc<Entry>> {
        let Some(part) = self.part() else { return self.merged.reader(scope, uri) };
        let listed = self.merged.listed_reader(scope, uri).or_else(|| part.listed_reader(scope, uri));
        listed.or_else(|| self.merged.reader(scope, uri)).or_else(|| part.reader(scope, uri))
    }

    /// Whether servers list this resource for everybody, or a template for it.
    pub(crate) fn lists_resource(&self, scope: Scope<'_>, uri: &str) -> bool {
        self.merged.listed_reader(scope, uri).is_some()
    }

    /// A page of a list: see [`Merged::page`].
    ///
    /// # Errors
    /// The gateway never issued this cursor.
    pub(crate) fn page(&self, kind: Kind, scope: Scope<'_>, cursor: Option<&str>) -> Result<Bytes, BadCursor> {
        let own = self.part().map(|part| part.rows(kind, scope)).unwrap_or_default();
        if own.is_empty() {
            return self.merged.page(kind, scope, cursor);
        }
        let mut rows = self.merged.rows(kind, scope);
        rows.extend(own);
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        Pages::of_class(kind, rows).page(cursor)
    }

    /// The body of `GET /tools/list`.
    pub(crate) fn listing(&self) -> Bytes {
        match self.part() {
            None => self.merged.listing(),
            Some(part) => both(self.merged.all(), part.all()),
        }
    }

    /// The body of `GET /tools/list?server=...`.
    pub(crate) fn listing_of(&self, server: &Handle) -> Bytes {
        let part = self.part().filter(|part| part.server_of(&server.key).is_some());
        part.unwrap_or(&self.merged).listing_of(server)
    }

    /// The body of `GET /tools/list?namespace=...`; `None` if no server is in that namespace.
    pub(crate) fn listing_in(&self, namespace: &str) -> Option<Bytes> {
        let scope = Scope::Namespace(namespace);
        match self.part().and_then(|part| part.combined(scope)) {
            None => self.merged.listing_in(namespace),
            Some(part) => self.merged.combined(scope).map(|of_all| both(of_all, part)),
        }
    }
}

/// The body with the tools of two views.
fn both(of_all: &CombinedItems, of_caller: &CombinedItems) -> Bytes {
    let sorted = |view: &CombinedItems| view.table(Kind::Tools).sorted().to_vec();
    let mut entries = [sorted(of_all), sorted(of_caller)].concat();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    write_listing(&entries, None, None)
}

impl CallerPart {
    /// What the caller may see of it.
    pub(super) fn narrowed(
        &self,
        rules: &Arc<ServerRules>,
        class: Arc<portcullis_access::Class>,
        identity: &Identity,
    ) -> Self {
        let merged = Arc::new(Narrowed::of(&self.merged, rules, class, identity));
        Self { merged, lacking: self.lacking.clone() }
    }
}

impl Merged {
    /// What these servers list for one caller alone, beside what everybody sees.
    fn beside(of_all: &Arc<Self>, mut lists: Vec<(Arc<Handle>, Arc<Offer>)>) -> Self {
        lists.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        let places = vec![ServerSummary { listed: true, own: true, ..ServerSummary::default() }; lists.len()];
        let families = Family::of_all(lists.iter().map(|(server, offer)| (server, offer)));
        let (servers, offers): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
        let alone = offers.into_iter().map(ServerCatalog::of).collect();
        Self {
            tenancy: of_all.tenancy,
            servers,
            places,
            alone,
            families,
            beneath: Some(of_all.clone()),
            ..Self::default()
        }
    }

    /// The view of all servers, where it is made on demand.
    pub(super) fn combined_on_demand(&self) -> CombinedItems {
        match (&self.narrowed, &self.beneath) {
            (Some(narrowed), _) => narrowed.all(),
            (None, Some(beneath)) => {
                let (range, naming) = (0..self.servers.len(), Naming::of_all(self.tenancy, &beneath.servers));
                let mut places = vec![ServerSummary::default(); range.len()];
                CombinedItems::build(self.all_servers(Some(beneath.all())), range, naming, &mut places)
            }
            (None, None) => CombinedItems::default(),
        }
    }

    /// What is listed, sorted by name.
    fn rows(&self, kind: Kind, scope: Scope<'_>) -> Vec<PageRow> {
        match scope {
            Scope::Server(server) => {
                let place = self.index_of(&server.key);
                let shown = place.map(|place| self.shown(place, kind)).unwrap_or_default();
                shown.iter().map(|item| (item.name.clone(), item.clone())).collect()
            }
            scope => self.combined(scope).map(|view| view.table(kind).rows()).unwrap_or_default(),
        }
    }

    /// A number that changes with the lists that servers of a scope show single callers.
    pub(super) fn caller_lists(&self, scope: Scope<'_>) -> u64 {
        if !self.has_caller_lists {
            return 0;
        }
        let numbers = self.servers_in(scope).iter().filter(|server| server.spec().listing.per_caller);
        numbers.map(|server| server.caller_lists()).fold(0, u64::wrapping_add)
    }
}
