//! The sources of servers. The last valid state wins: a broken source never removes a server.

pub(crate) mod configmap;
pub(crate) mod folder;
pub mod manifests;
mod settings;
pub(crate) mod slots;
pub(crate) mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use portcullis_crds::report::SlotReport;
use portcullis_crds::view::SharedViews;
use portcullis_crds::{Server, ServerKey, Snapshot, View};
use portcullis_runtime::signal::Reload;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;

use crate::telemetry::metrics::Metrics;
use crate::watch_files::FileWatcher;
pub(crate) use settings::{ConfigMapNames, SourceConfig};

use configmap::ConfigMaps;
use folder::Folder;

/// Servers sorted by key, each key once. Shared, because thousands of them are kept and compared at every change.
pub(crate) type Servers = Arc<Vec<Arc<Server>>>;

/// The reasons a configuration is refused, as metric labels: an invalid manifest, or a `SlotRefusal`.
pub const REFUSALS: [&str; 6] = ["invalid", "missing", "empty", "corrupt", "edited", "version"];

/// A folder that takes longer to read is reported.
const READING: Duration = Duration::from_secs(20);

/// The configuration to apply.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Configuration {
    /// All servers; `None` while nothing is known.
    pub(crate) servers: Option<Servers>,
    /// The views; empty while nothing is known.
    pub(crate) views: SharedViews,
    /// The slots of the servers, if they come from slots.
    pub(crate) slots: Vec<Slot>,
}

/// A slot of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The report on the slot.
    pub(crate) report: SlotReport,
    /// When the operator wrote the slot.
    pub(crate) written: Option<SystemTime>,
    /// Gateway replicas that share the limits of policies, if one has a limit.
    pub(crate) replicas: Option<u32>,
}

impl Configuration {
    /// The gateway replicas that share the limits of policies. Slots that are rewritten one after the other say different
    /// numbers for a moment; the highest lets nobody call more often than he may.
    pub(crate) fn replicas(&self) -> u32 {
        self.slots.iter().filter_map(|slot| slot.replicas).max().unwrap_or(1)
    }
}

/// Whether the configuration is sound, and its problems.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Soundness {
    /// One sentence each; empty: all is well. They name files and fields, never secrets.
    pub(crate) problems: Vec<String>,
}

/// The outputs of a source.
pub(crate) struct Feed {
    /// The newest valid configuration.
    pub(crate) configurations: channel::Receiver<Arc<Configuration>>,
    /// The problems of the newest configuration.
    pub(crate) soundness: channel::Receiver<Soundness>,
    /// Counts changes of Secrets.
    pub(crate) secrets: channel::Receiver<u64>,
}

/// An opened source.
pub(crate) struct Source {
    reader: SourceReader,
    outlet: Outlet,
    secrets: channel::Sender<u64>,
}

enum SourceReader {
    Fixed,
    Folder(Box<Folder>),
    ConfigMaps(Box<ConfigMaps>),
}

/// The sending ends of a source's outputs.
struct Outlet {
    configurations: channel::Sender<Arc<Configuration>>,
    soundness: channel::Sender<Soundness>,
    metrics: Metrics,
}

impl Source {
    /// Opens the source. Reads manifests for the first time; sends the API server no request yet.
    ///
    /// # Errors
    /// One sentence if the source is unreadable.
    pub(crate) fn open(config: &SourceConfig, client: Option<&Client>, metrics: Metrics) -> Result<Self, String> {
        let outlet =
            Outlet { configurations: channel::Sender::default(), soundness: channel::Sender::default(), metrics };
        let reader = match config {
            SourceConfig::Urls(servers) => {
                outlet.replace(Snapshot::new(servers.clone()));
                SourceReader::Fixed
            }
            SourceConfig::Path(path) => {
                let mut folder = Folder::open(path)?;
                let (snapshot, soundness) = folder.read();
                outlet.replace(snapshot);
                outlet.tell_invalid(soundness);
                SourceReader::Folder(Box::new(folder))
            }
            SourceConfig::ConfigMaps(config) => {
                let client =
                    client.ok_or("CONFIGMAPS needs the Kubernetes API: set KUBECONFIG, or run in a cluster")?;
                let slots = ConfigMaps::open(config, client.clone());
                outlet.configurations.send_replace(Arc::new(slots.configuration()));
                SourceReader::ConfigMaps(Box::new(slots))
            }
        };
        Ok(Self { reader, outlet, secrets: channel::Sender::new(0) })
    }

    /// The outputs of the source from now on.
    pub(crate) fn feed(&self) -> Feed {
        Feed {
            configurations: self.outlet.configurations.subscribe(),
            soundness: self.outlet.soundness.subscribe(),
            secrets: self.secrets.subscribe(),
        }
    }

    /// Applies changes forever; a signal to reload causes a read at once. `secrets` is the folder whose changes are
    /// counted.
    pub(crate) async fn follow(self, secrets: Option<PathBuf>, reload: Option<Reload>) {
        let Self { reader, outlet, secrets: count } = self;
        let files = |folder| follow_files(folder, &outlet, secrets, &count, reload);
        match reader {
            SourceReader::Fixed => files(None).await,
            SourceReader::Folder(folder) => files(Some(*folder)).await,
            SourceReader::ConfigMaps(slots) => tokio::select! {
                () = slots.follow(&outlet) => {}
                () = files(None) => {}
            },
        }
    }
}

async fn follow_files(
    mut folder: Option<Folder>,
    outlet: &Outlet,
    secrets: Option<PathBuf>,
    count: &channel::Sender<u64>,
    mut reload: Option<Reload>,
) {
    let watched = (folder.as_ref().map(|folder| folder.path().to_owned()), secrets.clone());
    let watch = move || FileWatcher::watch(watched.0.as_deref(), watched.1.as_deref());
    let Ok(mut changes) = tokio::task::spawn_blocking(watch).await else { return };
    let (mut seen, mut anyway) = (None, false);
    loop {
        if let Some(known) = folder.take() {
            let (known, snapshot, soundness) = read_apart(known, anyway, outlet).await;
            folder = known;
            if let Some(snapshot) = snapshot {
                outlet.replace(snapshot);
            }
            if let Some(soundness) = soundness {
                outlet.tell_invalid(soundness);
            }
        }
        let now = secrets.as_deref().map(folder::fingerprint);
        if now != seen {
            seen = now;
            count.send_modify(|count| *count += 1);
        }
        // Last, because files may have changed between the first read and the start of the watch.
        let newcomer = folder.as_ref().and_then(Folder::next_newcomer);
        anyway = tokio::select! {
            () = changes.next() => false,
            () = sleep_until(newcomer.unwrap_or_else(Instant::now)), if newcomer.is_some() => false,
            () = asked(&mut reload) => {
                info!("reading the configuration again on SIGHUP");
                true
            }
        };
    }
}

// === impl Outlet ===

impl Outlet {
    /// Replaces all servers.
    fn replace(&self, snapshot: Snapshot) {
        let before = self.configurations.borrow().servers.clone();
        let servers = snapshot.servers.into_iter().map(Arc::new).collect();
        let servers = reuse(before.as_deref().map_or(&[], Vec::as_slice), servers);
        let views = reuse(&self.configurations.borrow().views, snapshot.views);
        if before.as_deref() != Some(&servers) || *self.configurations.borrow().views != *views {
            self.give(Some((servers, views.into())), Vec::new());
        }
    }

    /// Publishes a changed configuration; `None` keeps the servers and the views.
    fn give(&self, content: Option<(Vec<Arc<Server>>, SharedViews)>, slots: Vec<Slot>) {
        self.configurations.send_modify(|configuration| {
            let (servers, views) = match content {
                Some((servers, views)) => (Some(Arc::new(servers)), views),
                None => (configuration.servers.clone(), configuration.views.clone()),
            };
            *configuration = Arc::new(Configuration { servers, views, slots });
        });
    }

    fn tell(&self, soundness: Soundness) {
        self.soundness.send_if_modified(|old| std::mem::replace(old, soundness.clone()) != soundness);
    }

    /// Reports the problems of manifests, and counts the new ones.
    fn tell_invalid(&self, soundness: Soundness) {
        let known = self.soundness.borrow().problems.clone();
        soundness.problems.iter().filter(|problem| !known.contains(problem)).for_each(|_| self.refused("invalid"));
        self.tell(soundness);
    }

    fn refused(&self, reason: &str) {
        self.metrics.snapshot_rejected.with_label_values(&[reason]).inc();
    }
}

/// A server or a view, whose key tells it from others of its kind.
trait Keyed: PartialEq {
    fn key(&self) -> &ServerKey;
}

impl Keyed for Server {
    fn key(&self) -> &ServerKey {
        &self.key
    }
}

impl Keyed for View {
    fn key(&self) -> &ServerKey {
        &self.key
    }
}

/// These objects, with unchanged ones as the previous values, so that later comparisons are free. Both lists are sorted
/// by key; of two objects with one key the first stays.
fn reuse<T: Keyed>(before: &[Arc<T>], now: Vec<Arc<T>>) -> Vec<Arc<T>> {
    let mut before = before.iter().peekable();
    let mut kept: Vec<Arc<T>> = Vec::with_capacity(now.len());
    for object in now {
        if kept.last().is_some_and(|last| last.key() == object.key()) {
            continue;
        }
        while before.next_if(|old| old.key() < object.key()).is_some() {}
        let is_same = |old: &&&Arc<T>| Arc::ptr_eq(old, &object) || ***old == object;
        let same = before.peek().filter(is_same).map(|old| Arc::clone(old));
        kept.push(same.unwrap_or(object));
    }
    kept
}

async fn asked(reload: &mut Option<Reload>) {
    match reload {
        Some(reload) => reload.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads many files without delaying the calls that this thread serves too; if nothing has changed, only if `anyway` is
/// set.
async fn read_apart(
    mut folder: Folder,
    anyway: bool,
    outlet: &Outlet,
) -> (Option<Folder>, Option<Snapshot>, Option<Soundness>) {
    let path = folder.path().to_owned();
    let mut reading = tokio::task::spawn_blocking(move || {
        let read = if anyway { Some(folder.read()) } else { folder.read_if_changed() };
        let (snapshot, soundness) = read.unzip();
        (Some(folder), snapshot, soundness)
    });
    let read = match timeout(READING, &mut reading).await {
        Ok(read) => read,
        // Limits keep reading short: so the disk, or a network file system, does not respond.
        Err(_) => {
            let (place, limit) = (path.display(), READING.as_secs());
            let problem = format!("{place}: reading it takes longer than {limit} s: check its disk");
            let before = outlet.soundness.borrow().clone();
            outlet.tell_invalid(Soundness { problems: vec![problem] });
            reading.await.map(|(folder, snapshot, soundness)| (folder, snapshot, soundness.or(Some(before))))
        }
    };
    match read {
        Ok(read) => read,
        Err(_) => {
            let problem = format!("{}: reading it failed; the log has more", path.display());
            (Folder::open(&path).ok(), None, Some(Soundness { problems: vec![problem] }))
        }
    }
}
