//! A tiny Kubernetes API server that issues service-account tokens, and the ways in which it refuses them.
//!
//! Its tokens have no signature: those who check them are the tests.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::fake_kubeconfig::fake_kubeconfig;
use crate::port::{self, HeldPort};

/// The service account whose tokens it issues.
pub const ACCOUNT: &str = "portcullis/gateway";

const PATH: &str = "/api/v1/namespaces/portcullis/serviceaccounts/gateway/token";

/// A running API server. It ends with this value.
#[derive(Debug)]
pub struct FakeTokens {
    state: Arc<Mutex<TokenState>>,
    port: HeldPort,
    tasks: JoinSet<()>,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct TokenState {
    life: u64,
    refusal: Option<StatusCode>,
    /// Audiences that it accepts itself.
    own: BTreeSet<String>,
    /// The audience of each issued token, in their order.
    issued: Vec<String>,
}

impl FakeTokens {
    /// Starts one whose tokens live for an hour.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let state = TokenState { life: 3600, refusal: None, own: BTreeSet::new(), issued: Vec::new() };
        let mut api = Self { state: Arc::new(Mutex::new(state)), port: port::hold(), tasks: JoinSet::new(), folder };
        std::fs::write(api.kubeconfig(), fake_kubeconfig(&api.port.origin(), None)).expect("a file");
        api.listen().await;
        api
    }

    /// A kubeconfig file that leads to it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Tokens live for this many seconds from now on.
    pub fn live_for(&self, seconds: u64) {
        self.state().life = seconds;
    }

    /// Refuses requests for tokens with this status from now on, or no longer.
    pub fn refuse(&self, status: Option<u16>) {
        self.state().refusal = status.map(|status| StatusCode::from_u16(status).expect("a status"));
    }

    /// Accepts tokens for this audience itself from now on.
    pub fn accept(&self, audience: &str) {
        self.state().own.insert(audience.to_owned());
    }

    /// The audiences of the tokens issued until now, in their order.
    pub fn issued(&self) -> Vec<String> {
        self.state().issued.clone()
    }

    /// Cuts all connections, and refuses new ones until [`FakeTokens::listen`].
    pub async fn go_away(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Takes connections again.
    pub async fn listen(&mut self) {
        let (listener, state) = (self.port.listen().await, self.state.clone());
        self.tasks.spawn(accept(listener, state));
    }

    fn state(&self) -> MutexGuard<'_, TokenState> {
        locked(&self.state)
    }
}

/// The claims of a token, as far as its text is one.
pub fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn locked(state: &Mutex<TokenState>) -> MutexGuard<'_, TokenState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<Mutex<TokenState>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(answer(&state, request).await) }
            });
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(state: &Mutex<TokenState>, request: Request<Incoming>) -> Response {
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|text| text.strip_prefix("Bearer ")).map(str::to_owned);
    if let Some(token) = bearer {
        let audience = claims(&token).map(|claims| claims["aud"][0].clone());
        let is_own = audience.as_ref().and_then(Value::as_str).is_some_and(|aud| locked(state).own.contains(aud));
        return status(if is_own { StatusCode::OK } else { StatusCode::UNAUTHORIZED });
    }
    if (request.method(), request.uri().path()) != (&Method::POST, PATH) {
        return status(StatusCode::NOT_FOUND);
    }
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let asked: Value = serde_json::from_slice(&body).expect("JSON");
    let mut state = locked(state);
    if let Some(refusal) = state.refusal {
        return status(refusal);
    }
    let audience = asked["spec"]["audiences"][0].as_str().expect("an audience").to_owned();
    state.issued.push(audience.clone());
    let claims = json!({"aud": [audience], "sub": "system:serviceaccount:portcullis:gateway", "n": state.issued.len()});
    let token = format!("e30.{}.hunter", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": state.life},
        "status": {"token": token, "expirationTimestamp": "2100-01-01T00:00:00Z"},
    });
    (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn status(status: StatusCode) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status.as_u16()});
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
