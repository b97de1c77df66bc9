//! The slots of the configuration, watched through the API server; mounted copies let a gateway start without it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use portcullis_crds::names::{
    REVISION_ANNOTATION, SLOT_GZIP_KEY, SLOT_REVISION_KEY, SLOT_TEXT_KEY, WRITTEN_ANNOTATION,
};
use portcullis_crds::slots::Packed;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::slots::{self, Content, Known, SlotOrigin, SlotRefusal, Slots, StoredSlot, Taken};
use super::watch::{Seen, watch};
use super::{Configuration, Outlet, Soundness};
use crate::source::ConfigMapNames;

/// The time for the API server to respond before the mounted copies are read.
const MOUNTED_AFTER: Duration = Duration::from_secs(2);

/// The interval for reading them while the API server is unreachable.
const MOUNTED_AGAIN: Duration = Duration::from_secs(10);

/// A ConfigMap contains no more than 1 MiB; a folder may contain anything.
const MAX_FILE_BYTES: u64 = 2 * 1024 * 1024;

/// The watched slots.
pub(crate) struct ConfigMaps {
    api: Api<ConfigMap>,
    names: Vec<String>,
    mounted: Option<PathBuf>,
    slots: Slots,
    /// The watches that work.
    up: Vec<bool>,
    /// A failed watch was reported.
    told_down: bool,
}

impl ConfigMaps {
    /// The slots of this cluster; sends no request yet.
    pub(crate) fn open(config: &ConfigMapNames, client: Client) -> Self {
        let api = match &config.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::default_namespaced(client),
        };
        let names = config.names.clone();
        let (slots, up) = (Slots::new(&names), vec![false; names.len()]);
        Self { api, names, mounted: config.mounted.clone(), slots, up, told_down: false }
    }

    /// The configuration before anything was read.
    pub(crate) fn configuration(&self) -> Configuration {
        Configuration { slots: self.slots.described(), ..Configuration::default() }
    }

    /// Watches the slots forever.
    pub(super) async fn follow(mut self, outlet: &Outlet) {
        outlet.metrics.config_source_up.set(0);
        let api = self.api.clone();
        let watches = self
            .names
            .iter()
            .enumerate()
            .map(|(index, name)| Box::pin(watch(api.clone(), name).map(move |seen| (index, seen))));
        let mut watches = select_all(watches);
        let mut look_at = Instant::now() + MOUNTED_AFTER;
        loop {
            let look = self.mounted.is_some() && !self.slots.without_api().is_empty();
            tokio::select! {
                Some((index, seen)) = watches.next() => self.seen(index, seen, outlet).await,
                () = sleep_until(look_at), if look => {
                    self.read_mounted(outlet).await;
                    look_at = Instant::now() + MOUNTED_AGAIN;
                }
            }
        }
    }

    async fn seen(&mut self, index: usize, seen: Seen, outlet: &Outlet) {
        let (found, written) = match seen {
            Seen::Down(problem) => return self.down(index, &problem, outlet),
            Seen::Missing => (StoredSlot::Missing, None),
            Seen::There(object) => (found_in(&object), written_at(&object)),
        };
        self.stands(index, outlet);
        let read = unpacked(found, self.slots.known(index)).await;
        let taken = self.slots.take(index, SlotOrigin::Api, written, read);
        self.tell(&[taken], outlet);
    }

    async fn read_mounted(&mut self, outlet: &Outlet) {
        let Some(folder) = &self.mounted else { return };
        let mut all = Vec::new();
        for index in self.slots.without_api() {
            let folder = folder.join(&self.names[index]);
            let read = tokio::task::spawn_blocking(move || slots::read(&found_at(&folder)?, &Known::default())).await;
            let read = read.unwrap_or(Err(SlotRefusal::Corrupt));
            all.push(self.slots.take(index, SlotOrigin::Mounted, None, read));
        }
        if all.iter().any(|taken| taken.servers) {
            info!("the API server has not answered; the servers come from the mounted copy of the configuration");
        }
        self.tell(&all, outlet);
    }

    fn tell(&self, all: &[Taken], outlet: &Outlet) {
        for refusal in all.iter().filter_map(|taken| taken.refused) {
            outlet.refused(refusal.as_str());
        }
        if all.iter().any(|taken| taken.told) {
            let servers = all.iter().any(|taken| taken.servers).then(|| self.slots.servers()).flatten();
            outlet.give(servers.map(|servers| (servers, self.slots.views())), self.slots.described());
            outlet.tell(Soundness { problems: self.slots.problems() });
        }
    }

    fn stands(&mut self, index: usize, outlet: &Outlet) {
        self.up[index] = true;
        if self.up.iter().all(|up| *up) {
            outlet.metrics.config_source_up.set(1);
            if std::mem::take(&mut self.told_down) {
                info!("the watch of the configuration works again");
            }
        }
    }

    fn down(&mut self, index: usize, problem: &str, outlet: &Outlet) {
        self.up[index] = false;
        outlet.metrics.config_source_up.set(0);
        if std::mem::replace(&mut self.told_down, true) {
            debug!(configmap = %self.names[index], problem, "still cannot watch the configuration");
        } else {
            warn!(configmap = %self.names[index], problem, "cannot watch the configuration; the last one stays in use");
        }
    }
}

/// Unpacking thousands of servers must not delay the calls that this thread serves too.
async fn unpacked(found: StoredSlot, known: Known) -> Result<Option<Content>, SlotRefusal> {
    match found {
        StoredSlot::Written(_) => {
            tokio::task::spawn_blocking(move || slots::read(&found, &known)).await.unwrap_or(Err(SlotRefusal::Corrupt))
        }
        other => slots::read(&other, &Known::default()),
    }
}

/// The content whose revision the operator recorded. If both keys exist, the revision identifies the operator's last
/// one: the operator leaves content of others in place.
fn found_in(object: &ConfigMap) -> StoredSlot {
    let text = object.data.as_ref().and_then(|data| data.get(SLOT_TEXT_KEY));
    let gzip = object.binary_data.as_ref().and_then(|data| data.get(SLOT_GZIP_KEY));
    let all = [text.map(|text| Packed::Text(text.clone())), gzip.map(|bytes| Packed::Gzip(bytes.0.clone()))];
    chosen(all.into_iter().flatten().collect(), |packed| {
        annotation(object, REVISION_ANNOTATION).is_some_and(|revision| packed.revision() == revision)
    })
}

/// The first content that is `wanted`; an empty one is reported as such.
fn chosen(mut all: Vec<Packed>, wanted: impl Fn(&Packed) -> bool) -> StoredSlot {
    if all.is_empty() {
        return StoredSlot::NotWritten;
    }
    match all.iter().position(|packed| wanted(packed) || packed.is_empty()) {
        Some(index) => StoredSlot::Written(all.swap_remove(index)),
        None => StoredSlot::Edited,
    }
}

fn annotation<'a>(object: &'a ConfigMap, name: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn written_at(object: &ConfigMap) -> Option<SystemTime> {
    let time: Timestamp = annotation(object, WRITTEN_ANNOTATION)?.parse().ok()?;
    Some(time.into())
}

/// The content of one ConfigMap's mounted copy. Earlier operators wrote no revision into it; then the content is used
/// unchecked.
fn found_at(folder: &Path) -> Result<StoredSlot, SlotRefusal> {
    let mut all = Vec::new();
    if let Some(bytes) = contents(&folder.join(SLOT_TEXT_KEY))? {
        all.push(Packed::Text(String::from_utf8(bytes).map_err(|_| SlotRefusal::Corrupt)?));
    }
    all.extend(contents(&folder.join(SLOT_GZIP_KEY))?.map(Packed::Gzip));
    let revision = contents(&folder.join(SLOT_REVISION_KEY))?;
    Ok(chosen(all, |packed| revision.as_ref().is_none_or(|revision| packed.revision().as_bytes() == revision)))
}

fn contents(path: &Path) -> Result<Option<Vec<u8>>, SlotRefusal> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(_) => return Err(SlotRefusal::Corrupt),
    };
    let mut bytes = Vec::new();
    match file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 <= MAX_FILE_BYTES => Ok(Some(bytes)),
        _ => Err(SlotRefusal::Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use portcullis_crds::{Server, Snapshot};

    #[test]
    fn with_both_keys_the_annotation_says_which_one_counts() {
        let (text, gzip) = (Packed::pack(&Snapshot::new(vec![])), Packed::Gzip(b"packed".to_vec()));
        let mut object = ConfigMap::default();
        assert_eq!(found_in(&object), StoredSlot::NotWritten);
        object.data = Some([("servers.json".to_owned(), r#"{"version":1,"servers":[]}"#.to_owned())].into());
        object.binary_data = Some([("servers.json.gz".to_owned(), ByteString(b"packed".to_vec()))].into());
        for written in [text, gzip] {
            object.metadata.annotations = Some([(REVISION_ANNOTATION.to_owned(), written.revision())].into());
            assert_eq!(found_in(&object), StoredSlot::Written(written));
        }
    }

    #[test]
    fn a_content_that_the_operator_did_not_write_is_told_from_its_own() {
        let snapshot = |name: &str| Packed::pack(&Snapshot::new(vec![Server::from_url(name, "http://a/")]));
        let text = |packed: &Packed| if let Packed::Text(text) = packed { text.clone() } else { unreachable!() };
        let (own, other) = (snapshot("own"), snapshot("other"));
        let object = |content: &Packed, revision: Option<String>| ConfigMap {
            data: Some([("servers.json".to_owned(), text(content))].into()),
            metadata: kube::api::ObjectMeta {
                annotations: revision.map(|revision| [(REVISION_ANNOTATION.to_owned(), revision)].into()),
                ..kube::api::ObjectMeta::default()
            },
            ..ConfigMap::default()
        };
        assert_eq!(found_in(&object(&own, Some(own.revision()))), StoredSlot::Written(own.clone()));
        for revision in [Some(own.revision()), Some(String::new()), None] {
            assert_eq!(found_in(&object(&other, revision.clone())), StoredSlot::Edited, "{revision:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("servers.json"), text(&own)).unwrap();
        assert_eq!(found_at(folder.path()), Ok(StoredSlot::Written(own.clone())), "as operators of before left it");
        std::fs::write(folder.path().join("revision"), own.revision()).unwrap();
        assert_eq!(found_at(folder.path()), Ok(StoredSlot::Written(own)));
        std::fs::write(folder.path().join("servers.json"), text(&other)).unwrap();
        assert_eq!(found_at(folder.path()), Ok(StoredSlot::Edited));
    }

    #[test]
    fn the_time_of_writing_is_read_to_the_microsecond() {
        let mut object = ConfigMap::default();
        let with = |text: &str| Some([(WRITTEN_ANNOTATION.to_owned(), text.to_owned())].into());
        object.metadata.annotations = with("1970-01-01T00:00:01.000002Z");
        assert_eq!(written_at(&object), Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_002)));
        object.metadata.annotations = with("yesterday");
        assert_eq!(written_at(&object), None);
    }

    #[test]
    fn a_mounted_copy_is_read_in_either_form_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(found_at(&folder.path().join("none")), Ok(StoredSlot::NotWritten));
        assert_eq!(found_at(folder.path()), Ok(StoredSlot::NotWritten));
        std::fs::write(folder.path().join("servers.json.gz"), b"x").unwrap();
        assert_eq!(found_at(folder.path()), Ok(StoredSlot::Written(Packed::Gzip(b"x".to_vec()))));
        std::fs::write(folder.path().join("servers.json"), b"{").unwrap();
        assert_eq!(found_at(folder.path()), Ok(StoredSlot::Written(Packed::Text("{".into()))));
        std::fs::write(folder.path().join("servers.json"), b"\xff").unwrap();
        assert_eq!(found_at(folder.path()), Err(SlotRefusal::Corrupt));
    }
}
