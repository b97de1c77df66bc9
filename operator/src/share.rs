//! What of a slot's servers is written when not all of them fit: each namespace gets its share, and crowds out itself alone.
//!
//! Pure, and without a memory: equal servers give equal slots. So a server is there in its newest form or not at all; what
//! was deleted, disabled or forbidden meanwhile is never kept.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_crds::ServerKey;
use portcullis_crds::slots::{MAX_BYTES, MAX_TEXT_BYTES, Packed, SURE_BYTES};

/// Attempts at finding how much a namespace may take. Each packs the slot.
const ATTEMPTS: u32 = 8;

/// A slot that is as full as this, in percent, is full enough.
const FULL_PERCENT: usize = 95;

/// A server as it stands in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Its text form.
    pub text: String,
    /// When its McpServer was created, in seconds since 1970.
    pub created: i64,
}

/// A slot as it is to be written.
#[derive(Clone, Debug)]
pub struct Content {
    /// What is written.
    pub packed: Packed,
    /// How many servers that holds.
    pub servers: usize,
    /// Those for which there is no room.
    pub left_out: BTreeSet<ServerKey>,
    /// How full it would be with all of them: 1 is all that fits.
    pub fill: f64,
}

/// The servers of one slot.
pub type Texts = BTreeMap<ServerKey, Text>;

/// What of these servers is written.
pub fn content(all: &Texts) -> Content {
    let wanted: usize = all.values().map(size).sum();
    let mut fill = ratio(wanted, MAX_TEXT_BYTES);
    if wanted <= MAX_TEXT_BYTES {
        let packed = pack(all, &BTreeSet::new());
        fill = fill.max(ratio(packed.len(), MAX_BYTES));
        if packed.len() <= MAX_BYTES {
            return Content { packed, servers: all.len(), left_out: BTreeSet::new(), fill };
        }
    }
    let (packed, left_out) = shared(all);
    Content { packed, servers: all.len() - left_out.len(), left_out, fill }
}

/// Bytes that each namespace of a slot has for itself, however much the others want.
pub fn share(namespaces: usize) -> usize {
    SURE_BYTES / namespaces.max(1)
}

/// Finds the largest number of bytes that every namespace may take, and what is left out then.
fn shared(all: &Texts) -> (Packed, BTreeSet<ServerKey>) {
    let namespaces = by_namespace(all);
    let taken = namespaces.values().map(|servers| servers.iter().map(|(_, text)| size(text)).sum::<usize>());
    let largest = taken.max().unwrap_or(0).min(MAX_TEXT_BYTES);
    // With the share of each this fits whatever it holds, so it is not tried.
    let (mut low, mut high) = (share(namespaces.len()), largest.max(share(namespaces.len())));
    let mut best = None;
    for _ in 0..ATTEMPTS {
        let level = low + (high - low) / 2;
        let left_out = beyond(&namespaces, level);
        let fitting = if kept(all, &left_out) > MAX_TEXT_BYTES { None } else { Some(pack(all, &left_out)) };
        match fitting.filter(|packed| packed.len() <= MAX_BYTES) {
            Some(packed) => {
                let full = packed.len() * 100 >= MAX_BYTES * FULL_PERCENT;
                (low, best) = (level, Some((packed, left_out)));
                if full {
                    break;
                }
            }
            None => high = level,
        }
    }
    best.unwrap_or_else(|| {
        let left_out = beyond(&namespaces, low);
        (pack(all, &left_out), left_out)
    })
}

/// The servers of each namespace in the order in which they are kept: the oldest first, of equal age the smallest.
fn by_namespace(all: &Texts) -> BTreeMap<&str, Vec<(&ServerKey, &Text)>> {
    let mut namespaces: BTreeMap<&str, Vec<(&ServerKey, &Text)>> = BTreeMap::new();
    for (key, text) in all {
        namespaces.entry(&key.namespace).or_default().push((key, text));
    }
    for servers in namespaces.values_mut() {
        servers.sort_by_key(|(key, text)| (text.created, text.text.len(), *key));
    }
    namespaces
}

/// The servers for which there is no room when each namespace may take so many bytes.
fn beyond(namespaces: &BTreeMap<&str, Vec<(&ServerKey, &Text)>>, level: usize) -> BTreeSet<ServerKey> {
    let mut left_out = BTreeSet::new();
    for servers in namespaces.values() {
        let mut taken = 0;
        for (key, text) in servers {
            if taken + size(text) <= level {
                taken += size(text);
            } else {
                left_out.insert((*key).clone());
            }
        }
    }
    left_out
}

fn pack(all: &Texts, left_out: &BTreeSet<ServerKey>) -> Packed {
    let kept = all.iter().filter(|(key, _)| !left_out.contains(key));
    Packed::of_servers(kept.map(|(_, text)| text.text.as_str()))
}

fn kept(all: &Texts, left_out: &BTreeSet<ServerKey>) -> usize {
    all.iter().filter(|(key, _)| !left_out.contains(key)).map(|(_, text)| size(text)).sum()
}

/// Bytes of a server in its slot, with the comma.
fn size(text: &Text) -> usize {
    text.text.len() + 1
}

#[expect(clippy::cast_precision_loss, reason = "a metric")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use portcullis_crds::Server;
    use portcullis_crds::slots::MAX_ENTRY_BYTES;
    use proptest::prelude::*;

    use super::*;

    /// Letters that no compression makes shorter than three quarters.
    fn noise(seed: u64, length: usize) -> String {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(alphabet[usize::try_from(state >> 33).unwrap() % 64])
        };
        (0..length).map(|_| next()).collect()
    }

    fn put(all: &mut Texts, namespace: &str, name: &str, created: i64, description: String) -> ServerKey {
        let key = ServerKey::new(namespace, name);
        let server = Server { key: key.clone(), description: Some(description), ..Server::from_url(name, "http://a/") };
        all.insert(key.clone(), Text { text: server.to_text(), created });
        key
    }

    /// The servers that a gateway reads, in their text form.
    fn published(content: &Content) -> BTreeMap<ServerKey, String> {
        let servers = content.packed.unpack().unwrap().servers.into_iter();
        servers.map(|server| (server.key.clone(), server.to_text())).collect()
    }

    #[test]
    fn what_fits_is_written_whole_and_says_how_full_it_is() {
        let mut all = Texts::new();
        put(&mut all, "a", "one", 1, "small".into());
        let small = content(&all);
        assert!(small.left_out.is_empty() && small.servers == 1 && small.fill < 0.01, "{small:?}");
        for n in 0..16 {
            put(&mut all, "b", &format!("s{n}"), 1, noise(n, 60 * 1024));
        }
        let nearly = content(&all);
        assert!(nearly.left_out.is_empty() && (0.7..1.0).contains(&nearly.fill), "{}", nearly.fill);
    }

    #[test]
    fn three_large_servers_of_one_namespace_keep_nobody_elses_change_from_being_written() {
        let mut all = Texts::new();
        for n in 0..40 {
            put(&mut all, "mallory", &format!("m{n}"), n.into(), noise(u64::try_from(n).unwrap(), 60_000));
        }
        let victim = put(&mut all, "team-a", "pay", 99, "before".into());
        let full = content(&all);
        assert!(full.fill > 1.0 && full.packed.len() <= MAX_BYTES, "{}", full.packed.len());
        assert!(full.packed.len() * 100 >= MAX_BYTES * 90, "{} bytes are used", full.packed.len());
        // Exactly the youngest of the one who takes too much.
        let left_out: Vec<&str> = full.left_out.iter().map(|key| key.name.as_str()).collect();
        let mut expected: Vec<String> = (40 - left_out.len()..40).map(|n| format!("m{n}")).collect();
        expected.sort();
        assert_eq!(left_out, expected);
        put(&mut all, "team-a", "pay", 99, "after".into());
        assert_eq!(published(&content(&all)).get(&victim), Some(&all[&victim].text));
        all.remove(&victim);
        assert_eq!(published(&content(&all)).get(&victim), None);
    }

    #[test]
    fn text_that_is_easily_compressed_takes_no_more_than_gateways_can_unpack() {
        let mut all = Texts::new();
        for n in 0..100 {
            put(&mut all, "mallory", &format!("m{n}"), 1, "a".repeat(64_000));
        }
        put(&mut all, "team-a", "pay", 1, String::new());
        let content = content(&all);
        let unpacked = content.packed.unpack().unwrap();
        assert!(unpacked.to_text().len() <= MAX_TEXT_BYTES + 64 && content.fill > 1.5, "{}", content.fill);
        assert_eq!(content.left_out.iter().map(|key| key.namespace.as_str()).max(), Some("mallory"));
    }

    #[test]
    fn of_equal_age_the_largest_is_left_out_first() {
        let mut all = Texts::new();
        for n in 0..40 {
            let length = 30_000 + 700 * n;
            put(&mut all, "a", &format!("s{n:02}"), 7, noise(n, usize::try_from(length).unwrap()));
        }
        let left_out: Vec<String> = content(&all).left_out.into_iter().map(|key| key.name).collect();
        let expected: Vec<String> = (40 - left_out.len()..40).map(|n| format!("s{n:02}")).collect();
        assert!(!left_out.is_empty() && left_out == expected, "{left_out:?}");
    }

    #[test]
    fn a_share_fits_whatever_it_holds() {
        // The worst of texts: characters of four bytes, as many as there are.
        let text: String = (0x1_0000..0x1_4000).filter_map(char::from_u32).collect();
        let all: Vec<String> = (0..15).map(|n| text.chars().cycle().skip(n * 977).take(16_000).collect()).collect();
        let bytes: usize = all.iter().map(|text| text.len() + 1).sum();
        assert!(bytes <= SURE_BYTES && bytes > SURE_BYTES - MAX_ENTRY_BYTES, "{bytes}");
        assert!(Packed::of_servers(all.iter().map(String::as_str)).len() <= MAX_BYTES);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn whatever_others_hold_a_namespace_within_its_share_is_written_in_its_newest_form(
            others in prop::collection::vec(("[b-e]", 0u64..40, 0i64..9, 1usize..64, any::<bool>()), 0..60),
            own in prop::collection::vec((0u64..9, 0usize..20_000), 1..9),
            deleted in 0usize..9,
        ) {
            let mut all = Texts::new();
            for (namespace, n, created, kib, compressible) in others {
                let text = if compressible { "x".repeat(kib * 1000) } else { noise(n, kib * 1000) };
                put(&mut all, &namespace, &format!("s{n}"), created, text);
            }
            // The youngest and, among equals, the largest: nothing but the share speaks for them.
            for (n, length) in &own {
                put(&mut all, "a", &format!("s{n}"), 100, noise(*n, *length));
            }
            if let Some((n, _)) = own.get(deleted) {
                all.remove(&ServerKey::new("a", format!("s{n}")));
            }
            let content = content(&all);
            prop_assert!(content.packed.len() <= MAX_BYTES);
            let published = published(&content);
            let namespaces = by_namespace(&all);
            for (namespace, servers) in &namespaces {
                if servers.iter().map(|(_, text)| size(text)).sum::<usize>() <= share(namespaces.len()) {
                    for (key, text) in servers {
                        prop_assert_eq!(published.get(*key), Some(&text.text), "{} {}", namespace, key);
                    }
                }
            }
            // Nothing but what is there, in its newest form; and what is missing is said to be.
            for (key, text) in &published {
                prop_assert_eq!(Some(text), all.get(key).map(|it| &it.text));
            }
            let missing: BTreeSet<ServerKey> = all.keys().filter(|key| !published.contains_key(key)).cloned().collect();
            prop_assert_eq!(missing, content.left_out);
        }
    }
}
