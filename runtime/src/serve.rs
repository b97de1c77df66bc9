//! The accept loop of every listener: connections have an owner, a limit on their number, and a deadline for each wait.
//!
//! HTTP/1.1, plain or within TLS, as far as a gateway needs it, parsed in one place and strictly; and HTTP/2, if the client
//! begins with it or both sides agree on it in TLS. A client that sends half a request, or reads no answer, does not
//! stay forever; if there is no space for a new connection, the one that has waited longest is closed.

mod body;
mod connection;
mod fields;
mod http2;
mod places;
mod refusal;
mod reply;
mod request;
mod service;
mod socket;
mod stream;
mod tls;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

pub use self::body::{BrokenBody, Coming, Sent};
pub use self::fields::{Fields, as_text};
pub use self::places::Place;
use self::places::{Places, Seated, Wanted};
use self::service::BoxError;
pub use self::service::{Answer, Answering, Peer, Request, RouterService, method_and_uri, router, router_with_probes};
pub use self::tls::{Tls, TlsPeer, TlsSettings};
use crate::alive::keep_alive;
use crate::chain::Chain;
use crate::memory::{CONNECTION, TLS, account};
use crate::shutdown::Shutdown;
use crate::workers::Workers;

/// The pause after the system failed to accept a connection, usually for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may wait to be accepted. One beyond the limit waits for a second, and the usual 128 are soon full
/// when many clients connect at once. The system may allow less (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// A new connection is not closed within this time: its request may have arrived already.
const FRESH: Duration = Duration::from_millis(100);

/// A new connection waits this often, for this long each time, for a waiting one that is not fresh; then any waiting
/// one is closed.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(10);

/// The system's buffers for data that a client sends, and for data that it does not read; the system doubles them. By
/// default they grow to megabytes each.
const RECEIVE_BUFFER: usize = 64 * 1024;
const SEND_BUFFER: usize = 256 * 1024;

/// The limits that a listener sets for its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at the same time; beyond it, the one that has waited longest for its client is closed. If none
    /// waits, the new one is closed at once.
    pub connections: usize,
    /// Additional connections that are reserved for probes.
    pub kept: usize,
    /// Connections count as strangers' until a request on them has had a valid token.
    pub has_strangers: bool,
    /// For the first head after connecting, and for each later head from its first byte.
    pub header_timeout: Duration,
    /// Between an answer and the first byte of the next request.
    pub idle_timeout: Duration,
    /// For a client to read at least one byte of its pending data.
    pub write_stall: Duration,
    /// For running answers after the listener is told to stop; then they are aborted.
    pub drain_grace: Duration,
}

/// The numbers of one listener, for metrics.
#[derive(Debug, Default)]
pub struct Connections {
    accepted: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    closed: AtomicU64,
}

/// The reason a listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is in use, not local, or not permitted.
    #[error("cannot listen on {address}")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Opens a listener; port 0 lets the system choose one. `[::]` accepts IPv4 too, and becomes `0.0.0.0` if the system
/// has no IPv6.
///
/// # Errors
/// [`ServeError::Listen`] if the system refuses.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let opened = match open(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && lacks_ipv6(&error) => {
            open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        opened => opened,
    };
    opened.map_err(|source| ServeError::Listen { address, source })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // The system's default may differ (`net.ipv6.bindv6only`).
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // Accepted connections inherit these.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
    let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
    // Callers may disappear silently. Without keep-alive that is noticed later, so a failure does not matter.
    let _ = keep_alive(&socket);
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether the error comes from a system without IPv6, or with IPv6 disabled.
fn lacks_ipv6(error: &io::Error) -> bool {
    let codes = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL, Errno::PROTONOSUPPORT];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

/// Answers HTTP/1.1 and HTTP/2 on `listener` until `shutdown`, then lets running answers finish.
///
/// `make` is called once for each connection with its peer; [`router`] makes one from an axum `Router`. Never ends
/// before `shutdown`: if the system cannot accept a connection, it waits and retries.
///
/// # Errors
/// None; the type is the one that [`Supervisor::spawn`](crate::supervise::Supervisor::spawn) takes.
pub async fn serve<M, S>(
    listener: TcpListener,
    make: M,
    limits: Limits,
    connections: Arc<Connections>,
    shutdown: Shutdown,
) -> Result<(), Infallible>
where
    M: Fn(Peer) -> Arc<S>,
    S: Answer,
{
    serve_on(Workers::default(), (listener, None), make, limits, connections, shutdown).await
}

/// The same, with connections spread over these workers, and within TLS if there are settings for it.
///
/// # Errors
/// None, as for [`serve`].
pub async fn serve_on<M, S>(
    workers: Workers,
    (listener, tls): (TcpListener, Option<Tls>),
    make: M,
    limits: Limits,
    connections: Arc<Connections>,
    shutdown: Shutdown,
) -> Result<(), Infallible>
where
    M: Fn(Peer) -> Arc<S>,
    S: Answer,
{
    let mut tasks = JoinSet::new();
    let places = Places::new(account(), if tls.is_some() { CONNECTION + TLS } else { CONNECTION });
    let mut failing = false;
    let mut stop = pin!(shutdown.requested());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(end) = tasks.join_next() => {
                report(end);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let Some((stream, peer)) = usable(accepted, &mut failing).await else { continue };
        let Some(seated) = seat(&places, &limits, &connections).await else {
            connections.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let open = admit(&connections, &stream);
        let secured = tls.as_ref().map(|tls| (tls, Arc::<TlsPeer>::default()));
        let handshake = secured.as_ref().map(|(tls, peer)| tls.handshake(peer.clone()));
        let secured = secured.map(|(_, peer)| peer);
        let service = make(Peer { address: peer, place: seated.place.clone(), tls: secured });
        let shutdown = shutdown.clone();
        match workers.seat() {
            None => {
                let running = connection::run((stream, handshake), service, limits, shutdown, seated);
                tasks.spawn(counted(open, running));
            }
            Some(seat) => {
                let running = connection::run_there((stream.into_std(), handshake), service, limits, shutdown, seated);
                drop(seat.spawn(&mut tasks, counted(open, running)));
            }
        }
    }
    // Closed first, so that new connections are refused rather than left waiting.
    drop(listener);
    drain(tasks, limits.drain_grace).await;
    Ok(())
}

/// One open connection, for as long as it lives.
struct Open(Arc<Connections>);

/// Handles failures of `accept`: ignores those of one client, and waits after those of the system.
async fn usable(accepted: io::Result<(TcpStream, SocketAddr)>, failing: &mut bool) -> Option<(TcpStream, SocketAddr)> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    match accepted {
        Ok((stream, peer)) => {
            if std::mem::take(failing) {
                info!("connections are accepted again");
            }
            // A dual-stack listener gives IPv4 callers an IPv6 address.
            Some((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
        }
        Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) => {
            None
        }
        Err(error) => {
            // Once for a whole series: there are up to twenty each second.
            if !std::mem::replace(failing, true) {
                warn!(error = %Chain(&error), "cannot accept connections, trying again");
            }
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// A place for a new connection, for which another may have to be closed.
async fn seat(places: &Arc<Places>, limits: &Limits, connections: &Connections) -> Option<Seated> {
    let mut is_kept = false;
    let open = places.len();
    if open >= limits.connections && !evict(places, Wanted::Connection, connections).await {
        is_kept = true;
        // Reserved connections are only closed for others of their kind.
        if open >= limits.connections + limits.kept && !evict(places, Wanted::Kept, connections).await {
            return None;
        }
    }
    let held = if !limits.has_strangers {
        places.forced(true)
    } else if let Some(held) = places.stranger() {
        held
    } else if evict(places, Wanted::Strangers, connections).await {
        // The closed connection's memory will be free in a moment.
        places.forced(false)
    } else {
        return None;
    };
    Some(places.seat(limits.has_strangers, is_kept && limits.kept > 0, held))
}

async fn evict(places: &Places, wanted: Wanted, connections: &Connections) -> bool {
    let mut evicted = places.evict(wanted, FRESH);
    for _ in 0..ROUNDS {
        if evicted {
            break;
        }
        sleep(ROUND).await;
        evicted = places.evict(wanted, FRESH);
    }
    evicted |= evicted || places.evict(wanted, Duration::ZERO);
    if evicted {
        connections.evicted.fetch_add(1, Ordering::Relaxed);
    }
    evicted
}

fn admit(connections: &Arc<Connections>, stream: &TcpStream) -> Open {
    connections.accepted.fetch_add(1, Ordering::Relaxed);
    // Answers are small and complete: waiting for more data would only delay them. Fails only for a peer that is
    // already gone.
    let _ = stream.set_nodelay(true);
    Open(connections.clone())
}

/// Runs a connection that counts as open until it has ended.
async fn counted(open: Open, running: impl Future<Output = Result<(), BoxError>>) -> Result<(), BoxError> {
    let ended = running.await;
    drop(open);
    ended
}

/// Waits for the connections within the grace period and aborts the rest.
async fn drain(mut tasks: JoinSet<Result<(), BoxError>>, grace: Duration) {
    let all = async {
        while let Some(end) = tasks.join_next().await {
            report(end);
        }
    };
    if timeout(grace, all).await.is_err() {
        warn!(connections = tasks.len(), grace_seconds = grace.as_secs_f64(), "connections cut after the grace");
        tasks.shutdown().await;
    }
}

fn report(end: Result<Result<(), BoxError>, JoinError>) {
    match end {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(error = %Chain(&*error), "connection ended early"),
        Err(error) => error!(error = %error, "connection ended by a panic"),
    }
}

// === impl Limits ===

impl Limits {
    /// For a port of probes and scrapers: 64 connections and 16 for probes, all of which are quick.
    pub fn of_probes() -> Self {
        let quick = Duration::from_secs(10);
        Self {
            connections: 64,
            kept: 16,
            has_strangers: false,
            header_timeout: Duration::from_secs(5),
            idle_timeout: quick,
            write_stall: quick,
            drain_grace: Duration::from_secs(1),
        }
    }
}

impl Default for Limits {
    /// For a public port: 10,000 connections, 10 s for a head, 30 s for a stalled reader, 20 s to drain.
    ///
    /// Idle connections stay for 620 s: longer than load balancers keep theirs (Google Cloud: 600 s, AWS: 60 s), so
    /// that the gateway never closes a connection that carries a request.
    fn default() -> Self {
        Self {
            connections: 10_000,
            kept: 0,
            has_strangers: false,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(620),
            write_stall: Duration::from_secs(30),
            drain_grace: Duration::from_secs(20),
        }
    }
}

// === impl Connections ===

impl Connections {
    /// Connections served since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections closed to make space for others, since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Connections refused at once for lack of space, since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn open(&self) -> u64 {
        let closed = self.closed.load(Ordering::Acquire);
        self.accepted().saturating_sub(closed)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
