//! Answers one request of an HTTP/2 connection.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Response};
use http_body_util::Full;
use hyper::body::Body;
use tokio::time::timeout;

use super::head;
use crate::memory::{Held, account};
use crate::serve::places::Place;
use crate::serve::refusal::Refusal;
use crate::serve::reply::{USUAL, poll_data};
use crate::serve::service::{Answer, BoxError};

/// Sends the answer of one stream.
pub(super) struct Responder(SendResponse<Bytes>);

/// What a stream shares with its connection.
pub(super) struct Stream<S> {
    pub(super) service: Arc<S>,
    pub(super) place: Arc<Place>,
    /// For the client to make room for at least one byte of an answer.
    pub(super) stall: Duration,
    /// Streams whose clients leave no room for their answers.
    pub(super) stalled: Arc<AtomicUsize>,
}

/// The client, or the body of an answer, has given the stream up.
struct Over;

impl From<SendResponse<Bytes>> for Responder {
    fn from(respond: SendResponse<Bytes>) -> Self {
        Self(respond)
    }
}

impl<S: Answer> Stream<S> {
    /// Answers a request, unless the client cancels it.
    pub(super) async fn serve(self, request: http::Request<RecvStream>, respond: Responder) {
        let Responder(mut respond) = respond;
        let (head, body) = request.into_parts();
        let part = if self.place.is_trusted() { &account().callers } else { &account().strangers };
        let room = Held::of(part, head::size(&head)).zip(account().allowance());
        let is_head = head.method == Method::HEAD;
        let _room = match room {
            Some(room) => room,
            None => return self.refuse(respond, Refusal::NoMemory, is_head).await,
        };
        let request = match head::request(&*self.service, &self.place, &head, body) {
            Ok(request) => request,
            Err(refusal) => return self.refuse(respond, refusal, is_head).await,
        };
        drop(head);
        let mut answering = self.service.clone().answer(request);
        let answered = poll_fn(|context| match answering.as_mut().poll(context) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => respond.poll_reset(context).map(|_| None),
        })
        .await;
        // With it, the rest of the request's body is given up.
        drop(answering);
        if let Some(response) = answered {
            let _ = self.send(respond, response, is_head).await;
        }
    }

    async fn refuse(self, respond: SendResponse<Bytes>, refusal: Refusal, is_head: bool) {
        let _ = self.send(respond, refusal.response().map(Full::new), is_head).await;
    }

    /// Sends an answer. Those to strangers count in the strangers' part, as for HTTP/1.1.
    async fn send<R>(&self, mut respond: SendResponse<Bytes>, response: Response<R>, is_head: bool) -> Result<(), Over>
    where
        R: Body<Data: Send, Error: Into<BoxError>> + Send,
    {
        let (parts, body) = response.into_parts();
        let exact = body.size_hint().exact().and_then(|exact| usize::try_from(exact).ok()).unwrap_or_default();
        let _held = if exact <= USUAL || self.place.is_trusted() {
            None
        } else {
            match Held::of(&account().strangers, exact) {
                Some(held) => Some(held),
                None => {
                    respond.send_reset(Reason::ENHANCE_YOUR_CALM);
                    return Err(Over);
                }
            }
        };
        let (sent, has_body) = head::response(parts, &body, is_head);
        let mut stream = respond.send_response(sent, !has_body).map_err(|_| Over)?;
        if !has_body {
            return Ok(());
        }
        let mut body = pin!(body);
        loop {
            let next = poll_fn(|context| match poll_data(body.as_mut(), context) {
                Poll::Ready(data) => Poll::Ready(Ok(data)),
                Poll::Pending => stream.poll_reset(context).map(|_| Err(Over)),
            });
            match next.await? {
                None => return stream.send_data(Bytes::new(), true).map_err(|_| Over),
                Some(Err(_)) => {
                    stream.send_reset(Reason::INTERNAL_ERROR);
                    return Err(Over);
                }
                Some(Ok(mut data)) => {
                    let data = data.copy_to_bytes(data.remaining());
                    let is_last = body.is_end_stream();
                    self.send_data(&mut stream, data, is_last).await?;
                    if is_last {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sends a piece of a body as far as the client makes room for it.
    async fn send_data(&self, stream: &mut SendStream<Bytes>, mut data: Bytes, is_last: bool) -> Result<(), Over> {
        while !data.is_empty() {
            stream.reserve_capacity(data.len());
            let room = self.room(stream).await?;
            let piece = data.split_to(room.min(data.len()));
            stream.send_data(piece, is_last && data.is_empty()).map_err(|_| Over)?;
        }
        Ok(())
    }

    /// Waits until the client makes room, and returns how much.
    async fn room(&self, stream: &mut SendStream<Bytes>) -> Result<usize, Over> {
        if stream.capacity() > 0 {
            return Ok(stream.capacity());
        }
        let _stalled = Stalled::count(&self.stalled);
        let room = poll_fn(|context| {
            loop {
                match stream.poll_capacity(context) {
                    Poll::Ready(Some(Ok(0))) => {}
                    Poll::Ready(Some(Ok(room))) => return Poll::Ready(Some(room)),
                    Poll::Ready(_) => return Poll::Ready(None),
                    Poll::Pending => return stream.poll_reset(context).map(|_| None),
                }
            }
        });
        match timeout(self.stall, room).await {
            Ok(room) => room.ok_or(Over),
            Err(_) => {
                stream.send_reset(Reason::CANCEL);
                Err(Over)
            }
        }
    }
}

/// Counts a stream as stalled until it is dropped.
struct Stalled<'a>(&'a AtomicUsize);

impl<'a> Stalled<'a> {
    fn count(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(all)
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
