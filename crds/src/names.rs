//! Names that the operator, the gateway and people must spell alike.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The API group of the definitions.
pub const GROUP: &str = "portcullis.dev";

/// The namespace of a manifest that names none, as `kubectl apply` assumes it.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Label of Secrets and ConfigMaps that the gateway may read, with the value [`CREDENTIALS_VALUE`].
pub const CREDENTIALS_LABEL: &str = "portcullis.dev/credentials";

/// The value of [`CREDENTIALS_LABEL`].
pub const CREDENTIALS_VALUE: &str = "true";

/// Annotation of such a Secret: the origins that it may be sent to, separated by commas.
pub const ORIGIN_ANNOTATION: &str = "portcullis.dev/origin";

/// Key of a slot's ConfigMap that holds its text (in `data`).
pub const SLOT_TEXT_KEY: &str = "servers.json";

/// Key of a slot's ConfigMap that holds it compressed (in `binaryData`).
pub const SLOT_GZIP_KEY: &str = "servers.json.gz";

/// Key of a slot's ConfigMap that holds the SHA-256 of its content, in hexadecimal (in `data`): a mounted copy has no
/// annotations.
pub const SLOT_REVISION_KEY: &str = "revision";

/// Key of the ConfigMap that keeps the public keys of the cluster's service accounts.
pub const KEPT_KEYS_KEY: &str = "keys.json";

/// Annotation of a slot's ConfigMap: SHA-256 of its content, in hexadecimal. A content of another revision is not what
/// the operator wrote, and is not used.
pub const REVISION_ANNOTATION: &str = "portcullis.dev/revision";

/// Annotation of a slot's ConfigMap: when the operator wrote it (RFC 3339, with microseconds).
pub const WRITTEN_ANNOTATION: &str = "portcullis.dev/written-at";

/// Joins a server's name and a tool's where the bare name is taken: `github__search`.
///
/// A server's name is a DNS label and holds no underscore, so the first `__` is always the joint.
pub const TOOL_NAME_JOINER: &str = "__";

/// The key of an McpServer: its namespace and name.
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

    /// Reads `NAMESPACE/NAME`, or `NAME` in this namespace.
    pub fn named(text: &str, namespace: &str) -> Self {
        let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
        Self::new(namespace, name)
    }

    /// The name callers know the server by: bare in `home`, else `namespace/name`.
    ///
    /// The name depends only on the key, so that adding a server never renames another.
    pub fn public_name(&self, home: &str) -> String {
        if self.namespace == home { self.name.clone() } else { self.to_string() }
    }
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
