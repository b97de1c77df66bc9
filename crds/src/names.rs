//! Names that both sides of a border must spell alike.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The API group of everything we define.
pub const GROUP: &str = "portcullis.dev";

/// The namespace of a manifest that names none, as `kubectl apply` assumes it.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Joins a server's name and a tool's where the bare name is taken: `github__search`.
///
/// A server's name is a DNS label and holds no underscore, so the first `__` is always the joint.
pub const TOOL_NAME_JOINER: &str = "__";

/// Which McpServer something belongs to: its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServerKey {
    /// The namespace; [`DEFAULT_NAMESPACE`] where the manifest names none.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ServerKey {
    /// Joins a namespace and a name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The name callers know the server by: bare in `home`, else `namespace/name`.
    ///
    /// It depends on nothing but the key, so that adding a server never renames another.
    pub fn public_name(&self, home: &str) -> String {
        if self.namespace == home { self.name.clone() } else { self.to_string() }
    }
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
