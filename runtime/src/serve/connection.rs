//! Runs one connection to its end, which shutdown may bring forward.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::head::{self, HeadTimer};
use super::pieces;
use super::service::Answer;
use super::socket::Socket;
use super::{Limits, Open};
use crate::shutdown::Shutdown;

/// Bytes that hyper may hold of what a client sends, and of what is to be sent to it.
const BUFFER: usize = 64 * 1024;
/// Bytes of one head, and of trailers; a longer one is answered with 431.
const HEAD: usize = 32 * 1024;

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
    let (timer, received) = head::timer(limits.header_timeout, limits.idle_timeout);
    let socket = Socket::new(stream, received, limits.write_stall);
    let mut connection = pin!(http(timer).serve_connection(TokioIo::new(socket), service));
    // One poll, before anything else may use up this task's turn, makes `stop` wake the task, whose waker never
    // changes. Polling it again would only take a lock that all connections share: an atomic load does instead.
    let mut stop = pin!(shutdown.requested());
    let waker = poll_fn(|context| {
        let _ = stop.as_mut().poll(context);
        Poll::Ready(pieces::waker(context.waker()))
    })
    .await;
    let mut stopping = false;
    poll_fn(|_| {
        let context = &mut Context::from_waker(&waker);
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
