//! A file or folder of manifests: read whole, the last good state of each file kept, watched for changes.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use portcullis_crds::names::DEFAULT_NAMESPACE;
use portcullis_crds::{McpServer, Server, ServerKey, Services, Snapshot, resolve};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{Soundness, manifests};

/// A file of manifests may be so long.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// All files of a folder may be so long together: they are read again whenever one of them changes.
const MAX_FOLDER_BYTES: u64 = 64 * 1024 * 1024;

/// Files read of one folder; more are a mistake.
const MAX_FILES: usize = 10_000;

/// Editors write a file in several steps; what comes within this time is one change.
const GATHER: Duration = Duration::from_millis(20);

/// Some file systems tell nothing: then a look now and then must do.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);

/// What is written twice within a tick of a file system's clock has the same time twice: only an older time tells that
/// nothing was written since. The coarsest clock is that of FAT; tests run where it is fine.
const TICK: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(2) };

/// A file or folder of manifests.
pub struct Folder {
    path: PathBuf,
    /// The last good content of each file.
    good: BTreeMap<PathBuf, Vec<McpServer>>,
    /// The last accepted form of each server.
    accepted: BTreeMap<ServerKey, Server>,
    /// When each server was first seen: the older keeps a contested tool name.
    first_seen: HashMap<ServerKey, i64>,
    /// What the files were like when they were read last; none: they may have changed since without showing it.
    stamp: Option<u64>,
}

impl Folder {
    /// # Errors
    /// One sentence if there is no such file or folder.
    pub fn open(path: &Path) -> Result<Self, String> {
        std::fs::metadata(path)
            .map_err(|error| format!("SERVERS: cannot read {}: {}", path.display(), error.kind()))?;
        Ok(Self {
            path: path.to_owned(),
            good: BTreeMap::new(),
            accepted: BTreeMap::new(),
            first_seen: HashMap::new(),
            stamp: None,
        })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads everything, unless nothing has changed: what else grows in the folder is no reason to.
    pub fn read_if_changed(&mut self) -> Option<(Snapshot, Soundness)> {
        let stamp = self.files().ok().and_then(|files| stamp(&files));
        let is_same = stamp.is_some_and(|(stamp, _)| self.stamp == Some(stamp));
        (!is_same).then(|| self.read())
    }

    /// Reads everything. A file that cannot be used keeps its last good content.
    pub fn read(&mut self) -> (Snapshot, Soundness) {
        let mut problems = Vec::new();
        self.stamp = None;
        match self.files() {
            Ok(files) => {
                let stamp = stamp(&files).filter(|(_, age)| *age > TICK);
                let (mut all_read, mut left) = (true, MAX_FOLDER_BYTES);
                self.good.retain(|path, _| files.binary_search(path).is_ok());
                for path in files {
                    let text = read_text(&path, &mut left);
                    all_read &= text.is_ok();
                    match text.and_then(|text| manifests::read(&text)) {
                        Ok(Some(servers)) => drop(self.good.insert(path, servers)),
                        Ok(None) if self.good.get(&path).is_some_and(|servers| !servers.is_empty()) => problems
                            .push(format!("{}: it is empty: to remove its servers, delete the file", path.display())),
                        Ok(None) => {}
                        Err(problem) => problems.push(format!("{}: {problem}", path.display())),
                    }
                }
                self.stamp = stamp.filter(|_| all_read).map(|(stamp, _)| stamp);
            }
            Err(problem) => problems.push(problem),
        }
        let servers = self.dated();
        let resolution = resolve(&servers, DEFAULT_NAMESPACE, Services::Unknown);
        let mut accepted: BTreeMap<ServerKey, Server> =
            resolution.snapshot.servers.into_iter().map(|server| (server.key.clone(), server)).collect();
        for verdict in resolution.verdicts {
            if let Some(refusal) = verdict.refusal {
                problems.push(format!("McpServer {}: {}", verdict.key, refusal.message));
                // As in a cluster, where a refused change leaves the object as it was.
                if let Some(server) = self.accepted.remove(&verdict.key) {
                    accepted.insert(verdict.key, server);
                }
            }
        }
        self.accepted = accepted;
        (Snapshot::new(self.accepted.values().cloned().collect()), Soundness { problems })
    }

    fn files(&self) -> Result<Vec<PathBuf>, String> {
        let unreadable = |error: std::io::Error| format!("cannot read {}: {}", self.path.display(), error.kind());
        if !std::fs::metadata(&self.path).map_err(unreadable)?.is_dir() {
            return Ok(vec![self.path.clone()]);
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            let yaml = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
            if yaml && !hidden && path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        if files.len() > MAX_FILES {
            return Err(format!("{} holds more than {MAX_FILES} files", self.path.display()));
        }
        Ok(files)
    }

    /// All good servers, those without a creation time given the time they were first seen.
    fn dated(&mut self) -> Vec<McpServer> {
        let mut servers: Vec<McpServer> = self.good.values().flatten().cloned().collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        for server in &mut servers {
            let key = portcullis_crds::resolve::key_of(server);
            let seen = *self.first_seen.entry(key).or_insert(now);
            if server.metadata.creation_timestamp.is_none() {
                server.metadata.creation_timestamp = Timestamp::from_second(seen).ok().map(Time);
            }
        }
        let present: std::collections::HashSet<ServerKey> =
            servers.iter().map(portcullis_crds::resolve::key_of).collect();
        self.first_seen.retain(|key, _| present.contains(key));
        servers
    }
}

/// The text of a file. `left` bytes may be read of it and those after it.
fn read_text(path: &Path, left: &mut u64) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot read it: {}", error.kind());
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // Opening a pipe would wait for a writer.
    if !metadata.is_file() {
        return Err("it is no regular file: write the manifests into one".into());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!("it is longer than {MAX_FILE_BYTES} bytes: split it"));
    }
    if metadata.len() > *left {
        return Err(format!("it and the files before it hold more than {MAX_FOLDER_BYTES} bytes: take some away"));
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    *left = left.saturating_sub(text.len() as u64);
    Ok(text)
}

/// A number that changes when one of these files does, in whatever way, and how long ago the newest did. Links are followed,
/// so that it also changes when one points elsewhere. None if a file cannot be looked at.
///
/// Programs can set a file's length and time of writing as they like, but not the time of its last change.
fn stamp(files: &[PathBuf]) -> Option<(u64, Duration)> {
    let (mut hasher, mut newest) = (DefaultHasher::new(), SystemTime::UNIX_EPOCH);
    let now = SystemTime::now();
    for path in files {
        let metadata = std::fs::metadata(path).ok()?;
        let modified = metadata.modified().ok()?;
        let changed = Duration::new(metadata.ctime().try_into().ok()?, metadata.ctime_nsec().try_into().ok()?);
        (path, metadata.dev(), metadata.ino(), metadata.len(), modified, changed).hash(&mut hasher);
        newest = newest.max(modified).max(SystemTime::UNIX_EPOCH + changed);
    }
    Some((hasher.finish(), now.duration_since(newest).unwrap_or_default()))
}

/// A number that changes when a folder's files do: their names, lengths and times.
pub fn fingerprint(folder: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    add_folder(folder, 0, &mut hasher);
    hasher.finish()
}

/// Secrets lie two levels deep; the links of mounted ones add one.
fn add_folder(folder: &Path, depth: usize, hasher: &mut DefaultHasher) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        (&path, metadata.len(), metadata.modified().ok()).hash(hasher);
        if metadata.is_dir() && depth < 3 {
            add_folder(&path, depth + 1, hasher);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// Tells when something below some paths has changed.
pub struct Changes {
    events: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
}

impl Changes {
    /// Watches a file or folder of manifests and a folder of Secrets. It looks through folders, so it may block.
    ///
    /// A file is watched through its folder, because editors replace it. Of manifests one level is read, so one level
    /// is watched: mounted ConfigMaps change by a rename there. Secrets lie deeper.
    pub fn watch(manifests: Option<&Path>, secrets: Option<&Path>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is no change; and a full channel already tells that there was one.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = sender.try_send(());
            }
        });
        let mut watcher = watcher.inspect_err(|error| warn!(%error, "files are looked at every ten seconds only")).ok();
        let wanted = [(manifests.map(folder_of), RecursiveMode::NonRecursive), (secrets, RecursiveMode::Recursive)];
        for (folder, mode) in wanted {
            if let (Some(watcher), Some(folder)) = (&mut watcher, folder)
                && let Err(error) = watcher.watch(folder, mode)
            {
                warn!(folder = %folder.display(), %error, "the folder is looked at every ten seconds only");
            }
        }
        Self { events, _watcher: watcher }
    }

    /// Waits for a change, or until it is time to look anyway.
    pub async fn next(&mut self) {
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

#[cfg(test)]
mod tests;
