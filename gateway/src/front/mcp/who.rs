//! Who asks, in which session, and which answers it takes: read from the head of a request.

use std::sync::Arc;
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::metadata::Resource;
use super::problem::RpcProblem;
use super::routes::{LEGACY, Refused, refused};
use super::state::Caller;
use crate::front::access_log::short;
use crate::front::app::App;
use crate::front::error::ApiError;
use crate::front::routes::{Recorder, identify_with};
use crate::handle::Handle;
use crate::revision::Revision;
use crate::seal::{Session, SubjectId};

/// The header of a session's id.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

// As constants they need not be parsed to be looked for.
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// What the specification has clients send; most send just that.
const USUAL: &str = "application/json, text/event-stream";

/// Who asks, and whom.
pub(super) struct Who {
    pub(super) subject: SubjectId,
    /// The one server that is asked, if it is not all of them.
    server: Option<Arc<Handle>>,
    /// When the request came.
    now: SystemTime,
}

/// What the head of a request says in headers of MCP's own; found in one pass.
pub(super) struct Said<'a> {
    /// Its answer may be one JSON message.
    pub(super) takes_json: bool,
    /// Its answer may be a stream of events.
    pub(super) takes_streams: bool,
    /// The revision.
    pub(super) version: Option<&'a HeaderValue>,
    /// The method, since 2026-07-28.
    pub(super) method: Option<&'a HeaderValue>,
    /// What it is about, since 2026-07-28.
    pub(super) name: Option<&'a HeaderValue>,
    /// The id of a session.
    session: Option<&'a HeaderValue>,
}

// === impl Who ===

impl Who {
    /// Checks the token.
    ///
    /// # Errors
    /// It does not count, or there is no such server.
    pub(super) async fn of(
        app: &App,
        server: Option<&str>,
        head: &Parts,
        recorder: &Recorder,
    ) -> Result<Self, ApiError> {
        let resource = server.map_or(Resource::Mcp, Resource::Server);
        let place = (app.options.allow_query_token_mcp, Some(resource));
        let identity = identify_with(app, &head.headers, head.uri.query(), place, recorder).await?;
        let server = match server {
            None => None,
            Some(name) => {
                let catalog = app.published.load();
                Some(catalog.server(name).cloned().ok_or_else(|| ApiError::UnknownServer(short(name)))?)
            }
        };
        Ok(Self { subject: SubjectId::of(&identity), server, now: recorder.arrived })
    }

    /// The session of a request before 2026-07-28, if it has one, and its revision.
    ///
    /// # Errors
    /// There is no such session, or no such revision.
    pub(super) fn session(
        &self,
        app: &App,
        said: &Said<'_>,
        id: Option<&str>,
    ) -> Result<(Option<Session>, Revision), Refused> {
        let session = said.session.map(|sealed| {
            let session = Session::open(&app.sealer, sealed, &self.subject, self.now).ok();
            let session = session.filter(|session| !app.mcp.live.has_ended(&session.id));
            session.ok_or_else(|| refused(id, &RpcProblem::Session, LEGACY))
        });
        let session = session.transpose()?;
        let agreed = session.as_ref().map(|session| session.revision);
        let revision = match (said.version, agreed) {
            (None, _) => agreed.unwrap_or(LEGACY),
            (Some(version), Some(agreed)) if version == agreed.as_str() => agreed,
            (Some(version), _) => {
                let version = version.to_str().unwrap_or_default();
                let known = Revision::parse(version).filter(|revision| !revision.is_modern());
                let known = known.ok_or_else(|| refused(id, &RpcProblem::Version(short(version)), LEGACY))?;
                agreed.unwrap_or(known)
            }
        };
        Ok((session, revision))
    }

    /// All that is known of a request; takes over what its head says.
    pub(super) fn caller(
        self,
        app: &Arc<App>,
        (session, takes_streams): (Option<Session>, bool),
        head: &mut Parts,
        recorder: &Recorder,
    ) -> Caller {
        Caller {
            app: app.clone(),
            server: self.server,
            subject: self.subject,
            uri: std::mem::take(&mut head.uri),
            headers: std::mem::take(&mut head.headers),
            session,
            takes_streams,
            recorder: recorder.clone(),
        }
    }
}

// === impl Said ===

impl<'a> Said<'a> {
    /// Who does not say which answers it takes gets JSON: curl cannot do much with a stream.
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let (takes_json, takes_streams) = (false, false);
        let mut said = Self { takes_json, takes_streams, version: None, method: None, name: None, session: None };
        let mut accepts = false;
        for (name, value) in headers {
            let place = match name {
                name if *name == header::ACCEPT => {
                    accepts = true;
                    said.accepts(value);
                    continue;
                }
                name if *name == VERSION => &mut said.version,
                name if *name == SESSION => &mut said.session,
                name if *name == METHOD => &mut said.method,
                name if *name == NAME => &mut said.name,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        said.takes_json |= !accepts;
        said
    }

    fn accepts(&mut self, value: &HeaderValue) {
        if value == USUAL {
            (self.takes_json, self.takes_streams) = (true, true);
            return;
        }
        for range in value.to_str().unwrap_or_default().split(',') {
            let range = range.split(';').next().unwrap_or_default().trim();
            let is_one_of = |kinds: &[&str]| kinds.iter().any(|kind| range.eq_ignore_ascii_case(kind));
            self.takes_json |= is_one_of(&["application/json", "*/*", "application/*"]);
            self.takes_streams |= is_one_of(&["text/event-stream", "text/*"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_that_a_caller_takes_are_read_from_all_its_accept_headers() {
        for (accept, expected) in [
            (&[][..], (true, false)),
            (&[USUAL], (true, true)),
            (&["text/event-stream"], (false, true)),
            (&["application/json"], (true, false)),
            (&["Application/JSON;q=0.5 , TEXT/*"], (true, true)),
            (&["*/*"], (true, false)),
            (&["text/html", "text/event-stream"], (false, true)),
            (&["text/html"], (false, false)),
            (&["\u{e9}"], (false, false)),
        ] {
            let value = |text: &&str| (header::ACCEPT, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            let headers = accept.iter().map(value).collect();
            let said = Said::of(&headers);
            assert_eq!((said.takes_json, said.takes_streams), expected, "{accept:?}");
        }
    }

    #[test]
    fn of_a_header_that_is_there_twice_the_first_counts() {
        let first = |name: &HeaderName| (name.clone(), HeaderValue::from_static("1"));
        let second = |name: &HeaderName| (name.clone(), HeaderValue::from_static("2"));
        let names = [&SESSION, &VERSION, &METHOD, &NAME];
        let headers = names.map(first).into_iter().chain(names.map(second)).collect();
        let said = Said::of(&headers);
        let found = [said.session, said.version, said.method, said.name];
        assert_eq!(found.map(|value| value.unwrap().to_str().unwrap()), ["1"; 4]);
    }
}
