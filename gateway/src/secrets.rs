//! What McpServers name in Secrets and ConfigMaps, read from a folder or from the cluster.
//!
//! Values never leave this module but in headers and TLS settings: nothing here shows them.

pub mod cluster;
mod error;
mod folder;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_crds::Server;
use portcullis_crds::mcpserver::{CaKind, Header, Tls};
use url::{Origin, Url};

pub use error::SecretError;
pub use watch::follow;

use crate::upstream::stream::{Named, TlsMaterial};

/// A header's value may be so long: most servers refuse longer ones, and it is sent with each request.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Where Secrets lie.
#[derive(Clone)]
pub enum Secrets {
    /// In a folder, as `DIR/NAME/KEY`: the layout of mounted Secrets. None: no Secret can be had.
    Folder(Option<PathBuf>),
    /// In the cluster.
    Cluster(Arc<cluster::Store>),
}

/// Namespaces whose credentials may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// All.
    All,
    /// These.
    Listed(BTreeSet<String>),
}

/// The kind of an object that holds values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

/// One object in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace: that of the server.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One value that a server needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it lies.
    pub object: ObjectKey,
    /// Under which key.
    pub key: String,
    /// Where it is sent, if it is a credential; a certificate authority is sent nowhere.
    pub origin: Option<Origin>,
}

/// A server's settings with their Secrets filled in.
#[derive(Clone, Default, PartialEq)]
pub struct Resolved {
    /// Headers for every request.
    pub headers: HeaderMap,
    /// TLS settings.
    pub tls: TlsMaterial,
    /// What they were filled in from.
    references: Vec<Reference>,
}

impl Resolved {
    /// Sends the headers of others from now on; what TLS was set up with stays.
    pub fn take_headers_of(&mut self, others: Self) {
        self.headers = others.headers;
        // A value of either may be taken back.
        self.references.extend(others.references);
        self.references.dedup();
    }
}

// === impl Secrets ===

impl Secrets {
    /// Fills in the Secrets of a server.
    ///
    /// # Errors
    /// A revocation if there is one, else the first that cannot be used: the server must then not be contacted, for it
    /// would be without credentials.
    pub fn resolve(&self, server: &Server) -> Result<Resolved, SecretError> {
        let mut reader =
            Reader { secrets: self, server, origin: origin(server), references: Vec::new(), problem: None };
        let headers = server.headers.iter().filter_map(|header| reader.header(header)).collect();
        let tls = server.tls.as_ref().map(|tls| reader.tls(tls)).unwrap_or_default();
        let references = reader.references;
        reader.problem.map_or(Ok(Resolved { headers, tls, references }), Err)
    }

    /// Whether something that is in use must not be used any more.
    pub fn revoked(&self, used: &Resolved) -> Option<SecretError> {
        let errors = used.references.iter().filter_map(|reference| self.read(reference).err());
        errors.into_iter().find(SecretError::is_revocation)
    }

    fn read(&self, reference: &Reference) -> Result<Vec<u8>, SecretError> {
        match self {
            Self::Folder(folder) => folder::read(folder.as_deref(), reference),
            Self::Cluster(store) => store.read(reference),
        }
    }

    /// How people find a value.
    fn name(&self, reference: &Reference) -> String {
        match self {
            Self::Folder(_) => folder::place(reference),
            Self::Cluster(_) => format!("{}, key {}", reference.object, reference.key),
        }
    }
}

fn origin(server: &Server) -> Origin {
    // A URL that is none is refused elsewhere; an opaque origin is equal to no other.
    Url::parse(&server.url).map_or_else(|_| Origin::new_opaque(), |url| url.origin())
}

/// Reads all that one server names, and keeps the gravest problem.
struct Reader<'a> {
    secrets: &'a Secrets,
    server: &'a Server,
    origin: Origin,
    references: Vec<Reference>,
    problem: Option<SecretError>,
}

impl Reader<'_> {
    fn header(&mut self, header: &Header) -> Option<(HeaderName, HeaderValue)> {
        let mut value = header.prefix.clone().unwrap_or_default().into_bytes();
        let mut place = format!("headers/{}", header.name);
        match &header.secret_ref {
            Some(secret) => {
                let reference = self.reference(Kind::Secret, &secret.name, &secret.key, true);
                place = self.secrets.name(&reference);
                let secret = trimmed(self.read(reference)?);
                if secret.len() > MAX_HEADER_BYTES {
                    let limit = MAX_HEADER_BYTES;
                    return self.refused(SecretError::TooLong { place, limit, authority: false });
                }
                // A file that is just being written is empty for a moment.
                if secret.is_empty() {
                    return self.refused(SecretError::NotAHeader(place));
                }
                value.extend(secret);
            }
            None => value.extend_from_slice(header.value.as_deref().unwrap_or_default().as_bytes()),
        }
        let parts = (HeaderName::from_bytes(header.name.as_bytes()), HeaderValue::from_bytes(&value));
        let (Ok(name), Ok(mut value)) = parts else { return self.refused(SecretError::NotAHeader(place)) };
        value.set_sensitive(true);
        Some((name, value))
    }

    fn tls(&mut self, tls: &Tls) -> TlsMaterial {
        let ca = tls.ca_ref.as_ref().and_then(|ca| {
            let kind = if ca.kind == CaKind::Secret { Kind::Secret } else { Kind::ConfigMap };
            let reference = self.reference(kind, &ca.name, &ca.key, false);
            let name = self.secrets.name(&reference);
            self.read(reference).map(|value| Named { name, value })
        });
        let client = tls.client_cert_ref.as_ref().and_then(|secret| {
            let certificate = self.reference(Kind::Secret, &secret.name, "tls.crt", true);
            let key = self.reference(Kind::Secret, &secret.name, "tls.key", true);
            let name = self.secrets.name(&certificate);
            // Both are read, so that the gravest problem of both is told.
            let (certificate, key) = (self.read(certificate), self.read(key));
            certificate.zip(key).map(|value| Named { name, value })
        });
        TlsMaterial { ca, client, server_name: tls.server_name.clone(), insecure: tls.insecure_skip_verify }
    }

    fn reference(&self, kind: Kind, name: &str, key: &str, credential: bool) -> Reference {
        let object = ObjectKey { kind, namespace: self.server.key.namespace.clone(), name: name.to_owned() };
        Reference { object, key: key.to_owned(), origin: credential.then(|| self.origin.clone()) }
    }

    fn read(&mut self, reference: Reference) -> Option<Vec<u8>> {
        let value = self.secrets.read(&reference);
        self.references.push(reference);
        match value {
            Ok(value) => Some(value),
            Err(problem) => self.refused(problem),
        }
    }

    fn refused<T>(&mut self, problem: SecretError) -> Option<T> {
        let graver = problem.is_revocation() && !self.problem.as_ref().is_some_and(SecretError::is_revocation);
        if self.problem.is_none() || graver {
            self.problem = Some(problem);
        }
        None
    }
}

/// Editors end files with a line end that nobody means.
fn trimmed(mut value: Vec<u8>) -> Vec<u8> {
    while value.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        value.pop();
    }
    value
}

// === impl Namespaces ===

impl Namespaces {
    /// Whether credentials of this namespace may be read.
    pub fn cover(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Listed(names) => names.contains(namespace),
        }
    }
}

impl FromStr for Namespaces {
    type Err = String;

    /// Reads names separated by commas, or `*`. Fails with the first part that is no name.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self::All);
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts
            .map(|part| if is_label(part) { Ok(part.to_owned()) } else { Err(part.to_owned()) })
            .collect::<Result<_, _>>()
            .map(Self::Listed)
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests;
