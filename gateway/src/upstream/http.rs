//! HTTP/1.1 to one origin: pooled connections, driven by the task that waits for the answer.
//!
//! No connection has a task of its own: whoever waits for an answer also moves the bytes, so a call costs no
//! wake-up of another task. Redirects are never followed and no proxy is used.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::dial::dial;
use super::stream::Stream;
use crate::guard::{Guard, Refusal};

/// Unused connections kept for one origin; more are closed after use.
const MAX_IDLE: usize = 256;

/// Node's HTTP server closes an unused connection after 5 s; a little less never meets that moment.
const DEFAULT_IDLE: Duration = Duration::from_millis(4_500);

/// How long an answer may take to end after what was waited for has arrived.
const MAX_LINGER: Duration = Duration::from_secs(2);

/// Where requests go, and how a connection is made.
pub struct Origin {
    /// Host without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Value of the `Host` header.
    pub authority: http::HeaderValue,
    /// Which addresses it may have.
    pub guard: Arc<Guard>,
    /// TLS, for https.
    pub tls: Option<super::stream::TlsTarget>,
    /// Limit for the TCP and the TLS handshake, each.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept; servers that announce less get less.
    pub idle_timeout: Duration,
}

/// Pooled connections to one origin.
pub struct HttpPool {
    origin: Origin,
    /// Oldest first; the newest is used first.
    idle: Mutex<VecDeque<Idle>>,
    /// Answers whose last bytes nobody waits for; once they have arrived, the connection is as good as any.
    lingering: Mutex<Vec<(Exchange, Instant)>>,
}

struct Idle {
    connection: Connection,
    until: Instant,
}

struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
}

/// The half of a connection that moves its bytes; `None` once it has ended.
struct Driver(Option<Pin<Box<Moving>>>);

type Moving = http1::Connection<TokioIo<Stream>, Full<Bytes>>;

/// An answer whose head has arrived; its body is still to be read.
pub struct Exchange {
    /// Status and headers.
    pub head: Parts,
    body: Incoming,
    connection: Option<Connection>,
    pool: Weak<HttpPool>,
    reusable: bool,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// No connection could be made: the request was never sent.
    #[error("cannot connect: {0}")]
    Connect(&'static str),
    /// It has an address that it must not have: nothing was sent.
    #[error("it has a refused address: {0}")]
    Blocked(Refusal),
    /// The connection ended before the request was written.
    #[error("the connection closed before the request was sent")]
    NotSent,
    /// The connection ended after the request was written: it may have been carried out.
    #[error("the connection closed before the answer was complete")]
    Lost,
    /// The answer is longer than it may be.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
}

impl HttpPool {
    /// A pool without connections; they are made when needed.
    pub fn new(origin: Origin) -> Arc<Self> {
        Arc::new(Self { origin, idle: Mutex::default(), lingering: Mutex::default() })
    }

    /// Sends a request and waits for the head of its answer. The caller sets the deadline.
    ///
    /// # Errors
    /// [`HttpError::Connect`], [`HttpError::Blocked`] and [`HttpError::NotSent`] prove that the server never got the request.
    pub async fn send(
        self: &Arc<Self>,
        method: Method,
        path: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Exchange, HttpError> {
        loop {
            let (mut connection, fresh) = match self.checkout() {
                Some(connection) => (connection, false),
                // In a box, so that the usual request does not carry the room for handshakes.
                None => (Box::pin(self.connect()).await?, true),
            };
            let request = self.request(method.clone(), path, headers, body.clone());
            let answer = {
                let mut answer = pin!(connection.sender.try_send_request(request));
                connection.driver.until(|cx| answer.as_mut().poll(cx)).await
            };
            match answer {
                Ok(response) => return Ok(self.exchange(connection, response)),
                // The request comes back whole only if not a byte of it was written.
                Err(mut problem) => match (problem.take_message(), fresh) {
                    (Some(_), false) => {}
                    (Some(_), true) => return Err(HttpError::NotSent),
                    (None, _) => return Err(HttpError::Lost),
                },
            }
        }
    }

    fn request(&self, method: Method, path: &Uri, headers: &HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.clone();
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(header::HOST, self.origin.authority.clone());
        request
    }

    fn exchange(self: &Arc<Self>, connection: Connection, response: http::Response<Incoming>) -> Exchange {
        let (head, body) = response.into_parts();
        Exchange { head, body, connection: Some(connection), pool: Arc::downgrade(self), reusable: true }
    }

    /// An unused connection that the server has not closed, newest first.
    fn checkout(&self) -> Option<Connection> {
        loop {
            let popped = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_back();
            let Some(mut idle) = popped else { if self.reap() { continue } else { return None } };
            let mut cx = Context::from_waker(Waker::noop());
            idle.connection.driver.poll(&mut cx);
            if !idle.connection.driver.ended() && idle.until > Instant::now() && idle.connection.sender.is_ready() {
                return Some(idle.connection);
            }
        }
    }

    /// Puts back the connections whose lingering answers have ended; true if there was one.
    fn reap(&self) -> bool {
        let mut all = self.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, now) = (all.len(), Instant::now());
        let mut found = false;
        all.retain_mut(|(exchange, until)| match exchange.ended_now() {
            Some(ended) => {
                found |= ended;
                false
            }
            None => *until > now,
        });
        before > 0 && found
    }

    fn linger(&self, exchange: Exchange) {
        let mut all = self.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|(_, until)| *until > now);
        if all.len() < MAX_IDLE {
            all.push((exchange, now + MAX_LINGER));
        }
    }

    async fn connect(&self) -> Result<Connection, HttpError> {
        let origin = &self.origin;
        let tcp = timeout(origin.connect_timeout, dial(&origin.host, origin.port, &origin.guard))
            .await
            .map_err(|_| HttpError::Connect("no answer in time"))??;
        tcp.set_nodelay(true).map_err(|_| HttpError::Connect("the connection closed at once"))?;
        let stream = match &origin.tls {
            None => Stream::Tcp(tcp),
            Some(tls) => timeout(origin.connect_timeout, tls.handshake(tcp))
                .await
                .map_err(|_| HttpError::Connect("no TLS handshake in time"))?
                .map_err(HttpError::Connect)?,
        };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(256 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| HttpError::Connect("the connection closed at once"))?;
        Ok(Connection { sender, driver: Driver(Some(Box::pin(driver))) })
    }

    fn put_back(&self, connection: Connection, head: &HeaderMap) {
        let limit = self.origin.idle_timeout.min(announced_idle(head).unwrap_or(DEFAULT_IDLE));
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while idle.len() >= MAX_IDLE || idle.front().is_some_and(|oldest| oldest.until <= now) {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, until: now + limit });
    }
}

impl Exchange {
    /// The next piece of the body; `None` at its end, when the connection goes back to the pool.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let Some(connection) = self.connection.as_mut() else { return Ok(None) };
            let body = &mut self.body;
            match connection.driver.until(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                None => {
                    self.finish();
                    return Ok(None);
                }
                Some(Err(_)) => {
                    self.connection = None;
                    return Err(HttpError::Lost);
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Gives the rest of the body time to arrive while nobody waits, so that the connection can be used again.
    pub fn linger(mut self) {
        if self.ended_now().is_some() {
            return;
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.linger(self);
        }
    }

    /// Whether the body has ended: `Some(true)` with its connection back in the pool, `Some(false)` with it lost.
    fn ended_now(&mut self) -> Option<bool> {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let connection = self.connection.as_mut()?;
            connection.driver.poll(&mut cx);
            match Pin::new(&mut self.body).poll_frame(&mut cx) {
                Poll::Pending => return if connection.driver.ended() { Some(false) } else { None },
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_))) => return Some(false),
                Poll::Ready(None) => {
                    self.finish();
                    return Some(true);
                }
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`HttpError::TooLarge`] above `limit` bytes, [`HttpError::Lost`] if the connection ends before.
    pub async fn whole(mut self, limit: usize) -> Result<Bytes, HttpError> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        if first.len() > limit {
            return Err(HttpError::TooLarge(limit));
        }
        let Some(second) = self.chunk().await? else { return Ok(first) };
        let mut all = Vec::with_capacity((first.len() + second.len()) * 2);
        all.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(chunk) = next {
            if all.len() + chunk.len() > limit {
                return Err(HttpError::TooLarge(limit));
            }
            all.extend_from_slice(&chunk);
            next = self.chunk().await?;
        }
        Ok(all.into())
    }

    /// The media type without parameters, in lower case.
    pub fn media_type(&self) -> String {
        let value =
            self.head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    fn finish(&mut self) {
        let closing =
            self.head.headers.get(header::CONNECTION).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
        if let Some(connection) = self.connection.take()
            && self.reusable
            && !closing
            && !connection.sender.is_closed()
            && let Some(pool) = self.pool.upgrade()
        {
            pool.put_back(connection, &self.head.headers);
        }
        self.reusable = false;
    }
}

impl Driver {
    /// What has ended is dropped at once: only that tells a request in it that it will never be sent.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.0.as_mut().is_some_and(|io| io.as_mut().poll(cx).is_ready()) {
            self.0 = None;
        }
    }

    fn ended(&self) -> bool {
        self.0.is_none()
    }

    /// Polls `wanted` and, while it waits, the connection that it waits for.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        poll_fn(|cx| {
            if let Poll::Ready(value) = wanted(cx) {
                return Poll::Ready(value);
            }
            self.poll(cx);
            // Moving bytes may have made the answer ready, and an ended connection says so to whoever waits.
            wanted(cx)
        })
        .await
    }
}

fn announced_idle(head: &HeaderMap) -> Option<Duration> {
    let text = head.get("keep-alive")?.to_str().ok()?;
    let seconds = text.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?.parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)).saturating_sub(Duration::from_millis(500)))
}
