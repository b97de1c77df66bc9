//! Watches the file of the keys. Reports its problems; the last valid keys stay in use.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use tracing::{error, info};

use super::{Keys, MAX_KEYS_BYTES, Sealer};
use crate::telemetry::metrics::Metrics;
use crate::watch_files::FileWatcher;

/// A file with keys that was read once.
pub(crate) struct KeyFile {
    path: PathBuf,
    /// Digest of the content in use.
    seen: Vec<u8>,
    /// The last reported problem.
    problem: Option<String>,
}

impl KeyFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// One sentence, without any of the content.
    pub(crate) fn open(path: &Path) -> Result<(Self, Keys), String> {
        let read = || {
            let bytes = read(path)?;
            Ok((Self { path: path.to_owned(), seen: fingerprint(&bytes), problem: None }, parse(&bytes)?))
        };
        read().map_err(|problem: String| format!("SESSION_KEYS_FILE: {} {problem}", path.display()))
    }

    /// Passes every valid new content to the sealer, forever.
    pub(crate) async fn follow(mut self, sealer: Sealer, metrics: Metrics) {
        let path = self.path.clone();
        let watching = tokio::task::spawn_blocking(move || FileWatcher::watch(Some(&path), None));
        let Ok(mut changes) = watching.await else { return };
        loop {
            // First, because the file may have changed before the watch began.
            let path = self.path.clone();
            if let Ok(content) = tokio::task::spawn_blocking(move || read(&path)).await {
                self.apply(content, &sealer);
                metrics.session_keys_ok.set(i64::from(self.problem.is_none()));
            }
            changes.next().await;
        }
    }

    fn apply(&mut self, content: Result<Vec<u8>, String>, sealer: &Sealer) {
        let outcome = content.and_then(|bytes| {
            let now = fingerprint(&bytes);
            let changed = now != self.seen;
            Ok(if changed { Some((now, parse(&bytes)?)) } else { None })
        });
        match outcome {
            Ok(None) => self.problem = None,
            Ok(Some((now, keys))) => {
                let ids: Vec<&str> = keys.ids().collect();
                info!(seals = ids[0], opens = ids.join(" "), "the session keys have changed");
                sealer.replace(keys);
                (self.seen, self.problem) = (now, None);
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    error!(file = %self.path.display(), problem, "session keys refused; the last good ones stay in use");
                }
                self.problem = Some(problem);
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_KEYS_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {}", error.kind()))?;
    if bytes.len() as u64 > MAX_KEYS_BYTES {
        return Err(format!("is longer than {MAX_KEYS_BYTES} bytes: remove old keys"));
    }
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Keys, String> {
    let text =
        str::from_utf8(bytes).map_err(|_| "is not text: write lines of an id and 32 bytes in base64".to_owned())?;
    Keys::parse(text).map_err(|error| error.to_string())
}

fn fingerprint(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

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
            let problem = KeyFile::open(&path).map(|_| ()).unwrap_err();
            assert!(problem.starts_with("SESSION_KEYS_FILE: ") && problem.contains(expected), "{problem}");
            assert!(!problem.contains("c2hvcnQ"), "{problem}");
        }
        std::fs::write(&path, "#".repeat(20_000)).unwrap();
        assert!(KeyFile::open(&path).map(|_| ()).unwrap_err().contains("longer than"));
    }

    #[tokio::test]
    async fn a_good_new_content_is_used_and_a_bad_one_leaves_the_last_good_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, FIRST).unwrap();
        let (file, keys) = KeyFile::open(&path).unwrap();
        let (sealer, metrics) = (Sealer::new(keys), Metrics::new());
        let following = file.follow(sealer.clone(), metrics.clone());
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
