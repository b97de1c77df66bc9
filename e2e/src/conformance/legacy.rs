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

use super::handler::{Handler, Shared};

/// Messages that wait on one side of a session.
const WAITING: usize = 64;

/// The sessions, and the tasks that serve them.
pub(super) struct Legacy {
    shared: Arc<Shared>,
    next: AtomicU64,
    sessions: Mutex<HashMap<String, Sender<ClientJsonRpcMessage>>>,
    serving: Mutex<JoinSet<()>>,
}

impl Legacy {
    /// Without any session yet.
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
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

    fn serve(&self, pipe: Pipe) {
        let handler = Handler::new(&self.shared);
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

async fn open(State(legacy): State<Arc<Legacy>>) -> Sse<KeepAliveStream<Events>> {
    let id = format!("session-{}", legacy.next.fetch_add(1, Ordering::Relaxed));
    let (from_client, received) = mpsc::channel(WAITING);
    let (to_client, sent) = mpsc::channel(WAITING);
    legacy.sessions().insert(id.clone(), from_client);
    legacy.serve(Pipe { received, to_client });
    let endpoint = Some(Event::default().event("endpoint").data(format!("/message?sessionId={id}")));
    Sse::new(Events { endpoint, sent, id, legacy }).keep_alive(KeepAlive::default())
}

#[derive(Deserialize)]
struct Whose {
    #[serde(rename = "sessionId")]
    session_id: String,
}

async fn message(
    State(legacy): State<Arc<Legacy>>,
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

/// What the client reads. Dropping it ends the session.
struct Events {
    endpoint: Option<Event>,
    sent: Receiver<ServerJsonRpcMessage>,
    id: String,
    legacy: Arc<Legacy>,
}

impl Stream for Events {
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

impl Drop for Events {
    fn drop(&mut self) {
        self.legacy.sessions().remove(&self.id);
    }
}

/// The SDK's side of a session.
struct Pipe {
    received: Receiver<ClientJsonRpcMessage>,
    to_client: Sender<ServerJsonRpcMessage>,
}

impl Transport<RoleServer> for Pipe {
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
