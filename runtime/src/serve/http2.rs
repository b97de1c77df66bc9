//! Serves HTTP/2 on one connection: each stream is a request, and all of them run in the connection's task.
//!
//! The `h2` crate reads frames, keeps the windows and refuses what RFC 9113 forbids. Here are the gateway's own bounds:
//! who counts for what memory, how long a client may read nothing, and when a connection may be closed for another.

mod head;
mod stream;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, Connection};
use h2::{Reason, RecvStream};
use tokio::time::{Instant, Sleep, sleep, timeout};

use self::stream::Responder;
use super::Limits;
use super::places::Seated;
use super::request::HEAD;
use super::service::{Answer, BoxError};
use super::socket::Socket;
use crate::shutdown::Shutdown;

/// The first bytes of a client that speaks HTTP/2 (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The additional cost of a connection: a frame that is read, one that is written, and both tables of headers.
const COST: usize = 2 * 16 * 1024 + 2 * 4 * 1024;

/// Requests of one connection at the same time: the least that RFC 9113 section 6.5.2 recommends.
const STREAMS: u32 = 100;

/// Bytes of an answer that wait to be written, for each stream.
const UNSENT: usize = 64 * 1024;

/// For the end of a connection to be agreed on with the client.
const GOODBYE: Duration = Duration::from_secs(2);

/// Serves requests until either side closes, or `shutdown` is requested and the running answers are sent. The task must
/// be woken by `shutdown`.
///
/// # Errors
/// The connection fails, or the client breaks the protocol.
pub(super) async fn serve<S: Answer>(
    socket: Socket,
    service: Arc<S>,
    limits: &Limits,
    shutdown: &Shutdown,
    seated: &Seated,
) -> Result<(), BoxError> {
    if !seated.place.grow(COST) {
        // Without memory for the frames, no answer can be written.
        return Ok(());
    }
    let Some(connection) = begin(socket, limits, shutdown, seated).await? else { return Ok(()) };
    let mut serving = Serving {
        connection,
        streams: FuturesUnordered::new(),
        service,
        limits,
        shutdown,
        seated,
        stalled: Arc::default(),
        alarm: Box::pin(sleep(limits.header_timeout)),
        phase: Phase::Idle,
    };
    poll_fn(|context| serving.poll(context)).await.map_err(BoxError::from)
}

/// Reads the client's preface; `None`: the connection is over.
async fn begin(
    socket: Socket,
    limits: &Limits,
    shutdown: &Shutdown,
    seated: &Seated,
) -> Result<Option<Connection<Socket, Bytes>>, BoxError> {
    let mut settings = Builder::new();
    settings.max_concurrent_streams(STREAMS).max_header_list_size(HEAD as u32).max_send_buffer_size(UNSENT);
    let mut beginning = pin!(settings.handshake(socket));
    let attended = poll_fn(|context| {
        if let Poll::Ready(begun) = beginning.as_mut().poll(context) {
            return Poll::Ready(begun.map(Some));
        }
        seated.place.idles();
        let is_over = shutdown.is_requested() || seated.place.is_evicted();
        if is_over { Poll::Ready(Ok(None)) } else { Poll::Pending }
    });
    Ok(timeout(limits.header_timeout, attended).await.unwrap_or(Ok(None))?)
}

/// A connection and its streams.
struct Serving<'a, S> {
    connection: Connection<Socket, Bytes>,
    streams: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>,
    service: Arc<S>,
    limits: &'a Limits,
    shutdown: &'a Shutdown,
    seated: &'a Seated,
    /// Streams whose clients leave no room for their answers.
    stalled: Arc<AtomicUsize>,
    /// Rings when the connection has been idle, or has been closing, for too long.
    alarm: Pin<Box<Sleep>>,
    phase: Phase,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It waits for a request.
    Idle,
    /// It has requests.
    Busy,
    /// It has requests, and the client reads none of the answers.
    Stalled,
    /// It takes no more requests, and running ones are answered.
    Draining,
    /// All is answered: the client is asked to end the connection.
    Closing,
}

impl<S: Answer> Serving<'_, S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(context) {}
            match self.connection.poll_accept(context) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if !self.accept(request, respond.into()) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                // What `close` announces is written by the next round.
                Poll::Pending if self.has_to_close() => self.close(),
                Poll::Pending => break,
            }
        }
        if self.attend(context) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Begins a stream; false if the connection must make space for another.
    fn accept(&mut self, request: http::Request<RecvStream>, respond: Responder) -> bool {
        if matches!(self.phase, Phase::Idle) {
            if !self.seated.place.is_asked() {
                return false;
            }
            self.phase = Phase::Busy;
        }
        let stream = stream::Stream {
            service: self.service.clone(),
            place: self.seated.place.clone(),
            stall: self.limits.write_stall,
            stalled: self.stalled.clone(),
        };
        self.streams.push(Box::pin(stream.serve(request, respond)));
        true
    }

    fn has_to_close(&self) -> bool {
        !matches!(self.phase, Phase::Draining | Phase::Closing) && self.shutdown.is_requested()
    }

    /// Takes no more requests: the client is asked to send no more, and running answers are sent.
    fn close(&mut self) {
        self.connection.graceful_shutdown();
        self.phase = Phase::Draining;
    }

    /// Keeps account of what the connection waits for; false if it is over.
    fn attend(&mut self, context: &mut Context<'_>) -> bool {
        let (place, open) = (&self.seated.place, self.streams.len());
        let is_stalled = open > 0 && self.stalled.load(Ordering::Relaxed) == open;
        let stays = match self.phase {
            Phase::Busy if open == 0 => {
                let now = Instant::now();
                self.alarm.as_mut().reset(now + self.limits.idle_timeout);
                self.phase = Phase::Idle;
                place.waits(now)
            }
            Phase::Busy if is_stalled => {
                self.phase = Phase::Stalled;
                place.stalls()
            }
            Phase::Stalled if !is_stalled => {
                self.phase = Phase::Busy;
                let works = place.works();
                return works && self.attend(context);
            }
            Phase::Idle => {
                place.idles();
                !place.is_evicted()
            }
            Phase::Draining if open == 0 => {
                let now = Instant::now();
                self.alarm.as_mut().reset(now + GOODBYE);
                self.phase = Phase::Closing;
                place.waits(now)
            }
            Phase::Busy | Phase::Stalled | Phase::Draining | Phase::Closing => !place.is_evicted(),
        };
        if stays && open == 0 && self.alarm.as_mut().poll(context).is_ready() {
            if self.phase == Phase::Closing {
                return false;
            }
            // It has been idle for too long.
            self.close();
            context.waker().wake_by_ref();
        }
        if !stays {
            // Said at once or never: there is no time to wait for the client.
            self.connection.abrupt_shutdown(Reason::NO_ERROR);
            let _ = self.connection.poll_accept(context);
        }
        stays
    }
}
