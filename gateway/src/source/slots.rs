//! The slots of the configuration, each with the last content that was good. Pure.
//!
//! Whatever happens to a slot removes none of its servers, unless it is a good content without them.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_crds::Server;
use portcullis_crds::report::SlotReport;
use portcullis_crds::slots::{Packed, SlotError};
use portcullis_crds::snapshot::SnapshotError;

use super::{Slot as Told, reuse};

/// Where a content was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the API server.
    Api,
    /// From the mounted copy, which may be old: it never replaces what the API server said.
    Mounted,
}

/// What was found of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no such ConfigMap.
    Missing,
    /// It has no content, as the chart creates it.
    NotWritten,
    /// It has this one.
    Written(Packed),
    /// It has one of another revision than the operator has noted: somebody else has changed it.
    Edited,
}

/// Why what was found is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The ConfigMap is not there.
    Missing,
    /// It had a content.
    Empty,
    /// It cannot be read.
    Corrupt,
    /// The operator did not write it.
    Edited,
    /// A newer operator wrote it.
    Version(u32),
}

/// A content that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    servers: Vec<Server>,
    revision: String,
}

/// What a finding changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The servers, maybe.
    pub servers: bool,
    /// What is told of the slot.
    pub told: bool,
    /// A refusal that is new.
    pub refused: Option<Refusal>,
}

/// All slots.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    good: Option<Good>,
    refused: Option<(Origin, Refusal)>,
}

#[derive(Debug)]
struct Good {
    servers: Vec<Arc<Server>>,
    revision: String,
    origin: Origin,
    written: Option<SystemTime>,
}

/// Unpacks what was found; none if nothing was written yet.
///
/// # Errors
/// Why it cannot be used.
pub fn read(found: &Found) -> Result<Option<Content>, Refusal> {
    match found {
        Found::Missing => Err(Refusal::Missing),
        Found::NotWritten => Ok(None),
        Found::Edited => Err(Refusal::Edited),
        Found::Written(packed) if packed.is_empty() => Err(Refusal::Empty),
        Found::Written(packed) => match packed.unpack() {
            Ok(snapshot) => Ok(Some(Content { servers: snapshot.servers, revision: packed.revision() })),
            Err(SlotError::Snapshot(SnapshotError::Version { found })) => Err(Refusal::Version(found)),
            Err(_) => Err(Refusal::Corrupt),
        },
    }
}

// === impl Slots ===

impl Slots {
    /// Slots of these names, of which nothing is known.
    pub fn new(names: &[String]) -> Self {
        let slot = |name: &String| Slot { name: name.clone(), good: None, refused: None };
        Self { slots: names.iter().map(slot).collect() }
    }

    /// Takes a finding over.
    pub fn take(
        &mut self,
        index: usize,
        origin: Origin,
        written: Option<SystemTime>,
        read: Result<Option<Content>, Refusal>,
    ) -> Taken {
        let Some(slot) = self.slots.get_mut(index) else { return Taken::default() };
        match origin {
            Origin::Mounted if !slot.lacks_api() => Taken::default(),
            _ => slot.take(origin, written, read),
        }
    }

    /// All servers, sorted by key; of two with one key that of the first slot. None until every slot has a content.
    pub fn servers(&self) -> Option<Vec<Arc<Server>>> {
        let mut servers = Vec::new();
        for slot in &self.slots {
            servers.extend(slot.good.as_ref()?.servers.iter().cloned());
        }
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        servers.dedup_by(|later, earlier| later.key == earlier.key);
        Some(servers)
    }

    /// Which slots have no content of the API server yet.
    pub fn without_api(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|index| self.slots[*index].lacks_api()).collect()
    }

    /// What is told of the slots.
    pub fn told(&self) -> Vec<Told> {
        self.slots.iter().map(Slot::told).collect()
    }

    /// What is wrong, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        self.slots.iter().filter_map(Slot::problem).collect()
    }
}

// === impl Slot ===

impl Slot {
    fn lacks_api(&self) -> bool {
        self.good.as_ref().is_none_or(|good| good.origin != Origin::Api)
    }

    fn take(&mut self, origin: Origin, written: Option<SystemTime>, read: Result<Option<Content>, Refusal>) -> Taken {
        let content = match read {
            Ok(Some(content)) => content,
            // The mounted copy of a ConfigMap that was not written yet says nothing new.
            Ok(None) if origin == Origin::Mounted => return Taken::default(),
            Ok(None) if self.good.is_none() => {
                return Taken { told: self.refused.take().is_some(), ..Taken::default() };
            }
            Ok(None) => return self.refuse(origin, Refusal::Empty),
            Err(refusal) => return self.refuse(origin, refusal),
        };
        let forgotten = self.refused.is_some_and(|(from, _)| from == origin || origin == Origin::Api);
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
                let before = good.take().map(|good| good.servers).unwrap_or_default();
                let servers = reuse(&before, content.servers);
                *good = Some(Good { servers, revision: content.revision, origin, written });
                Taken { servers: true, told: true, refused: None }
            }
        }
    }

    fn refuse(&mut self, origin: Origin, refusal: Refusal) -> Taken {
        let new = self.refused.is_none_or(|(_, known)| known != refusal);
        self.refused = Some((origin, refusal));
        Taken { servers: false, told: new, refused: new.then_some(refusal) }
    }

    fn told(&self) -> Told {
        let good = self.good.as_ref();
        Told {
            report: SlotReport {
                name: self.name.clone(),
                revision: good.map(|good| good.revision.clone()).unwrap_or_default(),
                origin: good.map(|good| good.origin.as_str().to_owned()).unwrap_or_default(),
                problem: self.problem(),
            },
            written: good.and_then(|good| good.written),
        }
    }

    fn problem(&self) -> Option<String> {
        let (_, refusal) = self.refused?;
        let name = &self.name;
        let stay = if self.good.is_some() { "; its servers stay as they were" } else { "" };
        Some(match refusal {
            Refusal::Missing => format!("ConfigMap {name} is not there{stay}: run helm upgrade, which creates it"),
            Refusal::Empty => format!("ConfigMap {name} is empty{stay}: start the operator, which fills it"),
            Refusal::Corrupt => {
                format!("ConfigMap {name} cannot be read{stay}: start the operator, which writes it anew")
            }
            Refusal::Edited => format!(
                "ConfigMap {name} was changed by somebody else than the operator{stay}: start the operator, which writes \
                 it anew, and change the McpServer instead"
            ),
            Refusal::Version(found) => format!(
                "ConfigMap {name} has version {found} and this gateway reads up to {}{stay}: update the gateway",
                portcullis_crds::snapshot::VERSION
            ),
        })
    }
}

impl Origin {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Mounted => "mounted",
        }
    }
}

impl Refusal {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
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

    fn written(names: &[&str]) -> Found {
        let servers = names.iter().map(|name| Server::from_url(name, &format!("http://{name}/"))).collect();
        Found::Written(Packed::pack(&Snapshot::new(servers)))
    }

    fn text(text: &str) -> Found {
        Found::Written(Packed::Text(text.into()))
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
    fn bad() -> Vec<(Found, &'static str)> {
        vec![
            (Found::Missing, "missing"),
            (Found::NotWritten, "empty"),
            (text(""), "empty"),
            (Found::Written(Packed::Gzip(Vec::new())), "empty"),
            (text("{"), "corrupt"),
            (text("[]"), "corrupt"),
            (text(r#"{"version":1}"#), "corrupt"),
            (text(r#"{"version":1,"servers":[{"name":"x"}]}"#), "corrupt"),
            (Found::Written(Packed::Gzip(b"no gzip".to_vec())), "corrupt"),
            (Found::Edited, "edited"),
            (text(r#"{"version":2,"servers":[]}"#), "version"),
        ]
    }

    #[test]
    fn nothing_is_given_before_every_slot_has_a_content() {
        let mut slots = slots();
        assert_eq!(names(&slots), None);
        let taken = slots.take(0, Origin::Api, None, read(&written(&["b"])));
        assert_eq!((taken.servers, names(&slots)), (true, None));
        let taken = slots.take(1, Origin::Api, None, read(&Found::NotWritten));
        assert_eq!((taken, names(&slots), slots.problems()), (Taken::default(), None, vec![]));
        slots.take(1, Origin::Api, None, read(&written(&[])));
        assert_eq!(names(&slots), given(&["b"]), "a slot without servers is a content too");
    }

    #[test]
    fn no_bad_content_removes_anything_and_it_is_told_until_a_good_one_comes() {
        for (found, reason) in bad() {
            let mut slots = slots();
            slots.take(0, Origin::Api, None, read(&written(&["a"])));
            slots.take(1, Origin::Api, None, read(&written(&["b"])));
            let before = slots.told();

            let taken = slots.take(1, Origin::Api, None, read(&found));
            assert_eq!((taken.servers, taken.told), (false, true), "{found:?}");
            assert_eq!(taken.refused.map(Refusal::as_str), Some(reason), "{found:?}");
            assert_eq!(slots.take(1, Origin::Api, None, read(&found)), Taken::default(), "{found:?}: told once");
            assert_eq!(names(&slots), given(&["a", "b"]), "{found:?}");
            let problems = slots.problems();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with("ConfigMap s-1 "), "{problems:?}");
            assert!(problems[0].contains("stay as they were: "), "{problems:?}");
            assert_eq!(slots.told()[1].report.problem.as_ref(), problems.first());

            let taken = slots.take(1, Origin::Api, None, read(&written(&["b"])));
            assert_eq!((taken.servers, taken.told), (false, true), "{found:?}: it is the content of before");
            assert_eq!((slots.told(), slots.problems()), (before, vec![]), "{found:?}");
        }
    }

    #[test]
    fn a_bad_first_content_is_told_and_gives_nothing() {
        for (found, _) in bad() {
            let mut slots = Slots::new(&["s".to_owned()]);
            slots.take(0, Origin::Api, None, read(&found));
            assert_eq!(names(&slots), None, "{found:?}");
            assert_eq!(slots.problems().is_empty(), found == Found::NotWritten, "{found:?}");
            slots.take(0, Origin::Api, None, read(&Found::NotWritten));
            assert_eq!(slots.problems().len(), 0, "{found:?}: a ConfigMap that waits for the operator is no problem");
        }
    }

    #[test]
    fn the_mounted_copy_serves_until_the_api_server_says_something_good() {
        let mut slots = Slots::new(&["s".to_owned()]);
        assert_eq!(slots.without_api(), [0]);
        slots.take(0, Origin::Mounted, None, read(&written(&["old"])));
        assert_eq!((names(&slots), slots.told()[0].report.origin.as_str()), (given(&["old"]), "mounted"));

        slots.take(0, Origin::Api, None, read(&Found::Missing));
        assert_eq!((names(&slots), slots.problems().len()), (given(&["old"]), 1));
        slots.take(0, Origin::Mounted, None, read(&written(&["less", "old"])));
        assert_eq!(names(&slots), given(&["less", "old"]));
        assert_eq!(slots.problems().len(), 1, "what the API server says is not cleared by the copy");

        slots.take(0, Origin::Api, None, read(&written(&["new"])));
        assert_eq!((names(&slots), slots.told()[0].report.origin.as_str()), (given(&["new"]), "api"));
        assert_eq!(slots.take(0, Origin::Mounted, None, read(&written(&["old"]))), Taken::default());
        assert_eq!(slots.take(0, Origin::Mounted, None, read(&text("{"))), Taken::default());
        assert_eq!((names(&slots), slots.problems(), slots.without_api()), (given(&["new"]), vec![], vec![]));
    }

    #[test]
    fn a_bad_mounted_copy_is_told_and_forgotten_when_the_copy_is_good() {
        let mut slots = Slots::new(&["s".to_owned()]);
        assert_eq!(slots.take(0, Origin::Mounted, None, read(&text("{"))).refused, Some(Refusal::Corrupt));
        slots.take(0, Origin::Mounted, None, read(&written(&["a"])));
        assert_eq!((names(&slots), slots.problems()), (given(&["a"]), vec![]));
    }

    #[test]
    fn a_server_in_two_slots_is_that_of_the_first() {
        let in_slot = |url: &str| {
            let server = Server { url: url.into(), ..Server::from_url("same", url) };
            Found::Written(Packed::pack(&Snapshot::new(vec![server])))
        };
        let mut slots = slots();
        slots.take(1, Origin::Api, None, read(&in_slot("http://second/")));
        slots.take(0, Origin::Api, None, read(&in_slot("http://first/")));
        let servers = slots.servers().unwrap();
        assert_eq!((servers.len(), servers[0].url.as_str()), (1, "http://first/"));
    }

    #[test]
    fn servers_that_did_not_change_stay_the_very_same_values() {
        let mut slots = Slots::new(&["s".to_owned()]);
        slots.take(0, Origin::Api, None, read(&written(&["a", "b", "d"])));
        let before = slots.servers().unwrap();
        slots.take(0, Origin::Api, None, read(&written(&["b", "c", "d"])));
        let after = slots.servers().unwrap();
        assert!(Arc::ptr_eq(&before[1], &after[0]) && Arc::ptr_eq(&before[2], &after[2]));
        assert_eq!(after[1].key, ServerKey::new("default", "c"));
    }
}
