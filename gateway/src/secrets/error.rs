//! The reasons a value is unusable. The texts name objects, keys and origins, and never contain a value.

use std::fmt;

use portcullis_crds::Reason;
use thiserror::Error;

use super::{ObjectKey, ObjectKind};
use portcullis_runtime::setting_names::{Setting, way_to_secrets};

/// The reason a value is unusable.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum SecretError {
    /// No folder is configured.
    #[error("{0} is needed, but {way}", way = way_to_secrets())]
    NoFolder(String),
    /// The file does not exist or is unreadable.
    #[error("cannot read {place} in the folder of Secrets: put the value into the file {place} there")]
    Unreadable {
        /// The file, as `NAME/KEY`.
        place: String,
        /// [`Reason::SecretNotFound`], or a more specific one.
        reason: Reason,
    },
    /// The value is not valid in a header.
    #[error("{0} is not a valid header value: use one line of visible characters")]
    NotAHeader(String),
    /// The value exceeds the limit.
    #[error("{place} is longer than {limit} bytes: put only the value there")]
    TooLong {
        /// The place of the value.
        place: String,
        /// The limit.
        limit: usize,
        /// Whether the value is for certificate authorities.
        authority: bool,
    },
    /// The gateway may not read the namespace.
    #[error(
        "{0} is needed, but the gateway reads no credentials in namespace {namespace}: add it to {setting}",
        namespace = .0.namespace,
        setting = Setting::Credentials.name()
    )]
    Namespace(ObjectKey),
    /// Unknown: the API server has not answered yet.
    #[error(
        "{0} is needed, but the API server has not listed its namespace yet: wait; if this stays, see the gateway's log"
    )]
    Pending(ObjectKey),
    /// The API server denies the gateway access there.
    #[error(
        "{0} is needed, but the API server denies the gateway access to its namespace, which lacks the Role: upgrade \
         the release with the namespace in {setting}",
        setting = Setting::Credentials.name()
    )]
    Refused(ObjectKey),
    /// The object does not exist.
    #[error("{object} does not exist: create it with the label portcullis.dev/credentials=true")]
    NotFound {
        /// The object.
        object: ObjectKey,
        /// Whether the value is for certificate authorities.
        authority: bool,
    },
    /// The object exists, but is not labelled for the gateway.
    #[error(
        "{0} lacks the label that lets the gateway read it: kubectl -n {namespace} label {kind} {name} \
         portcullis.dev/credentials=true",
        namespace = .0.namespace,
        kind = .0.kind.as_str().to_ascii_lowercase(),
        name = .0.name
    )]
    NotLabelled(ObjectKey),
    /// The object does not have the key.
    #[error("{object} has no key {key}: add it, or correct the key in the McpServer")]
    KeyMissing {
        /// The object.
        object: ObjectKey,
        /// The key.
        key: String,
    },
    /// The value must not be sent to this origin.
    #[error("{object} may not be sent to {origin}: add this origin to its annotation portcullis.dev/origin")]
    Origin {
        /// The object.
        object: ObjectKey,
        /// The origin of the server's URL.
        origin: String,
    },
}

impl SecretError {
    /// The reason for the status of an McpServer.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::NoFolder(_) | Self::Namespace(_) | Self::Refused(_) => Reason::NamespaceNotAllowed,
            Self::Unreadable { reason, .. } => *reason,
            Self::TooLong { authority: true, .. } => Reason::CaInvalid,
            Self::NotAHeader(_) | Self::TooLong { .. } => Reason::SecretInvalid,
            Self::Pending(_) => Reason::Probing,
            Self::NotFound { authority: true, .. } => Reason::CaNotFound,
            Self::NotFound { .. } => Reason::SecretNotFound,
            Self::NotLabelled(_) => Reason::SecretNotLabelled,
            Self::KeyMissing { .. } => Reason::SecretKeyMissing,
            Self::Origin { .. } => Reason::OriginMismatch,
        }
    }

    /// Whether a permission was revoked: then no formerly valid value stays in use.
    pub(crate) fn is_revocation(&self) -> bool {
        matches!(self, Self::NotLabelled(_) | Self::Origin { .. })
    }
}

impl ObjectKind {
    /// The word in manifests.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}
