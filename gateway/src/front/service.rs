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
use super::observe::{self, Peer, Recorder};
use super::{mcp, routes};
use crate::boxed::pinned;

/// What answers all connections of one listener.
pub struct Front {
    app: Arc<App>,
    router: TowerToHyperService<Router>,
}

impl Front {
    /// All routes, and those of `more`, which get ids, log lines and measures too.
    pub fn new(app: Arc<App>, more: Router) -> Arc<Self> {
        let router = TowerToHyperService::new(routes::router(app.clone(), more));
        Arc::new(Self { app, router })
    }

    /// What answers one connection.
    pub fn connection(self: &Arc<Self>, peer: SocketAddr) -> impl Answer + use<> {
        let (front, peer) = (self.clone(), Arc::new(Peer::from(peer)));
        service_fn(move |request: Request<Incoming>| {
            let (front, peer) = (front.clone(), peer.clone());
            // In a box: a connection keeps the room for its answer, which idle ones must not pay for.
            pinned(|| async move { Ok::<_, Infallible>(front.answer(request, peer).await) })
        })
    }

    async fn answer(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response {
        let (mut head, body) = request.into_parts();
        let body = Body::new(body);
        let call = (head.method == Method::POST).then(|| Call::of(head.uri.path())).flatten();
        let recorder = observe::begin(&self.app, &head, peer, call.map(Call::path));
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
