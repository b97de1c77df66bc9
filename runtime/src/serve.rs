//! The accept loop of every listener: connections have an owner, a number, and a deadline for each of their waits.
//!
//! `axum::serve` sets no timers and no bound on connections; a client that sends half a request, or takes no
//! answer, would stay for ever.

mod connection;
mod direct;
mod fields;
mod head;
mod service;
mod socket;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

pub use self::direct::{Answering, Direct, Plain};
pub use self::fields::{Fields, as_text};
pub use self::service::{Answer, RouterService, router};
use crate::alive::keep_alive;
use crate::chain::Chain;
use crate::shutdown::Shutdown;
use crate::workers::Workers;

/// How long to wait after the system refused to hand out a connection, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may wait to be accepted. One too many waits for a second, and the usual 128 are soon full when
/// many clients come at once. The system may allow less (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// What one listener grants its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at the same time; more are accepted and closed at once.
    pub connections: usize,
    /// For the first head after connecting, and for each later head from its first byte.
    pub header_timeout: Duration,
    /// Between an answer and the first byte of the next request.
    pub idle_timeout: Duration,
    /// For a client to take at least one byte of what waits for it.
    pub write_stall: Duration,
    /// For answers under way once the listener is asked to stop; afterwards they are cut.
    pub drain_grace: Duration,
}

/// The numbers of one listener, for metrics.
#[derive(Debug, Default)]
pub struct Connections {
    accepted: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
}

/// Why a listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Opens a listener; port 0 lets the system choose one.
///
/// # Errors
/// [`ServeError::Listen`] if the system refuses.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Callers may be gone without a word. Without it they are noticed later, so a refusal is no matter.
        let _ = keep_alive(&socket);
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| ServeError::Listen { address, source })
}

/// Answers HTTP/1.1 on `listener` until `shutdown`, then lets answers under way finish.
///
/// `make` is called once for each connection with the peer's address; [`router`] makes one from an axum `Router`.
/// Never ends before it is asked to: when the system has no connection to hand out, it waits and tries again.
///
/// # Errors
/// None; the type is what [`Supervisor::spawn`](crate::supervise::Supervisor::spawn) takes.
pub async fn serve<M, S>(
    listener: TcpListener,
    make: M,
    limits: Limits,
    connections: Arc<Connections>,
    shutdown: Shutdown,
) -> Result<(), Infallible>
where
    M: Fn(SocketAddr) -> S,
    S: Answer,
{
    serve_on(Workers::default(), listener, make, limits, connections, shutdown).await
}

/// The same, with connections spread over these workers.
///
/// # Errors
/// None, as there.
pub async fn serve_on<M, S>(
    workers: Workers,
    listener: TcpListener,
    make: M,
    limits: Limits,
    connections: Arc<Connections>,
    shutdown: Shutdown,
) -> Result<(), Infallible>
where
    M: Fn(SocketAddr) -> S,
    S: Answer,
{
    let mut tasks = JoinSet::new();
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
        if let Some(open) = admit(&connections, &stream, tasks.len() < limits.connections) {
            let (service, shutdown) = (make(peer), shutdown.clone());
            match workers.seat() {
                None => drop(tasks.spawn(connection::run(stream, service, limits, shutdown, open))),
                Some(seat) => {
                    let running = connection::run_there(stream.into_std(), service, limits, shutdown, open);
                    drop(seat.spawn(&mut tasks, running));
                }
            }
        }
    }
    // Closed first, so that newcomers are refused rather than left waiting.
    drop(listener);
    drain(tasks, limits.drain_grace).await;
    Ok(())
}

/// One open connection, for as long as it lives.
struct Open(Arc<Connections>);

/// Sorts out failures of `accept`: those of one client are passed over, those of the system are waited out.
async fn usable(accepted: io::Result<(TcpStream, SocketAddr)>, failing: &mut bool) -> Option<(TcpStream, SocketAddr)> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    match accepted {
        Ok(connection) => {
            if std::mem::take(failing) {
                info!("connections are accepted again");
            }
            Some(connection)
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

fn admit(connections: &Arc<Connections>, stream: &TcpStream, room: bool) -> Option<Open> {
    if !room {
        connections.refused.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    connections.accepted.fetch_add(1, Ordering::Relaxed);
    // Answers are small and complete: waiting for more to send would only delay them. It fails only for a peer
    // that is already gone.
    let _ = stream.set_nodelay(true);
    Some(Open(connections.clone()))
}

/// Waits for the connections within the grace and cuts the rest.
async fn drain(mut tasks: JoinSet<hyper::Result<()>>, grace: Duration) {
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

fn report(end: Result<hyper::Result<()>, JoinError>) {
    match end {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(error = %Chain(&error), "connection ended early"),
        Err(error) => error!(error = %error, "connection ended by a panic"),
    }
}

// === impl Limits ===

impl Default for Limits {
    /// For a public port: 10,000 connections, 10 s for a head, 30 s for a stalled reader, 20 s to drain.
    ///
    /// Idle connections stay for 620 s: longer than load balancers keep theirs (Google Cloud: 600 s, AWS: 60 s),
    /// so that it is never us who closes a connection on which a request is under way.
    fn default() -> Self {
        Self {
            connections: 10_000,
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

    /// Connections closed at once because the limit was reached, since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections open now.
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
