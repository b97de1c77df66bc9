//! Detects changes of files: by system events if available, and by periodic scans otherwise.

use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Editors write a file in several steps; events within this time are one change.
pub(crate) const GATHER: Duration = Duration::from_millis(20);

/// Some file systems report no events: then periodic scans must suffice.
pub(crate) const LOOK_ANYWAY: Duration = Duration::from_secs(10);

fn folder_of(path: &Path) -> &Path {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// Reports when something below some paths has changed.
pub(crate) struct FileWatcher {
    events: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
}

impl FileWatcher {
    /// Watches a file or folder of manifests and a folder of Secrets. Scans folders, so it may block.
    ///
    /// A file is watched through its folder, because editors replace it. Of manifests one level is read, so one level
    /// is watched: mounted ConfigMaps change by a rename there. Secrets are deeper.
    pub(crate) fn watch(manifests: Option<&Path>, secrets: Option<&Path>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is not a change; and a full channel already signals one.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = sender.try_send(());
            }
        });
        let mut watcher = watcher
            .inspect_err(|error| warn!(%error, "cannot watch files; the gateway checks them every ten seconds"))
            .ok();
        let wanted = [(manifests.map(folder_of), RecursiveMode::NonRecursive), (secrets, RecursiveMode::Recursive)];
        for (folder, mode) in wanted {
            if let (Some(watcher), Some(folder)) = (&mut watcher, folder)
                && let Err(error) = watcher.watch(folder, mode)
            {
                warn!(folder = %folder.display(), %error, "cannot watch the folder; the gateway checks it every ten seconds");
            }
        }
        Self { events, _watcher: watcher }
    }

    /// Waits for a change, or until the next periodic scan.
    pub(crate) async fn next(&mut self) {
        match timeout(LOOK_ANYWAY, self.events.recv()).await {
            Ok(Some(())) => {
                sleep(GATHER).await;
                while self.events.try_recv().is_ok() {}
            }
            Ok(None) => sleep(LOOK_ANYWAY).await,
            Err(_) => {}
        }
    }
}
