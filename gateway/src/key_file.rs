//! Watches a file of keys. Reports its problems; the last valid keys stay in use.

use std::fs::File;
use std::io::Read as _;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use prometheus::IntGauge;
use tracing::{error, info};

use crate::watch_files::FileWatcher;

/// Keys that a file holds.
pub(crate) trait FileKeys: Sized + Send + 'static {
    /// The setting that names the file.
    const SETTING: &'static str;
    /// What the keys are for people: `session keys`.
    const WHAT: &'static str;
    /// The limit for the file, in bytes.
    const MAX_BYTES: u64;

    /// Parses the content of the file. An error is what follows the file's name in a sentence, without any of the content.
    ///
    /// # Errors
    /// The content holds no valid keys.
    fn of_file(bytes: &[u8]) -> Result<Self, String>;

    /// The ids of the keys. The first makes what the others accept.
    fn key_ids(&self) -> Vec<String>;
}

/// A file with keys that was read once.
pub(crate) struct KeyFile<K> {
    path: PathBuf,
    /// Digest of the content in use.
    seen: Vec<u8>,
    /// The last reported problem.
    problem: Option<String>,
    keys: PhantomData<fn() -> K>,
}

impl<K: FileKeys> KeyFile<K> {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// One sentence, without any of the content.
    pub(crate) fn open(path: &Path) -> Result<(Self, K), String> {
        let read = || {
            let bytes = read(path, K::MAX_BYTES)?;
            let seen = fingerprint(&bytes);
            Ok((Self { path: path.to_owned(), seen, problem: None, keys: PhantomData }, K::of_file(&bytes)?))
        };
        read().map_err(|problem: String| format!("{}: {} {problem}", K::SETTING, path.display()))
    }

    /// Passes every valid new content to `use_keys`, forever. `is_ok` is 0 while the content is refused.
    pub(crate) async fn follow(mut self, use_keys: impl Fn(K), is_ok: IntGauge) {
        let path = self.path.clone();
        let watching = tokio::task::spawn_blocking(move || FileWatcher::watch(Some(&path), None));
        let Ok(mut changes) = watching.await else { return };
        loop {
            // First, because the file may have changed before the watch began.
            let path = self.path.clone();
            if let Ok(content) = tokio::task::spawn_blocking(move || read(&path, K::MAX_BYTES)).await {
                self.apply(content, &use_keys);
                is_ok.set(i64::from(self.problem.is_none()));
            }
            changes.next().await;
        }
    }

    fn apply(&mut self, content: Result<Vec<u8>, String>, use_keys: &impl Fn(K)) {
        let outcome = content.and_then(|bytes| {
            let now = fingerprint(&bytes);
            let changed = now != self.seen;
            Ok(if changed { Some((now, K::of_file(&bytes)?)) } else { None })
        });
        match outcome {
            Ok(None) => self.problem = None,
            Ok(Some((now, keys))) => {
                let ids = keys.key_ids();
                let first = ids.first().map(String::as_str).unwrap_or_default();
                info!(first, all = ids.join(" "), "the {} have changed", K::WHAT);
                use_keys(keys);
                (self.seen, self.problem) = (now, None);
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    let what = K::WHAT;
                    error!(file = %self.path.display(), problem, "{what} refused; the last good ones stay in use");
                }
                self.problem = Some(problem);
            }
        }
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {}", error.kind()))?;
    if bytes.len() as u64 > limit {
        return Err(format!("is longer than {limit} bytes: remove old keys"));
    }
    Ok(bytes)
}

fn fingerprint(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    use crate::seal::{Keys, Sealer};
    use crate::telemetry::metrics::Metrics;

    const FIRST: &str = "k1 qmZ1xqvQb5bJ0g3yZ7fYb0d3yq4w0m0eXo1uYkq3T1A=";
    const SECOND: &str = "k2 pX6n0d4hG2vJ8c1sT5yR9wQ3eU7iO0aL6kF4zB2mN8E=";

    #[test]
    fn a_file_that_cannot_be_used_is_refused_at_start_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for (content, expected) in
            [(None, "cannot be read"), (Some(""), "contains no key"), (Some("k1 c2hvcnQ="), "line 1")]
        {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let problem = KeyFile::<Keys>::open(&path).map(|_| ()).unwrap_err();
            assert!(problem.starts_with("SESSION_KEYS_FILE: ") && problem.contains(expected), "{problem}");
            assert!(!problem.contains("c2hvcnQ"), "{problem}");
        }
        std::fs::write(&path, "#".repeat(20_000)).unwrap();
        assert!(KeyFile::<Keys>::open(&path).map(|_| ()).unwrap_err().contains("longer than"));
    }

    #[tokio::test]
    async fn a_good_new_content_is_used_and_a_bad_one_leaves_the_last_good_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, FIRST).unwrap();
        let (file, keys) = KeyFile::<Keys>::open(&path).unwrap();
        let (sealer, metrics) = (Sealer::new(keys), Metrics::new());
        let (used, gauge) = (sealer.clone(), metrics.session_keys_ok.clone());
        let following = file.follow(|keys| used.replace(keys), gauge);
        let until = async |key: &str, ok: i64| {
            let there = async {
                while (sealer.key_id().as_str(), metrics.session_keys_ok.get()) != (key, ok) {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(20), there).await.unwrap_or_else(|_| panic!("{key} {ok}"));
        };
        let changes = async {
            std::fs::write(&path, format!("{SECOND}\n{FIRST}\n")).unwrap();
            until("k2", 1).await;
            std::fs::write(&path, "nonsense").unwrap();
            until("k2", 0).await;
            // As a mounted Secret changes: by a rename.
            std::fs::write(folder.path().join("new"), FIRST).unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
            until("k1", 1).await;
            std::fs::remove_file(&path).unwrap();
            until("k1", 0).await;
        };
        tokio::select! {
            () = following => panic!("it follows for ever"),
            () = changes => {}
        }
    }
}
