//! Where snapshots come from. Last good wins: a broken source never removes a server.

pub mod folder;
pub mod manifests;

use std::path::PathBuf;
use std::sync::Arc;

use portcullis_crds::Snapshot;
use portcullis_runtime::signal::Reload;
use tokio::sync::watch;
use tracing::info;

use crate::config::SourceConfig;

/// Whether the configuration is sound, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Soundness {
    /// One sentence each; empty: all is well. They name files and fields, never secrets.
    pub problems: Vec<String>,
}

/// What a source gives.
pub struct Feed {
    /// The newest good snapshot.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is wrong with the newest configuration.
    pub soundness: watch::Receiver<Soundness>,
    /// Counts changes of Secrets.
    pub secrets: watch::Receiver<u64>,
}

/// A source, read once.
pub struct Source {
    reader: Option<folder::Folder>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    soundness: watch::Sender<Soundness>,
    secrets: watch::Sender<u64>,
}

impl Source {
    /// Reads the source for the first time.
    ///
    /// # Errors
    /// One sentence if it cannot be read at all.
    pub fn open(config: &SourceConfig) -> Result<Self, String> {
        let (reader, snapshot, soundness) = match config {
            SourceConfig::Urls(servers) => (None, Snapshot::new(servers.clone()), Soundness::default()),
            SourceConfig::Path(path) => {
                let mut folder = folder::Folder::open(path)?;
                let (snapshot, soundness) = folder.read();
                (Some(folder), snapshot, soundness)
            }
        };
        Ok(Self {
            reader,
            snapshots: watch::Sender::new(Arc::new(snapshot)),
            soundness: watch::Sender::new(soundness),
            secrets: watch::Sender::new(0),
        })
    }

    /// What the source gives from now on.
    pub fn feed(&self) -> Feed {
        Feed {
            snapshots: self.snapshots.subscribe(),
            soundness: self.soundness.subscribe(),
            secrets: self.secrets.subscribe(),
        }
    }

    /// Follows changes for ever; a signal to reload makes it look at once. `secrets` is the folder whose changes are
    /// counted.
    pub async fn follow(mut self, secrets: Option<PathBuf>, mut reload: Option<Reload>) {
        let watched: Vec<PathBuf> =
            self.reader.iter().map(|folder| folder.path().to_owned()).chain(secrets.clone()).collect();
        let mut changes = folder::Changes::watch(&watched);
        let mut seen = None;
        loop {
            if let Some(folder) = self.reader.take() {
                let (folder, snapshot, soundness) = read_apart(folder).await;
                self.reader = folder;
                if let Some(snapshot) = snapshot {
                    self.replace(snapshot);
                }
                self.soundness.send_if_modified(|old| std::mem::replace(old, soundness.clone()) != soundness);
            }
            let now = secrets.as_deref().map(folder::fingerprint);
            if now != seen {
                seen = now;
                self.secrets.send_modify(|count| *count += 1);
            }
            // Last, because something may have changed between the first reading and the beginning of the watch.
            tokio::select! {
                () = changes.next() => {}
                () = asked(&mut reload) => info!("reading the configuration again, as asked"),
            }
        }
    }
}

impl Source {
    fn replace(&self, snapshot: Snapshot) {
        self.snapshots.send_if_modified(|old| {
            let changed = **old != snapshot;
            if changed {
                *old = Arc::new(snapshot);
            }
            changed
        });
    }
}

async fn asked(reload: &mut Option<Reload>) {
    match reload {
        Some(reload) => reload.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads many files without holding up the calls that this thread serves too.
async fn read_apart(mut folder: folder::Folder) -> (Option<folder::Folder>, Option<Snapshot>, Soundness) {
    let path = folder.path().to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let (snapshot, soundness) = folder.read();
        (Some(folder), Some(snapshot), soundness)
    });
    match reading.await {
        Ok(read) => read,
        Err(_) => {
            let problem = format!("{}: reading it failed; the log has more", path.display());
            (folder::Folder::open(&path).ok(), None, Soundness { problems: vec![problem] })
        }
    }
}
