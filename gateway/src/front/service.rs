//! Answers every request of a connection: calls go straight to where they are answered, all else through the router.
//!
//! Around each: an id, a measure, and a line in the access log.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, Uri};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use portcullis_runtime::serve::{Answer, Answering, Direct, Plain};

use super::app::App;
use super::head::{Head, Sent};
use super::observe;
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
        Requests(Arc::new(Connection { front: self.clone(), peer: peer.ip().to_string() }))
    }

    async fn answer(&self, request: Request<Incoming>, connection: &Arc<Connection>) -> Response {
        let (parts, body) = request.into_parts();
        let (head, body) = (Head::of(&parts), Body::new(body));
        match Call::of(parts.method.as_str(), head.uri.path()) {
            Some(call) => self.answer_call(call, &head, Sent::Coming(body), connection).await,
            None => self.answer_other(Request::from_parts(parts, body), &head, connection).await,
        }
    }

    async fn answer_call(&self, call: Call, head: &Head, body: Sent, connection: &Arc<Connection>) -> Response {
        let recorder = observe::begin(connection.clone(), Method::POST, head, Some(call.path()));
        let mut response = match call {
            Call::Tools => routes::call_tool(&self.app, head, body, &recorder).await,
            Call::Mcp => mcp::answer_post(&self.app, head, body, &recorder).await,
        };
        observe::end(&self.app, &recorder, &mut response);
        response
    }

    async fn answer_other(&self, mut request: Request<Body>, head: &Head, connection: &Arc<Connection>) -> Response {
        let recorder = observe::begin(connection.clone(), request.method().clone(), head, None);
        request.extensions_mut().insert(recorder.clone());
        // In a box, so that a call does not carry the room for it.
        let Ok(mut response) = Box::pin(self.router.call(request)).await;
        observe::end(&self.app, &recorder, &mut response);
        response
    }
}

/// What answers the requests of one connection.
struct Requests(Arc<Connection>);

impl Service<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let connection = self.0.clone();
        // In a box: a connection keeps the room for its answer, which idle ones must not pay for.
        pinned(|| async move { Ok(connection.front.answer(request, &connection).await) })
    }
}

impl Answer for Requests {
    type Reply = Body;

    type Direct = Connection;

    fn direct(&self) -> Option<Arc<Connection>> {
        Some(self.0.clone())
    }
}

impl Direct<Body> for Connection {
    type Route = Route;

    fn route(&self, method: &str, target: &str) -> Option<Route> {
        if let Some(call) = Call::of(method, target) {
            return Some(Route::Call(call));
        }
        let method =
            [Method::GET, Method::POST, Method::DELETE, Method::OPTIONS].into_iter().find(|one| *one == method)?;
        // What is no path is a matter of proxies.
        let uri = target.starts_with('/').then(|| target.parse().ok())??;
        Some(Route::Other(method, uri))
    }

    fn answer(self: Arc<Self>, request: Plain<Route>) -> Answering<Body> {
        pinned(|| async move {
            let Plain { route, fields, body } = request;
            match route {
                Route::Call(call) => {
                    let head = Head { uri: Uri::from_static(call.path()), fields };
                    self.front.answer_call(call, &head, Sent::Whole(body), &self).await
                }
                Route::Other(method, uri) => {
                    let head = Head { uri, fields };
                    self.front.answer_other(head.request(method, body), &head, &self).await
                }
            }
        })
    }
}

/// What callers do most, and so goes round the router.
#[derive(Clone, Copy)]
pub enum Call {
    /// `POST /tools`.
    Tools,
    /// `POST /mcp`.
    Mcp,
}

/// What is asked by a plain request.
pub enum Route {
    /// Something that goes round the router.
    Call(Call),
    /// Something else.
    Other(Method, Uri),
}

impl Call {
    fn of(method: &str, path: &str) -> Option<Self> {
        [Self::Tools, Self::Mcp].into_iter().find(|call| method == "POST" && call.path() == path)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Tools => "/tools",
            Self::Mcp => "/mcp",
        }
    }
}
