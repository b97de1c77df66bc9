//! A request as those get it who answer it: what its head says, and its body, which may have to be waited for.

use std::borrow::Cow;

use axum::body::Body;
use bytes::Bytes;
use http::Uri;
use portcullis_runtime::serve::{self, Fields};

/// What the head of a request says.
pub struct Head {
    /// Its path, and its query.
    pub target: Cow<'static, str>,
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

impl From<serve::Sent> for Sent {
    fn from(sent: serve::Sent) -> Self {
        match sent {
            serve::Sent::Whole(body) => Self::Whole(body),
            serve::Sent::Coming(body) => Self::Coming(Body::new(body)),
        }
    }
}

impl Head {
    /// With this target, and these fields.
    pub fn new(target: &Uri, fields: Fields) -> Self {
        let target = target.path_and_query().map_or("/", |target| target.as_str());
        Self { target: target.to_owned().into(), fields }
    }

    /// Its path alone.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// Its query, without the question mark.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }
}
