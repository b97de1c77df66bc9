//! Reads the Secrets and ConfigMaps that McpServers reference, from a folder or from the cluster.
//!
//! Values leave this module only in headers and TLS settings: nothing here displays them.

pub(crate) mod cluster;
mod error;
mod folder;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use portcullis_crds::Server;
use portcullis_crds::mcpserver::{CaKind, Header, SecretKeyRef, Tls};
use url::{Origin, Url};

pub(crate) use error::SecretError;
pub(crate) use watch::follow;

use portcullis_mcp::http1::stream::{Named, TlsMaterial};
use portcullis_mcp::upstream::SessionHeaders;

/// The limit for a header's value: most servers refuse longer ones, and it is sent with each request.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The source of Secrets.
#[derive(Clone)]
pub(crate) enum Secrets {
    /// A folder, as `DIR/NAME/KEY`: the layout of mounted Secrets. `None`: no Secret is available.
    Folder(Option<PathBuf>),
    /// In the cluster.
    Cluster(Arc<cluster::Store>),
}

/// Namespaces whose credentials the gateway may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// All.
    All,
    /// These.
    Listed(BTreeSet<String>),
}

/// The kind of an object that holds values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

/// One object in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    /// Its kind.
    pub(crate) kind: ObjectKind,
    /// Its namespace: that of the server.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

/// A reference to one value that a server needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The object that contains it.
    pub(crate) object: ObjectKey,
    /// Its key in the object.
    pub(crate) key: String,
    /// The destination of a credential; a certificate authority is sent nowhere.
    pub(crate) origin: Option<Origin>,
}

/// A server's settings with the values of their Secrets.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Resolved {
    /// Headers of requests.
    pub(crate) headers: SessionHeaders,
    /// The audience of the gateway's own token among them.
    pub(crate) audience: Option<Arc<str>>,
    /// TLS settings.
    pub(crate) tls: TlsMaterial,
    /// The references behind the values.
    references: Vec<Reference>,
}

impl Resolved {
    /// Uses the headers of `others` from now on; the TLS settings stay.
    pub(crate) fn take_headers_of(&mut self, others: Self) {
        (self.headers, self.audience) = (others.headers, others.audience);
        // A value of either may be revoked.
        self.references.extend(others.references);
        self.references.dedup();
    }
}

// === impl Secrets ===

impl Secrets {
    /// Resolves the references of a server.
    ///
    /// # Errors
    /// A revocation if there is one, else the first unusable reference: the server must then not be contacted, for it
    /// would be without credentials.
    pub(crate) fn resolve(&self, server: &Server) -> Result<Resolved, SecretError> {
        let mut reader =
            ReferenceReader { secrets: self, server, origin: origin(server), references: Vec::new(), problem: None };
        let all = server.headers.iter().filter_map(|header| reader.header(header)).collect();
        let listing = server.listing.headers.iter().filter_map(|header| reader.header(header)).collect();
        let headers = SessionHeaders { all, listing };
        let tls = server.tls.as_ref().map(|tls| reader.tls(tls)).unwrap_or_default();
        let references = reader.references;
        reader.problem.map_or(Ok(Resolved { headers, audience: None, tls, references }), Err)
    }

    /// The secret by which the gateway authenticates to a token endpoint of this origin.
    ///
    /// # Errors
    /// It is unusable.
    pub(crate) fn client_secret(
        &self,
        server: &Server,
        secret: &SecretKeyRef,
        origin: Origin,
    ) -> Result<String, SecretError> {
        let (kind, namespace) = (ObjectKind::Secret, server.key.namespace.clone());
        let object = ObjectKey { kind, namespace, name: secret.name.clone() };
        let reference = Reference { object, key: secret.key.clone(), origin: Some(origin) };
        let (value, place) = (trimmed(self.read(&reference)?), self.name(&reference));
        if value.len() > MAX_HEADER_BYTES {
            return Err(SecretError::TooLong { place, limit: MAX_HEADER_BYTES, authority: false });
        }
        let text = String::from_utf8(value).ok().filter(|text| !text.is_empty());
        text.ok_or(SecretError::NotAHeader(place))
    }

    /// Whether a value in use must no longer be used.
    pub(crate) fn revoked(&self, used: &Resolved) -> Option<SecretError> {
        let errors = used.references.iter().filter_map(|reference| self.read(reference).err());
        errors.into_iter().find(SecretError::is_revocation)
    }

    fn read(&self, reference: &Reference) -> Result<Vec<u8>, SecretError> {
        match self {
            Self::Folder(folder) => folder::read(folder.as_deref(), reference),
            Self::Cluster(store) => store.read(reference),
        }
    }

    /// The name of a value for users.
    fn name(&self, reference: &Reference) -> String {
        match self {
            Self::Folder(_) => folder::place(reference),
            Self::Cluster(_) => format!("{}, key {}", reference.object, reference.key),
        }
    }
}

fn origin(server: &Server) -> Origin {
    // An invalid URL is refused elsewhere; an opaque origin equals no other.
    Url::parse(&server.url).map_or_else(|_| Origin::new_opaque(), |url| url.origin())
}

/// Reads all references of one server, and keeps the gravest problem.
struct ReferenceReader<'a> {
    secrets: &'a Secrets,
    server: &'a Server,
    origin: Origin,
    references: Vec<Reference>,
    problem: Option<SecretError>,
}

impl ReferenceReader<'_> {
    fn header(&mut self, header: &Header) -> Option<(HeaderName, HeaderValue)> {
        let mut value = header.prefix.clone().unwrap_or_default().into_bytes();
        let mut place = format!("headers/{}", header.name);
        match &header.secret_ref {
            Some(secret) => {
                let reference = self.reference(ObjectKind::Secret, &secret.name, &secret.key, true);
                place = self.secrets.name(&reference);
                let secret = trimmed(self.read(reference)?);
                if secret.len() > MAX_HEADER_BYTES {
                    let limit = MAX_HEADER_BYTES;
                    return self.refused(SecretError::TooLong { place, limit, authority: false });
                }
                // A file that is just being written is briefly empty.
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
            let kind = if ca.kind == CaKind::Secret { ObjectKind::Secret } else { ObjectKind::ConfigMap };
            let reference = self.reference(kind, &ca.name, &ca.key, false);
            let name = self.secrets.name(&reference);
            self.read(reference).map(|value| Named { name, value })
        });
        let client = tls.client_cert_ref.as_ref().and_then(|secret| {
            let certificate = self.reference(ObjectKind::Secret, &secret.name, "tls.crt", true);
            let key = self.reference(ObjectKind::Secret, &secret.name, "tls.key", true);
            let name = self.secrets.name(&certificate);
            // Both are read, so that the graver problem is reported.
            let (certificate, key) = (self.read(certificate), self.read(key));
            certificate.zip(key).map(|value| Named { name, value })
        });
        TlsMaterial { ca, client, server_name: tls.server_name.clone(), insecure: tls.insecure_skip_verify }
    }

    fn reference(&self, kind: ObjectKind, name: &str, key: &str, credential: bool) -> Reference {
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

/// Editors end files with an unintended line end.
fn trimmed(mut value: Vec<u8>) -> Vec<u8> {
    while value.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        value.pop();
    }
    value
}

// === impl Namespaces ===

impl Namespaces {
    /// Whether the gateway may read credentials of this namespace.
    pub(crate) fn cover(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Listed(names) => names.contains(namespace),
        }
    }
}

impl FromStr for Namespaces {
    type Err = String;

    /// Parses names separated by commas, or `*`. Fails with the first invalid name.
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
