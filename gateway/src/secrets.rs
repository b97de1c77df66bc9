//! What McpServers name in Secrets and ConfigMaps, read from a folder laid out as `DIR/NAME/KEY`.
//!
//! That is the layout of mounted Secrets, so one manifest serves with and without a cluster. Values never leave this
//! module but in headers and TLS settings.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_crds::Server;
use portcullis_crds::mcpserver::{Header, SecretKeyRef, Tls};
use thiserror::Error;

use crate::upstream::stream::TlsMaterial;

/// A Secret's value may be so long: the limit of a whole Secret in Kubernetes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Where Secrets lie.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// The folder; none: no Secret can be had.
    pub folder: Option<PathBuf>,
}

/// A server's settings with their Secrets filled in.
#[derive(Clone, Default, PartialEq)]
pub struct Resolved {
    /// Headers for every request.
    pub headers: HeaderMap,
    /// TLS settings.
    pub tls: TlsMaterial,
}

/// Why a Secret cannot be used. The texts name it and never hold its value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SecretError {
    /// No folder was given.
    #[error("{name}/{key} is needed, but there is no folder of Secrets: give one with --secrets")]
    NoFolder {
        /// Name of the Secret or ConfigMap.
        name: String,
        /// Its key.
        key: String,
    },
    /// The file is not there or cannot be read.
    #[error("{name}/{key} cannot be read in the folder of Secrets: put the value into the file {name}/{key} there")]
    Unreadable {
        /// Name of the Secret or ConfigMap.
        name: String,
        /// Its key.
        key: String,
    },
    /// A header cannot carry the value.
    #[error("{name}/{key} holds what no header can carry: use one line of visible characters")]
    NotAHeader {
        /// Name of the Secret.
        name: String,
        /// Its key.
        key: String,
    },
}

impl Secrets {
    /// Fills in the Secrets of a server.
    ///
    /// # Errors
    /// The first that cannot be used: the server must then not be contacted, for it would be without credentials.
    pub fn resolve(&self, server: &Server) -> Result<Resolved, SecretError> {
        let mut headers = HeaderMap::with_capacity(server.headers.len());
        for header in &server.headers {
            let (name, value) = self.header(header)?;
            headers.insert(name, value);
        }
        let tls = server.tls.as_ref().map(|tls| self.tls(tls)).transpose()?.unwrap_or_default();
        Ok(Resolved { headers, tls })
    }

    fn header(&self, header: &Header) -> Result<(HeaderName, HeaderValue), SecretError> {
        let origin =
            header.secret_ref.clone().unwrap_or(SecretKeyRef { name: "headers".into(), key: header.name.clone() });
        let not_a_header = || SecretError::NotAHeader { name: origin.name.clone(), key: origin.key.clone() };
        let mut value = header.prefix.clone().unwrap_or_default().into_bytes();
        match &header.secret_ref {
            Some(secret) => {
                let secret = trimmed(self.read(&secret.name, &secret.key)?);
                // A file that is just being written is empty for a moment.
                if secret.is_empty() {
                    return Err(not_a_header());
                }
                value.extend(secret);
            }
            None => value.extend_from_slice(header.value.as_deref().unwrap_or_default().as_bytes()),
        }
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| not_a_header())?;
        let mut value = HeaderValue::from_bytes(&value).map_err(|_| not_a_header())?;
        value.set_sensitive(true);
        Ok((name, value))
    }

    fn tls(&self, tls: &Tls) -> Result<TlsMaterial, SecretError> {
        let ca = tls.ca_ref.as_ref().map(|ca| self.read(&ca.name, &ca.key)).transpose()?;
        let client = match &tls.client_cert_ref {
            Some(secret) => Some((self.read(&secret.name, "tls.crt")?, self.read(&secret.name, "tls.key")?)),
            None => None,
        };
        Ok(TlsMaterial { ca, client, server_name: tls.server_name.clone(), insecure: tls.insecure_skip_verify })
    }

    fn read(&self, name: &str, key: &str) -> Result<Vec<u8>, SecretError> {
        let (name, key) = (name.to_owned(), key.to_owned());
        let Some(folder) = &self.folder else { return Err(SecretError::NoFolder { name, key }) };
        // `rules` has refused names that could lead out of the folder.
        read_bounded(&folder.join(&name).join(&key)).map_err(|_| SecretError::Unreadable { name, key })
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut value = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut value)?;
    Ok(value)
}

/// Editors end files with a line end that nobody means.
fn trimmed(mut value: Vec<u8>) -> Vec<u8> {
    while value.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        value.pop();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(yaml: &str) -> Server {
        let spec: portcullis_crds::McpServerSpec = serde_yaml::from_str(yaml).unwrap();
        Server { headers: spec.headers, tls: spec.tls, ..Server::from_url("x", "https://x/") }
    }

    #[test]
    fn headers_take_their_values_from_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("github")).unwrap();
        std::fs::write(folder.path().join("github/token"), "s3cret\n").unwrap();
        std::fs::write(folder.path().join("github/bad"), "a\nb").unwrap();
        let secrets = Secrets { folder: Some(folder.path().into()) };
        let with = |key: &str| {
            server(&format!(
                "{{headers: [{{name: Authorization, prefix: 'Bearer ', secretRef: {{name: github, key: {key}}}}}, {{name: X-Team, value: a}}]}}"
            ))
        };
        let mut expected = HeaderMap::new();
        expected.insert("authorization", HeaderValue::from_static("Bearer s3cret"));
        expected.insert("x-team", HeaderValue::from_static("a"));
        assert_eq!(secrets.resolve(&with("token")).unwrap().headers, expected);
        let (name, key) = (String::from("github"), String::from);
        assert_eq!(
            secrets.resolve(&with("bad")).err(),
            Some(SecretError::NotAHeader { name: name.clone(), key: key("bad") })
        );
        assert_eq!(
            secrets.resolve(&with("none")).err(),
            Some(SecretError::Unreadable { name: name.clone(), key: key("none") })
        );
        let nowhere = Secrets::default();
        assert_eq!(nowhere.resolve(&with("token")).err(), Some(SecretError::NoFolder { name, key: key("token") }));
    }
}
