//! Answers one request: with JSON if nothing comes before the answer, with a stream of events from the first that does, or
//! when the answer takes long: callers and proxies give up on an answer of which they see nothing.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::upstream::{Mailbox, ServerMessage, ServerRequest};
use tokio::time::{Instant, Sleep, sleep};

use crate::front::mcp::messages::reply::{RpcReply, Work, event, event_stream, log_event, notification, with_token};
use crate::front::mcp::state::server_requests::ScopedRequests;
use crate::front::mcp::suspend::Suspender;
use crate::server::handle::HeldPermits;

/// Between comments that keep a quiet stream from being cut by proxies; many cut at 30 or 60 s.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A comment: it tells only that the stream lives.
pub(crate) const COMMENT: &[u8] = b": \n\n";

/// Shows the caller the messages that a server sends before its answer.
pub(crate) struct Presentation {
    /// The caller's own progress token, as JSON; none: it wants to hear of no progress.
    pub(crate) progress_token: Option<String>,
    /// The least urgent log level that it wants; none: no messages.
    pub(crate) log_level: Option<usize>,
    /// The way in which server requests reach it.
    pub(crate) input: InputMode,
}

/// The way in which a caller is asked for input.
pub(crate) enum InputMode {
    /// Not at all.
    None,
    /// By a request within the answer.
    Requests(ScopedRequests),
    /// By an answer that says what is missing; the call waits.
    Suspends(Box<Suspender>),
}

/// The time from which an answer that is not there goes on as a stream.
///
/// It has no timer of its own: the call wakes it (see [`crate::call::Request::looks_up`]). Most are answered when they are
/// looked at for the second time, so the clock is read for the others alone.
pub(crate) struct StreamDeadline {
    until: Option<Instant>,
    looked: bool,
}

impl StreamDeadline {
    /// Until then; none: for ever.
    pub(crate) fn until(until: Option<Instant>) -> Self {
        Self { until, looked: false }
    }

    fn is_over(&mut self) -> bool {
        let again = mem::replace(&mut self.looked, true);
        again && self.until.is_some_and(|until| until <= Instant::now())
    }
}

/// A message of a server, as the caller gets it.
enum ShownEvent {
    /// It is an event of the answer.
    Event(Bytes),
    /// It ends the answer: the caller has to come back.
    Request(ServerRequest),
}

impl Presentation {
    /// The event that the caller gets for a message, if it wants one.
    fn show(&mut self, message: ServerMessage) -> Option<ShownEvent> {
        let event = match message {
            ServerMessage::Progress(params) => {
                let params = with_token(&params, self.progress_token.as_deref()?)?;
                event(notification("notifications/progress", &params).as_bytes())
            }
            ServerMessage::Log(params) => log_event(&params, self.log_level?)?,
            ServerMessage::Request(request) => match &mut self.input {
                InputMode::None => return None,
                InputMode::Requests(requests) => requests.ask(request)?,
                InputMode::Suspends(_) => return Some(ShownEvent::Request(request)),
            },
        };
        Some(ShownEvent::Event(event))
    }

    /// Ends the answer with a request. The call goes on.
    fn suspend(&mut self, work: Work, mailbox: Mailbox, request: ServerRequest) -> Option<RpcReply> {
        match std::mem::replace(&mut self.input, InputMode::None) {
            InputMode::Suspends(suspender) => Some(suspender.suspend(work, mailbox, request)),
            InputMode::None | InputMode::Requests(_) => None,
        }
    }
}

/// Waits for an answer before which nothing can come.
pub(crate) async fn answer_alone(mut work: Work, mut deadline: StreamDeadline) -> Response {
    let answered = poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(reply) => Poll::Ready(Some(reply)),
        Poll::Pending if deadline.is_over() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match answered.await {
        Some(reply) => reply.into_response(),
        None => {
            let presentation = Presentation { progress_token: None, log_level: None, input: InputMode::None };
            let mut events = AnswerStream::among_others(work, None, presentation);
            (events.waiting, events.alive) = (Some(Bytes::from_static(COMMENT)), Some(keep_alive()));
            event_stream(Body::new(events))
        }
    }
}

/// Waits for the answer, or for the first thing that comes before it.
pub(crate) async fn answer(
    mut work: Work,
    mailbox: Mailbox,
    mut presentation: Presentation,
    mut deadline: StreamDeadline,
) -> Response {
    let first = poll_fn(|cx| match work.as_mut().poll(cx) {
        // All that came before the answer is there now.
        Poll::Ready(reply) => Poll::Ready(Ok((reply, shown_already(&mailbox, &mut presentation)))),
        Poll::Pending => match next_shown(&mailbox, &mut presentation, cx) {
            Poll::Pending if deadline.is_over() => Poll::Ready(Err(ShownEvent::Event(Bytes::from_static(COMMENT)))),
            shown => shown.map(Err),
        },
    });
    let mut places = HeldPermits::new();
    let (work, waiting, end) = match first.await {
        Ok((reply, None | Some(ShownEvent::Request(_)))) => return reply.into_response(),
        Ok((reply, Some(ShownEvent::Event(first)))) => {
            let (end, kept) = reply.into_event();
            places = kept;
            (None, first, Some(end))
        }
        Err(ShownEvent::Event(first)) => (Some(work), first, None),
        Err(ShownEvent::Request(request)) => match presentation.suspend(work, mailbox, request) {
            Some(reply) => return reply.into_response(),
            None => unreachable!("only a suspender ends an answer with a question"),
        },
    };
    let alive = Some(keep_alive());
    event_stream(Body::new(AnswerStream { work, mailbox, presentation, waiting: Some(waiting), end, alive, places }))
}

fn next_shown(mailbox: &Mailbox, presentation: &mut Presentation, cx: &mut Context<'_>) -> Poll<ShownEvent> {
    loop {
        match mailbox.poll_take(cx) {
            Poll::Ready(message) => {
                if let Some(shown) = presentation.show(message) {
                    return Poll::Ready(shown);
                }
            }
            Poll::Pending => return Poll::Pending,
        }
    }
}

fn shown_already(mailbox: &Mailbox, presentation: &mut Presentation) -> Option<ShownEvent> {
    std::iter::from_fn(|| mailbox.take()).find_map(|message| presentation.show(message))
}

/// The timer of a stream's comments.
pub(crate) fn keep_alive() -> Pin<Box<Sleep>> {
    Box::pin(sleep(KEEP_ALIVE))
}

/// The events of one request; the last is the answer.
pub(crate) struct AnswerStream {
    work: Option<Work>,
    mailbox: Mailbox,
    presentation: Presentation,
    waiting: Option<Bytes>,
    end: Option<Bytes>,
    /// None where somebody else keeps the stream alive.
    alive: Option<Pin<Box<Sleep>>>,
    /// The permits that the answer holds until it is written.
    places: HeldPermits,
}

impl AnswerStream {
    /// On a stream with others.
    pub(crate) fn among_others(work: Work, mailbox: Option<Mailbox>, presentation: Presentation) -> Self {
        let mailbox = mailbox.unwrap_or_else(|| Mailbox::new(ClientCapabilities::NONE));
        Self {
            work: Some(work),
            mailbox,
            presentation,
            waiting: None,
            end: None,
            alive: None,
            places: HeldPermits::new(),
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(event) = self.waiting.take() {
            return Poll::Ready(Some(event));
        }
        while let Poll::Ready(shown) = next_shown(&self.mailbox, &mut self.presentation, cx) {
            match (shown, self.work.take()) {
                (ShownEvent::Event(event), work) => {
                    self.work = work;
                    return Poll::Ready(Some(event));
                }
                (ShownEvent::Request(request), Some(work)) => {
                    // What comes from now on is for the request that goes on with it.
                    let mailbox = std::mem::replace(&mut self.mailbox, Mailbox::new(ClientCapabilities::NONE));
                    let reply = self.presentation.suspend(work, mailbox, request);
                    return Poll::Ready(reply.map(|reply| event(&reply.into_bytes())));
                }
                // The call is over: nobody needs the answer to the request.
                (ShownEvent::Request(_), None) => {}
            }
        }
        if let Some(work) = &mut self.work
            && let Poll::Ready(reply) = work.as_mut().poll(cx)
        {
            self.work = None;
            let (end, places) = reply.into_event();
            (self.end, self.places) = (Some(end), places);
            return self.poll_event(cx);
        }
        if self.work.is_none() {
            return Poll::Ready(self.end.take());
        }
        match self.alive.as_mut().map(|alive| alive.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => {
                self.alive = Some(keep_alive());
                Poll::Ready(Some(Bytes::from_static(COMMENT)))
            }
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }
}

impl futures_util::Stream for AnswerStream {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.poll_event(cx)
    }
}

impl http_body::Body for AnswerStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_event(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::mcp::messages::reply::RpcReply;
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use portcullis_mcp::upstream::timing::woken;

    fn presentation() -> Presentation {
        Presentation { progress_token: Some("\"p\"".into()), log_level: Some(4), input: InputMode::None }
    }

    fn patient() -> StreamDeadline {
        StreamDeadline::until(None)
    }

    /// Work that takes this long, and wakes its task after 10 s.
    fn taking(seconds: u64) -> Work {
        let at = Some(Instant::now() + Duration::from_secs(10));
        Box::pin(woken(sleep(Duration::from_secs(seconds)), at).map(|()| done()))
    }

    fn progress(n: u32) -> ServerMessage {
        ServerMessage::Progress(format!(r#"{{"progress":{n},"progressToken":7,"message":"m"}}"#).into())
    }

    fn done() -> RpcReply {
        RpcReply::result("1", [Bytes::from_static(b"{}")])
    }

    async fn text(response: Response) -> (String, String) {
        let kind = response.headers()[http::header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (kind, String::from_utf8(body.to_vec()).unwrap())
    }

    fn event_of(n: u32) -> String {
        format!(
            "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":\"p\",\"progress\":{n},\"message\":\"m\"}}}}\n\n"
        )
    }

    const END: &str = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";

    #[tokio::test]
    async fn an_answer_alone_is_json() {
        let response =
            answer(Box::pin(async { done() }), Mailbox::new(ClientCapabilities::NONE), presentation(), patient()).await;
        assert_eq!(text(response).await, ("application/json".into(), r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into()));
    }

    #[tokio::test]
    async fn what_comes_before_the_answer_makes_it_a_stream_in_order_and_the_answer_is_last() {
        for late in [false, true] {
            let mailbox = Mailbox::new(ClientCapabilities::NONE);
            let server = mailbox.clone();
            let work: Work = Box::pin(async move {
                assert!(server.put(progress(1)).is_ok());
                if late {
                    tokio::task::yield_now().await;
                }
                assert!(server.put(progress(2)).is_ok() && server.put(progress(3)).is_ok());
                done()
            });
            let response = answer(work, mailbox, presentation(), patient()).await;
            let expected = format!("{}{}{}{END}", event_of(1), event_of(2), event_of(3));
            assert_eq!(text(response).await, ("text/event-stream".into(), expected), "{late}");
        }
    }

    #[tokio::test]
    async fn what_the_caller_does_not_want_is_not_shown() {
        let mailbox = Mailbox::new(ClientCapabilities::NONE);
        let log = |level: &str| ServerMessage::Log(format!(r#"{{"level":"{level}","data":1}}"#).into());
        let all = [log("info"), log("error"), ServerMessage::Log(Bytes::from_static(b"{}")), progress(1)];
        assert!(all.into_iter().all(|told| mailbox.put(told).is_ok()));
        let presentation = Presentation { progress_token: None, log_level: Some(4), input: InputMode::None };
        let response = answer(Box::pin(async { done() }), mailbox, presentation, patient()).await;
        let expected = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"error\",\"data\":1}}\n\n";
        assert_eq!(text(response).await.1, format!("{expected}{END}"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_is_kept_alive_by_comments() {
        let mailbox = Mailbox::new(ClientCapabilities::NONE);
        assert!(mailbox.put(progress(1)).is_ok());
        let work: Work = Box::pin(async {
            sleep(Duration::from_secs(40)).await;
            done()
        });
        let response = answer(work, mailbox, presentation(), patient()).await;
        assert_eq!(text(response).await.1, format!("{}: \n\n: \n\n{END}", event_of(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_long_goes_on_as_a_stream_for_who_takes_one() {
        let json = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned();
        for with_mailbox in [false, true] {
            for (seconds, takes_streams, kind, expected) in [
                (9, true, "application/json", json.clone()),
                (11, true, "text/event-stream", format!(": \n\n{END}")),
                (41, true, "text/event-stream", format!(": \n\n: \n\n: \n\n{END}")),
                (41, false, "application/json", json.clone()),
            ] {
                let (began, work) = (Instant::now(), taking(seconds));
                let deadline = StreamDeadline::until(takes_streams.then(|| began + Duration::from_secs(10)));
                let response = if with_mailbox {
                    answer(work, Mailbox::new(ClientCapabilities::NONE), presentation(), deadline).await
                } else {
                    answer_alone(work, deadline).await
                };
                let head = began.elapsed().as_secs();
                assert_eq!(text(response).await, (kind.to_owned(), expected), "{seconds} {with_mailbox}");
                let is_stream = kind == "text/event-stream";
                assert_eq!((head, began.elapsed().as_secs()), (if is_stream { 10 } else { seconds }, seconds));
            }
        }
    }
}
