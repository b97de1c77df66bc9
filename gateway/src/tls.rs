//! TLS towards callers: the files of the certificate, read, checked and watched. The last good certificate stays in use.

mod material;
mod x509;

use std::fmt::{self, Debug, Formatter};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use portcullis_runtime::log::timestamp;
use portcullis_runtime::serve::Tls;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, sign};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};

use self::material::{Contents, Material};
pub(crate) use self::x509::subject;
use crate::telemetry::metrics::Metrics;
use crate::watch_files::FileWatcher;

/// Bytes of one file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Files that change together may be read between their changes: a problem counts if it is still there after this time.
const SECOND_LOOK: Duration = Duration::from_millis(300);

/// The files of TLS towards callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// PEM of the certificate and its chain.
    pub(crate) certificate: PathBuf,
    /// PEM of its key.
    pub(crate) key: PathBuf,
    /// Who signs the certificates of clients, if they are asked for any.
    pub(crate) clients: Option<ClientAuthorities>,
}

/// Who signs the certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientAuthorities {
    /// PEM of the certificate authorities.
    pub(crate) file: PathBuf,
    /// Whether a client without a certificate is refused.
    pub(crate) required: bool,
}

/// The certificate in use, as other rooms see it.
#[derive(Clone)]
pub(crate) struct Certificate {
    /// The settings for new connections.
    pub(crate) listener: Tls,
    /// Shows the certificate to other replicas.
    pub(crate) own: Arc<OwnCertificate>,
    /// What is wrong with the files, or with the certificate in use.
    pub(crate) problem: watch::Receiver<Option<String>>,
}

/// Shows the gateway's certificate where the gateway itself is the client.
pub(crate) struct OwnCertificate(RwLock<Arc<CertifiedKey>>);

/// The files after they were read once.
pub(crate) struct CertificateFiles {
    files: TlsFiles,
    shared: Certificate,
    told: watch::Sender<Option<String>>,
    /// The contents in use.
    seen: Contents,
    /// The certificates that were shown last, the newest first: another replica may still show the one before.
    shown: Vec<CertificateDer<'static>>,
    /// When the certificate in use expires.
    expires: SystemTime,
}

impl CertificateFiles {
    /// Reads the files for the first time. A certificate that has expired is used until there is another.
    ///
    /// # Errors
    /// One sentence, without any of the contents.
    pub(crate) fn open(files: &TlsFiles) -> Result<Self, String> {
        let contents = read(files)?;
        let material = Material::new(files, &contents, &[])?;
        let (told, problem) = watch::channel(None);
        let shown = vec![(*material.settings.certificate).clone()];
        let own = Arc::new(OwnCertificate(RwLock::new(material.key)));
        let shared = Certificate { listener: Tls::new(material.settings), own, problem };
        Ok(Self { files: files.clone(), shared, told, seen: contents, shown, expires: material.expires })
    }

    /// The certificate in use, now and later.
    pub(crate) fn certificate(&self) -> Certificate {
        self.shared.clone()
    }

    /// Takes every good new certificate into use, forever.
    pub(crate) async fn follow(mut self, metrics: Metrics) {
        let files = self.files.clone();
        let watching = tokio::task::spawn_blocking(move || {
            let apart = files.key.parent().filter(|folder| files.certificate.parent() != Some(*folder));
            FileWatcher::watch(Some(&files.certificate), apart)
        });
        let Ok(mut changes) = watching.await else { return };
        loop {
            // First, because a file may have changed before the watch began.
            let mut problem = self.look().await;
            if problem.is_some() {
                sleep(SECOND_LOOK).await;
                problem = self.look().await;
            }
            let problem = problem.or_else(|| self.expired());
            let is_good = problem.is_none();
            self.tell(problem);
            metrics.tls_certificate_expires.set(seconds(self.expires));
            metrics.tls_certificate_ok.set(i64::from(is_good));
            changes.next().await;
        }
    }

    /// Reads the files, and takes them into use if they have changed. Returns what is wrong with them.
    async fn look(&mut self) -> Option<String> {
        let files = self.files.clone();
        let contents = tokio::task::spawn_blocking(move || read(&files)).await.ok()?;
        contents.and_then(|contents| self.apply(contents)).err()
    }

    fn apply(&mut self, contents: Contents) -> Result<(), String> {
        if contents == self.seen {
            return Ok(());
        }
        let material = Material::new(&self.files, &contents, &self.shown)?;
        let now = SystemTime::now();
        if material.expires <= now && self.expires > now {
            let (file, expired) = (self.files.certificate.display(), text(material.expires));
            return Err(format!("TLS_CERT_FILE: {file} expired at {expired}: put a valid certificate there"));
        }
        let leaf = &*material.settings.certificate;
        if self.shown.first() != Some(leaf) {
            self.shown.insert(0, leaf.clone());
            self.shown.truncate(2);
        }
        info!(expires = text(material.expires), "new connections get the new certificate");
        *self.shared.own.0.write() = material.key;
        self.shared.listener.replace(material.settings);
        (self.seen, self.expires) = (contents, material.expires);
        Ok(())
    }

    fn expired(&self) -> Option<String> {
        let file = self.files.certificate.display();
        let over = self.expires <= SystemTime::now();
        over.then(|| format!("TLS_CERT_FILE: {file} expired at {}: put a valid certificate there", text(self.expires)))
    }

    /// Reports a problem once.
    fn tell(&self, problem: Option<String>) {
        self.told.send_if_modified(|known| {
            if *known == problem {
                return false;
            }
            match &problem {
                Some(problem) => error!(problem, "TLS files refused; the last good certificate stays in use"),
                None => info!("the TLS files are good again"),
            }
            *known = problem;
            true
        });
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let own = self.0.read().clone();
        sign::SigningKey::choose_scheme(&*own.key, offered).is_some().then_some(own)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Debug for OwnCertificate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnCertificate").finish_non_exhaustive()
    }
}

fn read(files: &TlsFiles) -> Result<Contents, String> {
    let clients = files.clients.as_ref().map(|clients| read_one("TLS_CLIENT_CA_FILE", &clients.file));
    Ok(Contents {
        certificate: read_one("TLS_CERT_FILE", &files.certificate)?,
        key: read_one("TLS_KEY_FILE", &files.key)?,
        clients: clients.transpose()?,
    })
}

fn read_one(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    let path = path.display();
    read.map_err(|error| format!("{setting}: {path} cannot be read: {}", error.kind()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{setting}: {path} is longer than {MAX_FILE_BYTES} bytes: leave out what is not needed"));
    }
    Ok(bytes)
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn text(time: SystemTime) -> String {
    let mut out = Vec::new();
    timestamp(time, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests;
