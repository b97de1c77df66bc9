//! Answers plain requests that are there as a whole, one after the other, and leaves everything else to hyper.
//!
//! A plain request is one of HTTP/1.1 that the service [takes](Direct::route), with a length or without a body, and asks
//! nothing else of the connection. Most are. For those hyper's map of headers, channel of the body and timer of the head
//! take as long as the rest of HTTP. Whatever else comes goes on with hyper, which gets the bytes that have been read: it
//! knows all of HTTP/1.

mod reply;
mod request;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes};
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use self::request::Read;
use super::Limits;
use super::fields::Fields;
use super::service::BoxError;
use super::socket::Socket;
use crate::shutdown::Shutdown;

/// Requests of more bytes, and whose heads are longer than hyper may have them, are not read here.
const WHOLE: usize = 64 * 1024;

/// So long may the rest of a request take that has begun, before it is hyper's. Three round trips of 80 ms bring 64 KiB.
pub(super) const MOMENT: Duration = Duration::from_millis(250);

/// Room for what comes next: more than most requests take.
const ROOM: usize = 4096;

/// So much is read of what comes during an answer. Usually nothing does.
const LITTLE: usize = 256;

/// A service that answers plain requests itself.
pub trait Direct<R>: Send + Sync + 'static {
    /// What it makes of a method and a target.
    type Route: Send;

    /// Whether it answers this method for this target, and what it makes of them. It is not asked about `HEAD` and
    /// `CONNECT`, which have rules of their own.
    fn route(&self, method: &str, target: &str) -> Option<Self::Route>;

    /// Answers one. Dropping the future means that nobody waits for the answer any more.
    fn answer(self: Arc<Self>, request: Plain<Self::Route>) -> Answering<R>;
}

/// Nothing is answered directly.
impl<R> Direct<R> for Infallible {
    type Route = Self;

    fn route(&self, _: &str, _: &str) -> Option<Self> {
        match *self {}
    }

    fn answer(self: Arc<Self>, request: Plain<Self>) -> Answering<R> {
        match request.route {}
    }
}

/// A request that is being answered.
pub type Answering<R> = Pin<Box<dyn Future<Output = hyper::Response<R>> + Send>>;

/// A request that is there as a whole.
pub struct Plain<T> {
    /// Its method and target, as [`Direct::route`] has them.
    pub route: T,
    /// Its header fields.
    pub fields: Fields,
    /// Its body.
    pub body: Bytes,
}

/// How it goes on with a connection.
pub(super) enum Then {
    /// It is over.
    Closed,
    /// With a request that is not plain. Its head is to be whole after so long.
    Other(Duration),
}

/// Answers plain requests until there is another, the client is gone, or `shutdown` is requested.
///
/// # Errors
/// The connection fails, or the body of an answer does.
pub(super) async fn run<R, D>(
    socket: &mut Socket,
    service: Arc<D>,
    limits: &Limits,
    shutdown: &Shutdown,
) -> Result<Then, BoxError>
where
    R: Body<Data: Send, Error: Into<BoxError>> + Send,
    D: Direct<R>,
{
    let mut idle = Idle::new(limits.header_timeout);
    // Of the first head the deadline runs from the start.
    let mut first = Some(idle.until);
    loop {
        let route = |method: &str, target: &str| service.route(method, target);
        let request = match next(socket, route, &mut idle, shutdown).await? {
            Next::Plain(request) => request,
            Next::Closed => return Ok(Then::Closed),
            Next::Other(since) => {
                let until = first.unwrap_or(since + limits.header_timeout);
                return Ok(Then::Other(until.saturating_duration_since(Instant::now())));
            }
        };
        let mut answering = service.clone().answer(request);
        let Some(response) = attended(socket, answering.as_mut()).await? else { return Ok(Then::Closed) };
        drop(answering);
        let Some(end) = reply::send(socket, response, Instant::now(), shutdown).await? else {
            return Ok(Then::Closed);
        };
        idle.restart(end + limits.idle_timeout);
        first = None;
    }
}

/// What comes next on a connection.
enum Next<T> {
    /// A plain request.
    Plain(Plain<T>),
    /// Something else, or the rest of a request takes its time. It began to come then.
    Other(Instant),
    /// Nothing.
    Closed,
}

/// Waits for what comes next. What is no part of a plain request stays in the socket.
async fn next<T>(
    socket: &mut Socket,
    route: impl Fn(&str, &str) -> Option<T>,
    idle: &mut Idle,
    shutdown: &Shutdown,
) -> io::Result<Next<T>> {
    if socket.ahead.is_empty() && poll_fn(|context| idle.poll(socket, shutdown, context)).await? == 0 {
        return Ok(Next::Closed);
    }
    let mut begun = None;
    loop {
        let needed = match request::read(&socket.ahead, &route) {
            Read::Whole(plain, length) => {
                socket.take(length);
                return Ok(Next::Plain(plain));
            }
            Read::Part(needed) => needed,
            Read::Other => return Ok(Next::Other(begun.unwrap_or_else(Instant::now))),
        };
        let begun = *begun.get_or_insert_with(Instant::now);
        while socket.ahead.len() < needed {
            match timeout_at(begun + MOMENT, poll_fn(|context| socket.poll_more(ROOM, context))).await {
                // What is to be said about half a request, hyper says.
                Ok(Ok(0)) | Err(_) => return Ok(Next::Other(begun)),
                Ok(more) => drop(more?),
            }
        }
    }
}

/// Works until the client is gone. Requests that it sends meanwhile wait, most of them in the system; whether a client
/// is gone that has sent some is not looked for.
async fn attended<F>(socket: &mut Socket, mut work: Pin<&mut F>) -> io::Result<Option<F::Output>>
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

/// How long a client may be silent.
struct Idle {
    until: Instant,
    /// Rings then or before: moving it for each request would take longer than to look again.
    alarm: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(first: Duration) -> Self {
        Self { until: Instant::now() + first, alarm: Box::pin(sleep(first)) }
    }

    fn restart(&mut self, until: Instant) {
        self.until = until;
        if until < self.alarm.deadline() {
            self.alarm.as_mut().reset(until);
        }
    }

    /// Bytes that have come; none if the connection is over.
    fn poll(&mut self, socket: &mut Socket, shutdown: &Shutdown, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // First, so that a request which has already arrived is seen before the connection is called idle.
        let come = socket.poll_more(ROOM, context);
        if come.is_ready() {
            return come;
        }
        if shutdown.is_requested() {
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
