//! A file or folder of manifests: read completely, with the last valid state of each file, and watched for changes.

mod newcomers;
mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use portcullis_access::CompiledPolicy;
use portcullis_crds::names::DEFAULT_NAMESPACE;
use portcullis_crds::resolve::{key_of, labels_of};
use portcullis_crds::{McpServer, Policies, ReadPolicy, ReadView, Server, ServerKey, Services, Snapshot, resolve};
use tokio::time::Instant;

use self::newcomers::Newcomers;
use super::Soundness;
use super::manifests::{self, Manifests};

/// The limit for a file of manifests.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The limit for all files of a folder together: they are read again whenever one of them changes.
const MAX_FOLDER_BYTES: u64 = 64 * 1024 * 1024;

/// The limit for the files of one folder; more are a mistake.
const MAX_FILES: usize = 10_000;

/// Two writes within a tick of a file system's clock get the same time: only an older time proves that there was no
/// write since. The coarsest clock is that of FAT; tests run where it is fine.
const TICK: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(2) };

/// The policy that stands for one that could not be read. No object has this name.
const UNREAD: &str = "_unread";

/// A file or folder of manifests.
pub(crate) struct Folder {
    path: PathBuf,
    /// The last valid content of each file.
    good: BTreeMap<PathBuf, Manifests>,
    /// The last accepted form of each server.
    accepted: BTreeMap<ServerKey, Server>,
    /// The last good form of each view.
    good_views: BTreeMap<ServerKey, ReadView>,
    /// When each server was first seen: the older one keeps a contested tool name.
    first_seen: HashMap<ServerKey, i64>,
    /// Servers that wait for a policy. Where there are no policies, none does, and none of the first read.
    newcomers: Newcomers,
    /// Files that were never read and that name the kind of policies: what they close is not known, so everything is closed.
    closing: BTreeSet<PathBuf>,
    was_read: bool,
    /// The state of the files at the last read; `None`: they may have changed since without a visible sign.
    stamp: Option<u64>,
}

impl Folder {
    /// # Errors
    /// One sentence if there is no such file or folder.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        std::fs::metadata(path)
            .map_err(|error| format!("SERVERS: cannot read {}: {}", path.display(), error.kind()))?;
        Ok(Self {
            path: path.to_owned(),
            good: BTreeMap::new(),
            accepted: BTreeMap::new(),
            good_views: BTreeMap::new(),
            first_seen: HashMap::new(),
            newcomers: Newcomers::default(),
            closing: BTreeSet::new(),
            was_read: false,
            stamp: None,
        })
    }

    /// The path passed to `open`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads everything, unless nothing has changed: other files that grow in the folder do not count.
    pub(crate) fn read_if_changed(&mut self) -> Option<(Snapshot, Soundness)> {
        let stamp = self.files().ok().and_then(|files| stamp(&files));
        let is_same = stamp.is_some_and(|(stamp, _)| self.stamp == Some(stamp));
        let is_due = self.next_newcomer().is_some_and(|at| at <= Instant::now());
        (!is_same || is_due).then(|| self.read())
    }

    /// Reads everything. An unusable file keeps its last valid content.
    pub(crate) fn read(&mut self) -> (Snapshot, Soundness) {
        let (servers, policies, mut problems) = self.manifests();
        let views = self.views(&mut problems);
        let labels: BTreeMap<ServerKey, _> = servers.iter().map(|server| (key_of(server), labels_of(server))).collect();
        let resolution = resolve(&servers, (&policies, &views), DEFAULT_NAMESPACE, Services::Unknown);
        let mut accepted: BTreeMap<ServerKey, Server> =
            resolution.snapshot.servers.into_iter().map(|server| (server.key.clone(), server)).collect();
        for verdict in resolution.verdicts {
            if let Some(refusal) = verdict.refusal {
                problems.push(format!("McpServer {}: {}", verdict.key, refusal.message));
                // As in a cluster, where a refused change leaves the object as it was.
                if let Some(server) = self.accepted.remove(&verdict.key) {
                    // What governs it is not its own: that is as new as it can be.
                    let none = BTreeMap::new();
                    let labels = labels.get(&verdict.key).copied().unwrap_or(&none);
                    accepted.insert(verdict.key, policies.govern_beside(Some(&views), server, labels));
                }
            }
        }
        if self.was_read && policies.iter().next().is_some() {
            self.newcomers.hold(&mut accepted, &self.accepted, Instant::now());
        } else {
            self.newcomers = Newcomers::default();
        }
        self.was_read = true;
        self.accepted = accepted;
        let views = views.all_served().cloned().collect();
        let servers = Snapshot::new(self.accepted.values().cloned().collect());
        (Snapshot { views, ..servers }, Soundness { problems })
    }

    /// When a server that waits for a policy is to be served, unless one comes.
    pub(crate) fn next_newcomer(&self) -> Option<Instant> {
        self.newcomers.next()
    }

    /// Reads all McpServers and McpAccessPolicies, and says what is wrong with them, one sentence each.
    pub(crate) fn manifests(&mut self) -> (Vec<McpServer>, Policies, Vec<String>) {
        let mut problems = Vec::new();
        self.stamp = None;
        match self.files() {
            Ok(files) => {
                let stamp = stamp(&files).filter(|(_, age)| *age > TICK);
                let (mut all_read, mut left) = (true, MAX_FOLDER_BYTES);
                self.good.retain(|path, _| files.binary_search(path).is_ok());
                self.closing.retain(|path| files.binary_search(path).is_ok());
                for path in files {
                    let text = read_text(&path, &mut left);
                    all_read &= text.is_ok();
                    let names_policy = text.as_ref().is_ok_and(|text| text.contains("McpAccessPolicy"));
                    match text.and_then(|text| manifests::read(&text)) {
                        Ok(Some(manifests)) => {
                            self.closing.remove(&path);
                            self.good.insert(path, manifests);
                        }
                        Ok(None)
                            if self.good.get(&path).is_some_and(|manifests| *manifests != Manifests::default()) =>
                        {
                            problems.push(format!(
                                "{}: it is empty: to remove what it declared, delete the file",
                                path.display()
                            ))
                        }
                        Ok(None) => {}
                        Err(problem) => {
                            let closes = names_policy && !self.was_read && !self.good.contains_key(&path);
                            problems.push(format!("{}: {problem}", path.display()));
                            if closes || self.closing.contains(&path) {
                                problems.push(format!(
                                    "{}: it may declare a policy, so nobody may use any server: correct it",
                                    path.display()
                                ));
                                self.closing.insert(path);
                            }
                        }
                    }
                }
                self.stamp = stamp.filter(|_| all_read).map(|(stamp, _)| stamp);
            }
            Err(problem) => problems.push(problem),
        }
        let (servers, policies) = (self.dated(), self.policies(&mut problems));
        (servers, policies, problems)
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
            return Err(format!("{} contains more than {MAX_FILES} files: remove some", self.path.display()));
        }
        Ok(files)
    }

    /// All policies. Of two of one name, neither counts: it is not known which one was meant, so nothing is allowed.
    fn policies(&self, problems: &mut Vec<String>) -> Policies {
        let mut policies = Policies::default();
        for policy in self.good.values().flat_map(|all| &all.policies) {
            let key = policy.policy.key.clone();
            let all = CompiledPolicy::problems_of(policy);
            problems.extend(all.iter().map(|problem| format!("McpAccessPolicy {key}: {problem}")));
            if policies.insert(policy.clone()).is_some() {
                problems.push(format!("McpAccessPolicy {key} is declared twice, so it allows nothing: keep one"));
                policies.insert(ReadPolicy::closed(key));
            }
        }
        if !self.closing.is_empty() {
            for server in self.good.values().flat_map(|all| &all.servers) {
                policies.insert(ReadPolicy::closed(ServerKey::new(key_of(server).namespace, UNREAD)));
            }
        }
        policies
    }

    /// All valid servers; those without a creation time get the time they were first seen.
    fn dated(&mut self) -> Vec<McpServer> {
        let mut servers: Vec<McpServer> = self.good.values().flat_map(|all| &all.servers).cloned().collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        for server in &mut servers {
            let key = key_of(server);
            let seen = *self.first_seen.entry(key).or_insert(now);
            if server.metadata.creation_timestamp.is_none() {
                server.metadata.creation_timestamp = Timestamp::from_second(seen).ok().map(Time);
            }
        }
        let present: std::collections::HashSet<ServerKey> = servers.iter().map(key_of).collect();
        self.first_seen.retain(|key, _| present.contains(key));
        servers
    }
}

/// The text of a file. `left` bytes may be read from it and the files after it.
fn read_text(path: &Path, left: &mut u64) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot read it: {}", error.kind());
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // Opening a pipe would wait for a writer.
    if !metadata.is_file() {
        return Err("it is not a regular file: write the manifests into one".into());
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!("it is longer than {MAX_FILE_BYTES} bytes: split it"));
    }
    if metadata.len() > *left {
        return Err(format!("it and the files before it contain more than {MAX_FOLDER_BYTES} bytes: remove some"));
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    *left = left.saturating_sub(text.len() as u64);
    Ok(text)
}

/// A number that changes with any of these files, and the age of the newest change. Follows links, so that it also
/// changes when one points elsewhere. `None` if a file is inaccessible.
///
/// Programs can set a file's length and time of writing freely, but not the time of its last change.
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

/// A number that changes with a folder's files: their names, lengths and times.
pub(crate) fn fingerprint(folder: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    add_folder(folder, 0, &mut hasher);
    hasher.finish()
}

/// Secrets are two levels deep; the links of mounted ones add one.
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

#[cfg(test)]
mod tests;
