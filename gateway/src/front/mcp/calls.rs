//! Requests that a server answers: `tools/call`, `prompts/get`, `resources/read`, `completion/complete`.
//!
//! Arguments and results pass as they are. Only names, ids, progress tokens and `_meta` differ on the two sides.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytestring::ByteString;
use http::HeaderMap;
use serde_json::Value;
use smallvec::SmallVec;

use super::asking::{Asker, Whom};
use super::live::CannotRun;
use super::message::Request;
use super::parking::Parker;
use super::problem::RpcProblem;
use super::reply::Reply;
use super::request::{LEVELS_JSON, Params, decoded};
use super::rounds;
use super::state::Caller;
use super::stream::{DEFAULT_LEVEL, Ears, Shape};
use crate::boxed::boxed;
use crate::call::{self, Called, Failure, Subject};
use crate::capabilities::ClientCapabilities;
use crate::catalog::{Candidate, Catalog, Entry, Kind, Scope, uri_forms};
use crate::clients::{Client, ClientKey};
use crate::front::error::clip;
use crate::front::routes::{Recorder, called_name, note_call, record};
use crate::json::{Members, Raw, text};
use crate::links;
use crate::revision::Revision;
use crate::seal::{self, Inner, RequestState};
use crate::upstream::message::json_string;
use crate::upstream::params::mirror;
use crate::upstream::timing::PROGRESS_CAP;
use crate::upstream::{self, Caller as Told, Mailbox, RpcResult};

/// How long a client may take to bring the answers to what a server asks.
pub const INPUT_LIFE: Duration = Duration::from_secs(3600);

/// Templates that the URIs in one result are compared with, in all.
const MOST_LOOKED_AT: usize = 200_000;

/// A request on its way to a server.
pub type Work = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// A request that a server answers, ready to be sent.
pub struct Planned {
    caller: Caller,
    entry: Arc<Entry>,
    method: &'static str,
    /// What the client has sent: kept whole, so that its parts need not be copied.
    body: ByteString,
    /// Where in it the id is, as JSON.
    id: Range<usize>,
    revision: Revision,
    /// The first member of `params` where it is not a name that differs between servers, and its value.
    given: Option<(String, String)>,
    /// What it is about, if that is not the name of the entry: part of what a `requestState` is bound to.
    about: Option<String>,
    /// Where in the body they are.
    arguments: Option<Range<usize>>,
    /// The other members of `params`, each after a comma.
    others: String,
    meta: String,
    capabilities: ClientCapabilities,
    log_level: Option<usize>,
    progress_token: Option<String>,
}

/// A request that a server answers, but for the body that it is read from: where its parts are in it is known.
pub struct Plan(Box<Planned>);

impl Plan {
    /// With the body that [`plan`] has read.
    pub fn of(self, body: ByteString) -> Box<Planned> {
        let Self(mut planned) = self;
        planned.body = body;
        planned
    }
}

/// The methods that servers answer.
pub fn method_of(method: &str) -> Option<&'static str> {
    ["tools/call", "prompts/get", "resources/read", "completion/complete"].into_iter().find(|known| *known == method)
}

/// Finds who answers, and takes over what is passed on. `body` holds the request, which is not copied.
///
/// # Errors
/// The request is wrong, or nobody answers it: that is noted for the log.
pub fn plan(
    caller: Caller,
    body: &str,
    request: &Request<'_>,
    params: &Params<'_, '_>,
    (revision, capabilities): (Revision, ClientCapabilities),
) -> Result<Plan, RpcProblem> {
    let refused = |caller: &Caller, problem: &RpcProblem| note_refusal(&caller.recorder, problem);
    let (method, (entry, about, given)) =
        found(&caller, request, params).inspect_err(|problem| refused(&caller, problem))?;
    let log_level = log_level(&caller, params, revision);
    let mut planned = boxed(|| Planned {
        caller,
        entry,
        method,
        body: ByteString::new(),
        id: place(request.id, body),
        revision,
        given,
        about,
        arguments: None,
        others: String::new(),
        meta: params.meta.passed_on.clone(),
        capabilities,
        log_level,
        progress_token: params.meta.progress_token.map(str::to_owned),
    });
    let taken = planned.take(params, body).and_then(|()| planned.check_mirrored(params));
    taken.inspect_err(|problem| refused(&planned.caller, problem))?;
    Ok(Plan(planned))
}

/// The method, and who answers it.
fn found(caller: &Caller, request: &Request<'_>, params: &Params<'_, '_>) -> Result<(&'static str, Found), RpcProblem> {
    let method = method_of(&request.method).ok_or_else(|| RpcProblem::method(&request.method))?;
    let catalog = caller.catalog();
    let found = match method {
        "tools/call" | "prompts/get" => named(caller, &catalog, method, params),
        "resources/read" => read(caller, &catalog, params),
        _ => completed(caller, &catalog, params),
    };
    Ok((method, found?))
}

/// Where in a text this part of it is.
pub fn place(part: &str, whole: &str) -> Range<usize> {
    let begin = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    begin..begin.wrapping_add(part.len())
}

/// Of a request that may bring a `requestState`: what it is bound to, and how its answer is shown.
pub fn returning(caller: &Caller, request: &Request<'_>, params: &Params<'_, '_>) -> Option<([u8; 16], Shape)> {
    params.get("requestState")?;
    let method = method_of(&request.method)?;
    let about = params.text(if method == "resources/read" { "uri" } else { "name" })?;
    let log_level = log_level(caller, params, Revision::V2026_07_28);
    let progress_token = params.meta.progress_token.map(str::to_owned);
    Some((seal::digest(method, &about), Shape { progress_token, log_level, ears: Ears::None }))
}

type Found = (Arc<Entry>, Option<String>, Option<(String, String)>);

fn named(caller: &Caller, catalog: &Catalog, method: &str, params: &Params<'_, '_>) -> Result<Found, RpcProblem> {
    let name = params.text("name").filter(|name| !name.is_empty());
    let name = name.ok_or(RpcProblem::Params("\"name\" is missing, or no text"))?;
    let kind = if method == "tools/call" { Kind::Tools } else { Kind::Prompts };
    let found = catalog.find(kind, caller.scope(), &name);
    record(&caller.recorder).tool = Some(called_name(&name, found.as_deref().map(|entry| &**entry)));
    match found {
        Some(entry) => {
            let about = (*entry.name != *name).then(|| name.into_owned());
            Ok((entry.into_owned(), about, None))
        }
        // A server that has just been configured may be the one that offers it.
        None if catalog.is_incomplete() => Err(RpcProblem::Unavailable),
        None if kind == Kind::Tools => {
            caller.app().metrics.unknown_tools.inc();
            Err(RpcProblem::UnknownTool(clip(&name)))
        }
        None => Err(RpcProblem::UnknownPrompt(clip(&name))),
    }
}

fn read(caller: &Caller, catalog: &Catalog, params: &Params<'_, '_>) -> Result<Found, RpcProblem> {
    let uri = params.text("uri").filter(|uri| !uri.is_empty());
    let uri = uri.ok_or(RpcProblem::Params("\"uri\" is missing, or no text"))?;
    let entry = reader(caller, catalog, &uri)?;
    // The URI as its server knows it: all who have it know it by the same.
    let own = entry.candidates.first().map(|one| (format!(r#""uri":{}"#, one.item.own_name_json), &one.item.own_name));
    let given = own.map(|(member, own)| (member, own.to_string()));
    Ok((entry, Some(uri.into_owned()), given))
}

/// Who reads a resource.
///
/// # Errors
/// Nobody.
pub fn reader(caller: &Caller, catalog: &Catalog, uri: &str) -> Result<Arc<Entry>, RpcProblem> {
    match catalog.reader(caller.scope(), uri) {
        Some(entry) => Ok(entry),
        None if catalog.is_incomplete() => Err(RpcProblem::Unavailable),
        None => Err(RpcProblem::UnknownResource(uri.chars().take(1024).collect())),
    }
}

/// `completion/complete`: its `ref` names a prompt, or the template of resources.
fn completed(caller: &Caller, catalog: &Catalog, params: &Params<'_, '_>) -> Result<Found, RpcProblem> {
    const FORM: RpcProblem = RpcProblem::Params("\"ref\" must name a prompt, or the uri of a resource template");
    let reference = params.get("ref").ok_or(FORM)?;
    let mut members = Members::read(reference.get()).map_err(|_| FORM)?;
    let kind = members.text("type").ok_or(FORM)?;
    match &*kind {
        "ref/prompt" => {
            let name = members.text("name").ok_or(FORM)?;
            let entry = catalog.find(Kind::Prompts, caller.scope(), &name);
            let entry = entry.ok_or_else(|| RpcProblem::UnknownPrompt(clip(&name)))?.into_owned();
            // All who offer it know it by the same name, or it would not be one prompt.
            let own = entry.candidates.first().map(|one| one.item.own_name_json.to_string()).unwrap_or_default();
            members.0.retain(|(key, value)| key != "name" && !value.is_null());
            let others = joined(&members.0);
            Ok((entry, Some(name.into_owned()), Some((format!(r#""ref":{{"name":{own}{others}}}"#), String::new()))))
        }
        "ref/resource" => {
            let uri = members.text("uri").ok_or(FORM)?;
            let entry = match catalog.find(Kind::Templates, caller.scope(), &uri) {
                Some(entry) => entry.into_owned(),
                None => reader(caller, catalog, &uri)?,
            };
            let own = entry.candidates.first().map(|one| &one.item);
            let reference = match own.filter(|item| *item.own_name != *uri) {
                None => reference.get().to_owned(),
                // It says its namespace or its server, which the server itself does not.
                Some(item) => {
                    let own = &item.own_name_json;
                    members.0.retain(|(key, _)| key != "uri");
                    format!(r#"{{"uri":{own}{}}}"#, joined(&members.0))
                }
            };
            Ok((entry, Some(uri.into_owned()), Some((format!(r#""ref":{reference}"#), String::new()))))
        }
        _ => Err(FORM),
    }
}

fn joined(members: &[(std::borrow::Cow<'_, str>, Raw<'_>)]) -> String {
    members.iter().map(|(key, value)| format!(",{}:{}", json_string(key), value.get())).collect()
}

/// The least urgent level that the caller wants to hear of; none: it wants to hear nothing.
fn log_level(caller: &Caller, params: &Params<'_, '_>, revision: Revision) -> Option<usize> {
    if revision.is_modern() {
        return params.meta.log_level;
    }
    let session = caller.session.as_ref();
    let wanted = session.and_then(|session| caller.app().mcp.live.level(&session.id));
    Some(wanted.unwrap_or(DEFAULT_LEVEL))
}

impl Planned {
    /// Takes over the members of `params` that a server gets as they are.
    fn take(&mut self, params: &Params<'_, '_>, body: &str) -> Result<(), RpcProblem> {
        for (key, value) in params.iter() {
            match &**key {
                "name" | "uri" | "ref" if key == self.first_member() => {}
                "arguments" => self.arguments = Some(place(value.get(), body)),
                "requestState" => {
                    let inner = self.opened_state(*value)?;
                    self.others.push_str(&inner);
                }
                _ => self.others.push_str(&joined(&[(key.clone(), *value)])),
            }
        }
        if self.caller.app().log.payloads() {
            let arguments = params.get("arguments").map(|arguments| arguments.get().to_owned());
            record(&self.caller.recorder).arguments = arguments;
        }
        Ok(())
    }

    fn first_member(&self) -> &'static str {
        match self.method {
            "resources/read" => "uri",
            "completion/complete" => "ref",
            _ => "name",
        }
    }

    /// What a `requestState` is to the server that it came from, which alone may go on.
    fn opened_state(&mut self, value: Raw<'_>) -> Result<String, RpcProblem> {
        const FORM: RpcProblem = RpcProblem::Params(
            "\"requestState\" was not given out here, or is over: send the request again without it",
        );
        let sealed = text(value).ok_or(FORM)?;
        let (app, digest) = (self.caller.app(), seal::digest(self.method, self.about()));
        let state = RequestState::open(&app.sealer, &sealed, &self.caller.subject, &digest, SystemTime::now());
        let state = state.map_err(|_| FORM)?;
        Arc::make_mut(&mut self.entry).candidates.retain(|candidate| candidate.server.key.to_string() == state.server);
        match state.inner {
            Inner::Nothing => Ok(String::new()),
            Inner::Server(inner) => {
                let inner = String::from_utf8(inner).map_err(|_| FORM)?;
                Ok(format!(r#","requestState":{}"#, json_string(&inner)))
            }
            Inner::Parked(_) => Err(FORM),
        }
    }

    /// Arguments that travel as headers too, since 2026-07-28, must be the same in both.
    fn check_mirrored(&self, params: &Params<'_, '_>) -> Result<(), RpcProblem> {
        if !self.revision.is_modern() || self.method != call::CALL_TOOL {
            return Ok(());
        }
        let Some(candidate) = self.entry.candidates.first().filter(|one| !one.item.params.is_empty()) else {
            return Ok(());
        };
        let arguments = params.get("arguments").map_or("{}", |arguments| arguments.get());
        let mut expected = HeaderMap::new();
        mirror(&candidate.item.params, arguments, &mut expected);
        for param in &candidate.item.params {
            let sent = self.caller.head().fields.get(param.name.as_str());
            let (sent, expected) = (sent.map(decoded), expected.get(&param.name));
            let same = match (&sent, expected) {
                (None, None) => true,
                (Some(Some(sent)), Some(expected)) => {
                    decoded(expected.as_bytes()).is_some_and(|expected| is_same_value(sent, &expected))
                }
                _ => false,
            };
            if !same {
                return Err(RpcProblem::Header(param.name.to_string()));
            }
        }
        Ok(())
    }

    /// How what comes before the answer is shown to the caller.
    pub fn shape(&self) -> Shape {
        let caller = &self.caller;
        let ears = match &caller.session {
            Some(session) if !self.revision.is_modern() && self.can_be_asked() => {
                Ears::Asks(Asker::new(caller.app().mcp.asking.clone(), Whom::of_session(session)))
            }
            _ if self.may_park() => Ears::Parks(Box::new(self.parker())),
            _ => Ears::None,
        };
        Shape { progress_token: self.progress_token.clone(), log_level: self.log_level, ears }
    }

    /// Whether a server may keep something for the caller's session, at the replica that owns it.
    pub fn is_bound(&self) -> bool {
        let keeps = |candidate: &Candidate| candidate.server.clients().is_some();
        !self.revision.is_modern() && self.caller.session.is_some() && self.entry.candidates.iter().any(keeps)
    }

    /// Whether a server may ask within the call, while its caller is asked by the answer.
    pub fn may_park(&self) -> bool {
        let asks = |candidate: &Candidate| candidate.server.clients().is_some();
        self.revision.is_modern()
            && self.can_be_asked()
            && self.method != "completion/complete"
            && self.entry.candidates.iter().any(asks)
    }

    fn parker(&self) -> Parker {
        let server = self.entry.candidates.first().map(|candidate| candidate.server.key.to_string());
        Parker::new(&self.caller, self.id(), server.unwrap_or_default(), seal::digest(self.method, self.about()))
    }

    /// The id of the request, as JSON.
    pub fn id(&self) -> &str {
        self.body.get(self.id.clone()).unwrap_or("null")
    }

    fn arguments(&self) -> Option<&str> {
        self.body.get(self.arguments.clone()?)
    }

    fn about(&self) -> &str {
        self.about.as_deref().unwrap_or(&self.entry.name)
    }

    /// The message as the client has sent it.
    pub fn message(&self) -> Bytes {
        self.body.as_bytes().clone()
    }

    /// The answer that it cannot be carried out.
    pub fn refusal(&self, problem: &RpcProblem) -> Reply {
        Reply::error(Some(self.id()), problem, self.revision)
    }

    /// Who asks.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Takes what comes before the answer.
    pub fn mailbox(&self) -> Mailbox {
        Mailbox::new(self.capabilities)
    }

    fn can_be_asked(&self) -> bool {
        self.capabilities != ClientCapabilities::NONE
    }

    fn client(&self) -> ClientKey {
        match &self.caller.session {
            Some(session) if !self.revision.is_modern() => ClientKey::of_session(session),
            _ => ClientKey { session: None, subject: self.caller.subject, capabilities: self.capabilities },
        }
    }

    /// Whether anything that comes before the answer is wanted.
    pub fn wants_more(&self) -> bool {
        let asks = if self.revision.is_modern() { self.may_park() } else { self.can_be_asked() };
        self.caller.takes_streams && (self.progress_token.is_some() || self.log_level.is_some() || asks)
    }

    /// Sends it. Dropping the future cancels it at the server. Who gives it a mailbox reads that.
    pub async fn send(self: Box<Self>, mailbox: Option<Mailbox>) -> Reply {
        let caller = &self.caller;
        let session = caller.session.as_ref().filter(|_| !self.revision.is_modern());
        let unread = (mailbox.is_none() && session.is_some()).then(|| self.mailbox());
        let run = |(session, told): (&seal::Session, _)| caller.app().mcp.live.run(session.id, self.id(), told);
        let _running = match session.zip(mailbox.as_ref().or(unread.as_ref())).map(run).transpose() {
            Ok(running) => running,
            Err(CannotRun::SameId) => return self.failed(&RpcProblem::Request("a request with this id runs already")),
            Err(CannotRun::TooMany) => {
                return self.failed(&RpcProblem::TooMany("the session has as many requests as it may: wait for some"));
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

    fn failed(&self, problem: &RpcProblem) -> Reply {
        note_refusal(&self.caller.recorder, problem);
        self.refusal(problem)
    }

    async fn sent(&self, mailbox: Option<&Mailbox>) -> Reply {
        let capabilities = if self.can_be_asked() { self.capabilities.to_json() } else { String::new() };
        let arguments = self.arguments();
        let mut params: SmallVec<[&str; 3]> = SmallVec::new();
        if let Some(arguments) = arguments {
            params.extend([r#","arguments":"#, arguments]);
        }
        params.push(&self.others);
        let may_ask = self.method != "completion/complete";
        let rounds = mailbox.filter(|_| !self.revision.is_modern() && may_ask && self.can_be_asked());
        let request = call::Request {
            method: self.method,
            subject: self.given.as_ref().map_or(Subject::Named, |(member, value)| Subject::Given(member, value)),
            params: &params,
            arguments: arguments.unwrap_or("{}"),
            preferred: None,
            fields: &self.caller.head().fields,
            client: Client::Key(self.client()),
            caller: Told {
                meta: &self.meta,
                capabilities: &capabilities,
                log_level: self.log_level.map(|level| LEVELS_JSON[level]),
            },
            mailbox,
            answers_input: may_ask && (self.revision.is_modern() || rounds.is_some()),
            looks_up: self.caller.goes_on_at(),
        };
        let called = call::call(&self.entry, &request, &self.caller.app().metrics).await;
        self.note(&called);
        let Some(mailbox) = rounds.filter(|_| asks_for_input(&called)) else { return self.reply(called) };
        // In a box, so that the usual call does not carry the room for it.
        match Box::pin(self.go_on(called, request, mailbox)).await {
            Ok(called) => self.reply(called),
            Err(problem) => self.failed(&problem),
        }
    }

    /// Asks the caller what a server wants to know, and sends the request again with the answers, round by round.
    async fn go_on(
        &self,
        mut called: Called,
        request: call::Request<'_>,
        mailbox: &Mailbox,
    ) -> Result<Called, RpcProblem> {
        const ENDLESS: RpcProblem = RpcProblem::Server(upstream::CallError::Unfit("it asks for input again and again"));
        let mut entry = Entry::clone(&self.entry);
        for _ in 0..rounds::MOST_ROUNDS {
            let (Ok(upstream::Reply::Result(result)), Some(server)) = (&called.answer, &called.server) else { break };
            if !result.says.asks_for_input {
                break;
            }
            let limit = Duration::from_secs(server.spec().timeouts.request_seconds.into()) * PROGRESS_CAP;
            let more = rounds::ask(result, mailbox, limit).await?;
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

    fn reply(&self, mut called: Called) -> Reply {
        let places = std::mem::take(&mut called.places);
        let problem = match called.answer {
            Ok(upstream::Reply::Result(result)) => match self.input_sealed(&result, called.server.as_deref()) {
                Ok(sealed) => {
                    let sealed = sealed.or_else(|| self.relinked(&result, called.server.as_deref()?));
                    let result = sealed.unwrap_or(result);
                    return Reply::passed_on(self.id(), &result, self.method, self.revision).keeping(places);
                }
                Err(problem) => problem,
            },
            Ok(upstream::Reply::Error(error)) => RpcProblem::Rpc(error),
            Err(Failure::Server(error)) => RpcProblem::Server(error),
            Err(failure) => RpcProblem::of_call(failure),
        };
        self.refusal(&problem)
    }

    /// A result that names resources of its server by URIs that would lead elsewhere here, with those that lead there.
    fn relinked(&self, result: &RpcResult, server: &crate::handle::Handle) -> Option<RpcResult> {
        let scope = self.caller.scope();
        let names_some = matches!(self.method, "tools/call" | "prompts/get") && !matches!(scope, Scope::Server(_));
        if !names_some || !server.says_resources() {
            return None;
        }
        let text = std::str::from_utf8(result).ok()?;
        let found = links::of_result(text);
        if found.is_empty() {
            return None;
        }
        let catalog = self.caller.catalog();
        // Beyond what is looked at for one result a URI says its server, which is right in any case.
        let looked_at = Cell::new(MOST_LOOKED_AT / (catalog.templates(scope) + 1));
        let text = links::renamed(text, &found, |uri| {
            let left = looked_at.replace(looked_at.get().saturating_sub(1));
            let [_, by_server] = uri_forms(&server.key, uri);
            if left == 0 { by_server } else { catalog.link(scope, (server, &self.entry), uri) }
        })?;
        Some(RpcResult { text: text.into(), says: result.says })
    }

    /// A result that asks for input, with the server's own state sealed; none if it asks for nothing.
    fn input_sealed(
        &self,
        result: &RpcResult,
        server: Option<&crate::handle::Handle>,
    ) -> Result<Option<RpcResult>, RpcProblem> {
        const UNFIT: RpcProblem =
            RpcProblem::Server(upstream::CallError::Unfit("it asks for input in a form that is not understood"));
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

fn asks_for_input(called: &Called) -> bool {
    matches!(&called.answer, Ok(upstream::Reply::Result(result)) if result.says.asks_for_input)
}

/// Numbers are compared as numbers, all else as text.
fn is_same_value(sent: &str, expected: &str) -> bool {
    let number = |text: &str| serde_json::from_str::<Value>(text).ok().and_then(|value| value.as_f64());
    sent == expected || number(sent).zip(number(expected)).is_some_and(|(a, b)| a == b)
}

/// What became of a request that never got to a server.
pub fn note_refusal(recorder: &Recorder, problem: &RpcProblem) {
    record(recorder).outcome = Some(problem.outcome());
}
