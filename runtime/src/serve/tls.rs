//! TLS of a listener: the settings that new connections take, and the handshake of one connection.
//!
//! A handshake counts as waiting for the client: it has the deadline of a head, and the connection may be closed to make
//! space for others. A client that speaks plain HTTP is told so, and gets nothing else.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::Limits;
use super::places::Seated;
use super::stream::Stream;
use crate::shutdown::Shutdown;

/// The first byte of a TLS connection: a record of the handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// Bytes that a connection may leave to be sent, besides those in the system's buffer.
const UNSENT: usize = 32 * 1024;

/// The TLS settings of a listener. A connection takes those of its first moment, and keeps them.
#[derive(Clone, Debug)]
pub struct Tls(Arc<RwLock<TlsSettings>>);

/// How to speak TLS: rustls' own settings, and the certificate in them.
#[derive(Clone)]
pub struct TlsSettings {
    /// rustls' settings.
    pub config: Arc<ServerConfig>,
    /// The certificate that clients are shown, without its chain.
    pub certificate: Arc<CertificateDer<'static>>,
}

/// What the service of a TLS connection can see of it.
#[derive(Debug, Default)]
pub struct TlsPeer(OnceLock<Shaken>);

/// The result of a handshake.
#[derive(Debug)]
struct Shaken {
    own: Arc<CertificateDer<'static>>,
    client: Option<CertificateDer<'static>>,
}

/// A handshake that is to be done.
pub(super) struct Handshake {
    settings: TlsSettings,
    peer: Arc<TlsPeer>,
}

/// How a connection has begun.
pub(super) enum Begun {
    /// It can be used.
    Ready(Stream),
    /// The client does not speak TLS.
    Plain(TcpStream),
    /// There is no connection: the client is gone or too slow, or the connection had to close.
    Over,
}

// === impl Tls ===

impl Tls {
    /// TLS with these settings.
    pub fn new(settings: TlsSettings) -> Self {
        Self(Arc::new(RwLock::new(settings)))
    }

    /// Lets new connections use other settings.
    pub fn replace(&self, settings: TlsSettings) {
        *self.0.write() = settings;
    }

    /// The handshake of a new connection.
    pub(super) fn handshake(&self, peer: Arc<TlsPeer>) -> Handshake {
        Handshake { settings: self.0.read().clone(), peer }
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings").finish_non_exhaustive()
    }
}

impl TlsPeer {
    /// The certificate that the client was shown; none before the handshake.
    pub fn own_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.0.get().map(|shaken| &*shaken.own)
    }

    /// The certificate that the client has shown, if it was asked for one and had it.
    pub fn client_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.0.get()?.client.as_ref()
    }
}

impl Handshake {
    /// Performs the handshake within the limit for heads.
    ///
    /// # Errors
    /// The connection or the handshake failed.
    pub(super) async fn perform(
        self,
        stream: TcpStream,
        limits: &Limits,
        shutdown: &Shutdown,
        seated: &Seated,
    ) -> io::Result<Begun> {
        let place = &seated.place;
        let mut beginning = pin!(self.begin(stream));
        let attended = poll_fn(|context| {
            if let Poll::Ready(begun) = beginning.as_mut().poll(context) {
                return Poll::Ready(begun);
            }
            place.idles();
            if shutdown.is_requested() || place.is_evicted() { Poll::Ready(Ok(Begun::Over)) } else { Poll::Pending }
        });
        let begun = timeout(limits.header_timeout, attended).await.unwrap_or(Ok(Begun::Over))?;
        Ok(if place.works() { begun } else { Begun::Over })
    }

    async fn begin(self, stream: TcpStream) -> io::Result<Begun> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Ok(Begun::Over);
        }
        if first[0] != HANDSHAKE {
            return Ok(Begun::Plain(stream));
        }
        let accepting = TlsAcceptor::from(self.settings.config)
            .accept_with(stream, |connection| connection.set_buffer_limit(Some(UNSENT)));
        let tls = accepting.await?;
        let client = tls.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|shown| shown.clone().into_owned());
        let _ = self.peer.0.set(Shaken { own: self.settings.certificate, client });
        Ok(Begun::Ready(Stream::Tls(Box::new(tls))))
    }
}
