//! The service that answers the requests of one connection.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use http::{Method, Uri};
use hyper::body::Body;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::body::Sent;
use super::fields::Fields;
use super::places::Place;
use super::tls::TlsPeer;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Answers the requests of one connection.
pub trait Answer: Send + Sync + 'static {
    /// The body of the answers.
    type Reply: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;

    /// The translation of a method and a target.
    type Route: Send;

    /// Translates a method and a target; `None`: they are invalid.
    fn route(&self, method: &str, target: &str) -> Option<Self::Route>;

    /// Answers a request. Dropping the future means that the answer is no longer needed.
    fn answer(self: Arc<Self>, request: Request<Self::Route>) -> Answering<Self::Reply>;

    /// Whether the target is a probe, for which places are reserved.
    fn is_probe(&self, target: &str) -> bool {
        let _ = target;
        true
    }
}

/// A request that is being answered.
pub type Answering<R> = Pin<Box<dyn Future<Output = hyper::Response<R>> + Send>>;

/// A request.
pub struct Request<T> {
    /// The method and target, as [`Answer::route`] returned them.
    pub route: T,
    /// The header fields.
    pub fields: Fields,
    /// The body.
    pub body: Sent,
}

/// The peer of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address.
    pub address: SocketAddr,
    /// The place of the connection; to be notified when a request has had a valid token.
    pub place: Arc<Place>,
    /// What is known from its TLS handshake, as soon as that is done; `None`: the connection is plain.
    pub tls: Option<Arc<TlsPeer>>,
}

/// A method and a target in the common form.
///
/// RFC 9112 section 3.2: a path, a whole URI, or `*`. For `CONNECT` it is an authority.
pub fn method_and_uri(method: &str, target: &str) -> Option<(Method, Uri)> {
    let uri: Uri = target.parse().ok()?;
    let is_target = target.starts_with('/') || uri.scheme().is_some() || target == "*" || method == "CONNECT";
    Some((Method::from_bytes(method.as_bytes()).ok()?, uri)).filter(|_| is_target)
}

/// An axum `Router` for one connection; handlers find the peer by `ConnectInfo<SocketAddr>`.
#[derive(Clone, Debug)]
pub struct RouterService {
    router: TowerToHyperService<Router>,
    peer: SocketAddr,
    probes: &'static [&'static str],
}

/// Makes the argument of [`serve`](super::serve) from an axum `Router`.
pub fn router(router: Router) -> impl Fn(Peer) -> Arc<RouterService> + Send + Sync + 'static {
    router_with_probes(router, &[])
}

/// The same with the paths for which places are reserved.
pub fn router_with_probes(
    router: Router,
    probes: &'static [&'static str],
) -> impl Fn(Peer) -> Arc<RouterService> + Send + Sync + 'static {
    let router = TowerToHyperService::new(router);
    move |peer| Arc::new(RouterService { router: router.clone(), peer: peer.address, probes })
}

impl Answer for RouterService {
    type Reply = axum::body::Body;
    type Route = (Method, Uri);

    fn route(&self, method: &str, target: &str) -> Option<(Method, Uri)> {
        method_and_uri(method, target)
    }

    fn answer(self: Arc<Self>, request: Request<(Method, Uri)>) -> Answering<axum::body::Body> {
        let mut asked = request.into_http(axum::body::Body::from, axum::body::Body::new);
        asked.extensions_mut().insert(ConnectInfo(self.peer));
        Box::pin(async move {
            let answered: Result<_, Infallible> = self.router.call(asked).await;
            answered.unwrap_or_else(|never| match never {})
        })
    }

    fn is_probe(&self, target: &str) -> bool {
        self.probes.contains(&target)
    }
}

impl Request<(Method, Uri)> {
    /// Converts to a request with a map of fields, and a body made by one of these.
    pub fn into_http<B>(
        self,
        whole: impl FnOnce(bytes::Bytes) -> B,
        coming: impl FnOnce(super::body::Coming) -> B,
    ) -> http::Request<B> {
        let body = match self.body {
            Sent::Whole(body) => whole(body),
            Sent::Coming(body) => coming(body),
        };
        let mut request = http::Request::new(body);
        (*request.method_mut(), *request.uri_mut()) = self.route;
        *request.headers_mut() = self.fields.to_map();
        request
    }
}
