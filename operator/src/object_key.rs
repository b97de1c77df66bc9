//! Names the objects whose statuses the operator writes.

use std::fmt;

use kube::core::ApiResource;
use portcullis_crds::{McpAccessPolicy, McpServer, McpView, ServerKey};

/// A kind of object that has a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectKind {
    /// McpServer.
    Server,
    /// McpAccessPolicy.
    Policy,
    /// McpView.
    View,
}

/// An object that has a status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    /// Its kind.
    pub(crate) kind: ObjectKind,
    /// Its namespace and name.
    pub(crate) key: ServerKey,
}

impl ObjectKind {
    /// The word in `kind`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Server => "McpServer",
            Self::Policy => "McpAccessPolicy",
            Self::View => "McpView",
        }
    }

    /// The resource of the API server.
    pub(crate) fn resource(self) -> ApiResource {
        match self {
            Self::Server => ApiResource::erase::<McpServer>(&()),
            Self::Policy => ApiResource::erase::<McpAccessPolicy>(&()),
            Self::View => ApiResource::erase::<McpView>(&()),
        }
    }
}

impl ObjectKey {
    /// The McpServer of this key.
    pub(crate) fn server(key: &ServerKey) -> Self {
        Self { kind: ObjectKind::Server, key: key.clone() }
    }

    /// The McpAccessPolicy of this key.
    pub(crate) fn policy(key: &ServerKey) -> Self {
        Self { kind: ObjectKind::Policy, key: key.clone() }
    }

    /// The McpView of this key.
    pub(crate) fn view(key: &ServerKey) -> Self {
        Self { kind: ObjectKind::View, key: key.clone() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.key)
    }
}
