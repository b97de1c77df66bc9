//! Plans a call: finds the servers that answer it, and takes over what is passed on.
//!
//! Arguments pass as they are. Only names, ids, progress tokens and `_meta` differ on the two sides.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytestring::ByteString;
use http::HeaderMap;
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::json::{Raw, json_string, text};
use portcullis_mcp::protocol::param_headers::mirror;
use portcullis_mcp::protocol::revision::Revision;
use serde_json::Value;

use crate::call;
use crate::catalog::{Basis, Entry};
use crate::front::mcp::call_target::{Found, target};
use crate::front::mcp::caller::Caller;
use crate::front::mcp::custom;
use crate::front::mcp::messages::classify::{DIRECTORY, SKILL};
use crate::front::mcp::messages::message::RpcRequest;
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::request::{DEFAULT_LEVEL, Params, decoded};
use crate::front::mcp::refusal::note_refusal;
use crate::front::mcp::stream::{InputMode, Presentation};
use crate::front::mcp::view_search::{self, ViewCall};
use crate::front::request::observe::record;
use crate::seal::{self, Inner, RequestState};
use crate::util::boxed::boxed;

/// A method that the gateway does not know, in metrics and the log.
pub(crate) const CUSTOM: &str = "other";

/// A request that a server answers, ready to be sent.
pub(crate) struct PlannedCall {
    pub(super) caller: Caller,
    pub(super) entry: Arc<Entry>,
    /// What allows it, if it has to be admitted before it is made.
    pub(super) basis: Option<Box<Basis>>,
    pub(super) method: &'static str,
    /// The method itself, where the gateway does not know it.
    pub(super) custom: Option<Box<str>>,
    /// The client's message, kept whole so that its parts need not be copied.
    pub(super) body: ByteString,
    /// The place of the id in it, as JSON.
    pub(super) id: Range<usize>,
    pub(super) revision: Revision,
    /// The first member of `params` where it is not a name that differs between servers, and its value.
    pub(super) given: Option<(String, String)>,
    /// The id of the task that it is about, as its client has it.
    pub(super) task: Option<String>,
    /// The subject of the request, if it is not the name of the entry. A `requestState` is bound to it.
    pub(super) about: Option<String>,
    /// Their place in the body.
    pub(super) arguments: Option<Range<usize>>,
    /// The other members of `params`, each after a comma.
    pub(super) others: String,
    pub(super) meta: String,
    pub(super) capabilities: ClientCapabilities,
    pub(super) log_level: Option<usize>,
    pub(super) progress_token: Option<String>,
    /// The result, where the gateway itself has it.
    pub(super) result: Option<Box<str>>,
}

/// A request that a server answers, but for the body that it is read from: where its parts are in it is known.
pub(crate) struct CallPlan(Box<PlannedCall>);

impl CallPlan {
    /// With the body that [`plan`] has read.
    pub(crate) fn of(self, body: ByteString) -> Box<PlannedCall> {
        let Self(mut planned) = self;
        planned.body = body;
        planned
    }
}

/// Finds the servers that answer, and takes over what is passed on. `body` holds the request, which is not copied.
///
/// # Errors
/// The request is wrong, or nobody answers it: that is noted for the log.
pub(crate) fn plan(
    caller: Caller,
    body: &str,
    (request, method): (&RpcRequest<'_>, &'static str),
    params: &Params<'_, '_>,
    (revision, capabilities): (Revision, ClientCapabilities),
) -> Result<CallPlan, RpcProblem> {
    let refused = |caller: &Caller, problem: &RpcProblem| note_refusal(&caller.recorder, problem);
    let mut result = None;
    let of_view = match view_search::asked(&caller, method, params) {
        ViewCall::Tool => None,
        ViewCall::Inner(members) => Some(members),
        ViewCall::Answered(answer) => {
            result = Some(answer.into());
            None
        }
    };
    let inner = of_view.as_ref().map(|members| params.with(members));
    let params = inner.as_ref().unwrap_or(params);
    let found = if result.is_some() {
        Ok(Found::nobody(method))
    } else {
        target(&caller, (method, &request.method), params, revision)
    };
    let found = found.inspect_err(|problem| refused(&caller, problem))?;
    let Found { entry, about, given, basis, task } = found;
    let log_level = log_level(&caller, params, revision);
    let mut planned = boxed(|| PlannedCall {
        caller,
        entry,
        basis,
        method,
        custom: (method == CUSTOM).then(|| (*request.method).into()),
        body: ByteString::new(),
        id: place(request.id, body),
        revision,
        given,
        task,
        about,
        arguments: None,
        others: String::new(),
        meta: params.meta.passed_on.clone(),
        capabilities,
        log_level,
        progress_token: params.meta.progress_token.map(str::to_owned),
        result,
    });
    let taken = planned.take(params, body);
    // Who calls a tool by another cannot know which of its arguments are to travel as headers.
    let taken = if inner.is_some() { taken } else { taken.and_then(|()| planned.check_mirrored(params)) };
    taken.inspect_err(|problem| refused(&planned.caller, problem))?;
    Ok(CallPlan(planned))
}

/// The place of this part in a text.
pub(crate) fn place(part: &str, whole: &str) -> Range<usize> {
    let begin = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    begin..begin.wrapping_add(part.len())
}

/// Of a request that may bring a `requestState`: what it is bound to, and how its answer is shown.
pub(crate) fn returning(caller: &Caller, method: &str, params: &Params<'_, '_>) -> Option<([u8; 16], Presentation)> {
    params.get("requestState")?;
    let of_view = view_search::inner(caller, method, params);
    let inner = of_view.as_ref().map(|members| params.with(members));
    let params = inner.as_ref().unwrap_or(params);
    let about = params.text(if method == "resources/read" { "uri" } else { "name" })?;
    let log_level = log_level(caller, params, Revision::V2026_07_28);
    let progress_token = params.meta.progress_token.map(str::to_owned);
    Some((seal::digest(method, &about), Presentation { progress_token, log_level, input: InputMode::None }))
}

/// These members, each after a comma.
pub(super) fn joined(members: &[(Cow<'_, str>, Raw<'_>)]) -> String {
    members.iter().map(|(key, value)| format!(",{}:{}", json_string(key), value.get())).collect()
}

/// The least urgent level that the caller wants to hear of; none: it wants to hear nothing.
fn log_level(caller: &Caller, params: &Params<'_, '_>, revision: Revision) -> Option<usize> {
    if revision.is_modern() {
        return params.meta.log_level;
    }
    let session = caller.session.as_ref();
    let wanted = session.and_then(|session| caller.app().mcp.sessions.level(&session.id));
    Some(wanted.unwrap_or(DEFAULT_LEVEL))
}

impl PlannedCall {
    /// Takes over the members of `params` that a server gets as they are.
    fn take(&mut self, params: &Params<'_, '_>, body: &str) -> Result<(), RpcProblem> {
        if self.custom.is_some() {
            return Ok(());
        }
        let no_task = self.method == call::CALL_TOOL && !custom::may_ask_for_task(&self.caller);
        for (key, value) in params.iter() {
            match &**key {
                // Nobody could ask for its result.
                "task" if no_task => {}
                "name" | "uri" | "ref" | "taskId" if key == self.first_member() => {}
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
            "resources/read" | SKILL | DIRECTORY => "uri",
            "completion/complete" => "ref",
            _ if self.task.is_some() => "taskId",
            _ => "name",
        }
    }

    /// Opens a `requestState`: the server's own state. Only the server that issued it may continue the call.
    fn opened_state(&mut self, value: Raw<'_>) -> Result<String, RpcProblem> {
        const FORM: RpcProblem = RpcProblem::Params(
            "\"requestState\" is not from this gateway, or has expired: send the request again without it",
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
            Inner::Suspended(_) => Err(FORM),
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

    /// The subject of the request, to which a `requestState` is bound, besides the method.
    pub(super) fn about(&self) -> &str {
        self.about.as_deref().unwrap_or(&self.entry.name)
    }
}

/// Numbers are compared as numbers, all else as text.
fn is_same_value(sent: &str, expected: &str) -> bool {
    let number = |text: &str| serde_json::from_str::<Value>(text).ok().and_then(|value| value.as_f64());
    sent == expected || number(sent).zip(number(expected)).is_some_and(|(a, b)| a == b)
}
