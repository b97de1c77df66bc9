//! The answer to one request: JSON if nothing comes before it, a stream of events from the first that does, or from when
//! it has taken long: callers and proxies give up on an answer of which they see nothing.

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
use tokio::time::{Instant, Sleep, sleep};

use super::asking::Asker;
use super::calls::Work;
use super::parking::Parker;
use super::reply::{Reply, event, event_stream, notification};
use super::request::level;
use crate::capabilities::ClientCapabilities;
use crate::handle::Places;
use crate::json::Members;
use crate::upstream::message::json_string;
use crate::upstream::{Asked, Mailbox, Told};

/// Between comments that keep a quiet stream from being cut by proxies; many cut at 30 or 60 s.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A comment: it tells only that the stream lives.
pub const COMMENT: &[u8] = b": \n\n";

/// The log level of a session that has not said which it wants.
pub const DEFAULT_LEVEL: usize = 1;

/// How what a server tells before its answer is shown to the caller.
pub struct Shape {
    /// The caller's own progress token, as JSON; none: it wants to hear of no progress.
    pub progress_token: Option<String>,
    /// The least urgent log level that it wants; none: no messages.
    pub log_level: Option<usize>,
    /// How it is asked.
    pub ears: Ears,
}

/// How a caller is asked what a server wants to know.
pub enum Ears {
    /// Not at all.
    None,
    /// By a request within the answer.
    Asks(Asker),
    /// By an answer that says what is missing; the call waits.
    Parks(Box<Parker>),
}

/// How long a caller waits for an answer that is no stream.
///
/// It has no timer of its own: the call wakes it (see [`crate::call::Request::looks_up`]). Most are answered when they are
/// looked at for the second time, so the clock is read for the others alone.
pub struct Patience {
    until: Option<Instant>,
    looked: bool,
}

impl Patience {
    /// Until then; none: for ever.
    pub fn until(until: Option<Instant>) -> Self {
        Self { until, looked: false }
    }

    fn is_over(&mut self) -> bool {
        let again = mem::replace(&mut self.looked, true);
        again && self.until.is_some_and(|until| until <= Instant::now())
    }
}

/// What becomes of something told.
enum Shown {
    /// It is an event of the answer.
    Event(Bytes),
    /// It ends the answer: the caller has to come back.
    Question(Asked),
}

impl Shape {
    /// What the caller gets to see of it, if it wants it.
    fn show(&mut self, told: Told) -> Option<Shown> {
        let event = match told {
            Told::Progress(params) => {
                let params = with_token(&params, self.progress_token.as_deref()?)?;
                event(notification("notifications/progress", &params).as_bytes())
            }
            Told::Log(params) => log_event(&params, self.log_level?)?,
            Told::Question(asked) => match &mut self.ears {
                Ears::None => return None,
                Ears::Asks(asker) => asker.ask(asked)?,
                Ears::Parks(_) => return Some(Shown::Question(asked)),
            },
        };
        Some(Shown::Event(event))
    }

    /// Ends the answer with a question. The call goes on.
    fn park(&mut self, work: Work, mailbox: Mailbox, asked: Asked) -> Option<Reply> {
        match std::mem::replace(&mut self.ears, Ears::None) {
            Ears::Parks(parker) => Some(parker.park(work, mailbox, asked)),
            Ears::None | Ears::Asks(_) => None,
        }
    }
}

/// The event of a log message, if it is at least so urgent.
pub fn log_event(params: &Bytes, least: usize) -> Option<Bytes> {
    let text = std::str::from_utf8(params).ok()?;
    let of = Members::read(text).ok().and_then(|members| level(members.get("level")?).ok());
    (of? >= least).then(|| event(notification("notifications/message", text).as_bytes()))
}

/// The params of `notifications/progress` with another token.
fn with_token(params: &Bytes, token: &str) -> Option<String> {
    let members = Members::read(std::str::from_utf8(params).ok()?).ok()?;
    let others: String = members
        .0
        .iter()
        .filter(|(key, _)| key != "progressToken")
        .map(|(key, value)| format!(",{}:{}", json_string(key), value.get()))
        .collect();
    Some(format!(r#"{{"progressToken":{token}{others}}}"#))
}

/// Waits for an answer before which nothing can come.
pub async fn answer_alone(mut work: Work, mut patience: Patience) -> Response {
    let answered = poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(reply) => Poll::Ready(Some(reply)),
        Poll::Pending if patience.is_over() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match answered.await {
        Some(reply) => reply.into_response(),
        None => {
            let shape = Shape { progress_token: None, log_level: None, ears: Ears::None };
            let mut events = Answering::among_others(work, None, shape);
            (events.waiting, events.alive) = (Some(Bytes::from_static(COMMENT)), Some(keep_alive()));
            event_stream(Body::new(events))
        }
    }
}

/// Waits for the answer, or for the first thing that comes before it.
pub async fn answer(mut work: Work, mailbox: Mailbox, mut shape: Shape, mut patience: Patience) -> Response {
    let first = poll_fn(|cx| match work.as_mut().poll(cx) {
        // All that came before the answer is there now.
        Poll::Ready(reply) => Poll::Ready(Ok((reply, shown_already(&mailbox, &mut shape)))),
        Poll::Pending => match next_shown(&mailbox, &mut shape, cx) {
            Poll::Pending if patience.is_over() => Poll::Ready(Err(Shown::Event(Bytes::from_static(COMMENT)))),
            shown => shown.map(Err),
        },
    });
    let mut places = Places::new();
    let (work, waiting, end) = match first.await {
        Ok((reply, None | Some(Shown::Question(_)))) => return reply.into_response(),
        Ok((reply, Some(Shown::Event(first)))) => {
            let (end, kept) = reply.into_event();
            places = kept;
            (None, first, Some(end))
        }
        Err(Shown::Event(first)) => (Some(work), first, None),
        Err(Shown::Question(asked)) => match shape.park(work, mailbox, asked) {
            Some(reply) => return reply.into_response(),
            None => unreachable!("only who parks ends an answer with a question"),
        },
    };
    let alive = Some(keep_alive());
    event_stream(Body::new(Answering { work, mailbox, shape, waiting: Some(waiting), end, alive, places }))
}

fn next_shown(mailbox: &Mailbox, shape: &mut Shape, cx: &mut Context<'_>) -> Poll<Shown> {
    loop {
        match mailbox.poll_take(cx) {
            Poll::Ready(told) => {
                if let Some(shown) = shape.show(told) {
                    return Poll::Ready(shown);
                }
            }
            Poll::Pending => return Poll::Pending,
        }
    }
}

fn shown_already(mailbox: &Mailbox, shape: &mut Shape) -> Option<Shown> {
    std::iter::from_fn(|| mailbox.take()).find_map(|told| shape.show(told))
}

/// The timer of a stream's comments.
pub fn keep_alive() -> Pin<Box<Sleep>> {
    Box::pin(sleep(KEEP_ALIVE))
}

/// The events of one request; the last is the answer.
pub struct Answering {
    work: Option<Work>,
    mailbox: Mailbox,
    shape: Shape,
    waiting: Option<Bytes>,
    end: Option<Bytes>,
    /// None where somebody else keeps the stream alive.
    alive: Option<Pin<Box<Sleep>>>,
    /// What the answer keeps until it is written.
    places: Places,
}

impl Answering {
    /// On a stream with others.
    pub fn among_others(work: Work, mailbox: Option<Mailbox>, shape: Shape) -> Self {
        let mailbox = mailbox.unwrap_or_else(|| Mailbox::new(ClientCapabilities::NONE));
        Self { work: Some(work), mailbox, shape, waiting: None, end: None, alive: None, places: Places::new() }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(event) = self.waiting.take() {
            return Poll::Ready(Some(event));
        }
        while let Poll::Ready(shown) = next_shown(&self.mailbox, &mut self.shape, cx) {
            match (shown, self.work.take()) {
                (Shown::Event(event), work) => {
                    self.work = work;
                    return Poll::Ready(Some(event));
                }
                (Shown::Question(asked), Some(work)) => {
                    // What comes from now on is for the request that goes on with it.
                    let mailbox = std::mem::replace(&mut self.mailbox, Mailbox::new(ClientCapabilities::NONE));
                    let reply = self.shape.park(work, mailbox, asked);
                    return Poll::Ready(reply.map(|reply| event(&reply.into_bytes())));
                }
                // The call is over, whoever answers.
                (Shown::Question(_), None) => {}
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

impl futures_util::Stream for Answering {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.poll_event(cx)
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_event(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::mcp::reply::Reply;
    use crate::upstream::timing::woken;
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    fn shape() -> Shape {
        Shape { progress_token: Some("\"p\"".into()), log_level: Some(4), ears: Ears::None }
    }

    fn patient() -> Patience {
        Patience::until(None)
    }

    /// Work that takes so long and wakes whoever waits after 10 s.
    fn taking(seconds: u64) -> Work {
        let at = Some(Instant::now() + Duration::from_secs(10));
        Box::pin(woken(sleep(Duration::from_secs(seconds)), at).map(|()| done()))
    }

    fn progress(n: u32) -> Told {
        Told::Progress(format!(r#"{{"progress":{n},"progressToken":7,"message":"m"}}"#).into())
    }

    fn done() -> Reply {
        Reply::result("1", [Bytes::from_static(b"{}")])
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
            answer(Box::pin(async { done() }), Mailbox::new(ClientCapabilities::NONE), shape(), patient()).await;
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
            let response = answer(work, mailbox, shape(), patient()).await;
            let expected = format!("{}{}{}{END}", event_of(1), event_of(2), event_of(3));
            assert_eq!(text(response).await, ("text/event-stream".into(), expected), "{late}");
        }
    }

    #[tokio::test]
    async fn what_the_caller_does_not_want_is_not_shown() {
        let mailbox = Mailbox::new(ClientCapabilities::NONE);
        let log = |level: &str| Told::Log(format!(r#"{{"level":"{level}","data":1}}"#).into());
        let all = [log("info"), log("error"), Told::Log(Bytes::from_static(b"{}")), progress(1)];
        assert!(all.into_iter().all(|told| mailbox.put(told).is_ok()));
        let shape = Shape { progress_token: None, log_level: Some(4), ears: Ears::None };
        let response = answer(Box::pin(async { done() }), mailbox, shape, patient()).await;
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
        let response = answer(work, mailbox, shape(), patient()).await;
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
                let patience = Patience::until(takes_streams.then(|| began + Duration::from_secs(10)));
                let response = if with_mailbox {
                    answer(work, Mailbox::new(ClientCapabilities::NONE), shape(), patience).await
                } else {
                    answer_alone(work, patience).await
                };
                let head = began.elapsed().as_secs();
                assert_eq!(text(response).await, (kind.to_owned(), expected), "{seconds} {with_mailbox}");
                let is_stream = kind == "text/event-stream";
                assert_eq!((head, began.elapsed().as_secs()), (if is_stream { 10 } else { seconds }, seconds));
            }
        }
    }
}
