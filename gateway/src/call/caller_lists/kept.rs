//! Keeps the lists of single callers for a minute, within bounds: for each server, and in all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use portcullis_crds::Server;
use tokio::time::Instant;

use crate::catalog::CallerListing;
use crate::offer::item::{Item, Kind};
use crate::offer::listing::ListError;

/// How long a list is kept.
const LIFE: Duration = Duration::from_secs(60);

/// How long it is remembered that a list could not be read.
const FAILURE_LIFE: Duration = Duration::from_secs(5);

/// The bounds for all lists: their number and their bytes. Those of one server take a quarter at most.
const BOUNDS: (usize, usize) = (16 * 1024, 64 * 1024 * 1024);
const SHARE: usize = 4;

/// What a kept list takes besides its items, and an item besides its texts.
const ENTRY_BYTES: usize = 512;
const ITEM_BYTES: usize = 512;

/// Identifies the lists of one caller at one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListKey {
    pub(super) server: [u8; 16],
    /// The digest of all claims of the caller's token.
    pub(super) caller: [u8; 16],
    /// The digest of all else in the request that the server is shown.
    pub(super) sent: [u8; 16],
}

/// Lists of single callers.
pub(super) struct KeptLists {
    lists: Mutex<HashMap<ListKey, KeptList>>,
    bounds: (usize, usize),
}

struct KeptList {
    outcome: Result<CallerListing, ListError>,
    /// The configuration by which it was made.
    spec: Arc<Server>,
    /// The changes that the server had announced before.
    changes: u64,
    until: Instant,
    bytes: usize,
}

impl Default for KeptLists {
    fn default() -> Self {
        Self { lists: Mutex::default(), bounds: BOUNDS }
    }
}

impl KeptLists {
    /// The list that is kept, if it is one of this configuration and no change was announced since.
    pub(super) fn get(
        &self,
        key: &ListKey,
        (spec, changes): (&Arc<Server>, u64),
        now: Instant,
    ) -> Option<Result<CallerListing, ListError>> {
        let lists = self.lists.lock();
        let kept = lists.get(key)?;
        let is_fresh = now < kept.until && kept.changes == changes && Arc::ptr_eq(&kept.spec, spec);
        is_fresh.then(|| kept.outcome.clone())
    }

    /// Keeps a list, or why there is none.
    pub(super) fn put(
        &self,
        key: ListKey,
        (spec, changes): (Arc<Server>, u64),
        outcome: &Result<CallerListing, ListError>,
        now: Instant,
    ) {
        let (life, bytes) = match outcome {
            Ok(list) => (LIFE, ENTRY_BYTES + bytes_of(list)),
            Err(_) => (FAILURE_LIFE, ENTRY_BYTES),
        };
        let (max_lists, max_bytes) = self.bounds;
        if bytes > max_bytes / SHARE {
            return;
        }
        let mut lists = self.lists.lock();
        lists.remove(&key);
        let is_full = |lists: &HashMap<ListKey, KeptList>, of: Option<&[u8; 16]>, share: usize| {
            let counted = lists.iter().filter(|(other, _)| of.is_none_or(|server| other.server == *server));
            let (count, sum) = counted.fold((0, bytes), |(count, sum), (_, one)| (count + 1, sum + one.bytes));
            count >= max_lists / share || sum > max_bytes / share
        };
        let mut dropped = Vec::new();
        let mut drop_where = |lists: &mut HashMap<ListKey, KeptList>, goes: &dyn Fn(&ListKey, &KeptList) -> bool| {
            dropped.extend(lists.extract_if(|key, one| goes(key, one)));
        };
        if is_full(&lists, Some(&key.server), SHARE) || is_full(&lists, None, 1) {
            drop_where(&mut lists, &|_, one| now >= one.until);
        }
        // Reading lists again is cheaper than keeping an order.
        if is_full(&lists, Some(&key.server), SHARE) {
            drop_where(&mut lists, &|other, _| other.server == key.server);
        }
        if is_full(&lists, None, 1) {
            drop_where(&mut lists, &|_, _| true);
        }
        lists.insert(key, KeptList { outcome: outcome.clone(), spec, changes, until: now + life, bytes });
        drop(lists);
        drop(dropped);
    }
}

fn bytes_of(list: &CallerListing) -> usize {
    let of_item = |item: &Arc<Item>| ITEM_BYTES + item.members.len() + 4 * item.own_name.len();
    Kind::ALL.iter().flat_map(|kind| list.offer.of(*kind).iter()).map(of_item).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::handle::Offer;

    fn key(server: u8, caller: u8) -> ListKey {
        ListKey { server: [server; 16], caller: [caller; 16], sent: [0; 16] }
    }

    fn list(tools: usize) -> Result<CallerListing, ListError> {
        let tools = Arc::new((0..tools).map(|at| Arc::new(Item::unlisted(&format!("t{at}")))).collect());
        Ok(CallerListing { offer: Arc::new(Offer { tools, ..Offer::default() }), left_out: 0 })
    }

    fn spec() -> Arc<Server> {
        Arc::new(Server::from_url("a", "http://a/mcp"))
    }

    #[test]
    fn a_list_is_kept_for_its_caller_until_its_time_its_configuration_or_its_server_changes() {
        let (lists, spec, now) = (KeptLists::default(), spec(), Instant::now());
        lists.put(key(1, 1), (spec.clone(), 7), &list(2), now);
        let tools = |key: ListKey, (spec, changes): (&Arc<Server>, u64), after: u64| {
            let kept = lists.get(&key, (spec, changes), now + Duration::from_secs(after));
            kept.map(|kept| kept.map(|list| list.offer.tools.len()))
        };
        assert_eq!(tools(key(1, 1), (&spec, 7), 59), Some(Ok(2)));
        let others = [
            tools(key(1, 2), (&spec, 7), 0),
            tools(key(2, 1), (&spec, 7), 0),
            tools(key(1, 1), (&spec, 8), 0),
            tools(key(1, 1), (&self::spec(), 7), 0),
            tools(key(1, 1), (&spec, 7), 60),
        ];
        assert_eq!(others, [const { None }; 5]);
        let failed = Err(ListError { kind: Kind::Tools, why: crate::offer::listing::Why::Slow });
        lists.put(key(1, 1), (spec.clone(), 7), &failed, now);
        assert_eq!(tools(key(1, 1), (&spec, 7), 4), Some(Err(failed.err().unwrap())));
        assert_eq!(tools(key(1, 1), (&spec, 7), 5), None);
    }

    #[test]
    fn lists_stay_within_their_bounds_and_a_server_takes_only_its_share() {
        let bytes = |tools: usize| ENTRY_BYTES + bytes_of(&list(tools).unwrap());
        let (spec, now) = (spec(), Instant::now());
        let lists = KeptLists { lists: Mutex::default(), bounds: (40, 40 * bytes(1)) };
        let put = |server: u8, caller: u8, tools: usize| {
            lists.put(key(server, caller), (spec.clone(), 0), &list(tools), now);
        };
        let kept = |server: u8| lists.lists.lock().keys().filter(|key| key.server == [server; 16]).count();
        put(1, 0, 1);
        for caller in 0..100 {
            put(2, caller, 1);
            assert!(kept(2) <= 10, "a quarter of 40");
        }
        assert_eq!(kept(1), 1, "what another server has stays");
        put(2, 200, 1000);
        assert!(!lists.lists.lock().contains_key(&key(2, 200)), "larger than a share");
        for server in 0..100 {
            put(server, 1, 1);
            assert!(lists.lists.lock().len() <= 40);
        }
        assert_eq!(kept(99), 1);
    }
}
