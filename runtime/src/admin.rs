//! The routes of the admin port: liveness, readiness, metrics, and routes that a process adds.
//!
//! Liveness means only that the process answers; no event elsewhere may make the kubelet restart it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::error;

use crate::chain::Chain;
use crate::memory::account;
use crate::ready::Readiness;

/// The paths of the probes for liveness and readiness.
pub const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// The limit for long answers that are built and written at the same time: each may be megabytes, and its reader slow.
const TURNS: usize = 4;

/// A request for a long answer checks this often, for this long each time, whether one of these is finished.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(100);

/// Prometheus text exposition format 0.0.4; see prometheus.io/docs/instrumenting/exposition_formats.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The state of the admin port.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// Reported at `/readyz`.
    pub readiness: Readiness,
    /// Reported at `/metrics`.
    pub registry: Registry,
    /// Limits answers that may be long.
    pub turns: Turns,
}

/// A limit for the long answers of one port.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

/// The permit for a long answer, until it is written.
#[derive(Debug)]
pub struct Turn {
    _place: OwnedSemaphorePermit,
}

/// A long answer.
struct Long {
    text: Option<Bytes>,
    _turn: Turn,
}

/// Builds the whole admin port: `/livez`, `/readyz` and `/metrics`; every answer is plain text.
pub fn router(state: AdminState) -> Router {
    router_with(state, Vec::new())
}

/// The same with further routes.
pub fn router_with(state: AdminState, more: Vec<(&'static str, MethodRouter)>) -> Router {
    let paths: Vec<&str> = more.iter().map(|(path, _)| *path).collect();
    let not_found =
        format!("not found: this port has {}\n", [&["/livez", "/readyz", "/metrics"], &paths[..]].concat().join(", "));
    let whole = more.into_iter().fold(routes(state), |router, (path, route)| router.route(path, route));
    whole
        .fallback(move || std::future::ready((StatusCode::NOT_FOUND, not_found.clone())))
        .method_not_allowed_fallback(method_not_allowed)
}

/// Builds only these three routes, to be merged into another port's.
pub fn routes(state: AdminState) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn livez() -> &'static str {
    "ok\n"
}

/// 200, or 503 with the names of the missing latches, one per line.
async fn readyz(State(state): State<AdminState>) -> Response {
    match state.readiness.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response(),
    }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    let Some(turn) = state.turns.take().await else { return Turns::refusal() };
    let mut text = Vec::with_capacity(16 * 1024);
    match TextEncoder::new().encode(&state.registry.gather(), &mut text) {
        Ok(()) => turn.answer(METRICS_TYPE, text),
        Err(failure) => {
            error!(error = %Chain(&failure), "cannot write the metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, "cannot write the metrics; see the log\n").into_response()
        }
    }
}

async fn method_not_allowed() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "method not allowed: use GET\n")
}

// === impl AdminState, Turns, Turn, Long ===

impl AdminState {
    /// The state with these sources.
    pub fn new(readiness: Readiness, registry: Registry) -> Self {
        Self { readiness, registry, turns: Turns::default() }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TURNS)))
    }
}

impl Turns {
    /// Waits briefly for a turn. Meanwhile, closes a connection whose client reads nothing of its answer.
    pub async fn take(&self) -> Option<Turn> {
        for _ in 0..ROUNDS {
            if let Ok(Ok(turn)) = timeout(ROUND, self.0.clone().acquire_owned()).await {
                return Some(Turn { _place: turn });
            }
            account().relieve();
        }
        None
    }

    /// The answer if there was no turn.
    pub fn refusal() -> Response {
        let retry = [(header::RETRY_AFTER, "1")];
        (StatusCode::SERVICE_UNAVAILABLE, retry, "too many long answers are under way: try again\n").into_response()
    }
}

impl Turn {
    /// A long answer, which holds the turn until it is written.
    pub fn answer(self, media_type: &'static str, text: Vec<u8>) -> Response {
        let mut response = Response::new(Body::new(Long { text: Some(text.into()), _turn: self }));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        response
    }
}

impl hyper::body::Body for Long {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.text.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.as_ref().map_or(0, |text| text.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::Request;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use prometheus::IntCounter;

    use super::*;

    fn state() -> AdminState {
        AdminState::new(Readiness::default(), Registry::new())
    }

    /// Status, content type and body of one answer.
    async fn ask(state: &AdminState, method: &str, path: &str) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("request");
        let reply = TowerToHyperService::new(router(state.clone())).call(request).await.expect("infallible");
        let kind = reply.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
        let status = reply.status().as_u16();
        let body = to_bytes(reply.into_body(), 1 << 20).await.expect("body");
        (status, kind, String::from_utf8(body.to_vec()).expect("utf-8"))
    }

    fn text(status: u16, body: &str) -> (u16, String, String) {
        (status, "text/plain; charset=utf-8".to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn a_process_is_alive_even_when_it_is_not_ready() {
        let state = state();
        let _latch = state.readiness.latch("snapshot");

        assert_eq!(ask(&state, "GET", "/livez").await, text(200, "ok\n"));
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_one_per_line() {
        let state = state();
        let (snapshot, keys) = (state.readiness.latch("snapshot"), state.readiness.latch("keys"));

        assert_eq!(ask(&state, "GET", "/readyz").await, text(503, "snapshot\nkeys\n"));
        snapshot.release();
        keys.release();
        assert_eq!(ask(&state, "GET", "/readyz").await, text(200, "ok\n"));
        state.readiness.drain();
        assert_eq!(ask(&state, "GET", "/readyz").await, text(503, "draining\n"));
    }

    #[tokio::test]
    async fn metrics_are_shown_in_the_text_format() {
        let state = state();
        let calls = IntCounter::new("calls_total", "Calls.").expect("valid name");
        state.registry.register(Box::new(calls.clone())).expect("new name");
        calls.inc_by(3);

        let expected = "# HELP calls_total Calls.\n# TYPE calls_total counter\ncalls_total 3\n";
        assert_eq!(ask(&state, "GET", "/metrics").await, (200, METRICS_TYPE.to_owned(), expected.to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn long_answers_are_given_in_turns() {
        let turns = Turns::default();
        let mut taken = Vec::new();
        for _ in 0..TURNS {
            taken.push(turns.take().await.expect("a turn").answer("a/b", vec![b'x']));
        }
        assert!(turns.take().await.is_none());
        assert_eq!(Turns::refusal().headers()[header::RETRY_AFTER], "1");
        drop(taken.pop());
        assert!(turns.take().await.is_some());
    }

    #[tokio::test]
    async fn further_routes_are_served_and_named() {
        let more = vec![("/more", get(|| async { "more\n" }))];
        let router = TowerToHyperService::new(router_with(state(), more));
        for (path, expected) in
            [("/more", "more\n"), ("/x", "not found: this port has /livez, /readyz, /metrics, /more\n")]
        {
            let request = Request::builder().uri(path).body(Body::empty()).expect("request");
            let body = to_bytes(router.call(request).await.expect("infallible").into_body(), 1 << 20).await;
            assert_eq!(body.expect("body"), expected);
        }
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused_in_plain_text() {
        let state = state();

        let (status, kind, _) = ask(&state, "GET", "/").await;
        assert_eq!((status, kind.as_str()), (404, "text/plain; charset=utf-8"));
        for path in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(ask(&state, "POST", path).await, text(405, "method not allowed: use GET\n"), "{path}");
        }
    }
}
