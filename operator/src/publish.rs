//! Writes the ConfigMaps of the slots whenever their content differs from the wanted one.
//!
//! A single change is written at once; a flood of changes is gathered into few writes.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use portcullis_crds::names::{
    REVISION_ANNOTATION, SLOT_GZIP_KEY, SLOT_REVISION_KEY, SLOT_TEXT_KEY, WRITTEN_ANNOTATION,
};
use portcullis_crds::slots::Packed;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::bucket::Bucket;
use crate::config::OperatorConfig;
use crate::inventory::Inventory;
use crate::metrics::OperatorMetrics;
use crate::object_key::ObjectKey;
use crate::share::SlotContent;
use crate::watch::{Listing, ListingStep};

/// The field manager of everything that the operator applies.
pub(crate) const FIELD_MANAGER: &str = "portcullis-operator";

/// The field manager of the chart's own objects.
const INSTALLER_MANAGER: &str = "helm";

/// Bound for one request to the API server.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Writes of one slot in a burst and per second.
const WRITE_RATE: (u32, u32) = (30, 3);

/// Changes within this time share a write.
const GATHER_DELAY: Duration = Duration::from_millis(2);

/// Time between two writes of a slot.
const WRITE_SPACING: Duration = Duration::from_millis(20);

/// The same as a multiple of the time that packing takes: a large slot is written less often.
const WRITE_SPACING_FACTOR: u32 = 10;

/// Left-out servers whose namespaces one log line names.
const MAX_NAMED_SERVERS: usize = 100;

/// Longest delay after failures.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The slots, and their writes under way.
pub(crate) struct SlotPublisher {
    api: Api<ConfigMap>,
    slots: Vec<PublishedSlot>,
    /// Labels and annotations that the installer gives the ConfigMaps.
    metadata: ObjectMeta,
    writes: JoinSet<SlotWrite>,
    metrics: OperatorMetrics,
}

struct PublishedSlot {
    name: String,
    listing: Listing<()>,
    /// The wanted content; none until it was packed for the first time.
    wanted: Option<WantedSlot>,
    /// Whether the servers have changed since `wanted` was packed.
    stale: bool,
    /// When the first unwritten change came.
    changed_at: Option<Instant>,
    /// Whether the ConfigMap exists.
    exists: bool,
    /// The present content.
    there: ObservedSlot,
    /// Its `metadata.resourceVersion`.
    version: u64,
    writing: bool,
    not_before: Instant,
    failures: u32,
    bucket: Bucket,
    /// Servers for which the slot has no room.
    left_out: BTreeSet<ObjectKey>,
}

struct WantedSlot {
    packed: Packed,
    revision: String,
    servers: usize,
    took: Duration,
}

/// The revisions of a ConfigMap: of its content, in its annotation, and in its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ObservedSlot {
    content: Option<String>,
    claimed: Option<String>,
    kept: Option<String>,
}

/// The end of a write.
pub(crate) struct SlotWrite {
    index: usize,
    began: Instant,
    changed_at: Option<Instant>,
    outcome: Result<ConfigMap, String>,
}

impl SlotPublisher {
    /// Slots of these names, in an unknown state.
    pub(crate) fn new(client: &Client, namespace: &str, config: &OperatorConfig, metrics: OperatorMetrics) -> Self {
        let now = Instant::now();
        let slot = |name: &String| PublishedSlot {
            name: name.clone(),
            listing: Listing::default(),
            wanted: None,
            stale: true,
            changed_at: None,
            exists: false,
            there: ObservedSlot::default(),
            version: 0,
            writing: false,
            not_before: now,
            failures: 0,
            bucket: Bucket::new(WRITE_RATE.0, WRITE_RATE.1, now),
            left_out: BTreeSet::new(),
        };
        Self {
            api: Api::namespaced(client.clone(), namespace),
            slots: config.slots.iter().map(slot).collect(),
            metadata: ObjectMeta {
                labels: Some(config.slot_metadata.labels.clone()),
                annotations: Some(config.slot_metadata.annotations.clone()),
                ..ObjectMeta::default()
            },
            writes: JoinSet::new(),
            metrics,
        }
    }

    /// Notes that the servers of a slot have changed.
    pub(crate) fn changed(&mut self, index: usize, now: Instant) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.stale = true;
        // Counted from the first change: endless changes must not delay the write endlessly.
        let first = *slot.changed_at.get_or_insert(now);
        slot.not_before = slot.not_before.max(first + GATHER_DELAY);
    }

    /// Takes an event of the watch of a slot's ConfigMap.
    pub(crate) fn seen(&mut self, index: usize, event: Event<ConfigMap>) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        match slot.listing.step(event, |_| ()) {
            // The event of a write may arrive after its answer, and earlier events later still.
            ListingStep::Put(object) if is_older(&object.metadata, slot.version) => {}
            ListingStep::Put(object) => slot.take(&object),
            ListingStep::Gone(gone) if !gone.is_empty() => (slot.exists, slot.there) = (false, ObservedSlot::default()),
            ListingStep::Gone(_) | ListingStep::Wait => {}
        }
    }

    /// Whether every ConfigMap was listed.
    pub(crate) fn is_complete(&self) -> bool {
        self.slots.iter().all(|slot| slot.listing.is_complete())
    }

    /// Whether a slot has no room for this server or view.
    pub(crate) fn is_left_out(&self, index: usize, key: &ObjectKey) -> bool {
        self.slots.get(index).is_some_and(|slot| slot.left_out.contains(key))
    }

    /// When the next write is due.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Instant> {
        let waiting = self.slots.iter_mut().filter(|slot| slot.is_pending());
        waiting.map(|slot| slot.not_before.max(slot.bucket.next(now))).min()
    }

    /// Starts the writes that are due. Returns the servers and views that are newly left out, or no longer.
    pub(crate) fn write_due(&mut self, inventory: &Inventory, now: Instant) -> Vec<ObjectKey> {
        let mut changed = Vec::new();
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if !slot.is_pending() || slot.not_before > now {
                continue;
            }
            changed.extend(slot.make(index, inventory, &self.metrics));
            if slot.differs() && slot.bucket.take(now) {
                self.start(index, now);
            }
        }
        changed
    }

    fn start(&mut self, index: usize, now: Instant) {
        let slot = &mut self.slots[index];
        let Some(wanted) = &slot.wanted else { return };
        slot.writing = true;
        let (api, object, changed_at) = (self.api.clone(), wanted.object(&slot.name), slot.changed_at.take());
        let made_anew = (!slot.exists).then(|| ConfigMap {
            metadata: ObjectMeta { name: Some(slot.name.clone()), ..self.metadata.clone() },
            ..ConfigMap::default()
        });
        self.writes.spawn(async move {
            let writing = timeout(REQUEST_LIMIT, write(&api, made_anew.as_ref(), &object));
            let outcome = match writing.await {
                Ok(Ok(object)) => Ok(object),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the API server did not answer in time".to_owned()),
            };
            SlotWrite { index, began: now, changed_at, outcome }
        });
    }

    /// Waits for the end of a write; forever while there is none.
    pub(crate) async fn finished(&mut self) -> SlotWrite {
        loop {
            match self.writes.join_next().await {
                Some(Ok(written)) => return written,
                // The slot would never be written again: the process ends and restarts.
                Some(Err(error)) => resume_unwind(error.into_panic()),
                None => std::future::pending().await,
            }
        }
    }

    /// Notes the end of a write.
    pub(crate) fn note(&mut self, written: SlotWrite, now: Instant) {
        let SlotWrite { index, began, changed_at, outcome } = written;
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.writing = false;
        let took = slot.wanted.as_ref().map_or(Duration::ZERO, |wanted| wanted.took);
        let word = if outcome.is_ok() { "ok" } else { "error" };
        self.metrics.slot_writes.with_label_values(&[word]).inc();
        match outcome {
            Ok(object) => {
                if let Some(wanted) = &slot.wanted {
                    let milliseconds = (now - began).as_secs_f64() * 1000.0;
                    info!(
                        configmap = slot.name,
                        servers = wanted.servers,
                        bytes = wanted.packed.len(),
                        milliseconds,
                        "ConfigMap written"
                    );
                }
                if let Some(changed_at) = changed_at {
                    self.metrics.publish.observe((now - changed_at).as_secs_f64());
                }
                slot.failures = 0;
                // The answer may arrive after the event of a later edit.
                if !is_older(&object.metadata, slot.version) {
                    slot.take(&object);
                }
                slot.not_before = now + WRITE_SPACING.max(took * WRITE_SPACING_FACTOR).min(Duration::from_secs(1));
            }
            Err(problem) => {
                slot.failures = slot.failures.saturating_add(1);
                let pause = Duration::from_millis(100) * 2u32.pow(slot.failures.min(10));
                slot.not_before = now + pause.min(MAX_RETRY_DELAY);
                slot.changed_at = slot.changed_at.or(changed_at);
                warn!(configmap = slot.name, problem, "cannot write the ConfigMap");
            }
        }
    }

    /// Lets writes under way finish.
    pub(crate) async fn drain(mut self) {
        while self.writes.join_next().await.is_some() {}
    }
}

/// Applies a ConfigMap, and removes the other key, which applying keeps if another manager has set it.
///
/// A missing ConfigMap is first created in the installer's name, so that it stays part of the release.
async fn write(api: &Api<ConfigMap>, made_anew: Option<&ConfigMap>, object: &ConfigMap) -> kube::Result<ConfigMap> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if let Some(empty) = made_anew {
        api.patch(name, &PatchParams::apply(INSTALLER_MANAGER).force(), &Patch::Apply(empty)).await?;
    }
    let applied = api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(object)).await?;
    let strays = |key| has(&applied.data, key) && !has(&object.data, key);
    let stray = if has(&applied.binary_data, SLOT_GZIP_KEY) && !has(&object.binary_data, SLOT_GZIP_KEY) {
        json!({"binaryData": {SLOT_GZIP_KEY: null}})
    } else if strays(SLOT_TEXT_KEY) {
        json!({"data": {SLOT_TEXT_KEY: null}})
    } else {
        return Ok(applied);
    };
    let manager = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch(name, &manager, &Patch::Merge(&stray)).await
}

fn has<T>(members: &Option<BTreeMap<String, T>>, key: &str) -> bool {
    members.as_ref().is_some_and(|members| members.contains_key(key))
}

/// The number of replicas that a slot tells, whoever wrote it.
pub(crate) fn replicas_in(event: &Event<ConfigMap>) -> Option<u32> {
    match event {
        Event::Apply(object) | Event::InitApply(object) => packed_in(object)?.unpack().ok()?.replicas,
        Event::Delete(_) | Event::Init | Event::InitDone => None,
    }
}

/// The content of a slot; with both keys, it is ambiguous.
fn packed_in(object: &ConfigMap) -> Option<Packed> {
    let text = object.data.as_ref().and_then(|data| data.get(SLOT_TEXT_KEY));
    let gzip = object.binary_data.as_ref().and_then(|data| data.get(SLOT_GZIP_KEY));
    match (text, gzip) {
        (Some(text), None) => Some(Packed::Text(text.clone())),
        (None, Some(bytes)) => Some(Packed::Gzip(bytes.0.clone())),
        _ => None,
    }
}

/// Resource versions grow, and may be compared since Kubernetes 1.35; a version that is not a number is never older.
pub(crate) fn is_older(metadata: &ObjectMeta, than: u64) -> bool {
    version(metadata).is_some_and(|version| version < than)
}

/// `metadata.resourceVersion` as a number.
pub(crate) fn version(metadata: &ObjectMeta) -> Option<u64> {
    metadata.resource_version.as_ref()?.parse().ok()
}

impl PublishedSlot {
    fn take(&mut self, object: &ConfigMap) {
        (self.exists, self.there) = (true, ObservedSlot::of(object));
        self.version = version(&object.metadata).unwrap_or(0);
    }

    fn is_pending(&self) -> bool {
        !self.writing && (self.stale || self.differs())
    }

    fn differs(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| !self.there.is(&wanted.revision))
    }

    /// Packs the wanted content if the servers have changed. Returns those that are newly left out, or no longer.
    fn make(&mut self, index: usize, inventory: &Inventory, metrics: &OperatorMetrics) -> Vec<ObjectKey> {
        if !std::mem::take(&mut self.stale) {
            return Vec::new();
        }
        let began = Instant::now();
        let SlotContent { packed, servers, left_out, fill } = inventory.slot(index);
        let slot = [self.name.as_str()];
        metrics.slot_bytes.with_label_values(&slot).set(i64::try_from(packed.len()).unwrap_or(i64::MAX));
        metrics.slot_fill.with_label_values(&slot).set(fill);
        metrics.left_out.with_label_values(&slot).set(i64::try_from(left_out.len()).unwrap_or(i64::MAX));
        let changed: Vec<ObjectKey> = self.left_out.symmetric_difference(&left_out).cloned().collect();
        if left_out.len() > self.left_out.len() {
            let namespaces: BTreeSet<&str> =
                left_out.iter().map(|of| of.key.namespace.as_str()).take(MAX_NAMED_SERVERS).collect();
            warn!(
                configmap = self.name,
                left_out = left_out.len(),
                ?namespaces,
                "these namespaces exceed their share of a ConfigMap, so some of their servers or views are left out: shorten or remove some, or raise snapshot.slots"
            );
        }
        let revision = packed.revision();
        self.wanted = Some(WantedSlot { packed, revision, servers, took: began.elapsed() });
        self.left_out = left_out;
        if !self.differs() {
            self.changed_at = None;
        }
        changed
    }
}

impl WantedSlot {
    fn object(&self, name: &str) -> ConfigMap {
        let written = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let annotations = [(REVISION_ANNOTATION, self.revision.clone()), (WRITTEN_ANNOTATION, written)];
        let annotations = annotations.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let metadata = ObjectMeta { name: Some(name.into()), annotations: Some(annotations), ..ObjectMeta::default() };
        let mut data = BTreeMap::from([(SLOT_REVISION_KEY.to_owned(), self.revision.clone())]);
        let mut binary_data = None;
        match &self.packed {
            Packed::Text(text) => drop(data.insert(SLOT_TEXT_KEY.into(), text.clone())),
            Packed::Gzip(bytes) => {
                binary_data = Some(BTreeMap::from([(SLOT_GZIP_KEY.into(), ByteString(bytes.clone()))]));
            }
        }
        ConfigMap { metadata, data: Some(data), binary_data, immutable: None }
    }
}

impl ObservedSlot {
    fn of(object: &ConfigMap) -> Self {
        let claimed = object.metadata.annotations.as_ref().and_then(|all| all.get(REVISION_ANNOTATION)).cloned();
        let kept = object.data.as_ref().and_then(|data| data.get(SLOT_REVISION_KEY)).cloned();
        Self { content: packed_in(object).map(|packed| packed.revision()), claimed, kept }
    }

    fn is(&self, revision: &str) -> bool {
        [&self.content, &self.claimed, &self.kept].into_iter().all(|noted| noted.as_deref() == Some(revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(packed: Packed) -> WantedSlot {
        WantedSlot { revision: packed.revision(), packed, servers: 0, took: Duration::ZERO }
    }

    #[test]
    fn what_is_written_is_what_is_found_there_and_every_edit_is_noticed() {
        for packed in [Packed::Text("{}".into()), Packed::Gzip(vec![1, 2, 3])] {
            let wanted = wanted(packed);
            let object = wanted.object("a");
            assert!(ObservedSlot::of(&object).is(&wanted.revision));
            let edits: [fn(&mut ConfigMap); 5] = [
                |object| object.data = Some(BTreeMap::from([(SLOT_TEXT_KEY.into(), "{} ".into())])),
                |object| drop(object.data.as_mut().and_then(|data| data.remove(SLOT_REVISION_KEY))),
                |object| (object.data, object.binary_data) = (None, None),
                |object| object.metadata.annotations = None,
                |object| object.binary_data = Some(BTreeMap::from([(SLOT_GZIP_KEY.into(), ByteString(vec![7]))])),
            ];
            for edit in edits {
                let mut edited = object.clone();
                edit(&mut edited);
                assert!(!ObservedSlot::of(&edited).is(&wanted.revision), "{edited:?}");
            }
        }
    }
    fn slots() -> SlotPublisher {
        let config = kube::Config::new("http://127.0.0.1:9".parse().expect("a URI"));
        let client = Client::try_from(config).expect("a client");
        let given = |text: &str| Some(text.to_owned());
        let options = crate::OperatorOptions {
            configmaps: given("a"),
            gateways: given("127.0.0.1:9"),
            ..crate::OperatorOptions::default()
        };
        SlotPublisher::new(&client, "n", &options.check("host").expect("settings"), OperatorMetrics::new())
    }

    #[tokio::test(start_paused = true)]
    async fn changes_without_end_do_not_put_off_the_write() {
        let mut slots = slots();
        let now = Instant::now();
        for step in 0..10 {
            slots.changed(0, now + GATHER_DELAY / 2 * step);
        }
        assert_eq!(slots.next(now), Some(now + GATHER_DELAY));
    }

    #[tokio::test(start_paused = true)]
    async fn an_edit_that_was_seen_before_the_answer_to_the_write_is_undone() {
        let mut slots = slots();
        let (now, ours) = (Instant::now(), wanted(Packed::Text("{}".into())));
        let at = |version: &str, mut object: ConfigMap| {
            object.metadata.resource_version = Some(version.to_owned());
            object
        };
        let written = at("7", ours.object("a"));
        slots.slots[0].wanted = Some(ours);
        slots.slots[0].stale = false;
        slots.seen(0, Event::Apply(at("8", wanted(Packed::Text("edited".into())).object("a"))));
        slots.note(SlotWrite { index: 0, began: now, changed_at: None, outcome: Ok(written) }, now);
        assert!(slots.slots[0].differs());
    }
}
