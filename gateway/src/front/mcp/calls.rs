//! Requests that a server answers: `tools/call`, `prompts/get`, `resources/read`, `completion/complete`.
//!
//! Arguments and results pass as they are. Only names, ids, progress tokens and `_meta` differ on the two sides.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::response::Response;
use bytes::Bytes;
use http::Method;
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::json::Members;
use portcullis_mcp::upstream::timing::{PROGRESS_CAP, woken};
use portcullis_mcp::upstream::{self, CallerMeta, Mailbox, RpcResult};
use smallvec::SmallVec;

use crate::call::{self, Called, Failure, Subject};
use crate::catalog::{Basis, Candidate, Catalog, Entry, Scope, uri_forms};
use crate::client_sessions::{Client, ClientKey, SessionOwner};
use crate::front::http::call_facts::note_call;
use crate::front::http::error::clip;
use crate::front::mcp::call_plan::{PlannedCall, joined};
use crate::front::mcp::call_target::kind_of;
use crate::front::mcp::caller::Caller;
use crate::front::mcp::dispatch::LOST;
use crate::front::mcp::forward::{self, Forwarded};
use crate::front::mcp::input_rounds;
use crate::front::mcp::messages::classify::{DIRECTORY, SKILL};
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::{RpcReply, Work};
use crate::front::mcp::messages::request::LEVELS_JSON;
use crate::front::mcp::refusal::note_refusal;
use crate::front::mcp::state::server_requests::ScopedRequests;
use crate::front::mcp::state::sessions::CannotRun;
use crate::front::mcp::state::suspended_calls::INPUT_LIFE;
use crate::front::mcp::stream::{self, InputMode, Presentation, StreamDeadline};
use crate::front::mcp::suspend::Suspender;
use crate::front::mcp::tasks;
use crate::front::request::admit::{Admitted, NotAdmitted, Wanted, admit};
use crate::front::request::observe::record;
use crate::offer::{links, skills};
use crate::seal::{self, Inner, RequestState};
use crate::server::handle::Handle;
use crate::util::boxed::pinned;

/// Templates that the URIs in one result are compared with, in all.
const MAX_COMPARED_TEMPLATES: usize = 200_000;

impl PlannedCall {
    /// The presentation of messages before the answer.
    pub(crate) fn presentation(&self) -> Presentation {
        let caller = &self.caller;
        let input = match &caller.session {
            Some(session) if !self.revision.is_modern() && self.can_be_asked() => InputMode::Requests(
                ScopedRequests::new(caller.app().mcp.server_requests.clone(), SessionOwner::of_session(session)),
            ),
            _ if self.may_suspend() => InputMode::Suspends(Box::new(self.suspender())),
            _ => InputMode::None,
        };
        Presentation { progress_token: self.progress_token.clone(), log_level: self.log_level, input }
    }

    /// Whether a server may keep something for the caller's session, at the replica that owns it.
    pub(crate) fn is_bound(&self) -> bool {
        let keeps = |candidate: &Candidate| candidate.server.clients().is_some();
        !self.revision.is_modern() && self.caller.session.is_some() && self.entry.candidates.iter().any(keeps)
    }

    /// Whether a server may ask within the call, while its caller is asked by the answer.
    pub(crate) fn may_suspend(&self) -> bool {
        let asks = |candidate: &Candidate| candidate.server.clients().is_some();
        self.revision.is_modern()
            && self.can_be_asked()
            && self.method != "completion/complete"
            && self.task.is_none()
            && self.entry.candidates.iter().any(asks)
    }

    fn suspender(&self) -> Suspender {
        let server = self.entry.candidates.first().map(|candidate| candidate.server.key.to_string());
        Suspender::new(&self.caller, self.id(), server.unwrap_or_default(), seal::digest(self.method, self.about()))
    }

    /// The id of the request, as JSON.
    pub(crate) fn id(&self) -> &str {
        self.body.get(self.id.clone()).unwrap_or("null")
    }

    fn arguments(&self) -> Option<&str> {
        self.body.get(self.arguments.clone()?)
    }

    /// The message as the client has sent it.
    pub(crate) fn message(&self) -> Bytes {
        self.body.as_bytes().clone()
    }

    /// The answer that it cannot be carried out.
    pub(crate) fn refusal(&self, problem: &RpcProblem) -> RpcReply {
        RpcReply::error(Some(self.id()), problem, self.revision)
    }

    /// The caller.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Takes what comes before the answer.
    pub(crate) fn mailbox(&self) -> Mailbox {
        Mailbox::new(self.capabilities)
    }

    fn can_be_asked(&self) -> bool {
        self.capabilities != ClientCapabilities::NONE
    }

    fn client(&self) -> ClientKey {
        match &self.caller.session {
            Some(session) if !self.revision.is_modern() => ClientKey::of_session(session),
            _ => {
                let (subject, extensions) = (self.caller.subject, self.caller.extensions.number());
                ClientKey { session: None, subject, capabilities: self.capabilities, extensions }
            }
        }
    }

    /// Whether anything that comes before the answer is wanted.
    pub(crate) fn wants_more(&self) -> bool {
        let asks = if self.revision.is_modern() { self.may_suspend() } else { self.can_be_asked() };
        self.caller.takes_streams && (self.progress_token.is_some() || self.log_level.is_some() || asks)
    }

    /// Sends it. Dropping the future cancels it at the server. A mailbox that is given has to be read.
    pub(crate) async fn send(self: Box<Self>, mailbox: Option<Mailbox>) -> RpcReply {
        if let Some(result) = &self.result {
            let result = RpcResult::of(Bytes::copy_from_slice(result.as_bytes()));
            return RpcReply::passed_on(self.id(), &result, self.method, self.revision);
        }
        let caller = &self.caller;
        let session = caller.session.as_ref().filter(|_| !self.revision.is_modern());
        let unread = (mailbox.is_none() && session.is_some()).then(|| self.mailbox());
        let run =
            |(session, told): (&seal::SealedSession, _)| caller.app().mcp.sessions.run(session.id, self.id(), told);
        let _running = match session.zip(mailbox.as_ref().or(unread.as_ref())).map(run).transpose() {
            Ok(running) => running,
            Err(CannotRun::SameId) => {
                return self.failed(&RpcProblem::Request("a request with this id is already running"));
            }
            Err(CannotRun::TooMany) => {
                return self.failed(&RpcProblem::TooMany(
                    "the session has too many requests under way: wait for some to finish",
                ));
            }
        };
        let is_cancelled = |cx: &mut Context<'_>| match (&mailbox, &unread) {
            (Some(read), _) => read.is_cancelled(),
            (None, Some(unread)) => unread.poll_cancelled(cx).is_ready(),
            (None, None) => false,
        };
        let mut sent = pin!(self.sent(mailbox.as_ref()));
        poll_fn(|cx| match sent.as_mut().poll(cx) {
            Poll::Pending if is_cancelled(cx) => Poll::Ready(self.refusal(&RpcProblem::Cancelled)),
            polled => polled,
        })
        .await
    }

    fn failed(&self, problem: &RpcProblem) -> RpcReply {
        note_refusal(&self.caller.recorder, problem);
        self.refusal(problem)
    }

    async fn sent(&self, mailbox: Option<&Mailbox>) -> RpcReply {
        let capabilities = if self.can_be_asked() { self.capabilities.to_json() } else { String::new() };
        let arguments = self.arguments();
        let mut params: SmallVec<[&str; 3]> = SmallVec::new();
        if let Some(arguments) = arguments {
            params.extend([r#","arguments":"#, arguments]);
        }
        params.push(&self.others);
        let may_ask = self.method != "completion/complete";
        let extensions = tasks::declared(&self.caller, self.method);
        let rounds = mailbox.filter(|_| !self.revision.is_modern() && may_ask && self.can_be_asked());
        let request = call::Request {
            method: self.method,
            custom: self.custom.as_deref(),
            subject: self.given.as_ref().map_or(Subject::Named, |(member, value)| Subject::Given(member, value)),
            params: &params,
            arguments: arguments.unwrap_or("{}"),
            preferred: None,
            fields: &self.caller.head().fields,
            client: Client::Key(self.client()),
            identity: &self.caller.identity,
            query: self.caller.head().query(),
            outbound: &self.caller.app().outbound,
            caller: CallerMeta {
                meta: &self.meta,
                capabilities: &capabilities,
                log_level: self.log_level.map(|level| LEVELS_JSON[level]),
            },
            extensions: &extensions,
            mailbox,
            answers_input: may_ask && (self.revision.is_modern() || rounds.is_some()),
            takes_tasks: tasks::takes_tasks(&self.caller),
            looks_up: self.caller.goes_on_at(),
        };
        let Some(basis) = self.basis.as_deref() else { return self.made(&self.entry, request, rounds, None).await };
        match self.admitted(basis) {
            // In a box, so that the usual call does not carry the room for it.
            Ok((entry, mut admitted)) => {
                let reply = Box::pin(self.made(&entry, request, rounds, Some(&mut admitted))).await;
                admitted.end(reply.status);
                reply
            }
            Err(problem) => self.failed(&problem),
        }
    }

    /// Admits it: the servers that are left for it.
    fn admitted(&self, basis: &Basis) -> Result<(Arc<Entry>, Admitted), RpcProblem> {
        let (kind, mut entry) = (kind_of(self.method), self.entry.clone());
        let wanted = Wanted {
            recorder: &self.caller.recorder,
            identity: &self.caller.identity,
            method: self.method,
            name: self.about(),
            args: self.arguments(),
        };
        let limited = |pause| RpcProblem::Limited(kind.word(), clip(self.about()), pause);
        let status = limited(Duration::ZERO).status(self.revision);
        let admitted = admit(&wanted, &self.caller.catalog(), kind, (&mut entry, basis.clone()), status);
        let admitted = admitted.map_err(|refused| match refused {
            NotAdmitted::Limited(pause) => limited(pause),
            NotAdmitted::Unaudited => RpcProblem::Unaudited,
        })?;
        Ok((entry, admitted))
    }

    /// Makes it.
    async fn made(
        &self,
        entry: &Entry,
        request: call::Request<'_>,
        rounds: Option<&Mailbox>,
        mut admitted: Option<&mut Admitted>,
    ) -> RpcReply {
        let called = call::call(entry, &request, &self.caller.app().metrics).await;
        self.note(&called);
        if let Some(admitted) = &mut admitted {
            admitted.note(&called);
        }
        let Some(mailbox) = rounds.filter(|_| asks_for_input(&called)) else { return self.reply(called) };
        // In a box, so that the usual call does not carry the room for it.
        match Box::pin(self.go_on(entry, called, request, mailbox)).await {
            Ok(called) => {
                if let Some(admitted) = admitted {
                    admitted.note(&called);
                }
                self.reply(called)
            }
            Err(problem) => self.failed(&problem),
        }
    }

    /// Asks the caller for the input that a server wants, and sends the request again with the answers, round by round.
    async fn go_on(
        &self,
        entry: &Entry,
        mut called: Called,
        request: call::Request<'_>,
        mailbox: &Mailbox,
    ) -> Result<Called, RpcProblem> {
        const ENDLESS: RpcProblem =
            RpcProblem::Server(upstream::CallError::Unfit("it asks for input too many times in a row"));
        let mut entry = entry.clone();
        for _ in 0..input_rounds::MAX_ROUNDS {
            let (Ok(upstream::Reply::Result(result)), Some(server)) = (&called.answer, &called.server) else { break };
            if !result.says.asks_for_input {
                break;
            }
            let limit = Duration::from_secs(server.spec().timeouts.request_seconds.into()) * PROGRESS_CAP;
            let more = input_rounds::ask(result, mailbox, limit).await?;
            // Nobody else can go on.
            entry.candidates.retain(|candidate| candidate.server.key == server.key);
            let params: SmallVec<[&str; 4]> = request.params.iter().copied().chain([more.as_str()]).collect();
            let again = call::Request { params: &params, ..request };
            called = call::call(&entry, &again, &self.caller.app().metrics).await;
            self.note(&called);
        }
        if asks_for_input(&called) { Err(ENDLESS) } else { Ok(called) }
    }

    fn note(&self, called: &Called) {
        note_call(&mut record(&self.caller.recorder), called, self.caller.app().log.payloads());
    }

    fn reply(&self, mut called: Called) -> RpcReply {
        let places = std::mem::take(&mut called.places);
        let problem = match called.answer {
            Ok(upstream::Reply::Result(result)) => match self.shown(&result, called.server.as_deref()) {
                Ok(shown) => {
                    let result = shown.unwrap_or(result);
                    return RpcReply::passed_on(self.id(), &result, self.method, self.revision).keeping(places);
                }
                Err(problem) => problem,
            },
            Ok(upstream::Reply::Error(error)) => RpcProblem::Rpc(error),
            Err(Failure::Server(error)) => RpcProblem::Server(error),
            Err(failure) => RpcProblem::of_call(failure),
        };
        self.refusal(&problem)
    }

    /// A result as its caller can use it; none: as it is.
    fn shown(&self, result: &RpcResult, server: Option<&Handle>) -> Result<Option<RpcResult>, RpcProblem> {
        let sealed = match (self.input_sealed(result, server)?, server) {
            (None, Some(server)) => self.task_shown(result, server)?,
            (sealed, _) => sealed,
        };
        Ok(sealed.or_else(|| self.relinked(result, server?)).or_else(|| self.refiled(result, server?)))
    }

    /// A result that names resources of its server by URIs that would lead elsewhere here, with those that lead there.
    fn relinked(&self, result: &RpcResult, server: &Handle) -> Option<RpcResult> {
        if !matches!(self.method, "tools/call" | "prompts/get") {
            return None;
        }
        let text = self.relinked_text(std::str::from_utf8(result).ok()?, server)?;
        Some(RpcResult { text: text.into(), says: result.says })
    }

    /// The same of the text of a result.
    pub(super) fn relinked_text(&self, text: &str, server: &Handle) -> Option<String> {
        relinked_text(&self.caller.catalog(), self.caller.scope(), (server, &self.entry), text)
    }

    /// What names files of a skill by the URIs of its server, with the form in which the caller has asked.
    fn refiled(&self, result: &RpcResult, server: &Handle) -> Option<RpcResult> {
        if !matches!(self.method, SKILL | DIRECTORY) {
            return None;
        }
        let (_, own) = self.given.as_ref()?;
        let form = uri_forms(&server.key, own).iter().position(|form| form.as_deref() == Some(self.about()))?;
        let rename = |uri: &str| uri_forms(&server.key, uri).into_iter().nth(form).flatten();
        let text = skills::renamed(std::str::from_utf8(result).ok()?, rename)?;
        Some(RpcResult { text: text.into(), says: result.says })
    }

    /// A result that asks for input, with the server's own state sealed; none if it asks for nothing.
    fn input_sealed(&self, result: &RpcResult, server: Option<&Handle>) -> Result<Option<RpcResult>, RpcProblem> {
        const UNFIT: RpcProblem = RpcProblem::Server(upstream::CallError::Unfit("its request for input is malformed"));
        let Some(server) = server.filter(|_| self.revision.is_modern() && result.says.asks_for_input) else {
            return Ok(None);
        };
        let whole = std::str::from_utf8(result).map_err(|_| UNFIT)?;
        let mut members = Members::read(whole).map_err(|_| UNFIT)?;
        let inner = match members.text("requestState") {
            Some(state) => Inner::Server(state.into_owned().into_bytes()),
            None => Inner::Nothing,
        };
        let state = RequestState {
            server: server.key.to_string(),
            subject: self.caller.subject,
            digest: seal::digest(self.method, self.about()),
            expires: SystemTime::now() + INPUT_LIFE,
            inner,
            owner: None,
        };
        let sealed = state.seal(&self.caller.app().sealer).map_err(|_| UNFIT)?;
        members.0.retain(|(key, _)| key != "requestState");
        Ok(Some(RpcResult::of(format!(r#"{{"requestState":"{sealed}"{}}}"#, joined(&members.0)).into())))
    }
}

/// The text of a result of a tool or prompt of a server, if it names resources by URIs that would lead elsewhere: with those
/// that lead there.
pub(super) fn relinked_text(
    catalog: &Catalog,
    scope: Scope<'_>,
    (server, entry): (&Handle, &Entry),
    text: &str,
) -> Option<String> {
    if matches!(scope, Scope::Server(_)) || !server.says_resources() {
        return None;
    }
    let found = links::of_result(text);
    if found.is_empty() {
        return None;
    }
    // Beyond what is looked at for one result a URI says its server, which is right in any case.
    let looked_at = Cell::new(MAX_COMPARED_TEMPLATES / (catalog.templates(scope) + 1));
    links::renamed(text, &found, |uri| {
        let left = looked_at.replace(looked_at.get().saturating_sub(1));
        let [_, by_server] = uri_forms(&server.key, uri);
        if left == 0 { by_server } else { catalog.link(scope, (server, entry), uri) }
    })
}

fn asks_for_input(called: &Called) -> bool {
    matches!(&called.answer, Ok(upstream::Reply::Result(result)) if result.says.asks_for_input)
}

/// Answers with what a server answers: JSON, or a stream of events if something comes before it.
pub(crate) async fn answer(planned: Box<PlannedCall>) -> Response {
    if planned.is_bound() {
        // In a box, so that the usual call does not carry the room for it.
        let forwarded =
            Box::pin(forward::forward(planned.caller(), Method::POST, planned.message(), forward::SERVER_ANSWER_LIMIT))
                .await;
        match forwarded {
            Forwarded::Answered(response) => return *response,
            // The state is gone, or cannot be reached: the client has to start again.
            Forwarded::Unreachable => return planned.refusal(&RpcProblem::StateLost).into_response(),
            Forwarded::Lost => return planned.refusal(&LOST).into_response(),
            Forwarded::Here => {}
        }
    }
    let until = planned.caller().goes_on_at();
    let deadline = StreamDeadline::until(until);
    if !planned.wants_more() {
        // In a box as below, so that no request carries the room for it, which would be moved with it.
        return stream::answer_alone(pinned(|| planned.send(None)), deadline).await;
    }
    let (mailbox, presentation) = (planned.mailbox(), planned.presentation());
    let parks = planned.may_suspend().then(|| (planned.caller().app().clone(), planned.id().to_owned()));
    let read = mailbox.clone();
    let mut work: Work = pinned(|| planned.send(Some(read)));
    if let Some((app, id)) = parks {
        // It runs on its own, and wakes itself alone.
        work = Box::pin(woken(app.mcp.suspended_calls.run(work, id), until));
    }
    stream::answer(work, mailbox, presentation, deadline).await
}
