//! Answers every request of a connection: calls go straight to where they are answered, all else through the router.
//!
//! Around each: an id, a measure, and a line in the access log.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use hyper::service::Service as _;
use portcullis_runtime::admin::PROBES;
use portcullis_runtime::serve::{self, Answer, Answering, method_and_uri};

use crate::front::http::head::{IncomingBody, IncomingHead};
use crate::front::mcp;
use crate::front::request::app::App;
use crate::front::request::connection::{CallerConnection, Front};
use crate::front::request::observe::{self, Recorder};
use crate::front::rest::routes;
use crate::front::routes::router;
use crate::util::boxed::pinned;

impl Front {
    /// All routes, and those of `more`, which get ids, log lines and measures too.
    pub(crate) fn new(app: Arc<App>, more: Router) -> Arc<Self> {
        Self::with(app, router(more))
    }

    /// Begins a call. Each kind has a box of its own, so that none carries the room for another.
    fn call(
        connection: Arc<CallerConnection>,
        call: DirectCall,
        head: IncomingHead,
        body: IncomingBody,
    ) -> Answering<Body> {
        let recorder = observe::begin(connection, Method::POST, head, Some(call.path()));
        match call {
            DirectCall::Tools => pinned(|| Self::answer_tools(recorder, body)),
            DirectCall::Mcp => pinned(|| Self::answer_mcp(recorder, body)),
        }
    }

    /// Begins anything else.
    fn route(connection: Arc<CallerConnection>, head: IncomingHead, request: Request<Body>) -> Answering<Body> {
        let recorder = observe::begin(connection, request.method().clone(), head, None);
        pinned(|| Self::answer_other(recorder, request))
    }

    async fn answer_tools(recorder: Recorder, body: IncomingBody) -> Response {
        let mut response = routes::call_tool(&recorder, body).await;
        observe::end(&recorder, &mut response);
        response
    }

    async fn answer_mcp(recorder: Recorder, body: IncomingBody) -> Response {
        let mut response = mcp::answer_post(&recorder, body).await;
        observe::end(&recorder, &mut response);
        response
    }

    async fn answer_other(recorder: Recorder, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(recorder.clone());
        let Ok(mut response) = recorder.front().router().call(request).await;
        observe::end(&recorder, &mut response);
        response
    }
}

impl Answer for CallerConnection {
    type Reply = Body;
    type Route = Route;

    fn route(&self, method: &str, target: &str) -> Option<Route> {
        if let Some(call) = DirectCall::of(method, target) {
            return Some(Route::Call(call));
        }
        let (method, mut uri) = method_and_uri(method, target)?;
        if let Some(shorter) = without_slash(uri.path_and_query().map_or("/", PathAndQuery::as_str)) {
            uri = shorter;
        }
        let call = uri.query().is_none().then(|| DirectCall::of(method.as_str(), uri.path())).flatten();
        Some(call.map_or_else(|| Route::Other(Box::new((method, uri))), Route::Call))
    }

    fn is_probe(&self, target: &str) -> bool {
        PROBES.contains(&target)
    }

    fn answer(self: Arc<Self>, request: serve::Request<Route>) -> Answering<Body> {
        let serve::Request { route, fields, body } = request;
        match route {
            Route::Call(call) => {
                let head = IncomingHead { target: call.path().into(), fields };
                Front::call(self, call, head, body.into())
            }
            Route::Other(route) => {
                let head = IncomingHead::new(&route.1, fields.clone());
                let request = serve::Request { route: *route, fields, body };
                Front::route(self, head, request.into_http(Body::from, Body::new))
            }
        }
    }
}

/// The requests that callers send most, which go round the router.
#[derive(Clone, Copy)]
pub(crate) enum DirectCall {
    /// `POST /tools`.
    Tools,
    /// `POST /mcp`.
    Mcp,
}

/// The target of a request.
pub(crate) enum Route {
    /// Something that goes round the router.
    Call(DirectCall),
    /// Something else.
    Other(Box<(Method, Uri)>),
}

impl DirectCall {
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

/// Removes the slash at the end of a target's path, because people write both; `None` if there is none. This replaces a
/// redirect, on which clients lose their token or their body.
fn without_slash(target: &str) -> Option<Uri> {
    let end = target.find('?').unwrap_or(target.len());
    let path = target[..end].strip_suffix('/').filter(|path| path.starts_with('/'))?;
    format!("{path}{}", &target[end..]).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_of_a_path_makes_no_difference() {
        let short = |target: &str| without_slash(target).map(|uri| uri.to_string());
        for (target, expected) in [
            ("/mcp/", Some("/mcp")),
            ("/mcp/a/?x=/", Some("/mcp/a?x=/")),
            ("/tools/list/?server=http://h/", Some("/tools/list?server=http://h/")),
            ("/", None),
            ("/?a/", None),
            ("/mcp", None),
            ("/mcp?a=/", None),
            ("*", None),
            ("//", Some("/")),
        ] {
            assert_eq!(short(target).as_deref(), expected, "{target}");
        }
    }
}
