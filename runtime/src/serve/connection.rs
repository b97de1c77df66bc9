//! Runs one connection to its end, which shutdown may bring forward.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tracing::debug;

use super::direct::{self, Then};
use super::head::{self, HeadTimer};
use super::service::Answer;
use super::socket::Socket;
use super::{Limits, Open};
use crate::chain::Chain;
use crate::shutdown::Shutdown;

/// Bytes that hyper may hold of what a client sends, and of what is to be sent to it.
const BUFFER: usize = 64 * 1024;
/// Bytes of one head, and of trailers; a longer one is answered with 431.
pub(super) const HEAD: usize = 32 * 1024;

/// Answers one client until either side closes, or `shutdown` is requested and the answer under way is sent.
///
/// `_open` counts the connection for as long as this runs.
pub(super) async fn run<S: Answer>(
    stream: TcpStream,
    service: S,
    limits: Limits,
    shutdown: Shutdown,
    _open: Open,
) -> hyper::Result<()> {
    let mut socket = Socket::new(stream, limits.write_stall);
    // One poll, before anything else may use up this task's turn, makes `stop` wake the task, whose waker never
    // changes. Polling it again would only take a lock that all connections share: an atomic load does instead.
    let mut stop = pin!(shutdown.requested());
    poll_fn(|context| {
        let _ = stop.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
    let mut first = limits.header_timeout;
    if let Some(direct) = service.direct() {
        match direct::run(&mut socket, direct, &limits, &shutdown).await {
            Ok(Then::Other(left)) => first = left,
            Ok(Then::Closed) => return Ok(()),
            Err(error) => {
                debug!(error = %Chain(&*error), "connection ended early");
                return Ok(());
            }
        }
    }
    // In a box, so that a connection does not carry the room for it while it does without.
    Box::pin(with_hyper(socket, service, first, limits, &shutdown)).await
}

/// Answers all requests with hyper. The head of the first is to be whole after `first`.
async fn with_hyper<S: Answer>(
    mut socket: Socket,
    service: S,
    first: Duration,
    limits: Limits,
    shutdown: &Shutdown,
) -> hyper::Result<()> {
    let (timer, received) = head::timer(first, limits.header_timeout, limits.idle_timeout);
    socket.count(received);
    let mut connection = pin!(http(timer).serve_connection(TokioIo::new(socket), service));
    let mut stopping = false;
    poll_fn(|context| {
        // First, so that a request which has already arrived is seen before the connection is called idle.
        let polled = connection.as_mut().poll(context);
        if polled.is_ready() || stopping || !shutdown.is_requested() {
            return polled;
        }
        stopping = true;
        connection.as_mut().graceful_shutdown();
        connection.as_mut().poll(context)
    })
    .await
}

/// The same for a socket that another runtime has accepted: that of this task takes it over.
pub(super) async fn run_there<S: Answer>(
    stream: io::Result<std::net::TcpStream>,
    service: S,
    limits: Limits,
    shutdown: Shutdown,
    open: Open,
) -> hyper::Result<()> {
    // It fails for want of memory in the system, which then closes the connection.
    let Ok(stream) = stream.and_then(TcpStream::from_std) else { return Ok(()) };
    run(stream, service, limits, shutdown, open).await
}

/// HTTP/1.1 with keep-alive. The bound of 100 headers is hyper's own: setting it would cost an allocation for
/// each request.
fn http(timer: HeadTimer) -> Builder {
    let mut http = Builder::new();
    http.keep_alive(true)
        .half_close(false)
        .pipeline_flush(false)
        .max_buf_size(BUFFER)
        .max_header_size(HEAD)
        .header_read_timeout(timer.head())
        .timer(timer);
    http
}
