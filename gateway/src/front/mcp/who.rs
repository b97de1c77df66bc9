//! Who asks, in which session, and which answers it takes: read from the head of a request.

use std::time::SystemTime;

use http::HeaderName;
use portcullis_runtime::serve::{Fields, as_text};

use super::metadata::Resource;
use super::problem::RpcProblem;
use super::routes::{LEGACY, Refused, refused};
use super::state::{Caller, Within};
use crate::catalog::Catalog;
use crate::front::access_log::short;
use crate::front::app::App;
use crate::front::error::ApiError;
use crate::front::routes::{Recorder, identify_with};
use crate::loops::INSTANCE;
use crate::revision::Revision;
use crate::seal::{Session, SubjectId};

/// The header of a session's id.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// Begins the part of a path that names a namespace: no name of a server does.
const NAMESPACE_MARK: char = '~';

/// What the specification has clients send; most send just that.
const USUAL: &str = "application/json, text/event-stream";

/// Who asks, and whom.
pub(super) struct Who {
    pub(super) subject: SubjectId,
    within: Within,
    /// When the request came.
    now: SystemTime,
}

/// What the head of a request says in headers of MCP's own.
pub(super) struct Said<'a> {
    /// Its answer may be one JSON message.
    pub(super) takes_json: bool,
    /// Its answer may be a stream of events.
    pub(super) takes_streams: bool,
    /// The revision.
    pub(super) version: Option<&'a [u8]>,
    /// The method, since 2026-07-28.
    pub(super) method: Option<&'a [u8]>,
    /// What it is about, since 2026-07-28.
    pub(super) name: Option<&'a [u8]>,
    /// The id of a session.
    session: Option<&'a [u8]>,
}

// === impl Who ===

impl Who {
    /// Checks the token.
    ///
    /// # Errors
    /// It does not count, or there is no such server.
    pub(super) async fn of(recorder: &Recorder, server: Option<&str>) -> Result<Self, ApiError> {
        let app = recorder.app();
        // Before the token: the gateway itself may have none.
        if recorder.head().fields.get(INSTANCE.as_str()).is_some_and(|passed| app.loops.has_passed(passed)) {
            return Err(ApiError::Loop);
        }
        let resource = server.map_or(Resource::Mcp, Resource::Server);
        let identity = identify_with(recorder, app.options.allow_query_token_mcp, Some(resource)).await?;
        let within = match server {
            None => Within::All,
            Some(path) => within(&app.published.load(), path)?,
        };
        Ok(Self { subject: SubjectId::of(&identity), within, now: recorder.arrived() })
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
            (Some(version), Some(agreed)) if version == agreed.as_str().as_bytes() => agreed,
            (Some(version), _) => {
                let version = as_text(version).unwrap_or_default();
                let known = Revision::parse(version).filter(|revision| !revision.is_modern());
                let known = known.ok_or_else(|| refused(id, &RpcProblem::Version(short(version)), LEGACY))?;
                agreed.unwrap_or(known)
            }
        };
        Ok((session, revision))
    }

    /// All that is known of a request.
    pub(super) fn caller(self, recorder: &Recorder, (session, takes_streams): (Option<Session>, bool)) -> Caller {
        Caller { within: self.within, subject: self.subject, session, takes_streams, recorder: recorder.clone() }
    }
}

/// What a path below `/mcp` names: a server, or all of a namespace.
fn within(catalog: &Catalog, path: &str) -> Result<Within, ApiError> {
    match path.strip_prefix(NAMESPACE_MARK) {
        Some(namespace) if catalog.has_namespace(namespace) => Ok(Within::Namespace(namespace.into())),
        Some(namespace) => Err(ApiError::UnknownNamespace(short(namespace))),
        None => {
            let server = catalog.server(path).cloned();
            server.map(Within::Server).ok_or_else(|| ApiError::UnknownServer(short(path)))
        }
    }
}

// === impl Said ===

impl<'a> Said<'a> {
    /// Who does not say which answers it takes gets JSON: curl cannot do much with a stream.
    pub(super) fn of(fields: &'a Fields) -> Self {
        let mut said = Self {
            takes_json: false,
            takes_streams: false,
            version: fields.get("mcp-protocol-version"),
            method: fields.get("mcp-method"),
            name: fields.get("mcp-name"),
            session: fields.get(SESSION.as_str()),
        };
        let mut ranges = fields.all("accept").peekable();
        said.takes_json = ranges.peek().is_none();
        ranges.for_each(|value| said.accepts(value));
        said
    }

    fn accepts(&mut self, value: &[u8]) {
        if value == USUAL.as_bytes() {
            (self.takes_json, self.takes_streams) = (true, true);
            return;
        }
        for range in as_text(value).unwrap_or_default().split(',') {
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
            let fields = accept.iter().map(|value| ("Accept", value)).collect();
            let said = Said::of(&fields);
            assert_eq!((said.takes_json, said.takes_streams), expected, "{accept:?}");
        }
    }

    #[test]
    fn of_a_header_that_is_there_twice_the_first_counts() {
        let names = ["Mcp-Session-Id", "MCP-Protocol-Version", "mcp-method", "mcp-name"];
        let fields = names.map(|name| (name, "1")).into_iter().chain(names.map(|name| (name, "2"))).collect();
        let said = Said::of(&fields);
        assert_eq!([said.session, said.version, said.method, said.name], [Some(&b"1"[..]); 4]);
    }
}
