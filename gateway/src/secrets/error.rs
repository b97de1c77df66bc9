//! Why a value cannot be used. The texts name objects, keys and origins, and never hold a value.

use std::fmt;

use portcullis_crds::Reason;
use thiserror::Error;

use super::{Kind, ObjectKey};
use crate::setting_names::{Setting, way_to_secrets};

/// Why a value cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SecretError {
    /// No folder was given.
    #[error("{0} is needed, but {way}", way = way_to_secrets())]
    NoFolder(String),
    /// The file is not there or cannot be read.
    #[error("{place} cannot be read in the folder of Secrets: put the value into the file {place} there")]
    Unreadable {
        /// The file, as `NAME/KEY`.
        place: String,
        /// [`Reason::SecretNotFound`], or what fits better.
        reason: Reason,
    },
    /// A header cannot carry the value.
    #[error("{0} holds what no header can carry: use one line of visible characters")]
    NotAHeader(String),
    /// A value is longer than any that is of use.
    #[error("{place} is longer than {limit} bytes: put the value alone there")]
    TooLong {
        /// Where it lies.
        place: String,
        /// How long it may be.
        limit: usize,
        /// Whether it would hold certificate authorities.
        authority: bool,
    },
    /// The gateway was not given the namespace.
    #[error(
        "{0} is needed, but the gateway reads no credentials in namespace {namespace}: add it to {setting}",
        namespace = .0.namespace,
        setting = Setting::Credentials.name()
    )]
    Namespace(ObjectKey),
    /// It may be there; the API server has not said yet.
    #[error(
        "{0} is needed, and the API server has not told yet what there is: wait; if it stays, see the gateway's log"
    )]
    Pending(ObjectKey),
    /// The API server lets the gateway read nothing there.
    #[error(
        "{0} is needed, and the API server lets the gateway read nothing in its namespace: the Role is missing there, so \
         upgrade the release with the namespace in {setting}",
        setting = Setting::Credentials.name()
    )]
    Refused(ObjectKey),
    /// It is not there.
    #[error("{object} is not there: create it, with the label portcullis.dev/credentials=true")]
    NotFound {
        /// Which one.
        object: ObjectKey,
        /// Whether it would hold certificate authorities.
        authority: bool,
    },
    /// It is there, but not released for the gateway.
    #[error(
        "{0} is not released for the gateway: kubectl -n {namespace} label {kind} {name} portcullis.dev/credentials=true",
        namespace = .0.namespace,
        kind = .0.kind.as_str().to_ascii_lowercase(),
        name = .0.name
    )]
    NotLabelled(ObjectKey),
    /// It has no such key.
    #[error("{object} has no key {key}: add it, or correct the key in the McpServer")]
    KeyMissing {
        /// The object.
        object: ObjectKey,
        /// The key.
        key: String,
    },
    /// It may not be sent to this origin.
    #[error("{object} may not be sent to {origin}: add this origin to its annotation portcullis.dev/origin")]
    Origin {
        /// The object.
        object: ObjectKey,
        /// The origin of the server's URL.
        origin: String,
    },
}

impl SecretError {
    /// The same as the status of an McpServer says it.
    pub fn reason(&self) -> Reason {
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

    /// Whether somebody took back what was allowed before: then nothing that was valid stays in use.
    pub fn is_revocation(&self) -> bool {
        matches!(self, Self::NotLabelled(_) | Self::Origin { .. })
    }
}

impl Kind {
    /// The word in manifests.
    pub fn as_str(self) -> &'static str {
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
