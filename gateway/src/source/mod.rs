//! Where the servers come from. Last good wins: a broken source never removes a server.

pub mod configmap;
pub mod folder;
pub mod manifests;
pub mod slots;
pub mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use portcullis_crds::report::SlotReport;
use portcullis_crds::{Server, Snapshot};
use portcullis_runtime::signal::Reload;
use tokio::sync::watch as channel;
use tokio::time::timeout;
use tracing::info;

use crate::config::SourceConfig;
use crate::metrics::Metrics;
use configmap::ConfigMaps;
use folder::Folder;

/// Servers sorted by key, each key once. Shared, because thousands of them are kept and compared at every change.
pub type Servers = Arc<Vec<Arc<Server>>>;

/// Why a configuration was refused, as a metric label: a manifest that is invalid, or what [`slots::Refusal`] says.
pub const REFUSALS: [&str; 6] = ["invalid", "missing", "empty", "corrupt", "edited", "version"];

/// When reading a folder takes longer, that is told.
const READING: Duration = Duration::from_secs(20);

/// What is to be applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    /// All servers; none as long as nothing is known.
    pub servers: Option<Servers>,
    /// The slots they come from, if they come from slots.
    pub slots: Vec<Slot>,
}

/// A slot of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What is told of it.
    pub report: SlotReport,
    /// When the operator wrote it.
    pub written: Option<SystemTime>,
}

/// Whether the configuration is sound, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Soundness {
    /// One sentence each; empty: all is well. They name files and fields, never secrets.
    pub problems: Vec<String>,
}

/// What a source gives.
pub struct Feed {
    /// The newest good configuration.
    pub configurations: channel::Receiver<Arc<Configuration>>,
    /// What is wrong with the newest configuration.
    pub soundness: channel::Receiver<Soundness>,
    /// Counts changes of Secrets.
    pub secrets: channel::Receiver<u64>,
}

/// A source, opened.
pub struct Source {
    reader: Reader,
    outlet: Outlet,
    secrets: channel::Sender<u64>,
}

enum Reader {
    Fixed,
    Folder(Folder),
    ConfigMaps(Box<ConfigMaps>),
}

/// Where a source puts what it finds.
struct Outlet {
    configurations: channel::Sender<Arc<Configuration>>,
    soundness: channel::Sender<Soundness>,
    metrics: Metrics,
}

impl Source {
    /// Opens the source. Manifests are read for the first time; the API server is not asked yet.
    ///
    /// # Errors
    /// One sentence if it cannot be read at all.
    pub fn open(config: &SourceConfig, client: Option<&Client>, metrics: Metrics) -> Result<Self, String> {
        let outlet =
            Outlet { configurations: channel::Sender::default(), soundness: channel::Sender::default(), metrics };
        let reader = match config {
            SourceConfig::Urls(servers) => {
                outlet.replace(Snapshot::new(servers.clone()));
                Reader::Fixed
            }
            SourceConfig::Path(path) => {
                let mut folder = Folder::open(path)?;
                let (snapshot, soundness) = folder.read();
                outlet.replace(snapshot);
                outlet.tell_invalid(soundness);
                Reader::Folder(folder)
            }
            SourceConfig::ConfigMaps(config) => {
                let client = client.ok_or("CONFIGMAPS needs a way to the Kubernetes API")?;
                let slots = ConfigMaps::open(config, client.clone());
                outlet.configurations.send_replace(Arc::new(slots.configuration()));
                Reader::ConfigMaps(Box::new(slots))
            }
        };
        Ok(Self { reader, outlet, secrets: channel::Sender::new(0) })
    }

    /// What the source gives from now on.
    pub fn feed(&self) -> Feed {
        Feed {
            configurations: self.outlet.configurations.subscribe(),
            soundness: self.outlet.soundness.subscribe(),
            secrets: self.secrets.subscribe(),
        }
    }

    /// Follows changes for ever; a signal to reload makes it look at once. `secrets` is the folder whose changes are
    /// counted.
    pub async fn follow(self, secrets: Option<PathBuf>, reload: Option<Reload>) {
        let Self { reader, outlet, secrets: count } = self;
        let files = |folder| follow_files(folder, &outlet, secrets, &count, reload);
        match reader {
            Reader::Fixed => files(None).await,
            Reader::Folder(folder) => files(Some(folder)).await,
            Reader::ConfigMaps(slots) => tokio::select! {
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
    let watch = move || folder::Changes::watch(watched.0.as_deref(), watched.1.as_deref());
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
        // Last, because something may have changed between the first reading and the beginning of the watch.
        anyway = tokio::select! {
            () = changes.next() => false,
            () = asked(&mut reload) => {
                info!("reading the configuration again, as asked");
                true
            }
        };
    }
}

// === impl Outlet ===

impl Outlet {
    /// All servers are these now.
    fn replace(&self, snapshot: Snapshot) {
        let before = self.configurations.borrow().servers.clone();
        let servers = reuse(before.as_deref().map_or(&[], Vec::as_slice), snapshot.servers);
        if before.as_deref() != Some(&servers) {
            self.give(Some(servers), Vec::new());
        }
    }

    /// Gives a changed configuration; without servers they stay as they are.
    fn give(&self, servers: Option<Vec<Arc<Server>>>, slots: Vec<Slot>) {
        self.configurations.send_modify(|configuration| {
            let servers = servers.map(Arc::new).or_else(|| configuration.servers.clone());
            *configuration = Arc::new(Configuration { servers, slots });
        });
    }

    fn tell(&self, soundness: Soundness) {
        self.soundness.send_if_modified(|old| std::mem::replace(old, soundness.clone()) != soundness);
    }

    /// Tells what is wrong with manifests, and counts what is new of it.
    fn tell_invalid(&self, soundness: Soundness) {
        let known = self.soundness.borrow().problems.clone();
        soundness.problems.iter().filter(|problem| !known.contains(problem)).for_each(|_| self.refused("invalid"));
        self.tell(soundness);
    }

    fn refused(&self, reason: &str) {
        self.metrics.snapshot_rejected.with_label_values(&[reason]).inc();
    }
}

/// These servers, each of which that did not change as the very value of before, so that comparing costs nothing
/// later. Both are sorted by key; of two with one key the first stays.
fn reuse(before: &[Arc<Server>], now: Vec<Server>) -> Vec<Arc<Server>> {
    let mut before = before.iter().peekable();
    let mut servers: Vec<Arc<Server>> = Vec::with_capacity(now.len());
    for server in now {
        if servers.last().is_some_and(|last| last.key == server.key) {
            continue;
        }
        while before.next_if(|old| old.key < server.key).is_some() {}
        let same = before.peek().filter(|old| ****old == server).map(|old| Arc::clone(old));
        servers.push(same.unwrap_or_else(|| Arc::new(server)));
    }
    servers
}

async fn asked(reload: &mut Option<Reload>) {
    match reload {
        Some(reload) => reload.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads many files without holding up the calls that this thread serves too; where nothing has changed, only if it is to
/// be done `anyway`.
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
        // Bounds keep reading short: the disk, or a file system on the network, does not answer.
        Err(_) => {
            let (place, limit) = (path.display(), READING.as_secs());
            let problem = format!("{place}: reading it takes longer than {limit} s: look whether its disk answers");
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
