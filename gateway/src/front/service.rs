//! Answers every request of a connection: calls go straight to where they are answered, all else through the router.
//!
//! Around each: an id, a measure, and a line in the access log.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{Method, Request};
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::service::TowerToHyperService;
use portcullis_runtime::serve::Answer;

use super::app::App;
use super::observe::{self, Recorder};
use super::{mcp, routes};
use crate::boxed::pinned;

/// What answers all connections of one listener.
pub struct Front {
    app: Arc<App>,
    router: TowerToHyperService<Router>,
}

/// A connection of a caller. Its requests share this, and so touch nothing that those of other connections count.
pub struct Connection {
    front: Arc<Front>,
    peer: String,
}

impl Connection {
    /// What its requests need.
    pub fn app(&self) -> &App {
        &self.front.app
    }

    /// The address of its other end, without the port.
    pub fn peer(&self) -> &str {
        &self.peer
    }
}

impl Front {
    /// All routes, and those of `more`, which get ids, log lines and measures too.
    pub fn new(app: Arc<App>, more: Router) -> Arc<Self> {
        let router = TowerToHyperService::new(routes::router(app.clone(), more));
        Arc::new(Self { app, router })
    }

    /// What answers one connection.
    pub fn connection(self: &Arc<Self>, peer: SocketAddr) -> impl Answer + use<> {
        let connection = Arc::new(Connection { front: self.clone(), peer: peer.ip().to_string() });
        service_fn(move |request: Request<Incoming>| {
            let connection = connection.clone();
            // In a box: a connection keeps the room for its answer, which idle ones must not pay for.
            pinned(|| async move { Ok::<_, Infallible>(connection.front.answer(request, &connection).await) })
        })
    }

    async fn answer(&self, request: Request<Incoming>, connection: &Arc<Connection>) -> Response {
        let (mut head, body) = request.into_parts();
        let body = Body::new(body);
        let call = (head.method == Method::POST).then(|| Call::of(head.uri.path())).flatten();
        let recorder = observe::begin(connection.clone(), &head, call.map(Call::path));
        let mut response = match call {
            Some(Call::Tools) => routes::call_tool(&self.app, &head, body, &recorder).await,
            Some(Call::Mcp) => mcp::answer_post(&self.app, &mut head, body, &recorder).await,
            None => self.route(Request::from_parts(head, body), recorder.clone()).await,
        };
        observe::end(&self.app, &recorder, &mut response);
        response
    }

    /// In a box, so that a call does not carry the room for it.
    async fn route(&self, mut request: Request<Body>, recorder: Recorder) -> Response {
        request.extensions_mut().insert(recorder);
        let Ok(response) = Box::pin(self.router.call(request)).await;
        response
    }
}

/// What callers do most, and so goes round the router.
#[derive(Clone, Copy)]
enum Call {
    Tools,
    Mcp,
}

impl Call {
    fn of(path: &str) -> Option<Self> {
        [Self::Tools, Self::Mcp].into_iter().find(|call| call.path() == path)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Tools => "/tools",
            Self::Mcp => "/mcp",
        }
    }
}
