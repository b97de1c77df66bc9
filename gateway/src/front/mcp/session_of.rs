//! Reads the requester of a message, and its session, from the head of a request.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_mcp::http1::INSTANCE;
use portcullis_mcp::protocol::revision::Revision;
use portcullis_runtime::serve::as_text;

use crate::auth::{Identity, SubjectId};
use crate::call::CALL_TOOL;
use crate::catalog::{Catalog, Kind, Scope};
use crate::front::http::access_log::short;
use crate::front::http::error::ApiError;
use crate::front::http::resource_metadata::Resource;
use crate::front::mcp::caller::{Caller, Within};
use crate::front::mcp::messages::classify::{LegacyMethod, MessageKind, ModernMethod};
use crate::front::mcp::messages::headers::McpHeaders;
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::request::{DEFAULT_REVISION, Params};
use crate::front::mcp::refusal::{McpRefusal, refused};
use crate::front::request::app::App;
use crate::front::request::caller_lists;
use crate::front::request::identify::identify_with;
use crate::front::request::observe::Recorder;
use crate::seal::SealedSession;

/// Begins the part of a path that names a namespace: no name of a server does.
const NAMESPACE_MARK: char = '~';

/// Begins the paths of views: no namespace and no server has such a name.
pub(crate) const VIEWS: &str = "_views/";

/// The subject that asks, and the part of all servers that it asks.
pub(crate) struct Requester {
    pub(crate) subject: SubjectId,
    identity: Arc<Identity>,
    within: Within,
    /// The arrival of the request.
    now: SystemTime,
    /// The catalog with what servers list for it alone, where its request needs that.
    completed: Option<Arc<Catalog>>,
}

// === impl Requester ===

impl Requester {
    /// Checks the token.
    ///
    /// # Errors
    /// It does not count, or there is no such server.
    pub(crate) async fn of(recorder: &Recorder, server: Option<&str>) -> Result<Self, ApiError> {
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
        Ok(Self { subject: SubjectId::of(&identity), identity, within, now: recorder.arrived(), completed: None })
    }

    /// Whether a message needs what servers list for the requester alone, which is not read yet.
    pub(crate) fn is_to_complete(&self, app: &App, kind: &MessageKind<'_>, params: &Params<'_, '_>) -> bool {
        // What a server lists for one caller alone is in no view.
        if self.completed.is_some() || matches!(self.within, Within::View(_)) {
            return false;
        }
        let catalog = app.published.load();
        catalog.has_caller_lists() && needs_caller_lists(&catalog, self.within.scope(), kind, params)
    }

    /// The same with what servers list for it alone.
    pub(crate) async fn completed(self, recorder: &Recorder) -> Self {
        let catalog = recorder.app().published.load_full();
        let completed = caller_lists::completed(recorder, &self.identity, &catalog, self.within.scope()).await;
        Self { completed: Some(completed), ..self }
    }

    /// The session of a request before 2026-07-28, if it has one, and its revision.
    ///
    /// # Errors
    /// There is no such session, or no such revision.
    pub(crate) fn session(
        &self,
        app: &App,
        headers: &McpHeaders<'_>,
        id: Option<&str>,
    ) -> Result<(Option<SealedSession>, Revision), McpRefusal> {
        let session = headers.session.map(|sealed| {
            let session = SealedSession::open(&app.sealer, sealed, &self.subject, self.now).ok();
            let session = session.filter(|session| !app.mcp.sessions.has_ended(&session.id));
            session.ok_or_else(|| refused(id, &RpcProblem::Session, DEFAULT_REVISION))
        });
        let session = session.transpose()?;
        let agreed = session.as_ref().map(|session| session.revision);
        let revision = match (headers.version, agreed) {
            (None, _) => agreed.unwrap_or(DEFAULT_REVISION),
            (Some(version), Some(agreed)) if version == agreed.as_str().as_bytes() => agreed,
            (Some(version), _) => {
                let version = as_text(version).unwrap_or_default();
                let known = Revision::parse(version).filter(|revision| !revision.is_modern());
                let known = known.ok_or_else(|| refused(id, &RpcProblem::Version(short(version)), DEFAULT_REVISION))?;
                agreed.unwrap_or(known)
            }
        };
        Ok((session, revision))
    }

    /// The caller, with its session.
    pub(crate) fn caller(self, recorder: &Recorder, (session, takes_streams): (Option<SealedSession>, bool)) -> Caller {
        let Self { within, subject, identity, completed, .. } = self;
        let extensions = session.as_ref().map(|session| session.extensions.clone()).unwrap_or_default();
        let recorder = recorder.clone();
        Caller { within, subject, identity, session, extensions, is_modern: false, takes_streams, recorder, completed }
    }
}

/// Whether a message lists, or names something that not everybody sees.
fn needs_caller_lists(catalog: &Catalog, scope: Scope<'_>, kind: &MessageKind<'_>, params: &Params<'_, '_>) -> bool {
    let method = match kind {
        MessageKind::Modern(_, ModernMethod::List(_)) | MessageKind::Legacy(_, LegacyMethod::List(_)) => return true,
        MessageKind::Batch(_) => return true,
        MessageKind::Modern(_, ModernMethod::Call(method)) | MessageKind::Legacy(_, LegacyMethod::Call(method)) => {
            method
        }
        _ => return false,
    };
    let is_unknown =
        |member: &str, is_known: &dyn Fn(&str) -> bool| params.text(member).is_some_and(|it| !is_known(&it));
    match *method {
        CALL_TOOL => is_unknown("name", &|name| catalog.find(Kind::Tools, scope, name).is_some()),
        "prompts/get" => is_unknown("name", &|name| catalog.find(Kind::Prompts, scope, name).is_some()),
        "resources/read" => is_unknown("uri", &|uri| catalog.lists_resource(scope, uri)),
        "completion/complete" => true,
        _ => false,
    }
}

/// The server, the namespace or the view that a path below `/mcp` names.
fn within(catalog: &Catalog, path: &str) -> Result<Within, ApiError> {
    if let Some(name) = path.strip_prefix(VIEWS) {
        let view = catalog.view(name).map(|_| Within::View(name.into()));
        return view.ok_or_else(|| ApiError::UnknownView(short(name)));
    }
    match path.strip_prefix(NAMESPACE_MARK) {
        Some(namespace) if catalog.has_namespace(namespace) => Ok(Within::Namespace(namespace.into())),
        Some(namespace) => Err(ApiError::UnknownNamespace(short(namespace))),
        None => {
            let server = catalog.server(path).cloned();
            server.map(Within::Server).ok_or_else(|| ApiError::UnknownServer(short(path)))
        }
    }
}
