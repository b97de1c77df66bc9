//! The file of the audit log: appended to, and opened again when it was rotated away.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the path is compared with the open file.
const LOOK: Duration = Duration::from_secs(1);

/// An open audit log.
pub(crate) struct AuditFile {
    path: PathBuf,
    file: Option<File>,
    looked: Instant,
}

impl AuditFile {
    /// Opens the file, which only its owner may read if it is new.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Some(opened(path)?), looked: Instant::now() })
    }

    /// Whether the path still leads to the open file.
    fn is_current(&self) -> bool {
        let id = |metadata: io::Result<std::fs::Metadata>| metadata.ok().map(|it| (it.dev(), it.ino()));
        let open = self.file.as_ref().and_then(|file| id(file.metadata()));
        open.is_some() && open == id(std::fs::metadata(&self.path))
    }
}

impl Write for AuditFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() || self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if !self.is_current() {
                self.file = None;
            }
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => opened(&self.path)?,
        };
        let written = file.write(bytes);
        self.file = Some(file);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

fn opened(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_rotated_away_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit"), folder.path().join("audit.1"));
        let mut file = AuditFile::open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        file.write_all(b"two\n").unwrap();
        file.looked = Instant::now().checked_sub(LOOK).unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }
}
