//! The configured source of servers.

use std::path::PathBuf;

use portcullis_crds::Server;

/// The source of servers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SourceConfig {
    /// `MCP_URL` and `MCP_URLS`: fixed.
    Urls(Vec<Server>),
    /// A file or folder of manifests, watched.
    Path(PathBuf),
    /// ConfigMaps, watched through the API server.
    ConfigMaps(ConfigMapNames),
}

/// The ConfigMaps, and how to reach them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigMapNames {
    /// Their names, each once.
    pub(crate) names: Vec<String>,
    /// Their namespace, if not that of the client.
    pub(crate) namespace: Option<String>,
    /// The folder with their mounted copies.
    pub(crate) mounted: Option<PathBuf>,
}
