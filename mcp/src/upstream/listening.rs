//! The stream for a server's messages that belong to no call: kept open, and reopened when the wanted resources change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::HeaderMap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::call::{CODED, Call, CallError, refusal};
use super::connect::ServerCapabilities;
use super::core::End;
use super::events::Events;
use super::sse::{read_arrived, read_stream};
use super::streamable::{POST_LIMIT, StreamableSession, Wanted};
use crate::http1::{Exchange, Media};
use crate::protocol::extensions::Extensions;
use crate::protocol::json::json_string;

/// Between two attempts to open the listening stream: servers that close it at once must not be flooded.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// The longest pause between attempts; pauses double while streams live shorter than this.
const LISTEN_SELDOM: Duration = Duration::from_secs(60);

impl StreamableSession {
    /// Keeps a listening stream open: GET, or `subscriptions/listen` since 2026-07-28.
    ///
    /// The stream is a convenience: a server without one is polled instead.
    pub(super) async fn listen(&self, capabilities: ServerCapabilities) -> End {
        let (mut pause, mut again) = (LISTEN_AGAIN, false);
        let mut wanted = self.wanted.subscribe();
        loop {
            if self.modern && !capabilities.announces_any() {
                // Until a resource or a task is wanted, there is nothing to listen for.
                let _ = wanted.wait_for(|wanted| *wanted != Wanted::default()).await;
            }
            let began = Instant::now();
            wanted.mark_unchanged();
            match timeout(POST_LIMIT, self.open_listening(capabilities)).await {
                Ok(Ok(Some(mut stream))) => {
                    if std::mem::replace(&mut again, true) {
                        // No stream was open for a while.
                        self.core.notices.lists_may_have_changed();
                    }
                    let _hearing = Hearing::begin(&self.hears);
                    if self.read_listening(&mut stream, &mut wanted, capabilities).await.is_none() {
                        continue;
                    }
                    // The server may be gone: notifies the health check at once.
                    self.core.notices.suspect.notify_one();
                }
                Ok(Ok(None)) => return std::future::pending().await,
                // A ping shows whether the session or only this stream is missing: some servers answer 404 if they have
                // no stream.
                Ok(Err(_)) => self.core.notices.suspect.notify_one(),
                Err(_) => {}
            }
            pause = if began.elapsed() < LISTEN_SELDOM { pause } else { LISTEN_AGAIN };
            sleep(pause).await;
            pause = (pause * 2).min(LISTEN_SELDOM);
        }
    }

    /// Reads the listening stream to its end. If what is wanted changes, opens another stream before it closes
    /// this one, so that no message is missed; `None` if no other stream can be opened.
    async fn read_listening(
        &self,
        stream: &mut Exchange,
        wanted: &mut watch::Receiver<Wanted>,
        capabilities: ServerCapabilities,
    ) -> Option<End> {
        let take = |message| self.core.handle(message, None);
        loop {
            let mut events = Events::new(self.core.max_message);
            tokio::select! {
                end = read_stream(stream, &mut events, take) => return Some(end),
                _ = wanted.changed() => {}
            }
            let next = timeout(POST_LIMIT, self.open_listening(capabilities)).await;
            // Messages that arrived meanwhile still count.
            read_arrived(stream, &mut events, take).await;
            *stream = next.ok()?.ok()??;
        }
    }

    /// Opens the listening stream; `None` if the server has none.
    async fn open_listening(&self, capabilities: ServerCapabilities) -> Result<Option<Exchange>, CallError> {
        let exchange = if self.modern {
            let wanted = self.wanted.borrow().clone();
            let mut exchange = self.ask_to_listen(capabilities, &wanted).await?;
            let mut tasks = wanted.tasks;
            if exchange.head.status.is_client_error() && !tasks.is_empty() {
                // It may have forgotten one of them: that must not cost the rest.
                tasks = BTreeSet::new();
                let wanted = Wanted { resources: wanted.resources, tasks: BTreeSet::new() };
                exchange = self.ask_to_listen(capabilities, &wanted).await?;
            }
            if exchange.head.status.is_success() {
                self.heard_tasks.send_replace(tasks);
            }
            exchange
        } else {
            self.core.exchange_in_place(&self.heads, true, |heads| heads.listen(None)).await?
        };
        let status = exchange.head.status.as_u16();
        match refusal(status) {
            _ if exchange.head.status.is_success() => {}
            // For now, or until the credentials change.
            refusal @ CallError::Refused(401 | 403 | 429) => return Err(refusal),
            CallError::Refused(404) if self.has_session => return Err(CallError::SessionExpired),
            CallError::Refused(404 | 405) => return Ok(None),
            CallError::Refused(400..500) if self.modern => return Ok(None),
            refusal => return Err(refusal),
        }
        if exchange.head.media == Media::Coded {
            let server = String::from_utf8_lossy(self.core.pool.authority().as_bytes()).into_owned();
            warn!(
                server,
                problem = CODED,
                "the gateway does not use the server's stream of messages that belong to no call"
            );
        }
        Ok(Some(exchange).filter(|exchange| exchange.head.media == Media::EventStream))
    }

    async fn ask_to_listen(&self, capabilities: ServerCapabilities, wanted: &Wanted) -> Result<Exchange, CallError> {
        let list = |name: &str, all: &BTreeSet<Arc<str>>| {
            let all: Vec<String> = all.iter().map(|one| json_string(one)).collect();
            (!all.is_empty()).then(|| format!(r#""{name}":[{}]"#, all.join(",")))
        };
        let lists = Some(capabilities.announced_lists()).filter(|lists| !lists.is_empty());
        let singles = [list("resourceSubscriptions", &wanted.resources), list("taskIds", &wanted.tasks)];
        let all: Vec<String> = lists.into_iter().chain(singles.into_iter().flatten()).collect();
        let (all, none) = (all.join(","), HeaderMap::new());
        let params = [r#""notifications":{"#, &all, "}"];
        let mut call = Call::of_our_own("subscriptions/listen", &params, &none);
        let able = Extensions::tasks().in_capabilities("");
        if !wanted.tasks.is_empty() {
            call.caller.capabilities = &able;
        }
        self.post(&call, self.core.next_id()).await
    }
}

/// Marks the listening stream as open while it lives.
struct Hearing<'a>(&'a AtomicBool);

impl<'a> Hearing<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use ::http::{HeaderValue, Uri};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::core::{Core, Notices};
    use super::*;
    use crate::http1::{HttpPool, Origin};
    use crate::upstream::SessionHeaders;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

    fn update(uri: &str) -> String {
        let message =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"{uri}"}}}}"#);
        format!("data: {message}\n\n")
    }

    async fn session() -> (TcpListener, StreamableSession, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = HttpPool::new(Origin {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
            authority: HeaderValue::from_static("server"),
            guard: Arc::default(),
            tls: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
        });
        let (notices, heard) = (Arc::new(Notices::default()), Arc::new(Mutex::new(Vec::new())));
        let hears = heard.clone();
        let _ = notices.updated.set(Box::new(move |uri| {
            hears.lock().push(uri);
            true
        }));
        let (core, _outbox) = Core::new(pool, notices, 1024);
        (listener, StreamableSession::new(core, Uri::from_static("/mcp"), SessionHeaders::default(), true), heard)
    }

    /// Accepts a connection and reads the request on it.
    async fn asked(listener: &TcpListener, uri: &str) -> TcpStream {
        let (mut server, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while memchr::memmem::find(&read, format!(r#""resourceSubscriptions":["{uri}"]"#).as_bytes()).is_none() {
            assert!(server.read_buf(&mut read).await.unwrap() > 0, "{uri} is not asked for");
        }
        server
    }

    #[tokio::test]
    async fn what_a_stream_has_brought_is_heard_before_another_takes_its_place() {
        let (listener, session, heard) = session().await;
        let wanted = |uri: &str| Wanted { resources: BTreeSet::from([Arc::from(uri)]), ..Wanted::default() };
        session.hear_of(wanted("a:1"));
        let serving = async {
            let mut first = asked(&listener, "a:1").await;
            let text = update("a:1");
            let (begin, rest) = text.split_at(20);
            first.write_all(format!("{HEAD}{begin}").as_bytes()).await.unwrap();
            while !session.hears() {
                tokio::task::yield_now().await;
            }
            session.hear_of(wanted("a:2"));
            // The first stream is no longer read by now, since the next was requested.
            let mut second = asked(&listener, "a:2").await;
            first.write_all(format!("{rest}{}", update("a:1b")).as_bytes()).await.unwrap();
            second.write_all(format!("{HEAD}{}", update("a:2")).as_bytes()).await.unwrap();
            while heard.lock().last().is_none_or(|last| last != "a:2") {
                tokio::task::yield_now().await;
            }
        };
        let listening = session.listen(ServerCapabilities { resources_subscribe: true, ..Default::default() });
        let both = async {
            tokio::select! {
                () = serving => {}
                end = listening => panic!("it has ended: {end:?}"),
            }
        };
        timeout(Duration::from_secs(20), both).await.expect("it hangs");
        assert_eq!(*heard.lock(), ["a:1", "a:1b", "a:2"]);
    }

    #[tokio::test]
    async fn a_stream_that_is_refused_for_now_is_asked_for_again() {
        let (listener, session, heard) = session().await;
        session.hear_of(Wanted { resources: BTreeSet::from([Arc::from("a:1")]), ..Wanted::default() });
        let serving = async {
            let mut first = asked(&listener, "a:1").await;
            first.write_all(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            drop(first);
            let mut second = asked(&listener, "a:1").await;
            second.write_all(format!("{HEAD}{}", update("a:1")).as_bytes()).await.unwrap();
            while heard.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let listening = session.listen(ServerCapabilities { resources_subscribe: true, ..Default::default() });
        let both = async {
            tokio::select! {
                () = serving => {}
                end = listening => panic!("it has ended: {end:?}"),
            }
        };
        timeout(Duration::from_secs(20), both).await.expect("it is not asked for again");
    }
}
