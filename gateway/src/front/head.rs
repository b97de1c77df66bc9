//! A request as those get it who answer it: what its head says, and its body, which may have to be waited for.

use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Uri};
use portcullis_runtime::serve::Fields;

/// What the head of a request says.
pub struct Head {
    /// Where to.
    pub uri: Uri,
    /// Its header fields.
    pub fields: Fields,
}

/// The body of a request.
pub enum Sent {
    /// All of it.
    Whole(Bytes),
    /// What is still to be read.
    Coming(Body),
}

impl Head {
    /// Of a request that is in the form of the router's.
    pub fn of(parts: &Parts) -> Self {
        Self { uri: parts.uri.clone(), fields: Fields::from(&parts.headers) }
    }

    /// In the form of the router's requests.
    pub fn request(&self, method: Method, body: Bytes) -> Request<Body> {
        let mut request = Request::new(Body::from(body));
        (*request.method_mut(), *request.uri_mut()) = (method, self.uri.clone());
        *request.headers_mut() = self.fields.to_map();
        request
    }
}
