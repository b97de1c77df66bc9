//! HTTP+SSE of 2024-11-05, which the SDK has no server for: a GET stream of events, and POSTs to the address that it names.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, KeepAliveStream, Sse};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::{RoleServer, serve_server};
use serde::Deserialize;
use tokio::sync::mpsc::{self, Receiver, Sender, error::SendError};
use tokio::task::JoinSet;

use super::handler::{ConformanceHandler, ConformanceState};

/// Messages that wait on one side of a session.
const QUEUE_CAPACITY: usize = 64;

/// The sessions, and the tasks that serve them.
pub(super) struct LegacySessions {
    shared: Arc<ConformanceState>,
    next: AtomicU64,
    sessions: Mutex<HashMap<String, Sender<ClientJsonRpcMessage>>>,
    serving: Mutex<JoinSet<()>>,
}

impl LegacySessions {
    /// Without any session yet.
    pub(super) fn new(shared: &Arc<ConformanceState>) -> Self {
        let shared = Arc::clone(shared);
        Self { shared, next: AtomicU64::new(1), sessions: Mutex::default(), serving: Mutex::default() }
    }

    /// `/sse` and `/message`.
    pub(super) fn router(self) -> Router {
        Router::new().route("/sse", get(open)).route("/message", post(message)).with_state(Arc::new(self))
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Sender<ClientJsonRpcMessage>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, pipe: SessionPipe) {
        let handler = ConformanceHandler::new(&self.shared);
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        while serving.try_join_next().is_some() {}
        serving.spawn(async move {
            // A session that ends in its handshake is as gone as any other.
            if let Ok(running) = serve_server(handler, pipe).await {
                drop(running.waiting().await);
            }
        });
    }
}

async fn open(State(legacy): State<Arc<LegacySessions>>) -> Sse<KeepAliveStream<SessionEvents>> {
    let id = format!("session-{}", legacy.next.fetch_add(1, Ordering::Relaxed));
    let (from_client, received) = mpsc::channel(QUEUE_CAPACITY);
    let (to_client, sent) = mpsc::channel(QUEUE_CAPACITY);
    legacy.sessions().insert(id.clone(), from_client);
    legacy.serve(SessionPipe { received, to_client });
    let endpoint = Some(Event::default().event("endpoint").data(format!("/message?sessionId={id}")));
    Sse::new(SessionEvents { endpoint, sent, id, legacy }).keep_alive(KeepAlive::default())
}

#[derive(Deserialize)]
struct Whose {
    #[serde(rename = "sessionId")]
    session_id: String,
}

async fn message(
    State(legacy): State<Arc<LegacySessions>>,
    Query(whose): Query<Whose>,
    body: Bytes,
) -> (StatusCode, &'static str) {
    let Ok(message) = serde_json::from_slice(&body) else { return (StatusCode::BAD_REQUEST, "Not a message") };
    let session = legacy.sessions().get(&whose.session_id).cloned();
    let Some(session) = session else { return (StatusCode::NOT_FOUND, "No such session") };
    match session.send(message).await {
        Ok(()) => (StatusCode::ACCEPTED, "Accepted"),
        Err(_) => (StatusCode::NOT_FOUND, "The session has ended"),
    }
}

/// The client's event stream. Dropping it ends the session.
struct SessionEvents {
    endpoint: Option<Event>,
    sent: Receiver<ServerJsonRpcMessage>,
    id: String,
    legacy: Arc<LegacySessions>,
}

impl Stream for SessionEvents {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(endpoint) = self.endpoint.take() {
            return Poll::Ready(Some(Ok(endpoint)));
        }
        self.sent.poll_recv(context).map(|message| {
            let json = serde_json::to_string(&message?).expect("messages can be written");
            Some(Ok(Event::default().event("message").data(json)))
        })
    }
}

impl Drop for SessionEvents {
    fn drop(&mut self) {
        self.legacy.sessions().remove(&self.id);
    }
}

/// The SDK's side of a session.
struct SessionPipe {
    received: Receiver<ClientJsonRpcMessage>,
    to_client: Sender<ServerJsonRpcMessage>,
}

impl Transport<RoleServer> for SessionPipe {
    type Error = SendError<ServerJsonRpcMessage>;

    fn send(
        &mut self,
        message: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let to_client = self.to_client.clone();
        async move { to_client.send(message).await }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        self.received.recv().await
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.received.close();
        Ok(())
    }
}
