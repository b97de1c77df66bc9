//! A folder of McpServer manifests and one of Secrets, as the standalone gateway watches them.

use std::fs;
use std::path::{Path, PathBuf};

use portcullis_gateway::Options;

use crate::gateway;

/// A temporary folder with `servers/` and `secrets/`.
#[derive(Debug)]
pub struct Manifests {
    folder: tempfile::TempDir,
}

/// A manifest; `more` are further lines of its spec, without indentation.
pub fn manifest(name: &str, url: &str, more: &str) -> String {
    let more: String = more.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata:\n  name: {name}\nspec:\n  url: {url}\n{more}"
    )
}

/// The manifest of a server in a namespace; see [`manifest`].
pub fn manifest_in(namespace: &str, name: &str, url: &str, more: &str) -> String {
    manifest(name, url, more).replacen("metadata:\n", &format!("metadata:\n  namespace: {namespace}\n"), 1)
}

impl Default for Manifests {
    fn default() -> Self {
        Self::new()
    }
}

impl Manifests {
    /// Two empty folders.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for part in ["servers", "secrets"] {
            fs::create_dir(folder.path().join(part)).expect("a folder");
        }
        Self { folder }
    }

    /// The folder of manifests.
    pub fn servers(&self) -> PathBuf {
        self.folder.path().join("servers")
    }

    /// The folder of Secrets.
    pub fn secrets(&self) -> PathBuf {
        self.folder.path().join("secrets")
    }

    /// Options of a gateway that watches both folders.
    pub fn options(&self) -> Options {
        Options { servers: Some(self.servers()), secrets: Some(self.secrets()), ..gateway::options() }
    }

    /// Writes the manifest of a server into a file of its own; see [`manifest`].
    pub fn add(&self, name: &str, url: &str, more: &str) {
        self.write(&format!("{name}.yaml"), &manifest(name, url, more));
    }

    /// Writes the manifest of a server in a namespace into a file `NAMESPACE.NAME.yaml`.
    pub fn add_in(&self, namespace: &str, name: &str, url: &str, more: &str) {
        self.write(&format!("{namespace}.{name}.yaml"), &manifest_in(namespace, name, url, more));
    }

    /// Writes a file of manifests in place, as `echo > FILE` does.
    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.servers().join(file), text).expect("a file");
    }

    /// Removes the file of a server.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.servers().join(format!("{name}.yaml"))).expect("the file was there");
    }

    /// Writes a key of a Secret.
    pub fn secret(&self, name: &str, key: &str, value: &str) {
        let folder = self.secrets().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(key), value).expect("a file");
    }

    /// Replaces a file by renaming another over it, as careful editors do.
    pub fn replace(&self, file: &str, text: &str) {
        replace(&self.servers(), file, text);
    }
}

fn replace(folder: &Path, file: &str, text: &str) {
    let fresh = folder.join(format!(".{file}.new"));
    fs::write(&fresh, text).expect("a file");
    fs::rename(fresh, folder.join(file)).expect("renamed");
}
