//! A snapshot split into slots, each of which fits into one ConfigMap.
//!
//! Pure. A server's slot depends on its key alone, so one change rewrites one slot; servers are independent of each
//! other, so slots need no common transaction.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use aws_lc_rs::digest;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use thiserror::Error;

use crate::names::ServerKey;
use crate::policy::PolicyText;
use crate::snapshot::{Server, SharedSnapshot, Snapshot, SnapshotError, hex, text_of};
use crate::view::View;

/// Above this many bytes a slot is compressed. The limit of an object is 1 MiB (1,048,576 bytes) in etcd; readable text
/// is worth keeping as long as it fits with room to spare.
const READABLE_BYTES: usize = 700 * 1024;

/// Bytes of an object's data that the API server takes, less what metadata needs.
pub const MAX_BYTES: usize = 1000 * 1024;

/// Bytes of one server's text: what a valid McpServer takes at most, so that none takes a slot for itself.
pub const MAX_ENTRY_BYTES: usize = 64 * 1024;

/// Bytes of a slot's text, however well it can be compressed: 10,000 servers of usual length are about 4 MiB. Gateways
/// hold all of it, so it is far below what they can unpack.
pub const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;

/// A text of this size fits into a slot whatever it holds: at worst, gzip adds some bytes for each block.
pub const SURE_BYTES: usize = 960 * 1024;

/// Largest unpacked slot.
const MAX_UNPACKED_BYTES: u64 = 64 * 1024 * 1024;

/// A packed slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packed {
    /// The text of its snapshot.
    Text(String),
    /// The same, compressed with gzip.
    Gzip(Vec<u8>),
}

/// Why a slot cannot be read.
#[derive(Debug, Error)]
pub enum SlotError {
    /// The bytes are not gzip, or unpack to more than 64 MiB.
    #[error("the slot cannot be unpacked")]
    Gzip,
    /// The text is not a snapshot.
    #[error("the slot holds no snapshot")]
    Snapshot(#[from] SnapshotError),
}

/// The slot of a server, of `count`.
pub fn slot_of(key: &ServerKey, count: usize) -> usize {
    let hash = digest::digest(&digest::SHA256, key.to_string().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_ref()[..8]);
    usize::try_from(u64::from_be_bytes(first) % count.max(1) as u64).unwrap_or(0)
}

/// Splits a snapshot into `count` slots, some of which may be empty.
pub fn split(snapshot: &Snapshot, count: usize) -> Vec<Snapshot> {
    let mut slots: BTreeMap<usize, Vec<Server>> = BTreeMap::new();
    for server in &snapshot.servers {
        slots.entry(slot_of(&server.key, count)).or_default().push(server.clone());
    }
    let mut views: BTreeMap<usize, Vec<Arc<View>>> = BTreeMap::new();
    for view in &snapshot.views {
        views.entry(slot_of(&view.key, count)).or_default().push(view.clone());
    }
    let of = |slot| Snapshot {
        views: views.remove(&slot).unwrap_or_default(),
        replicas: snapshot.replicas,
        ..Snapshot::new(slots.remove(&slot).unwrap_or_default())
    };
    (0..count.max(1)).map(of).collect()
}

/// Joins slots to a snapshot.
pub fn join(slots: impl IntoIterator<Item = Snapshot>) -> Snapshot {
    let (mut replicas, mut views) = (None, Vec::new());
    let servers = slots.into_iter().flat_map(|slot| {
        replicas = replicas.max(slot.replicas);
        views.extend(slot.views);
        slot.servers
    });
    let joined = Snapshot::new(servers.collect());
    views.sort_by(|a, b| a.key.cmp(&b.key));
    Snapshot { views, replicas, ..joined }
}

impl Packed {
    /// Packs a slot: as text while that is small enough to be read by people, else compressed.
    pub fn pack(slot: &Snapshot) -> Self {
        Self::from_text(slot.to_text())
    }

    /// Packs a slot whose servers are in their text form, sorted by key: the same bytes as [`Packed::pack`].
    ///
    /// `policies` are those that govern them, `views` those of views, sorted by key; `replicas` share the limits of
    /// policies.
    pub fn of_texts<'a>(
        servers: impl IntoIterator<Item = &'a str>,
        policies: impl IntoIterator<Item = &'a PolicyText>,
        views: impl IntoIterator<Item = &'a str>,
        replicas: Option<u32>,
    ) -> Self {
        Self::from_text(text_of(servers.into_iter(), policies.into_iter(), views.into_iter(), replicas))
    }

    fn from_text(text: String) -> Self {
        if text.len() <= READABLE_BYTES {
            return Self::Text(text);
        }
        // No time stamp and one level: equal slots give equal bytes.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        let packed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
        Self::Gzip(packed.expect("writing into memory cannot fail"))
    }

    /// Unpacks the snapshot.
    ///
    /// # Errors
    /// See [`SlotError`].
    pub fn unpack(&self) -> Result<Snapshot, SlotError> {
        self.parsed(Snapshot::parse)
    }

    /// The same with shared values: see [`SharedSnapshot::parse_after`].
    ///
    /// # Errors
    /// See [`SlotError`].
    pub fn unpack_after(&self, before: &[Arc<Server>], views: &[Arc<View>]) -> Result<SharedSnapshot, SlotError> {
        self.parsed(|text| SharedSnapshot::parse_after(text, before, views))
    }

    fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, SnapshotError>) -> Result<T, SlotError> {
        match self {
            Self::Text(text) => Ok(parse(text)?),
            Self::Gzip(bytes) => {
                let mut text = String::new();
                let read = GzDecoder::new(bytes.as_slice()).take(MAX_UNPACKED_BYTES).read_to_string(&mut text);
                if read.is_err() || text.len() as u64 >= MAX_UNPACKED_BYTES {
                    return Err(SlotError::Gzip);
                }
                Ok(parse(&text)?)
            }
        }
    }

    /// Bytes of the packed slot.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Gzip(bytes) => bytes.len(),
        }
    }

    /// Whether the slot is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot's revision: SHA-256 of its packed bytes, in hexadecimal.
    pub fn revision(&self) -> String {
        let bytes = match self {
            Self::Text(text) => text.as_bytes(),
            Self::Gzip(bytes) => bytes,
        };
        hex(digest::digest(&digest::SHA256, bytes).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn servers(count: usize) -> Snapshot {
        let one = |n: usize| {
            let name = format!("server-{n}");
            Server {
                key: ServerKey::new(format!("team-{}", n % 50), name.clone()),
                description: Some(format!("What number {n} is for, in a sentence of usual length.")),
                ..Server::from_url(&name, &format!("http://{name}.team.svc.cluster.local:8080/mcp"))
            }
        };
        Snapshot::new((0..count).map(one).collect())
    }

    #[test]
    fn ten_thousand_servers_fit_into_four_slots_with_room_to_spare() {
        let slots = split(&servers(10_000), 4);
        let packed: Vec<Packed> = slots.iter().map(Packed::pack).collect();
        assert!(packed.iter().all(|slot| matches!(slot, Packed::Gzip(_)) && slot.len() < MAX_BYTES / 4));
        let unpacked = packed.iter().map(|slot| slot.unpack().unwrap());
        assert_eq!(join(unpacked), servers(10_000));
    }

    #[test]
    fn a_change_of_one_server_changes_one_slot() {
        let before = servers(100);
        let mut after = before.clone();
        after.servers[7].weight = 1;
        let revisions = |s: &Snapshot| split(s, 8).iter().map(|slot| Packed::pack(slot).revision()).collect::<Vec<_>>();
        let (before, after) = (revisions(&before), revisions(&after));
        assert_eq!(before.iter().zip(&after).filter(|(a, b)| a != b).count(), 1);
    }

    #[test]
    fn a_slot_of_texts_is_the_slot_of_their_servers() {
        for count in [0, 1, 3, 3000] {
            let snapshot = servers(count);
            let texts: Vec<String> = snapshot.servers.iter().map(Server::to_text).collect();
            assert!(
                Packed::of_texts(texts.iter().map(String::as_str), [], [], None) == Packed::pack(&snapshot),
                "{count}"
            );
        }
    }

    #[test]
    fn slots_tell_the_highest_number_of_replicas() {
        let policy = crate::ReadPolicy::closed(ServerKey::new("n", "p")).text;
        let slot = |replicas| Packed::of_texts([], [&policy], [], replicas).unpack().unwrap();
        assert_eq!(slot(Some(3)).replicas, Some(3));
        assert_eq!(join([slot(None), slot(Some(3)), slot(Some(2))]).replicas, Some(3));
        assert_eq!(join([slot(None)]).replicas, None);
        assert_eq!(split(&slot(Some(3)), 2).iter().map(|slot| slot.replicas).collect::<Vec<_>>(), [Some(3); 2]);
    }

    #[test]
    fn bytes_that_are_no_slot_are_refused() {
        assert!(matches!(Packed::Gzip(b"x".to_vec()).unpack(), Err(SlotError::Gzip)));
        assert!(matches!(Packed::Text("x".into()).unpack(), Err(SlotError::Snapshot(_))));
    }

    #[test]
    fn a_slot_that_is_deep_or_grows_without_end_is_refused_in_a_moment_and_breaks_nothing() {
        let (deep, server) = ("[".repeat(1_000_000), Server::from_url("a", "http://a/").to_text());
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        // Nothing but its length is wrong with it.
        (0..80).for_each(|_| bomb.write_all(&[b' '; 1024 * 1024]).unwrap());
        bomb.write_all(br#"{"version":1,"servers":[]}"#).unwrap();
        let within = server.replacen('{', &format!("{{\"more\":{deep},"), 1);
        for packed in [
            Packed::Text(deep.clone()),
            Packed::Text(format!(r#"{{"version":1,"servers":{deep}"#)),
            Packed::Text(format!(r#"{{"version":1,"more":{deep}"#)),
            Packed::Text(format!(r#"{{"version":1,"servers":[{within}]}}"#)),
            Packed::Gzip(bomb.finish().unwrap()),
        ] {
            let began = std::time::Instant::now();
            assert!(packed.unpack().is_err());
            assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
        }
    }

    proptest! {
        #[test]
        fn slots_joined_are_the_snapshot(count in 0usize..40, slots in 1usize..9) {
            prop_assert_eq!(join(split(&servers(count), slots)), servers(count));
        }
    }
}
