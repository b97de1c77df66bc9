//! Runs one connection to its end: reads a request, passes it to the service, writes the answer, and repeats.
//!
//! A request is answered as soon as its head has arrived. A body that came with it is passed on directly; any other is
//! read only when the service requests it, so a stranger's is not.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::Response;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::Limits;
use super::body::{BrokenBody, Coming, Decoder, Framing, Pipe, Sent};
use super::http2::{self, PREFACE};
use super::places::{Place, Seated, Wanted};
use super::refusal::Refusal;
use super::reply::{self, Ending};
use super::request::{self, Asks, HEAD, Head, Read};
use super::service::{Answer, BoxError, Request};
use super::socket::{LITTLE, ROOM, Socket};
use super::stream::Stream;
use super::tls::{Begun, Handshake};
use crate::chunked::Taken;
use crate::memory::account;
use crate::shutdown::Shutdown;

/// Buffer for a read of a long body.
const BODY_ROOM: usize = 16 * 1024;

/// After the last answer, the client's remaining data is read for this long, and up to this many bytes: otherwise the
/// system would drop the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 2 * 1024 * 1024;

/// Asks a client to send its body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Answers one client until either side closes, or `shutdown` is requested and the running answer is sent.
///
/// # Errors
/// The connection fails, or the body of an answer does.
pub(super) async fn run<S: Answer>(
    (stream, handshake): (TcpStream, Option<Handshake>),
    service: Arc<S>,
    limits: Limits,
    shutdown: Shutdown,
    seated: Seated,
) -> Result<(), BoxError> {
    // One poll, before other work uses up this task's turn, makes `stop` wake the task, whose waker never changes.
    // Another poll would only take a lock that all connections share: an atomic load replaces it.
    let mut stop = pin!(shutdown.requested());
    poll_fn(|context| {
        let _ = stop.as_mut().poll(context);
        seated.place.is_of(context.waker());
        Poll::Ready(())
    })
    .await;
    let stream = match handshake {
        None => Stream::Tcp(stream),
        // Boxed, so that a plain connection does not reserve space for it.
        Some(handshake) => match Box::pin(handshake.perform(stream, &limits, &shutdown, &seated)).await? {
            Begun::Ready(stream) => stream,
            Begun::Plain(stream) => {
                let mut socket = Socket::new(Stream::Tcp(stream), limits.write_stall, seated.place.clone());
                return Box::pin(refuse(&mut socket, Refusal::PlainHttp)).await;
            }
            Begun::Over => return Ok(()),
        },
    };
    let mut socket = Socket::new(stream, limits.write_stall, seated.place.clone());
    if socket.is_http2() {
        return Box::pin(http2::serve(socket, service, &limits, &shutdown, &seated)).await;
    }
    let mut idle = Idle::new(limits.header_timeout);
    loop {
        let head = match next(&mut socket, &*service, &mut idle, (&limits, &shutdown, &seated)).await? {
            Next::Head(head) => head,
            Next::Http2 => return Box::pin(http2::serve(socket, service, &limits, &shutdown, &seated)).await,
            Next::Closed => {
                socket.say_goodbye().await;
                return Ok(());
            }
            Next::Refused(refusal) => return Box::pin(refuse(&mut socket, refusal)).await,
        };
        if !seated.place.is_asked() {
            return Ok(());
        }
        let Some(allowance) = account().allowance() else {
            return Box::pin(refuse(&mut socket, Refusal::NoMemory)).await;
        };
        let asks = head.asks;
        let (answered, is_read) = match whole_body(&mut socket, &head) {
            Some(body) => {
                let request = Request { route: head.route, fields: head.fields, body: Sent::Whole(body) };
                let mut answering = service.clone().answer(request);
                (attended(&mut socket, answering.as_mut()).await?, true)
            }
            // Boxed, so that the usual connection does not reserve space for it.
            None => Box::pin(with_coming_body(&mut socket, &service, head)).await?,
        };
        let Some(response) = answered else { return Ok(()) };
        let ending = Ending { asks: Asks { keeps: asks.keeps && is_read, ..asks }, shutdown: &shutdown };
        let end = reply::send(&mut socket, response, Instant::now(), ending).await?;
        drop(allowance);
        match end {
            Some(end) if seated.place.waits(end) => idle.restart(end + limits.idle_timeout),
            Some(_) => return Ok(()),
            None if is_read => return Ok(()),
            None => {
                Box::pin(linger(&mut socket)).await;
                return Ok(());
            }
        }
    }
}

/// The same for a socket that another runtime has accepted: this task's runtime takes it over.
pub(super) async fn run_there<S: Answer>(
    (stream, handshake): (io::Result<std::net::TcpStream>, Option<Handshake>),
    service: Arc<S>,
    limits: Limits,
    shutdown: Shutdown,
    seated: Seated,
) -> Result<(), BoxError> {
    // Fails for lack of memory in the system, which then closes the connection.
    let Ok(stream) = stream.and_then(TcpStream::from_std) else { return Ok(()) };
    run((stream, handshake), service, limits, shutdown, seated).await
}

/// The next event of a connection.
enum Next<T> {
    /// The head of a request, which is still in the socket.
    Head(Head<T>),
    /// The beginning of HTTP/2, which is still in the socket.
    Http2,
    /// Not a request, or one that cannot be answered.
    Refused(Refusal),
    /// The connection has ended.
    Closed,
}

/// Waits for the head of the next request.
async fn next<S: Answer>(
    socket: &mut Socket,
    service: &S,
    idle: &mut Idle,
    (limits, shutdown, seated): (&Limits, &Shutdown, &Seated),
) -> io::Result<Next<S::Route>> {
    let mut begun = None;
    loop {
        if socket.ahead.is_empty() {
            if poll_fn(|context| idle.poll(socket, Some(shutdown), context)).await? == 0 {
                return Ok(Next::Closed);
            }
            continue;
        }
        // An incomplete head is parsed again only when its end may have arrived.
        if begun.is_none_or(|known| has_end(&socket.ahead, known)) {
            match read(socket, service, &seated.place) {
                Read::Head(head) => return Ok(Next::Head(head)),
                Read::Refused(_) if idle.is_first && socket.ahead.starts_with(PREFACE) => return Ok(Next::Http2),
                Read::Refused(_) if idle.is_first && PREFACE.starts_with(&socket.ahead) => {}
                Read::Refused(refusal) => return Ok(Next::Refused(refusal)),
                Read::Part => {}
            }
        }
        if begun.is_none() {
            idle.begin(limits.header_timeout);
        }
        begun = Some(socket.ahead.len());
        if socket.ahead.len() > HEAD {
            return Ok(Next::Refused(Refusal::TooLong));
        }
        if !grow(socket, seated) {
            return Ok(Next::Refused(Refusal::NoMemory));
        }
        if poll_fn(|context| idle.poll(socket, None, context)).await? == 0 {
            return Ok(Next::Closed);
        }
    }
}

fn read<S: Answer>(socket: &Socket, service: &S, place: &Place) -> Read<S::Route> {
    let is_other = Cell::new(false);
    let read = request::read(&socket.ahead, |method, target| {
        is_other.set(place.is_kept() && !service.is_probe(target));
        if is_other.get() { None } else { service.route(method, target) }
    });
    if is_other.get() { Read::Refused(Refusal::KeptForProbes) } else { read }
}

/// Whether the end of a head may have arrived since `known` bytes were there.
fn has_end(come: &[u8], known: usize) -> bool {
    come[known.saturating_sub(3)..].windows(4).any(|bytes| bytes == b"\r\n\r\n")
}

/// Grows the buffer for a head; bytes beyond the usual size count. If there is no memory, the stranger that has waited
/// longest is closed.
fn grow(socket: &mut Socket, seated: &Seated) -> bool {
    let more = socket.growth();
    let has_room = more == 0 || seated.place.grow(more) || {
        let made = !seated.place.is_trusted() && seated.evict(Wanted::Strangers);
        if made {
            seated.place.force(more);
        }
        made
    };
    if has_room {
        socket.grow(more);
    }
    has_room
}

/// The body, if all of it arrived with the head; both are then taken from the socket.
fn whole_body<T>(socket: &mut Socket, head: &Head<T>) -> Option<Bytes> {
    let Framing::Length(length) = head.asks.framing else { return None };
    let end = head.length.checked_add(usize::try_from(length).ok()?)?;
    let body = Bytes::copy_from_slice(socket.ahead.get(head.length..end)?);
    socket.take(end);
    Some(body)
}

/// Polls the work until the client is gone, or the connection must close. Requests sent meanwhile wait, most of them in
/// the system; the departure of a client that has sent some is not detected.
pub(super) async fn attended<F>(socket: &mut Socket, mut work: Pin<&mut F>) -> io::Result<Option<F::Output>>
where
    F: Future + ?Sized,
{
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Ok(Some(done)));
        }
        while socket.ahead.len() < LITTLE {
            match socket.poll_more(LITTLE, context)? {
                Poll::Ready(0) if socket.ahead.is_empty() => return Poll::Ready(Ok(None)),
                Poll::Ready(0) | Poll::Pending => break,
                Poll::Ready(_) => {}
            }
        }
        Poll::Pending
    })
    .await
}

// === bodies that are still to be read ===

/// Answers a request whose body is read on demand. Also returns whether all of it was read.
async fn with_coming_body<S: Answer>(
    socket: &mut Socket,
    service: &Arc<S>,
    head: Head<S::Route>,
) -> io::Result<(Option<Response<S::Reply>>, bool)> {
    let Head { route, fields, asks, length } = head;
    socket.take(length);
    let (coming, pipe) = Coming::new(asks.framing);
    let arrived = BytesMut::from(&socket.ahead[..]);
    socket.take(arrived.len());
    let mut rest = Rest { pipe, decoder: asks.framing.into(), arrived, awaits: asks.awaits };
    let mut answering = service.clone().answer(Request { route, fields, body: Sent::Coming(coming) });
    let answered = poll_fn(|context| {
        loop {
            if let Poll::Ready(done) = answering.as_mut().poll(context) {
                return Poll::Ready(Ok(Some(done)));
            }
            match rest.poll(socket, context) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    drop(answering);
    let is_read = rest.is_over();
    socket.ahead.extend_from_slice(&rest.arrived);
    Ok((answered, is_read))
}

/// The rest of a body.
struct Rest {
    pipe: Arc<Pipe>,
    decoder: Decoder,
    /// The received part of the body, and the bytes behind it.
    arrived: BytesMut,
    /// The client waits for `100 Continue`.
    awaits: bool,
}

impl Rest {
    /// Reads more, if the reader wants it: true if there is something new, false if the client is gone or the
    /// connection must close.
    fn poll(&mut self, socket: &mut Socket, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let is_wanted = self.pipe.is_wanted();
        loop {
            if is_wanted {
                match self.decoder.take(&mut self.arrived) {
                    Ok(Taken::More) => {}
                    taken => {
                        self.pipe.put(taken);
                        return Poll::Ready(Ok(true));
                    }
                }
                if std::mem::take(&mut self.awaits) {
                    ready!(socket.poll_write_all(CONTINUE, context))?;
                }
            } else if self.arrived.len() >= LITTLE {
                return Poll::Pending;
            }
            let room = if is_wanted { self.decoder.room(BODY_ROOM) } else { LITTLE };
            match socket.poll_into(&mut self.arrived, room, context) {
                Poll::Ready(Ok(0)) if is_wanted => {
                    self.pipe.put(Err(BrokenBody::Incomplete));
                    return Poll::Ready(Ok(true));
                }
                Poll::Ready(Ok(0)) => {
                    return if self.arrived.is_empty() { Poll::Ready(Ok(false)) } else { Poll::Pending };
                }
                Poll::Ready(Ok(_)) if socket.place.works() => {}
                Poll::Ready(Ok(_)) => return Poll::Ready(Ok(false)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // A client that does not send its awaited body may have to be closed.
                Poll::Pending if is_wanted && !socket.place.stalls() => return Poll::Ready(Ok(false)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether all of the body was read, or has arrived.
    fn is_over(&mut self) -> bool {
        // A client that waits for `100 Continue` will not send it, so the next bytes are unknown.
        while !self.decoder.has_ended() {
            match self.decoder.take(&mut self.arrived) {
                Ok(Taken::Piece(_)) => {}
                Ok(Taken::End) => break,
                Ok(Taken::More) | Err(_) => return false,
            }
        }
        true
    }
}

// === the end ===

/// Answers a request without the service.
async fn refuse(socket: &mut Socket, refusal: Refusal) -> Result<(), BoxError> {
    socket.write_all(&refusal.answer()).await?;
    socket.shutdown().await?;
    linger(socket).await;
    Ok(())
}

/// Discards further data of a client. The connection may be closed to make space.
async fn linger(socket: &mut Socket) {
    socket.place.waits(Instant::now());
    let mut left = LINGER_BYTES;
    let passing = poll_fn(|context| {
        loop {
            socket.ahead.clear();
            if socket.place.is_evicted() {
                return Poll::Ready(());
            }
            match ready!(socket.poll_more(ROOM, context)) {
                Ok(bytes) if bytes > 0 && bytes < left => left -= bytes,
                _ => return Poll::Ready(()),
            }
        }
    });
    let _ = timeout(LINGER, passing).await;
}

/// The deadline for a silent client.
struct Idle {
    until: Instant,
    /// Rings at the deadline or before: moving it for each request would cost more than another check.
    alarm: Pin<Box<Sleep>>,
    /// Nothing has been answered yet: the deadline of the first head runs from the start.
    is_first: bool,
}

impl Idle {
    fn new(first: Duration) -> Self {
        Self { until: Instant::now() + first, alarm: Box::pin(sleep(first)), is_first: true }
    }

    fn restart(&mut self, until: Instant) {
        self.is_first = false;
        self.until = until;
        if until < self.alarm.deadline() {
            self.alarm.as_mut().reset(until);
        }
    }

    /// A head has started: the rest of it must arrive in time.
    fn begin(&mut self, limit: Duration) {
        if !self.is_first {
            self.restart(Instant::now() + limit);
        }
    }

    /// The bytes that have arrived; none if the connection is over.
    fn poll(
        &mut self,
        socket: &mut Socket,
        shutdown: Option<&Shutdown>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // First, so that a request which has already arrived is seen before the connection counts as idle.
        let come = socket.poll_more(ROOM, context);
        if come.is_ready() {
            return come;
        }
        socket.place.idles();
        if shutdown.is_some_and(Shutdown::is_requested) || socket.place.is_evicted() {
            return Poll::Ready(Ok(0));
        }
        while self.alarm.as_mut().poll(context).is_ready() {
            if self.until <= Instant::now() {
                return Poll::Ready(Ok(0));
            }
            self.alarm.as_mut().reset(self.until);
        }
        Poll::Pending
    }
}
