//! Selects the servers and views of a slot when not all of them fit: each namespace gets its share, and crowds out only itself.
//!
//! Pure and stateless: equal servers and views give equal slots. A slot holds each in its newest form or not at all, never
//! one that was deleted, disabled or forbidden, and never one without the policies that govern it.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_crds::policy::PolicyText;
use portcullis_crds::slots::{MAX_BYTES, MAX_TEXT_BYTES, Packed, SURE_BYTES};

use crate::object_key::{ObjectKey, ObjectKind};

/// Attempts at finding the share of a namespace. Each packs the slot.
const MAX_ATTEMPTS: u32 = 8;

/// A slot that is this full, in percent, is full enough.
const FULL_PERCENT: usize = 95;

/// A server or a view in its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryText {
    /// Its text form.
    pub(crate) text: String,
    /// When its object was created, in seconds since 1970.
    pub(crate) created: i64,
    /// The policies of its namespace that govern a server, by name; none of a view.
    pub(crate) policies: BTreeMap<String, PolicyText>,
}

/// The content of a slot to be written.
#[derive(Clone, Debug)]
pub(crate) struct SlotContent {
    /// The packed servers and views.
    pub(crate) packed: Packed,
    /// The number of packed servers.
    pub(crate) servers: usize,
    /// The servers and views for which there is no room.
    pub(crate) left_out: BTreeSet<ObjectKey>,
    /// How full the slot would be with all of them; 1 is full.
    pub(crate) fill: f64,
}

/// The servers and the views of one slot.
pub(crate) type SlotTexts = BTreeMap<ObjectKey, EntryText>;

/// Whether a policy of these servers has a limit, so that the slot says how many replicas share it.
pub(crate) fn is_limited<'a>(servers: impl IntoIterator<Item = &'a EntryText>) -> bool {
    servers.into_iter().flat_map(|server| server.policies.values()).any(|policy| policy.is_limited)
}

/// Packs the servers and views that fit. `replicas` share the limits of policies.
pub(crate) fn content(all: &SlotTexts, replicas: u32) -> SlotContent {
    let wanted = bytes(all.iter());
    let mut fill = ratio(wanted, MAX_TEXT_BYTES);
    if wanted <= MAX_TEXT_BYTES {
        let packed = pack(all, &BTreeSet::new(), replicas);
        fill = fill.max(ratio(packed.len(), MAX_BYTES));
        if packed.len() <= MAX_BYTES {
            return SlotContent { packed, servers: servers_of(all, &BTreeSet::new()), left_out: BTreeSet::new(), fill };
        }
    }
    let (packed, left_out) = shared(all, replicas);
    SlotContent { packed, servers: servers_of(all, &left_out), left_out, fill }
}

/// Bytes that each namespace of a slot has for itself, regardless of the others.
pub(crate) fn share(namespaces: usize) -> usize {
    SURE_BYTES / namespaces.max(1)
}

/// Finds the largest number of bytes that every namespace may take, and what this leaves out.
fn shared(all: &SlotTexts, replicas: u32) -> (Packed, BTreeSet<ObjectKey>) {
    let namespaces = by_namespace(all);
    let taken = namespaces.values().map(|servers| bytes(servers.iter().copied()));
    let largest = taken.max().unwrap_or(0).min(MAX_TEXT_BYTES);
    // The share of each namespace always fits, so it is not tried.
    let (mut low, mut high) = (share(namespaces.len()), largest.max(share(namespaces.len())));
    let mut best = None;
    for _ in 0..MAX_ATTEMPTS {
        let level = low + (high - low) / 2;
        let left_out = beyond(&namespaces, level);
        let fitting =
            if bytes(without(all, &left_out)) > MAX_TEXT_BYTES { None } else { Some(pack(all, &left_out, replicas)) };
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
        (pack(all, &left_out, replicas), left_out)
    })
}

/// The servers and views of each namespace in the order in which they are kept: the oldest first, then the smallest.
fn by_namespace(all: &SlotTexts) -> BTreeMap<&str, Vec<(&ObjectKey, &EntryText)>> {
    let mut namespaces: BTreeMap<&str, Vec<(&ObjectKey, &EntryText)>> = BTreeMap::new();
    for (key, text) in all {
        namespaces.entry(&key.key.namespace).or_default().push((key, text));
    }
    for servers in namespaces.values_mut() {
        servers.sort_by_key(|(key, text)| (text.created, text.text.len(), *key));
    }
    namespaces
}

/// Those for which there is no room if each namespace may take `level` bytes.
fn beyond(namespaces: &BTreeMap<&str, Vec<(&ObjectKey, &EntryText)>>, level: usize) -> BTreeSet<ObjectKey> {
    let mut left_out = BTreeSet::new();
    for servers in namespaces.values() {
        let (mut taken, mut policies) = (0, BTreeSet::new());
        for (key, server) in servers {
            let of_policies = server.policies.iter().filter(|(name, _)| !policies.contains(name.as_str()));
            let more = size(&server.text) + of_policies.map(|(_, policy)| size(&policy.text)).sum::<usize>();
            if taken + more <= level {
                taken += more;
                policies.extend(server.policies.keys().map(String::as_str));
            } else {
                left_out.insert((*key).clone());
            }
        }
    }
    left_out
}

fn pack(all: &SlotTexts, left_out: &BTreeSet<ObjectKey>, replicas: u32) -> Packed {
    let policies = policies_of(without(all, left_out));
    let replicas = is_limited(without(all, left_out).map(|(_, server)| server)).then_some(replicas);
    let texts = |kind: ObjectKind| {
        without(all, left_out).filter(move |(of, _)| of.kind == kind).map(|(_, entry)| entry.text.as_str())
    };
    Packed::of_texts(texts(ObjectKind::Server), policies.into_values(), texts(ObjectKind::View), replicas)
}

fn servers_of(all: &SlotTexts, left_out: &BTreeSet<ObjectKey>) -> usize {
    without(all, left_out).filter(|(of, _)| of.kind == ObjectKind::Server).count()
}

fn without<'a>(
    all: &'a SlotTexts,
    left_out: &'a BTreeSet<ObjectKey>,
) -> impl Iterator<Item = (&'a ObjectKey, &'a EntryText)> + Clone {
    all.iter().filter(|(key, _)| !left_out.contains(key))
}

/// The policies that govern these servers, by namespace and name.
fn policies_of<'a>(
    servers: impl Iterator<Item = (&'a ObjectKey, &'a EntryText)>,
) -> BTreeMap<(&'a str, &'a str), &'a PolicyText> {
    let of = |(key, server): (&'a ObjectKey, &'a EntryText)| {
        server.policies.iter().map(|(name, policy)| ((key.key.namespace.as_str(), name.as_str()), policy))
    };
    servers.flat_map(of).collect()
}

/// Bytes of these servers and views in a slot, and of the policies that govern them.
fn bytes<'a>(servers: impl Iterator<Item = (&'a ObjectKey, &'a EntryText)> + Clone) -> usize {
    let policies = policies_of(servers.clone());
    servers.map(|(_, server)| size(&server.text)).chain(policies.values().map(|policy| size(&policy.text))).sum()
}

/// Bytes of a text in its slot, with the comma.
fn size(text: &str) -> usize {
    text.len() + 1
}

#[expect(clippy::cast_precision_loss, reason = "a metric")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use portcullis_crds::mcpview::McpViewSpec;
    use portcullis_crds::slots::MAX_ENTRY_BYTES;
    use portcullis_crds::snapshot::revision_of;
    use portcullis_crds::{PolicyRef, Server, ServerKey, View};
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

    fn put(all: &mut SlotTexts, namespace: &str, name: &str, created: i64, description: String) -> ObjectKey {
        let key = ServerKey::new(namespace, name);
        let server = Server { key: key.clone(), description: Some(description), ..Server::from_url(name, "http://a/") };
        let of = ObjectKey::server(&key);
        all.insert(of.clone(), EntryText { text: server.to_text(), created, policies: BTreeMap::new() });
        of
    }

    fn put_view(all: &mut SlotTexts, namespace: &str, name: &str, created: i64, instructions: String) -> ObjectKey {
        let key = ServerKey::new(namespace, name);
        let spec = McpViewSpec { instructions: Some(instructions), ..Default::default() };
        let text = View::new(key.clone(), spec, "home").to_text();
        all.insert(ObjectKey::view(&key), EntryText { text, created, policies: BTreeMap::new() });
        ObjectKey::view(&key)
    }

    /// Lets a policy govern a server. The text stands for what rules take.
    fn govern(server: &mut EntryText, namespace: &str, policy: &str, rules: String) {
        let text = serde_json::json!({"key": {"namespace": namespace, "name": policy}, "rest": rules}).to_string();
        let revision = revision_of(&text);
        if server.policies.contains_key(policy) {
            return;
        }
        let mut object: Server = serde_json::from_str(&server.text).unwrap();
        object.governed_by.push(PolicyRef { name: policy.to_owned(), revision: revision.clone() });
        server.text = object.to_text();
        server.policies.insert(
            policy.to_owned(),
            PolicyText { text: text.into(), revision: revision.into(), is_limited: false, names_views: false },
        );
    }

    /// Whether the slot holds every policy that its servers name, and no other.
    fn is_whole(content: &SlotContent) -> bool {
        let slot = content.packed.unpack().unwrap();
        let named: BTreeSet<ServerKey> = slot
            .servers
            .iter()
            .flat_map(|server| server.governed_by.iter().map(|of| ServerKey::new(&*server.key.namespace, &*of.name)))
            .collect();
        let policies = slot.servers.iter().flat_map(|server| server.governing().into_iter().flatten());
        let held: BTreeSet<ServerKey> = policies.map(|policy| policy.key.clone()).collect();
        slot.servers.iter().all(|server| server.governing().is_some()) && named == held
    }

    /// The servers and views that a gateway reads, in their text form.
    fn published(content: &SlotContent) -> BTreeMap<ObjectKey, String> {
        let slot = content.packed.unpack().unwrap();
        let servers = slot.servers.iter().map(|server| (ObjectKey::server(&server.key), server.to_text()));
        servers.chain(slot.views.iter().map(|view| (ObjectKey::view(&view.key), view.to_text()))).collect()
    }

    #[test]
    fn what_fits_is_written_whole_and_says_how_full_it_is() {
        let mut all = SlotTexts::new();
        put(&mut all, "a", "one", 1, "small".into());
        let small = content(&all, 1);
        assert!(small.left_out.is_empty() && small.servers == 1 && small.fill < 0.01, "{small:?}");
        for n in 0..16 {
            put(&mut all, "b", &format!("s{n}"), 1, noise(n, 60 * 1024));
        }
        let nearly = content(&all, 1);
        assert!(nearly.left_out.is_empty() && (0.7..1.0).contains(&nearly.fill), "{}", nearly.fill);
    }

    #[test]
    fn three_large_servers_of_one_namespace_keep_nobody_elses_change_from_being_written() {
        let mut all = SlotTexts::new();
        for n in 0..40 {
            put(&mut all, "mallory", &format!("m{n}"), n.into(), noise(u64::try_from(n).unwrap(), 60_000));
        }
        let victim = put(&mut all, "team-a", "pay", 99, "before".into());
        let full = content(&all, 1);
        assert!(full.fill > 1.0 && full.packed.len() <= MAX_BYTES, "{}", full.packed.len());
        assert!(full.packed.len() * 100 >= MAX_BYTES * 90, "{} bytes are used", full.packed.len());
        // Exactly the youngest of the one who takes too much.
        let left_out: Vec<&str> = full.left_out.iter().map(|of| of.key.name.as_str()).collect();
        let mut expected: Vec<String> = (40 - left_out.len()..40).map(|n| format!("m{n}")).collect();
        expected.sort();
        assert_eq!(left_out, expected);
        put(&mut all, "team-a", "pay", 99, "after".into());
        assert_eq!(published(&content(&all, 1)).get(&victim), Some(&all[&victim].text));
        all.remove(&victim);
        assert_eq!(published(&content(&all, 1)).get(&victim), None);
    }

    #[test]
    fn text_that_is_easily_compressed_takes_no_more_than_gateways_can_unpack() {
        let mut all = SlotTexts::new();
        for n in 0..100 {
            put(&mut all, "mallory", &format!("m{n}"), 1, "a".repeat(64_000));
        }
        put(&mut all, "team-a", "pay", 1, String::new());
        let content = content(&all, 1);
        let unpacked = content.packed.unpack().unwrap();
        assert!(unpacked.to_text().len() <= MAX_TEXT_BYTES + 64 && content.fill > 1.5, "{}", content.fill);
        assert_eq!(content.left_out.iter().map(|of| of.key.namespace.as_str()).max(), Some("mallory"));
    }

    #[test]
    fn a_policy_takes_its_bytes_once_and_a_server_is_never_there_without_it() {
        let mut all = SlotTexts::new();
        for n in 0..20 {
            let key = put(&mut all, "a", &format!("s{n:02}"), n, noise(u64::try_from(n).unwrap(), 40_000));
            govern(all.get_mut(&key).unwrap(), "a", if n < 10 { "one" } else { "two" }, noise(99, 60_000));
        }
        let one = content(&all, 1);
        assert!(one.left_out.is_empty() && is_whole(&one), "{:?}", one.left_out);
        // Now each has a policy of its own, and not all fit.
        for (n, (key, server)) in (100..).zip(&mut all) {
            govern(server, "a", &format!("of-{}", key.key.name), noise(n, 30_000));
        }
        let many = content(&all, 1);
        assert!(!many.left_out.is_empty() && many.servers > 9 && is_whole(&many), "{:?}", many.left_out);
    }

    #[test]
    fn a_view_takes_its_bytes_from_the_share_of_its_namespace_and_displaces_nobody_else() {
        let mut all = SlotTexts::new();
        for n in 0..40 {
            put_view(&mut all, "mallory", &format!("v{n:02}"), n.into(), noise(u64::try_from(n).unwrap(), 60_000));
        }
        let (victim, own) =
            (put(&mut all, "team-a", "pay", 99, String::new()), put_view(&mut all, "team-a", "v", 99, String::new()));
        let full = content(&all, 1);
        assert!(!full.left_out.is_empty() && full.left_out.iter().all(|of| of.key.namespace == "mallory"));
        let published = published(&full);
        assert!(published.contains_key(&victim) && published.contains_key(&own) && full.servers == 1);
    }

    #[test]
    fn of_equal_age_the_largest_is_left_out_first() {
        let mut all = SlotTexts::new();
        for n in 0..40 {
            let length = 30_000 + 700 * n;
            put(&mut all, "a", &format!("s{n:02}"), 7, noise(n, usize::try_from(length).unwrap()));
        }
        let left_out: Vec<String> = content(&all, 1).left_out.into_iter().map(|of| of.key.name).collect();
        let expected: Vec<String> = (40 - left_out.len()..40).map(|n| format!("s{n:02}")).collect();
        assert!(!left_out.is_empty() && left_out == expected, "{left_out:?}");
    }

    #[test]
    fn a_share_fits_whatever_it_holds() {
        // The worst text: all characters of four bytes.
        let text: String = (0x1_0000..0x1_4000).filter_map(char::from_u32).collect();
        let all: Vec<String> = (0..15).map(|n| text.chars().cycle().skip(n * 977).take(16_000).collect()).collect();
        let bytes: usize = all.iter().map(|text| text.len() + 1).sum();
        assert!(bytes <= SURE_BYTES && bytes > SURE_BYTES - MAX_ENTRY_BYTES, "{bytes}");
        assert!(Packed::of_texts(all.iter().map(String::as_str), [], [], None).len() <= MAX_BYTES);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn whatever_others_hold_a_namespace_within_its_share_is_written_in_its_newest_form(
            others in prop::collection::vec(("[b-e]", 0u64..40, 0i64..9, 1usize..64, any::<bool>(), any::<bool>()), 0..60),
            own in prop::collection::vec((0u64..9, 0usize..20_000), 1..9),
            deleted in 0usize..9,
            policies in prop::collection::vec(("[a-e]", 0u64..40, 0u64..3), 0..60),
        ) {
            let mut all = SlotTexts::new();
            for (namespace, n, created, kib, compressible, is_view) in others {
                let text = if compressible { "x".repeat(kib * 1000) } else { noise(n, kib * 1000) };
                let put = if is_view { put_view } else { put };
                put(&mut all, &namespace, &format!("s{n}"), created, text);
            }
            // The youngest and, among equals, the largest: nothing but the share speaks for them.
            for (n, length) in &own {
                put(&mut all, "a", &format!("s{n}"), 100, noise(*n, *length));
                put_view(&mut all, "a", &format!("v{n}"), 100, noise(*n, *length / 4));
            }
            if let Some((n, _)) = own.get(deleted) {
                all.remove(&ObjectKey::server(&ServerKey::new("a", format!("s{n}"))));
            }
            for (namespace, n, policy) in policies {
                if let Some(server) = all.get_mut(&ObjectKey::server(&ServerKey::new(&*namespace, format!("s{n}")))) {
                    govern(server, &namespace, &format!("p{policy}"), noise(policy, usize::try_from(policy).unwrap() * 20_000));
                }
            }
            let content = content(&all, 1);
            prop_assert!(content.packed.len() <= MAX_BYTES);
            prop_assert!(is_whole(&content));
            let published = published(&content);
            let namespaces = by_namespace(&all);
            for (namespace, servers) in &namespaces {
                if bytes(servers.iter().copied()) <= share(namespaces.len()) {
                    for (key, text) in servers {
                        prop_assert_eq!(published.get(*key), Some(&text.text), "{} {}", namespace, key);
                    }
                }
            }
            // Nothing but what is there, in its newest form; and what is missing is said to be.
            for (key, text) in &published {
                prop_assert_eq!(Some(text), all.get(key).map(|it| &it.text));
            }
            let missing: BTreeSet<ObjectKey> = all.keys().filter(|key| !published.contains_key(key)).cloned().collect();
            prop_assert_eq!(missing, content.left_out);
        }
    }
}
