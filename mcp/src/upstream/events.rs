//! Reads the events of a stream in short turns: a server that sends without a pause does not block other tasks.

use std::future::{Future as _, poll_fn};
use std::pin::pin;

use bytes::Bytes;
use portcullis_runtime::memory::account;
use tokio::task::yield_now;

use super::event_stream::{Endless, Event, Parser};
use crate::http1::Exchange;

/// This many bytes are parsed before other tasks run, however many have arrived.
const TURN_BYTES: usize = 16 * 1024;

/// The cost of a piece, however short it is.
const PIECE: usize = 64;

/// The limit for the events of a turn.
const TURN_EVENTS: usize = 64;

/// Longer messages are not compared with others.
const MAX_COMPARED: usize = 1024;

/// The limit for the messages to compare with.
const MAX_NOTED: usize = 8;

/// The events of one stream.
pub(super) struct Events {
    parser: Parser,
    /// Bytes that have arrived and are not parsed yet.
    rest: Bytes,
    turn: TurnWork,
    /// The last read failed for lack of memory.
    starved: bool,
}

/// The work done since other tasks ran.
#[derive(Default)]
struct TurnWork {
    bytes: usize,
    events: usize,
    /// Messages that need no second reading in this turn.
    noted: Vec<Box<[u8]>>,
}

impl Events {
    /// The events of a new stream; up to `limit` bytes each.
    pub(super) fn new(limit: usize) -> Self {
        Self { parser: Parser::new(limit), rest: Bytes::new(), turn: TurnWork::default(), starved: false }
    }

    /// The events of the stream that resumes this one.
    #[must_use]
    pub(super) fn going_on(self) -> Self {
        Self { parser: self.parser.going_on(), rest: Bytes::new(), turn: TurnWork::default(), starved: false }
    }

    /// The parser, which knows how to resume the stream.
    pub(super) fn parser(&self) -> &Parser {
        &self.parser
    }

    /// Whether the last event was not read for lack of memory; the stream itself is intact.
    pub(super) fn is_starved(&self) -> bool {
        self.starved
    }

    /// The next event; `None` if the stream has ended or is broken, or there is [no memory](Self::is_starved). Dropping
    /// the future loses nothing.
    ///
    /// # Errors
    /// [`Endless`]: the stream is unusable from here on.
    pub(super) async fn next(&mut self, stream: &mut Exchange) -> Result<Option<Event>, Endless> {
        loop {
            if let Some(event) = self.parse().await? {
                return Ok(Some(event));
            }
            self.starved = account().any_room().await.is_err();
            if self.starved {
                return Ok(None);
            }
            match self.more(stream).await {
                Some(piece) => self.rest = piece,
                None => return Ok(None),
            }
        }
    }

    /// The next event that has arrived on an abandoned stream. `left` more bytes may be read from it.
    ///
    /// # Errors
    /// [`Endless`].
    pub(super) async fn arrived(&mut self, stream: &mut Exchange, left: &mut usize) -> Result<Option<Event>, Endless> {
        loop {
            if let Some(event) = self.parse().await? {
                return Ok(Some(event));
            }
            match stream.arrived().filter(|_| *left > 0) {
                Some(piece) => {
                    *left = left.saturating_sub(piece.len());
                    self.rest = piece;
                }
                None => return Ok(None),
            }
        }
    }

    /// Whether the same message was noted in this turn: it has not been acted on yet, so a repetition adds nothing.
    pub(super) fn is_noted(&mut self, message: &[u8]) -> bool {
        let is_noted = self.turn.noted.iter().any(|noted| **noted == *message);
        // A comparison costs next to nothing.
        self.turn.events = self.turn.events.saturating_sub(is_noted.into());
        is_noted
    }

    /// Notes a message whose immediate repetition adds nothing.
    pub(super) fn note(&mut self, message: &[u8]) {
        if message.len() <= MAX_COMPARED && self.turn.noted.len() < MAX_NOTED {
            self.turn.noted.push(message.into());
        }
    }

    /// The next event in the received bytes, once the turn allows it.
    async fn parse(&mut self) -> Result<Option<Event>, Endless> {
        loop {
            if self.turn.bytes >= TURN_BYTES || self.turn.events >= TURN_EVENTS {
                yield_now().await;
                self.turn.begin();
            }
            if let Some(event) = self.parser.next_event()? {
                self.turn.events += 1;
                return Ok(Some(event));
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            let length = self.rest.len().min(TURN_BYTES);
            self.turn.bytes += length + PIECE;
            if length == self.rest.len() {
                self.parser.push(&std::mem::take(&mut self.rest));
            } else {
                self.parser.push(&self.rest.split_to(length));
            }
        }
    }

    /// The next piece of the stream. Waiting for it ends the turn.
    async fn more(&mut self, stream: &mut Exchange) -> Option<Bytes> {
        let (turn, mut chunk) = (&mut self.turn, pin!(stream.chunk()));
        let piece = poll_fn(|cx| {
            let piece = chunk.as_mut().poll(cx);
            if piece.is_pending() {
                turn.begin();
            }
            piece
        });
        piece.await.ok().flatten()
    }
}

impl TurnWork {
    fn begin(&mut self) {
        (self.bytes, self.events) = (0, 0);
        self.noted.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::time::Duration;

    use ::http::{HeaderMap, HeaderValue, Method, Uri};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::http1::{HttpPool, Origin};

    const LIMIT: Duration = Duration::from_secs(20);

    /// Sends this text over a stream, and runs `read` on that meanwhile.
    async fn with_stream<T>(text: &str, read: impl AsyncFnOnce(Exchange) -> T) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = HttpPool::new(Origin {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
            authority: HeaderValue::from_static("server"),
            guard: Arc::default(),
            tls: None,
            connect_timeout: LIMIT,
            idle_timeout: LIMIT,
        });
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            // All of the request: unread bytes at the close of the connection would discard the response.
            assert!(server.read_buf(&mut Vec::with_capacity(4_096)).await.unwrap() > 0);
            server.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await.unwrap();
            // A reader that has seen enough is gone.
            let _ = server.write_all(text.as_bytes()).await;
        };
        let reading = async {
            let stream = pool.send(Method::GET, &Uri::from_static("/"), &HeaderMap::new(), Bytes::new()).await.unwrap();
            read(stream).await
        };
        timeout(LIMIT, async { tokio::join!(serving, reading) }).await.expect("it hangs").1
    }

    #[tokio::test]
    async fn between_a_few_events_of_a_server_that_does_not_pause_others_have_their_turn() {
        let long = format!("data: {}\n\n", "x".repeat(1_000));
        // A turn takes the whole piece in which its bytes are used up, and a piece has up to as many bytes again.
        let most_long = 2 * TURN_BYTES / 1_000 + 1;
        let cases = [("data: {\"method\":\"x\"}\n\n", TURN_EVENTS), (":\n\n", TURN_EVENTS), (&long, most_long)];
        for (event, most) in cases {
            let count = 2_000_000 / event.len();
            with_stream(&event.repeat(count), async |mut stream| {
                let (mut events, read, over) = (Events::new(4_096), Cell::new(0), Cell::new(false));
                let reading = async {
                    while events.next(&mut stream).await.unwrap().is_some() {
                        read.set(read.get() + 1);
                    }
                    over.set(true);
                };
                let others = async {
                    let mut before = 0;
                    while !over.get() {
                        // Where several things are waited for, now one is the first, now another.
                        assert!(
                            read.get() - before <= 2 * most,
                            "{} events in one turn: {event:?}",
                            read.get() - before
                        );
                        before = read.get();
                        yield_now().await;
                    }
                };
                tokio::join!(reading, others);
                assert_eq!(read.get(), count, "{event:?}");
            })
            .await;
        }
    }

    #[tokio::test]
    async fn of_bytes_that_make_no_event_no_more_is_looked_at_in_one_turn() {
        for text in ["\n", "x\n", "id: 7\n", "data: x\n"] {
            let mut events = Events::new(1024 * 1024);
            events.rest = text.repeat(2 * TURN_BYTES / text.len()).into();
            let polls = Cell::new(0);
            let mut parsing = pin!(events.parse());
            let parsed = poll_fn(|cx| {
                polls.set(polls.get() + 1);
                parsing.as_mut().poll(cx)
            });
            assert_eq!(parsed.await, Ok(None), "{text:?}");
            assert!(polls.get() >= 2, "{text:?}: all of it at once");
        }
    }

    #[tokio::test]
    async fn what_is_noted_in_a_turn_is_not_read_again_in_it() {
        let message = |n: usize| format!(r#"{{"method":"notifications/{n}/list_changed"}}"#);
        let text: String = (0..3_000).map(|n| format!("data: {}\n\n", message(n % 3))).collect();
        let turns = text.len() / TURN_BYTES + 2;
        let mut events = Events::new(4_096);
        events.rest = text.into();
        let (mut all, mut read) = (0, 0);
        while let Some(Event::Message { data, .. }) = events.parse().await.unwrap() {
            all += 1;
            if !events.is_noted(&data) {
                events.note(&data);
                read += 1;
            }
        }
        assert_eq!(all, 3_000);
        assert!((3..=3 * turns).contains(&read), "{read} of {all} are read in {turns} turns");
    }
}
