//! What answers the requests of one connection.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;

use super::direct::Direct;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Answers the requests of one connection: a hyper service whose parts can move between threads.
///
/// An error closes the connection without an answer; services that always answer use `Infallible`.
pub trait Answer:
    Service<Request<Incoming>, Response = Response<Self::Reply>, Error: Into<BoxError>, Future: Send> + Send + 'static
{
    /// Body of the answers.
    type Reply: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;

    /// What answers plain requests.
    type Direct: Direct<Self::Reply>;

    /// What answers plain requests of this connection, if it is not to be hyper.
    fn direct(&self) -> Option<Arc<Self::Direct>>;
}

/// An axum `Router` for one connection; handlers find the peer by `ConnectInfo<SocketAddr>`.
#[derive(Clone, Debug)]
pub struct RouterService {
    router: TowerToHyperService<Router>,
    peer: SocketAddr,
}

/// Makes what [`serve`](super::serve) takes from an axum `Router`.
pub fn router(router: Router) -> impl Fn(SocketAddr) -> RouterService + Send + Sync + 'static {
    let router = TowerToHyperService::new(router);
    move |peer| RouterService { router: router.clone(), peer }
}

impl Service<Request<Incoming>> for RouterService {
    type Response = Response<axum::body::Body>;
    type Error = Infallible;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(ConnectInfo(self.peer));
        self.router.call(request)
    }
}

impl Answer for RouterService {
    type Reply = axum::body::Body;
    type Direct = Infallible;

    fn direct(&self) -> Option<Arc<Infallible>> {
        None
    }
}
