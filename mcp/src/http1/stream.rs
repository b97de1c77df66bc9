//! A connection to a server, plain or TLS, and the TLS settings behind it.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pinned::PinnedCertificate;

/// A connection to a server.
pub(crate) enum Stream {
    /// Plain.
    Tcp(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// How to speak TLS to one server.
pub struct TlsTarget {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A server's TLS settings with the contents of their Secrets.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsMaterial {
    /// PEM of certificate authorities trusted besides the system's.
    pub ca: Option<Named<Vec<u8>>>,
    /// PEM of the client certificate chain and of its key.
    pub client: Option<Named<(Vec<u8>, Vec<u8>)>>,
    /// Name expected in the server's certificate.
    pub server_name: Option<String>,
    /// Accept any certificate.
    pub insecure: bool,
}

/// A value and the place where users find it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Named<T> {
    /// The place of the value.
    pub name: String,
    /// The value.
    pub value: T,
}

/// The reason TLS cannot be set up. The texts never contain the material itself.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TlsError {
    /// The CA text contains no certificate.
    #[error("tls.caRef: {0} contains no PEM certificate: add one, from BEGIN CERTIFICATE to END CERTIFICATE")]
    Ca(String),
    /// The client certificate or its key cannot be used.
    #[error(
        "tls.clientCertRef: {0} and its tls.key are not a usable pair: put a certificate and its key there, in PEM"
    )]
    Client(String),
    /// The expected name is not a valid name.
    #[error("tls.serverName or the URL's host is not a name that a certificate can have")]
    Name,
}

impl Stream {
    /// Registers the stream with the runtime of this thread, which then wakes its reader. Only for an unused stream.
    ///
    /// # Errors
    /// `ConnectionAborted` if the peer has closed the stream or sent something, which the stream's former runtime may
    /// not have seen yet. Other errors if the system has no free descriptor.
    pub(crate) fn move_here(&mut self) -> io::Result<()> {
        // A second descriptor, because a runtime does not release its own while something else holds it.
        let second = self.second()?;
        match second.peek(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        let second = TcpStream::from_std(second)?;
        match self {
            Self::Tcp(tcp) => *tcp = second,
            Self::Tls(tls) => *tls.get_mut().0 = second,
        }
        Ok(())
    }

    /// How many bytes the system reports as readable now, up to 1.
    ///
    /// # Errors
    /// `WouldBlock` if there are none yet.
    pub(crate) fn peek(&self) -> io::Result<usize> {
        self.second()?.peek(&mut [0])
    }

    fn second(&self) -> io::Result<std::net::TcpStream> {
        let tcp = match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        };
        Ok(tcp.as_fd().try_clone_to_owned()?.into())
    }
}

impl TlsTarget {
    /// TLS settings for connections to `host`; `roots` are the system's certificate authorities.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(host: &str, material: &TlsMaterial, roots: &Arc<RootCertStore>) -> Result<Self, TlsError> {
        let name = material.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|_| TlsError::Name)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions");
        let builder = if material.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(PinnedCertificate::any()))
        } else {
            builder.with_root_certificates(trusted(material, roots)?)
        };
        let config = match &material.client {
            None => builder.with_no_client_auth(),
            Some(Named { name, value: (chain, key) }) => {
                let unusable = || TlsError::Client(name.clone());
                let chain: Vec<_> = certificates(chain).ok_or_else(unusable)?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| unusable())?;
                builder.with_client_auth_cert(chain, key).map_err(|_| unusable())?
            }
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// TLS to a peer at `host` that shows this certificate and no other. `own`: what the peer may be shown.
    ///
    /// # Errors
    /// [`TlsError::Name`].
    pub fn pinned(
        host: &str,
        certificate: Arc<PinnedCertificate>,
        own: Option<Arc<dyn ResolvesClientCert>>,
    ) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions")
            .dangerous()
            .with_custom_certificate_verifier(certificate);
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(own),
            None => builder.with_no_client_auth(),
        };
        // A resumed session would show no certificate.
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Performs the TLS handshake. The caller sets the deadline.
    ///
    /// # Errors
    /// A short fixed text.
    pub(crate) async fn handshake(&self, tcp: TcpStream) -> Result<Stream, &'static str> {
        let stream = self.connector.connect(self.name.clone(), tcp).await;
        stream.map(|tls| Stream::Tls(Box::new(tls))).map_err(|error| tls_problem(&error))
    }
}

/// The certificate authorities of the system (or of `SSL_CERT_FILE`, `SSL_CERT_DIR`).
pub fn system_roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
}

fn trusted(material: &TlsMaterial, roots: &Arc<RootCertStore>) -> Result<Arc<RootCertStore>, TlsError> {
    let Some(Named { name, value }) = &material.ca else { return Ok(roots.clone()) };
    let unusable = || TlsError::Ca(name.clone());
    let mut roots = RootCertStore::clone(roots);
    for certificate in certificates(value).ok_or_else(unusable)? {
        roots.add(certificate).map_err(|_| unusable())?;
    }
    Ok(Arc::new(roots))
}

/// Whether a text contains usable certificate authorities.
pub fn holds_certificates(pem: &[u8]) -> bool {
    let Some(all) = certificates(pem) else { return false };
    let mut roots = RootCertStore::empty();
    all.into_iter().all(|certificate| roots.add(certificate).is_ok())
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

fn tls_problem(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => "the server's certificate is not trusted",
        Some(rustls::Error::AlertReceived(_)) => "the server refused the TLS handshake",
        Some(_) => "the TLS handshake failed",
        None => "the connection closed during the TLS handshake",
    }
}

impl Stream {
    /// Waits until the system has bytes to read, or the connection has ended. With TLS, only a read shows what they
    /// are.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            // If this fails, so does the read, which reports the reason.
            Self::Tcp(stream) => stream.poll_read_ready(cx).map(drop),
            Self::Tls(_) => Poll::Ready(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
