//! The slots of the configuration, each with its last valid content. Pure.
//!
//! No event removes the servers of a slot, except valid content without them.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_crds::report::SlotReport;
use portcullis_crds::slots::{Packed, SlotError};
use portcullis_crds::snapshot::{SharedSnapshot, SnapshotError};
use portcullis_crds::view::SharedViews;
use portcullis_crds::{Server, View};

use super::{Slot, reuse};

/// The origin of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotOrigin {
    /// From the API server.
    Api,
    /// The mounted copy, which may be old: it never replaces content from the API server.
    Mounted,
}

/// The state of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoredSlot {
    /// There is no such ConfigMap.
    Missing,
    /// The ConfigMap has no content, as the chart creates it.
    NotWritten,
    /// The ConfigMap has this content.
    Written(Packed),
    /// The content's revision differs from the one that the operator recorded: someone else has changed it.
    Edited,
}

/// The reason a content is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotRefusal {
    /// The ConfigMap does not exist.
    Missing,
    /// The ConfigMap had content before.
    Empty,
    /// The content is unreadable.
    Corrupt,
    /// The operator did not write the content.
    Edited,
    /// A newer operator wrote the content.
    Version(u32),
}

/// A usable content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Content {
    servers: Vec<Arc<Server>>,
    views: Vec<Arc<View>>,
    replicas: Option<u32>,
    revision: String,
}

/// The effects of a new state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Possibly the servers or the views.
    pub(crate) servers: bool,
    /// The report on the slot.
    pub(crate) told: bool,
    /// A new refusal.
    pub(crate) refused: Option<SlotRefusal>,
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<WatchedSlot>,
}

#[derive(Debug)]
struct WatchedSlot {
    name: String,
    good: Option<Good>,
    refused: Option<(SlotOrigin, SlotRefusal)>,
}

#[derive(Debug)]
struct Good {
    servers: Vec<Arc<Server>>,
    views: Vec<Arc<View>>,
    replicas: Option<u32>,
    revision: String,
    origin: SlotOrigin,
    written: Option<SystemTime>,
}

/// What a slot holds already, which is not read again.
#[derive(Debug, Default)]
pub(crate) struct Known {
    servers: Vec<Arc<Server>>,
    views: Vec<Arc<View>>,
}

/// Unpacks a state; `None` if nothing was written yet.
///
/// # Errors
/// The reason it is unusable.
pub(crate) fn read(found: &StoredSlot, known: &Known) -> Result<Option<Content>, SlotRefusal> {
    match found {
        StoredSlot::Missing => Err(SlotRefusal::Missing),
        StoredSlot::NotWritten => Ok(None),
        StoredSlot::Edited => Err(SlotRefusal::Edited),
        StoredSlot::Written(packed) if packed.is_empty() => Err(SlotRefusal::Empty),
        StoredSlot::Written(packed) => match packed.unpack_after(&known.servers, &known.views) {
            Ok(SharedSnapshot { servers, views, replicas }) => {
                Ok(Some(Content { servers, views, replicas, revision: packed.revision() }))
            }
            Err(SlotError::Snapshot(SnapshotError::Version { found })) => Err(SlotRefusal::Version(found)),
            Err(_) => Err(SlotRefusal::Corrupt),
        },
    }
}

// === impl Slots ===

impl Slots {
    /// Slots of these names, in an unknown state.
    pub(crate) fn new(names: &[String]) -> Self {
        let slot = |name: &String| WatchedSlot { name: name.clone(), good: None, refused: None };
        Self { slots: names.iter().map(slot).collect() }
    }

    /// Applies a new state.
    pub(crate) fn take(
        &mut self,
        index: usize,
        origin: SlotOrigin,
        written: Option<SystemTime>,
        read: Result<Option<Content>, SlotRefusal>,
    ) -> Taken {
        let Some(slot) = self.slots.get_mut(index) else { return Taken::default() };
        match origin {
            SlotOrigin::Mounted if !slot.lacks_api() => Taken::default(),
            _ => slot.take(origin, written, read),
        }
    }

    /// What a slot holds.
    pub(crate) fn known(&self, index: usize) -> Known {
        let good = self.slots.get(index).and_then(|slot| slot.good.as_ref());
        good.map(|good| Known { servers: good.servers.clone(), views: good.views.clone() }).unwrap_or_default()
    }

    /// All servers, sorted by key; of two with one key that of the first slot. `None` until every slot has content.
    pub(crate) fn servers(&self) -> Option<Vec<Arc<Server>>> {
        let mut servers = Vec::new();
        for slot in &self.slots {
            servers.extend(slot.good.as_ref()?.servers.iter().cloned());
        }
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        servers.dedup_by(|later, earlier| later.key == earlier.key);
        Some(servers)
    }

    /// All views, sorted by key; of two with one key that of the first slot.
    pub(crate) fn views(&self) -> SharedViews {
        let good = self.slots.iter().filter_map(|slot| slot.good.as_ref());
        let mut views: Vec<Arc<View>> = good.flat_map(|good| good.views.iter().cloned()).collect();
        views.sort_by(|a, b| a.key.cmp(&b.key));
        views.dedup_by(|later, earlier| later.key == earlier.key);
        views.into()
    }

    /// The slots without content from the API server.
    pub(crate) fn without_api(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|index| self.slots[*index].lacks_api()).collect()
    }

    /// The reports on the slots.
    pub(crate) fn described(&self) -> Vec<Slot> {
        self.slots.iter().map(WatchedSlot::described).collect()
    }

    /// The problems, one sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.slots.iter().filter_map(WatchedSlot::problem).collect()
    }
}

// === impl Slot ===

impl WatchedSlot {
    fn lacks_api(&self) -> bool {
        self.good.as_ref().is_none_or(|good| good.origin != SlotOrigin::Api)
    }

    fn take(
        &mut self,
        origin: SlotOrigin,
        written: Option<SystemTime>,
        read: Result<Option<Content>, SlotRefusal>,
    ) -> Taken {
        let content = match read {
            Ok(Some(content)) => content,
            // The mounted copy of a ConfigMap that was not written yet adds nothing.
            Ok(None) if origin == SlotOrigin::Mounted => return Taken::default(),
            Ok(None) if self.good.is_none() => {
                return Taken { told: self.refused.take().is_some(), ..Taken::default() };
            }
            Ok(None) => return self.refuse(origin, SlotRefusal::Empty),
            Err(refusal) => return self.refuse(origin, refusal),
        };
        let forgotten = self.refused.is_some_and(|(from, _)| from == origin || origin == SlotOrigin::Api);
        if forgotten {
            self.refused = None;
        }
        match &mut self.good {
            Some(good) if good.revision == content.revision => {
                let moved = (good.origin, good.written) != (origin, written);
                (good.origin, good.written) = (origin, written);
                Taken { servers: false, told: moved || forgotten, refused: None }
            }
            good => {
                let before = good.take();
                let Content { servers, views, replicas, revision } = content;
                let servers = reuse(before.as_ref().map_or(&[], |good| &good.servers), servers);
                // The number of replicas changes often, and no server with it.
                let is_same = |before: Good| are_same(&before.servers, &servers) && are_same(&before.views, &views);
                let is_new = !before.is_some_and(is_same);
                *good = Some(Good { servers, views, replicas, revision, origin, written });
                Taken { servers: is_new, told: true, refused: None }
            }
        }
    }

    fn refuse(&mut self, origin: SlotOrigin, refusal: SlotRefusal) -> Taken {
        let new = self.refused.is_none_or(|(_, known)| known != refusal);
        self.refused = Some((origin, refusal));
        Taken { servers: false, told: new, refused: new.then_some(refusal) }
    }

    fn described(&self) -> Slot {
        let good = self.good.as_ref();
        Slot {
            report: SlotReport {
                name: self.name.clone(),
                revision: good.map(|good| good.revision.clone()).unwrap_or_default(),
                origin: good.map(|good| good.origin.as_str().to_owned()).unwrap_or_default(),
                problem: self.problem(),
            },
            written: good.and_then(|good| good.written),
            replicas: good.and_then(|good| good.replicas),
        }
    }

    fn problem(&self) -> Option<String> {
        let (_, refusal) = self.refused?;
        let name = &self.name;
        let stay = if self.good.is_some() { "; its servers stay as they were" } else { "" };
        Some(match refusal {
            SlotRefusal::Missing => {
                format!("ConfigMap {name} does not exist{stay}: run helm upgrade, which creates it")
            }
            SlotRefusal::Empty => format!("ConfigMap {name} is empty{stay}: start the operator, which fills it"),
            SlotRefusal::Corrupt => {
                format!("ConfigMap {name} cannot be read{stay}: start the operator, which writes it again")
            }
            SlotRefusal::Edited => format!(
                "ConfigMap {name} was changed by someone other than the operator{stay}: start the operator, which \
                 writes it again, and change the McpServer instead"
            ),
            SlotRefusal::Version(found) => format!(
                "ConfigMap {name} has version {found} and this gateway reads up to {}{stay}: update the gateway",
                portcullis_crds::snapshot::VERSION
            ),
        })
    }
}

fn are_same<T>(before: &[Arc<T>], now: &[Arc<T>]) -> bool {
    before.len() == now.len() && before.iter().zip(now).all(|(before, now)| Arc::ptr_eq(before, now))
}

impl SlotOrigin {
    /// The word for users.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Mounted => "mounted",
        }
    }
}

impl SlotRefusal {
    /// The word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Empty => "empty",
            Self::Corrupt => "corrupt",
            Self::Edited => "edited",
            Self::Version(_) => "version",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_crds::{ServerKey, Snapshot};

    fn read(found: &StoredSlot) -> Result<Option<Content>, SlotRefusal> {
        super::read(found, &Known::default())
    }

    fn written(names: &[&str]) -> StoredSlot {
        let servers = names.iter().map(|name| Server::from_url(name, &format!("http://{name}/"))).collect();
        StoredSlot::Written(Packed::pack(&Snapshot::new(servers)))
    }

    fn text(text: &str) -> StoredSlot {
        StoredSlot::Written(Packed::Text(text.into()))
    }

    fn slots() -> Slots {
        Slots::new(&["s-0".to_owned(), "s-1".to_owned()])
    }

    fn names(slots: &Slots) -> Option<Vec<String>> {
        Some(slots.servers()?.iter().map(|server| server.name.clone()).collect())
    }

    fn given(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// Every content that must not remove anything, with the word for it.
    fn bad() -> Vec<(StoredSlot, &'static str)> {
        vec![
            (StoredSlot::Missing, "missing"),
            (StoredSlot::NotWritten, "empty"),
            (text(""), "empty"),
            (StoredSlot::Written(Packed::Gzip(Vec::new())), "empty"),
            (text("{"), "corrupt"),
            (text("[]"), "corrupt"),
            (text(r#"{"version":1}"#), "corrupt"),
            (text(r#"{"version":1,"servers":[{"name":"x"}]}"#), "corrupt"),
            (StoredSlot::Written(Packed::Gzip(b"no gzip".to_vec())), "corrupt"),
            (StoredSlot::Edited, "edited"),
            (text(r#"{"version":4,"servers":[]}"#), "version"),
        ]
    }

    #[test]
    fn nothing_is_given_before_every_slot_has_a_content() {
        let mut slots = slots();
        assert_eq!(names(&slots), None);
        let taken = slots.take(0, SlotOrigin::Api, None, read(&written(&["b"])));
        assert_eq!((taken.servers, names(&slots)), (true, None));
        let taken = slots.take(1, SlotOrigin::Api, None, read(&StoredSlot::NotWritten));
        assert_eq!((taken, names(&slots), slots.problems()), (Taken::default(), None, vec![]));
        slots.take(1, SlotOrigin::Api, None, read(&written(&[])));
        assert_eq!(names(&slots), given(&["b"]), "a slot without servers is a content too");
    }

    #[test]
    fn no_bad_content_removes_anything_and_it_is_told_until_a_good_one_comes() {
        for (found, reason) in bad() {
            let mut slots = slots();
            slots.take(0, SlotOrigin::Api, None, read(&written(&["a"])));
            slots.take(1, SlotOrigin::Api, None, read(&written(&["b"])));
            let before = slots.described();

            let taken = slots.take(1, SlotOrigin::Api, None, read(&found));
            assert_eq!((taken.servers, taken.told), (false, true), "{found:?}");
            assert_eq!(taken.refused.map(SlotRefusal::as_str), Some(reason), "{found:?}");
            assert_eq!(slots.take(1, SlotOrigin::Api, None, read(&found)), Taken::default(), "{found:?}: told once");
            assert_eq!(names(&slots), given(&["a", "b"]), "{found:?}");
            let problems = slots.problems();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with("ConfigMap s-1 "), "{problems:?}");
            assert!(problems[0].contains("stay as they were: "), "{problems:?}");
            assert_eq!(slots.described()[1].report.problem.as_ref(), problems.first());

            let taken = slots.take(1, SlotOrigin::Api, None, read(&written(&["b"])));
            assert_eq!((taken.servers, taken.told), (false, true), "{found:?}: it is the content of before");
            assert_eq!((slots.described(), slots.problems()), (before, vec![]), "{found:?}");
        }
    }

    #[test]
    fn a_bad_first_content_is_told_and_gives_nothing() {
        for (found, _) in bad() {
            let mut slots = Slots::new(&["s".to_owned()]);
            slots.take(0, SlotOrigin::Api, None, read(&found));
            assert_eq!(names(&slots), None, "{found:?}");
            assert_eq!(slots.problems().is_empty(), found == StoredSlot::NotWritten, "{found:?}");
            slots.take(0, SlotOrigin::Api, None, read(&StoredSlot::NotWritten));
            assert_eq!(slots.problems().len(), 0, "{found:?}: a ConfigMap that waits for the operator is no problem");
        }
    }

    #[test]
    fn the_mounted_copy_serves_until_the_api_server_says_something_good() {
        let mut slots = Slots::new(&["s".to_owned()]);
        assert_eq!(slots.without_api(), [0]);
        slots.take(0, SlotOrigin::Mounted, None, read(&written(&["old"])));
        assert_eq!((names(&slots), slots.described()[0].report.origin.as_str()), (given(&["old"]), "mounted"));

        slots.take(0, SlotOrigin::Api, None, read(&StoredSlot::Missing));
        assert_eq!((names(&slots), slots.problems().len()), (given(&["old"]), 1));
        slots.take(0, SlotOrigin::Mounted, None, read(&written(&["less", "old"])));
        assert_eq!(names(&slots), given(&["less", "old"]));
        assert_eq!(slots.problems().len(), 1, "what the API server says is not cleared by the copy");

        slots.take(0, SlotOrigin::Api, None, read(&written(&["new"])));
        assert_eq!((names(&slots), slots.described()[0].report.origin.as_str()), (given(&["new"]), "api"));
        assert_eq!(slots.take(0, SlotOrigin::Mounted, None, read(&written(&["old"]))), Taken::default());
        assert_eq!(slots.take(0, SlotOrigin::Mounted, None, read(&text("{"))), Taken::default());
        assert_eq!((names(&slots), slots.problems(), slots.without_api()), (given(&["new"]), vec![], vec![]));
    }

    #[test]
    fn a_bad_mounted_copy_is_told_and_forgotten_when_the_copy_is_good() {
        let mut slots = Slots::new(&["s".to_owned()]);
        assert_eq!(slots.take(0, SlotOrigin::Mounted, None, read(&text("{"))).refused, Some(SlotRefusal::Corrupt));
        slots.take(0, SlotOrigin::Mounted, None, read(&written(&["a"])));
        assert_eq!((names(&slots), slots.problems()), (given(&["a"]), vec![]));
    }

    #[test]
    fn another_number_of_replicas_is_told_and_touches_no_server() {
        let mut slots = slots();
        let server = Server::from_url("a", "http://a/").to_text();
        let policy = portcullis_crds::ReadPolicy::closed(ServerKey::new("n", "p")).text;
        let with = |replicas| StoredSlot::Written(Packed::of_texts([&*server], [&policy], [], replicas));
        let told = |slots: &Slots| slots.described().iter().map(|slot| slot.replicas).collect::<Vec<_>>();
        slots.take(0, SlotOrigin::Api, None, read(&with(Some(1))));
        slots.take(1, SlotOrigin::Api, None, read(&written(&["b"])));
        let before = slots.servers().unwrap();
        let taken = slots.take(0, SlotOrigin::Api, None, read(&with(Some(3))));
        assert_eq!(taken, Taken { servers: false, told: true, refused: None });
        let after = slots.servers().unwrap();
        assert_eq!((told(&slots), before.len()), (vec![Some(3), None], after.len()));
        assert!(before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)));
        slots.take(0, SlotOrigin::Api, None, read(&StoredSlot::Missing));
        assert_eq!(told(&slots), [Some(3), None], "the last number stays");
    }

    #[test]
    fn a_server_in_two_slots_is_that_of_the_first() {
        let in_slot = |url: &str| {
            let server = Server { url: url.into(), ..Server::from_url("same", url) };
            StoredSlot::Written(Packed::pack(&Snapshot::new(vec![server])))
        };
        let mut slots = slots();
        slots.take(1, SlotOrigin::Api, None, read(&in_slot("http://second/")));
        slots.take(0, SlotOrigin::Api, None, read(&in_slot("http://first/")));
        let servers = slots.servers().unwrap();
        assert_eq!((servers.len(), servers[0].url.as_str()), (1, "http://first/"));
    }

    #[test]
    fn servers_that_did_not_change_stay_the_very_same_values() {
        let mut slots = Slots::new(&["s".to_owned()]);
        slots.take(0, SlotOrigin::Api, None, read(&written(&["a", "b", "d"])));
        let before = slots.servers().unwrap();
        slots.take(0, SlotOrigin::Api, None, read(&written(&["b", "c", "d"])));
        let after = slots.servers().unwrap();
        assert!(Arc::ptr_eq(&before[1], &after[0]) && Arc::ptr_eq(&before[2], &after[2]));
        assert_eq!(after[1].key, ServerKey::new("default", "c"));
    }
}
