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

/// Room for what may come during an answer. Usually nothing does.
const LITTLE: usize = 64;

/// A service that answers plain requests itself.
pub trait Direct<R>: Send + Sync + 'static {
    /// What it makes of a method and a target.
    type Route: Send;

    /// Whether it answers this method for this target, and what it makes of them. Not of `HEAD` and `CONNECT`, which
    /// have rules of their own.
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
#[derive(Debug, PartialEq, Eq)]
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
    let mut head = Some(idle.until);
    loop {
        let Some(request) = next(socket, |method, target| service.route(method, target), &mut idle, shutdown).await?
        else {
            if socket.ahead.is_empty() {
                return Ok(Then::Closed);
            }
            // Of the first one the deadline has been running since the client connected.
            let left = head.map(|until| until.saturating_duration_since(Instant::now()));
            return Ok(Then::Other(left.unwrap_or(limits.header_timeout)));
        };
        let mut answering = service.clone().answer(request);
        let Some(response) = attended(socket, answering.as_mut()).await? else { return Ok(Then::Closed) };
        drop(answering);
        let now = Instant::now();
        if reply::send(socket, response, now, shutdown).await?.is_none() {
            return Ok(Then::Closed);
        }
        idle.restart(now + limits.idle_timeout);
        head = None;
    }
}

/// The next request, if it is plain. What is no part of it stays in the socket.
async fn next<T>(
    socket: &mut Socket,
    route: impl Fn(&str, &str) -> Option<T>,
    idle: &mut Idle,
    shutdown: &Shutdown,
) -> io::Result<Option<Plain<T>>> {
    let mut until = None;
    loop {
        if socket.ahead.is_empty() && poll_fn(|context| idle.poll(socket, shutdown, context)).await? == 0 {
            return Ok(None);
        }
        match request::read(&socket.ahead, &route) {
            Read::Whole(plain, length) => {
                socket.take(length);
                return Ok(Some(plain));
            }
            Read::Other => return Ok(None),
            Read::Part => {
                let until = *until.get_or_insert_with(|| Instant::now() + MOMENT);
                match timeout_at(until, poll_fn(|context| socket.poll_more(ROOM, context))).await {
                    Ok(Ok(0)) => {
                        socket.ahead.clear();
                        return Ok(None);
                    }
                    Ok(more) => drop(more?),
                    Err(_) => return Ok(None),
                }
            }
        }
    }
}

/// Works until the client is gone; requests that it sends meanwhile wait.
async fn attended<F>(socket: &mut Socket, mut work: Pin<&mut F>) -> io::Result<Option<F::Output>>
where
    F: Future + ?Sized,
{
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Ok(Some(done)));
        }
        while socket.ahead.len() < WHOLE {
            match socket.poll_more(LITTLE, context)? {
                Poll::Ready(0) => return Poll::Ready(Ok(None)),
                Poll::Ready(_) => {}
                Poll::Pending => break,
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
