//! `GET /status` of the admin port: reports the applied configuration and the status of servers, when they change.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use portcullis_crds::report::MAX_WAIT_SECONDS;
use portcullis_runtime::Shutdown;
use portcullis_runtime::admin::Turns;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::status::feed::Board;

/// The limit for requests that wait for a change; the admin port has capacity for others besides them.
const WAITING: usize = 32;

/// The state of the route.
pub(crate) struct StatusState {
    board: Arc<Board>,
    waiting: Semaphore,
    turns: Turns,
    stop: Shutdown,
}

/// The request: what the client already knows.
#[derive(Debug, Default, Deserialize)]
struct StatusQuery {
    #[serde(default)]
    instance: String,
    since: Option<u64>,
    #[serde(default)]
    wait: u64,
}

/// The route; waiting ends when `stop` is requested. Long answers are written in turns.
pub(crate) fn route<S: Clone + Send + Sync + 'static>(
    board: Arc<Board>,
    turns: Turns,
    stop: Shutdown,
) -> MethodRouter<S> {
    get(status).with_state(Arc::new(StatusState { board, waiting: Semaphore::new(WAITING), turns, stop }))
}

async fn status(
    State(state): State<Arc<StatusState>>,
    asked: Result<Query<StatusQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(asked)) = asked else {
        return (StatusCode::BAD_REQUEST, "since and wait must be whole numbers\n").into_response();
    };
    let known = asked.since.filter(|_| asked.instance == state.board.instance());
    if let Some(since) = known {
        let Ok(_place) = state.waiting.try_acquire() else {
            let retry = [(header::RETRY_AFTER, "1")];
            return (StatusCode::SERVICE_UNAVAILABLE, retry, "too many requests wait for a change: try again\n")
                .into_response();
        };
        wait(&state, since, Duration::from_secs(asked.wait.min(MAX_WAIT_SECONDS))).await;
    }
    let Some(turn) = state.turns.take().await else { return Turns::refusal() };
    // With thousands of servers it takes longer than the calls that this thread serves may wait.
    let board = state.board.clone();
    match tokio::task::spawn_blocking(move || serde_json::to_vec(&board.report(known))).await {
        Ok(Ok(body)) => turn.answer("application/json", body),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "cannot write the status\n").into_response(),
    }
}

/// Waits until there is a change after `since`. A number from the future is answered at once.
async fn wait(state: &StatusState, since: u64, limit: Duration) {
    let mut changes = state.board.changes();
    tokio::select! {
        _ = timeout(limit, changes.wait_for(|change| *change != since)) => {}
        () = state.stop.requested() => {}
    }
}
