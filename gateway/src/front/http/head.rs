//! A request as its handler gets it: the head, and the body, which may still be arriving.

use std::borrow::Cow;

use axum::body::Body;
use bytes::Bytes;
use http::Uri;
use portcullis_runtime::serve::{self, Fields};

/// The head of a request.
pub(crate) struct IncomingHead {
    /// Its path, and its query.
    pub(crate) target: Cow<'static, str>,
    /// Its header fields.
    pub(crate) fields: Fields,
}

/// The body of a request.
pub(crate) enum IncomingBody {
    /// All of it.
    Whole(Bytes),
    /// A body that is still to be read.
    Coming(Body),
}

impl From<serve::Sent> for IncomingBody {
    fn from(sent: serve::Sent) -> Self {
        match sent {
            serve::Sent::Whole(body) => Self::Whole(body),
            serve::Sent::Coming(body) => Self::Coming(Body::new(body)),
        }
    }
}

impl IncomingHead {
    /// With this target, and these fields.
    pub(crate) fn new(target: &Uri, fields: Fields) -> Self {
        let target = target.path_and_query().map_or("/", |target| target.as_str());
        Self { target: target.to_owned().into(), fields }
    }

    /// Its path alone.
    pub(crate) fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// Its query, without the question mark.
    pub(crate) fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }
}

/// A parameter of the query, decoded.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let query = query?;
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
